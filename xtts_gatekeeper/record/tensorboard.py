"""Runs out of TensorBoard event files: those of the Coqui Trainer, and those of any trainer whose tags name a side."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.build import RunBuilder
from xtts_gatekeeper.record.event_file import EventFileReader, Tag, looks_like_events
from xtts_gatekeeper.record.events import Evaluation, Start, TrainEpoch
from xtts_gatekeeper.record.names import Side, is_loss, read_label
from xtts_gatekeeper.record.run import RunRecord
from xtts_gatekeeper.record.scalar_groups import MOST_EPOCHS, Group, LoggedSteps, Mean, Meaning, TrainValues

__all__ = ["TensorBoardParser", "looks_like_events"]

_EVAL, _EPOCH, _ITERATION = "EvalStats/", "TrainEpochStats/", "TrainIterStats/"
#: Our own dashboards write into the same files.
_OURS = "Gatekeeper/"
_NAMED_TAGS = 8
_MOST_TAGS = 100_000


class TensorBoardParser:
    """Reads the scalars of event files, fed one after another; they are one run.

    Of the Coqui Trainer's tags `EvalStats` make evaluations and `TrainEpochStats` training epochs; of `TrainIterStats`
    only the learning rate, the non-finite steps and, where an average is not finite, the mean of the finite logged
    steps are kept. Other tags count where they name a side (`loss/val_mel_epoch`); per-step losses without one
    (`loss/total`) serve for the non-finite steps.

    What is verified: the CRC of every record's length; the CRC of the data for every value that becomes a metric or a
    learning rate, or that is not finite. A finite per-step loss is not verified: none is shown.
    """

    def __init__(self, metrics: Mapping[str, str] | None = None) -> None:
        """Nothing is read yet.

        Args:
            metrics: our name (`eval.mel`) -> tag, for tags whose own name says too little.

        Raises:
            UserError: a name without a side.
        """
        self._named: dict[str, list[Meaning]] = {}
        self._builder = RunBuilder("tensorboard")
        for name, tag in (metrics or {}).items():
            side, _, key = name.partition(".")
            if side == "sample":
                self._builder.note("samples_not_read", "sample scores are not read from event files")
                continue
            if side not in ("eval", "train") or not key:
                raise UserError(f"the metric {name!r} of the tag {tag!r} must begin with eval. or train.")
            self._named.setdefault(tag, []).append(Meaning("eval" if side == "eval" else "train", key, given=True))
        self._reader = EventFileReader(self._tag, self._file_begins, self._damaged)
        self._tags: dict[str, Tag] = {}
        self._meanings: list[Meaning] = []
        self._not_used: list[str] = []
        self._file = 0
        self._opened = False  # by `next_file`, the record that opens the file has not come yet
        self._fresh = False  # nothing but that record has come
        self._since: float | None = None  # wall time at which the running epoch began
        self._train_end = math.nan
        self._steps = LoggedSteps()
        self._pending: dict[Side, Group] = {}
        self._train_values = TrainValues()
        self._epoch_tags = False
        self._epoch_steps: list[int] = []
        self._evaluated_since_epoch = False
        self._closed = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes; a chunk may end anywhere."""
        self._reader.feed(data)

    def next_file(self) -> None:
        """What follows is the next file of the same run; without this the record that opens a file tells."""
        self._end_file()
        self._open_file()
        self._opened = True

    def close(self) -> None:
        """The input is over."""
        if self._closed:
            return
        self._closed = True
        self._end_file()
        self._flush()
        self._release()
        unread = [tag for tag in self._named if tag not in self._tags]
        if unread:
            self._builder.note("metric_not_found", f"no tag {', '.join(unread)} in the file")
        if self._not_used:
            more = len(self._not_used) - _NAMED_TAGS
            names = ", ".join(self._not_used[:_NAMED_TAGS]) + (f" and {more} more" if more > 0 else "")
            self._builder.note("tags_not_used", f"tags that do not say train or eval: {names}")

    def records(self) -> list[RunRecord]:
        """The run so far; an evaluation is complete when the next step begins."""
        return self._builder.records()

    # -- files

    def _end_file(self) -> None:
        if self._reader.finish():
            self._builder.note(
                "truncated_events", "the event file ends in the middle of a record: killed, or still being written"
            )

    def _open_file(self) -> None:
        self._flush()
        self._release()
        self._file += 1
        self._fresh = True
        self._since = None
        self._steps.step = None

    def _file_begins(self, wall: float) -> None:
        if not self._opened:
            self._open_file()
        self._opened = False
        self._since = wall

    def _damaged(self, sentence: str) -> None:
        self._builder.note("damaged_events", sentence)

    # -- tags

    def _tag(self, name: str) -> Tag:
        known = self._tags.get(name)
        if known is None:
            if len(self._tags) >= _MOST_TAGS:  # no real file has so many
                return Tag()
            known = self._tags[name] = self._new_tag(name)
        return known

    def _new_tag(self, name: str) -> Tag:
        if name in self._named:
            return Tag(self._metric(self._named[name]))
        if name.startswith(_OURS):
            return Tag()
        if name.startswith(_ITERATION):
            key = name.removeprefix(_ITERATION)
            if key.startswith("current_lr"):
                return self._learning_rate()
            return Tag(self._iteration(key), check="never") if is_loss(key) else Tag()
        for prefix, side in ((_EVAL, "eval"), (_EPOCH, "train")):
            if name.startswith(prefix):
                key = name.removeprefix(prefix).removeprefix("avg_")
                return Tag(self._metric([Meaning("eval" if side == "eval" else "train", key, coqui=True, epoch=True)]))
        return self._foreign_tag(name)

    def _foreign_tag(self, name: str) -> Tag:
        """A tag of another trainer."""
        label = read_label(name)
        last = name.casefold().rpartition("/")[2]
        if label.index == "lr":
            return self._learning_rate()
        if label.index is None and label.side == "train" and label.name.endswith("_step"):
            return Tag(self._iteration(label.name.removesuffix("_step")), check="never")
        if label.index is None and label.side is not None and last != "epoch":
            epoch = last.endswith("epoch")
            return Tag(self._metric([Meaning(label.side, label.name, epoch=epoch)]))
        self._not_used.append(name)
        if label.index is None and "loss" in label.name.split("_"):
            return Tag(self._iteration(label.name), check="never")
        return Tag()

    def _metric(self, meanings: list[Meaning]) -> Callable[[int, float, float], None]:
        self._meanings += meanings

        def take(step: int, value: float, wall: float) -> None:
            for meaning in meanings:
                self._add(meaning, step, value, wall)

        return take

    def _iteration(self, key: str) -> Callable[[int, float, float], None]:
        steps = self._steps
        mean = steps.means.setdefault(key, Mean())

        def take(step: int, value: float, wall: float) -> None:
            if step != steps.step:
                self._at(step, wall)
            if value - value == 0:  # finite; this runs for nearly every record
                mean.total += value
                mean.count += 1
            else:
                steps.add_nonfinite()

        return take

    def _learning_rate(self) -> Tag:
        steps = self._steps
        lr = steps.lr

        def take(step: int, value: float, wall: float) -> None:
            if step != steps.step:
                self._at(step, wall)
            lr[tag] = value

        tag = Tag(take, check="later")
        return tag

    # -- steps

    def _at(self, step: int, wall: float) -> None:
        """A new step of training is logged."""
        if any(group.coqui or group.step != step for group in self._pending.values()):
            self._flush()
        self._begin(step, wall)
        self._steps.step = step
        self._steps.seen += 1

    def _begin(self, step: int, wall: float) -> None:
        """Something of `step` is logged, which is the first of its file when the file is fresh."""
        if self._fresh:
            self._fresh = False
            if self._builder.events:
                self._resume(step, wall if self._since is None else self._since)
        if self._since is None:
            self._since = wall

    def _resume(self, step: int, wall: float) -> None:
        """Training goes on from `step`; what was measured beyond is of weights that were given up."""
        self._flush()
        self._release()
        self._epoch_steps = [done for done in self._epoch_steps if done <= step]
        self._builder.add(Start(step=step, epoch=len(self._epoch_steps), time=_iso(wall), resume_mode="continue"))
        self._steps.forget()
        self._evaluated_since_epoch = False
        self._since = wall
        for meaning in self._meanings:
            meaning.step = None

    def _add(self, meaning: Meaning, step: int, value: float, wall: float) -> None:
        side = meaning.side
        # The weights that an epoch ended with were trained from some step before it.
        before = step - 1 if side == "train" else step
        self._begin(before, wall)
        repeats = meaning.step == step and meaning.file != self._file and side == "train"
        if meaning.step is not None and (step < meaning.step or repeats):
            self._resume(before, wall)
        meaning.step, meaning.file = step, self._file
        if any(group.step != step for group in self._pending.values()):
            self._flush()
        group = self._pending.get(side)
        values = None if group is None else group.given if meaning.given else group.logged
        if values is not None and meaning.key in values:
            self._flush()
            group = None
        elif meaning.coqui and side == "train" and "eval" in self._pending:
            self._flush()  # the Trainer evaluates after training: that one was made in the middle of the epoch
        if group is None:
            group = self._pending[side] = Group(step, wall, wall, meaning.coqui)
        group.last = wall
        group.epoch = group.epoch or meaning.epoch
        (group.given if meaning.given else group.logged)[meaning.key] = value

    def _flush(self) -> None:
        """The scalars of the pending step are all there; train before eval, in whichever order the tags came."""
        train, evaluation = self._pending.pop("train", None), self._pending.pop("eval", None)
        if train is not None and train.epoch:
            self._epoch_tags = True
            self._train_values.take()  # per-step values beside the mean over the epoch
            self._train_epoch(train)
        elif train is not None and not self._epoch_tags:
            if not self._steps.means:  # no other tag is logged by step
                self._steps.seen += 1
                if not all(map(math.isfinite, train.logged.values())):
                    self._steps.add_nonfinite()
            self._train_values.add(train)
        if evaluation is not None:
            self._release()
            self._evaluation(evaluation)

    def _release(self) -> None:
        groups = self._train_values.take()
        if groups and self._train_values.merged:
            self._builder.note(
                "train_values_merged",
                f"more than {MOST_EPOCHS} train values between two evaluations are no means over epochs: their mean "
                "stands for one epoch",
            )
        for group in groups:
            self._train_epoch(group)

    # -- events

    def _train_epoch(self, group: Group) -> None:
        steps = self._steps
        epoch_time = group.logged.pop("epoch_time", None) if group.coqui else None
        if epoch_time is None and self._since is not None:
            epoch_time = group.first - self._since
        for key, value in group.logged.items():
            mean = steps.means.get(key)
            if not math.isfinite(value) and mean is not None and mean.count:
                group.logged[key] = mean.value
                self._builder.note(
                    "train_average_poisoned",
                    f"the train average of {key} at step {group.step} is {value}, though steps were finite: the mean "
                    "of the finite logged ones is shown",
                )
        self._builder.note("epochs_counted", "epochs are counted from 0: an event file does not number them")
        self._builder.add(
            TrainEpoch(
                step=group.step,
                epoch=len(self._epoch_steps),
                time=_iso(group.last),
                metrics=group.metrics("train"),
                nonfinite_batches=steps.nonfinite,
                longest_nonfinite_run=steps.longest,
                lr_end=[value for tag, value in steps.lr.items() if tag.intact()],
                seconds=epoch_time if epoch_time is not None and 0 <= epoch_time < math.inf else None,
            )
        )
        self._epoch_steps.append(group.step)
        self._since = group.last
        self._train_end = group.last
        self._evaluated_since_epoch = False
        steps.forget()

    def _evaluation(self, group: Group) -> None:
        metrics = group.metrics("eval")
        if not metrics:  # times alone: every batch was skipped
            return
        done = len(self._epoch_steps)
        at_end = done > 0 and self._epoch_steps[-1] == group.step
        # One before any training (`start_with_eval`) is no evaluation in the middle of an epoch.
        mid_epoch = group.coqui and not at_end and (done > 0 or self._steps.seen > 0 or self._evaluated_since_epoch)
        seconds = group.last - self._train_end if at_end and group.coqui and not self._evaluated_since_epoch else -1
        self._builder.add(
            Evaluation(
                step=group.step,
                epoch=done if mid_epoch else max(0, done - 1),
                time=_iso(group.last),
                metrics=metrics,
                mid_epoch=mid_epoch,
                seconds=seconds if 0 <= seconds < math.inf else None,
            )
        )
        self._evaluated_since_epoch = True


def _iso(wall: float) -> str:
    """Local time as the journal writes it; empty for what is no time."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(wall))
    except (ValueError, OverflowError, OSError):
        return ""

"""The actor that lets an interrupted run go on as if nothing had happened.

Every checkpoint that we write carries the point from which training goes on: which batch of which epoch comes next, or
which evaluation; the state of every random number generator, now and when the epoch began; the means of the epoch so
far. A resume puts all of it back, so that a run that was interrupted trains the same batches with the same numbers as
one that was not. Docs: `docs/recovery.md`, with what it cannot do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from xtts_gatekeeper.checkpoints.contents import CARRIED
from xtts_gatekeeper.monitors.losses import LossMeter
from xtts_gatekeeper.recorder import Recorder
from xtts_gatekeeper.trainer_port import TrainerPort, random_states, set_random_states
from xtts_gatekeeper.watch import Watch

#: The key under which a checkpoint carries it, beside where the phases stand.
POINT = "resume_point"


@dataclass(frozen=True)
class ResumePoint:
    """A moment between two batches, or before an evaluation.

    `step` counts micro-batches, `batches` those of the epoch, each of `batch_size` clips. `next` is what comes: a
    `batch`, or the `evaluation` that ends the epoch. `evaluated` is the step of the latest evaluation in the middle of
    an epoch. `random` and `random_at_epoch` are states of the generators; `means` are the Trainer's own and `losses`
    ours, of the epoch so far. `told` is the number of events on record that move the run on.
    """

    step: int
    epoch: int
    batches: int
    next: Literal["batch", "evaluation"]
    random: Mapping[str, Any]
    random_at_epoch: Mapping[str, Any]
    means: Mapping[str, Any]
    losses: Mapping[str, Any]
    failed_samples: list[str]
    evaluated: int | None = None
    batch_size: int | None = None
    told: int | None = None


class ResumePoints:
    """Keeps the point from which a resume would go on, and goes on from one.

    The point is renewed after every update: what is accumulated for the next one is in no checkpoint, so a resume
    begins with the first batch of it. Where it cannot be kept, training goes on, and a resume repeats the epoch.
    """

    def __init__(self, port: TrainerPort) -> None:
        self.port = port
        self._point: ResumePoint | None = None
        self._restored: ResumePoint | None = None
        self._means: Mapping[str, Any] | None = None
        self._random_at_epoch: Mapping[str, Any] = {}
        self._evaluated: int | None = None
        self._updates = 0
        self._failed = False

    def connect(
        self,
        recorder: Recorder,
        watch: Watch,
        loading: Callable[[], AbstractContextManager[None]],
        if_asked: Callable[[], None],
    ) -> None:
        """What a point is made of, and what is told while batches are passed over.

        Args:
            recorder: the live record.
            watch: has the losses of the epoch, and counts updates.
            loading: goes around loading batches that have been trained, which takes its time.
            if_asked: leaves where that is asked for; called for each of them.
        """
        self._recorder, self._watch, self._loading, self._if_asked = recorder, watch, loading, if_asked

    # Keeping

    def epoch_begins(self) -> None:
        """The training of an epoch begins; with the rest of it, where the run was interrupted in the middle."""
        restored, self._restored = self._restored, None
        with self._softly():
            self._random_at_epoch = random_states()
            if restored is None:
                self._mark(0)
            else:
                self._go_on(restored)

    def _go_on(self, restored: ResumePoint) -> None:
        self.port.failed_samples = restored.failed_samples
        self._random_at_epoch = restored.random_at_epoch
        if restored.batches:
            self.port.running_means = restored.means
            self._watch.take_up(LossMeter(**restored.losses))
        self._evaluated = restored.evaluated
        self._point, self._updates = restored, self._watch.gradients.updates

        def go_on() -> None:
            if not restored.batches:  # a loader draws as it begins
                return
            set_random_states(restored.random)
            if self.port.evaluation_due and restored.evaluated != restored.step:
                self.port.evaluate()

        self.port.go_on_in_epoch(
            restored.batches,
            lambda: set_random_states(restored.random_at_epoch),
            go_on,
            passing=self._loading,
            each=self._if_asked,
        )

    def step_ends(self, batches: int, index: int, *rest: Any) -> None:
        """A batch is trained; the point moves on if it was to bring an update, by the accumulation now in effect."""
        with self._softly():
            if self.port.update_due(batches, index):
                self._mark(self.port.step_in_epoch)

    def epoch_trained(self) -> None:
        """The training of the epoch is over, schedulers included."""
        self.port.epoch_trained()
        with self._softly():
            self._mark(self.port.step_in_epoch, "evaluation")

    def evaluation_begins(self) -> None:
        """An evaluation begins; the first of a process that has only that to make up adds to the means of its epoch."""
        means, self._means = self._means, None
        if means is not None:
            with self._softly():
                self.port.running_means = means

    def evaluated_in_epoch(self) -> None:
        """An evaluation in the middle of the epoch is over."""
        self._evaluated = self.port.step
        self.renew()

    def renew(self) -> None:
        """What training is to go on with has changed between two batches, by a rewind or an evaluation."""
        with self._softly():
            if self._point is not None and self._point.step == self.port.step:
                self._mark(self._point.batches, self._point.next, self._point.epoch)

    def epoch_ends(self) -> None:
        """The epoch is over, its evaluation included."""
        with self._softly():
            self._random_at_epoch = random_states()
            self._mark(0, epoch=self.port.epoch + 1)

    def carried(self) -> dict[str, Any]:
        """The point, for a checkpoint that is written now."""
        return {POINT: vars(self._point)} if self._point is not None else {}

    @property
    def holds(self) -> bool:
        """Whether the weights are still those of the point."""
        return self._point is not None and self._updates == self._watch.gradients.updates

    def _mark(self, batches: int, next_: Literal["batch", "evaluation"] = "batch", epoch: int | None = None) -> None:
        self._updates = self._watch.gradients.updates
        self._point = ResumePoint(
            step=self.port.step,
            epoch=self.port.epoch if epoch is None else epoch,
            batches=batches,
            next=next_,
            random=random_states(),
            random_at_epoch=self._random_at_epoch,
            means=self.port.running_means,
            losses=asdict(self._watch.losses),
            failed_samples=self.port.failed_samples,
            evaluated=self._evaluated,
            batch_size=self.port.batch_size,
            told=self._recorder.told,
        )

    @contextlib.contextmanager
    def _softly(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._point = None
            if not self._failed:
                self._failed = True
                message = f"there is no exact point to resume from: {type(error).__name__}: {error}"
                self._recorder.incident("gatekeeper_error", message)

    # Going on

    def restore(self, file: Path) -> ResumePoint | None:
        """Let the Trainer, which has loaded `file`, go on from the point that the file carries; None if it has none."""
        point = read_point(file)
        if point is None:
            return None
        if point.batch_size and point.batch_size != self.port.batch_size:  # then as many clips are passed over
            point = replace(point, batches=point.batches * point.batch_size // self.port.batch_size)
        evaluate = point.next == "evaluation"
        if self.port.starts_with_evaluation and not evaluate:
            self.port.log("start_with_eval is for the beginning of a run and is not repeated")
        self.port.at_position(point.step, point.epoch, evaluate=evaluate)
        self._restored = point
        return point

    def run_begins_epoch(self) -> None:
        """An epoch begins; with its evaluation, where that is what the interruption has left out."""
        restored = self._restored
        if restored is not None and restored.next == "evaluation":
            self._restored = None  # the next epoch begins wherever the evaluation leaves the random numbers
            with self._softly():
                self._watch.take_up(LossMeter(**restored.losses))
                self.port.step_in_epoch = restored.batches
                self._random_at_epoch, self._means = restored.random_at_epoch, restored.means
                self._point, self._updates = restored, self._watch.gradients.updates
                set_random_states(restored.random)


def read_point(file: Path) -> ResumePoint | None:
    """The point that a checkpoint carries; None where it has none, or one of another version."""
    import torch

    try:
        state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        point = ResumePoint(**state[CARRIED][POINT])
        return replace(point, failed_samples=list(point.failed_samples))
    except Exception:  # a file of another program, or of torch's old format, that the Trainer has loaded all the same
        return None

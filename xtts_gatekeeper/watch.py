"""Everything that is measured while an epoch trains: feeds the monitors and records what they found."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.dataset.roster import Roster
from xtts_gatekeeper.monitors.batch import Batch, clips_that_are_no_numbers, describe
from xtts_gatekeeper.monitors.gradients import GradientMonitor
from xtts_gatekeeper.monitors.losses import LossMeter
from xtts_gatekeeper.monitors.memory import MemoryMonitor, memory_state
from xtts_gatekeeper.monitors.spikes import Spikes
from xtts_gatekeeper.monitors.throughput import ThroughputMonitor
from xtts_gatekeeper.out_of_memory import OutOfMemory
from xtts_gatekeeper.record import RunRecord, TrainEpoch
from xtts_gatekeeper.record.events import BadBatch
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.record.names import is_loss, named_metrics
from xtts_gatekeeper.record.steps import STEPS, StepLog
from xtts_gatekeeper.recorder import Recorder
from xtts_gatekeeper.trainer_port import TrainerPort, split

if TYPE_CHECKING:
    from xtts_gatekeeper.config import GatekeeperConfig

#: So many bad batches of each kind are recorded by a process, so many of them are said, and so many looked into by
#: training their clips one by one: a run that has gone wrong would write nothing else.
_RECORDED, _SAID, _PROBED = 200, 10, 20

#: A clip is suspected of a spike when its loss alone is so many times that of the next one.
_STANDS_OUT = 1.5

#: What the Trainer calls the loss of each of several optimizers.
_OF_OPTIMIZER = re.compile(r"loss_\d+")


class Watch:
    """Wraps the Trainer's steps and evaluations.

    Args:
        port: the Trainer.
        recorder: the live record.
        named: logged key -> (our name, weight of the loss).
        section: our settings.
        before: the record up to the start of this process.
        roster: numbers the clips for the step log.
    """

    def __init__(
        self,
        port: TrainerPort,
        recorder: Recorder,
        named: Mapping[str, tuple[str, float]],
        section: GatekeeperConfig,
        before: RunRecord,
        roster: Roster,
    ) -> None:
        self.port = port
        self.recorder = recorder
        self.named = named
        self.roster = roster
        self.acting = not section.watch_only
        skip = self.acting and section.gradients.skip_nonfinite
        self.gradients = GradientMonitor(port, skip=skip, bad=self._bad_update, failed=self._gradients_failed)
        self.memory = MemoryMonitor(port)
        self.throughput = ThroughputMonitor()
        self.losses = LossMeter()
        retry = self.acting and section.out_of_memory.retry
        self.out_of_memory = OutOfMemory(port, recorder, section.out_of_memory, before) if retry else None
        self.steps = StepLog(port.run_folder / FOLDER / STEPS)
        self._spikes = Spikes(factor=2.0)
        self._batch = Batch(0)
        self._formatted: Any = None
        self._step = 0
        self._rate: float | None = None
        self._of_update: list[Batch] = []
        self._found: list[tuple[str, float, float | None]] = []
        self._counts: Counter[str] = Counter()
        self._began = time.perf_counter()

    def install(self) -> None:
        """Hook into updates and steps; what tries a batch again goes around what looks at it."""
        self.gradients.install()
        if self.out_of_memory is not None:
            self.out_of_memory.install()
        self.port.wrap("optimize", self._around_optimize)
        self.port.wrap("train_step", self._around_step)

    # An epoch

    def begin_epoch(self) -> None:
        """The training part of an epoch begins."""
        self._began = time.perf_counter()
        self.losses = LossMeter()
        for monitor in (self.gradients, self.memory, self.throughput):
            with self.recorder.softly("begin_epoch"):
                monitor.begin_epoch()

    def take_up(self, losses: LossMeter) -> None:
        """Go on with the losses of an epoch that was interrupted."""
        self.losses = losses

    def forget_losses(self) -> None:
        """The weights are others than those that the epoch's losses so far are of."""
        self.losses = LossMeter()
        self.gradients.forgive()

    def end_epoch(self) -> TrainEpoch:
        """The training part of an epoch is over: what was measured, for the record."""
        with self.recorder.softly("step_log"):
            self.steps.flush()
        losses, memory = self.losses, self.memory.epoch()
        return TrainEpoch(
            step=self.port.step,
            epoch=self.port.epoch,
            metrics=self.train_means(),
            batches=losses.batches,
            samples=losses.samples,
            skipped_batches=losses.skipped_batches,
            nonfinite_batches=losses.nonfinite_batches,
            longest_nonfinite_run=losses.longest_nonfinite_run,
            lr_end=self.port.learning_rates,
            memory_state=memory_state(memory["device"], memory["peak_share"]),
            memory_used=memory["peak_share"],
            seconds=round(time.perf_counter() - self._began, 3),
            stock=self.stock_means("train"),
            gradients=self.gradients.epoch(),
            memory=memory,
            throughput=self.throughput.epoch(),
        )

    def train_means(self) -> dict[str, float]:
        """The exact means of the epoch so far, or of the last one until the next begins."""
        return self.losses.means("train", self.named)

    def stock_means(self, side: str) -> dict[str, float]:
        """The Trainer's own means of its losses, by the names of our exact ones."""
        means = self.port.stock_means(side)
        return named_metrics("train" if side == "train" else "eval", {k: v for k, v in means.items() if is_loss(k)}, {})

    def gap(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """How far each metric of an evaluation lies above the same one of the training since the epoch began."""
        train = self.train_means()
        pairs = ((key.removeprefix("eval."), value) for key, value in metrics.items())
        return {
            name: round(value - train[f"train.{name}"], 6)
            for name, value in pairs
            if math.isfinite(value - train.get(f"train.{name}", math.nan))
        }

    # A step

    def _around_step(self, stock: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
        self.throughput.step_begins()
        self._batch = Batch(1)
        with self.recorder.softly("batch"):
            self._batch = describe(batch, self.port.sample_rate)  # the step empties the batch
        self._of_update.append(self._batch)
        self._step, updates = self.port.step, self.gradients.updates
        self._rate = None
        self.port.in_step = True
        try:
            if self.out_of_memory is None:
                outputs, losses = stock(batch, *args, **kwargs)
            else:
                self.out_of_memory.files = self._batch.files
                outputs, losses = self.out_of_memory.around_step(
                    lambda: stock(batch, *args, **kwargs), lambda: len(args) < 2 or self.port.update_due(*args)
                )
        finally:
            self.port.in_step = False
        updated = self.gradients.updates != updates
        with self.recorder.softly("train_losses"):
            self._take(losses, updated)
        self._formatted = None
        if updated or (losses is None and not self.port.has_gradients):
            self._of_update.clear()
        else:  # an update may be many batches long: of those before this one the names are enough
            self._of_update[-1] = replace(self._of_update[-1], content={})
        with self.recorder.softly("memory"):
            self.memory.look()
        self.throughput.step_ends(self._batch)
        return outputs, losses

    def _around_optimize(self, stock: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
        self._formatted = batch
        self._rate = self.port.learning_rates[0]
        return stock(batch, *args, **kwargs)

    def _take(self, losses: Mapping[str, Any] | None, updated: bool) -> None:
        # A model that optimizes by itself, without the Trainer's optimize(), divides its loss as it likes.
        divided = float(self.port.grad_accum_steps) if self._rate is not None else 1.0
        self.losses.add(losses, self._batch.size, {"loss": divided})
        values = {key: float(value) for key, value in (losses or {}).items() if is_loss(key)}
        if "loss" in values:
            values["loss"] *= divided
        total = values.get("loss", sum(value for key, value in values.items() if _OF_OPTIMIZER.fullmatch(key)))
        rate = self._rate if self._rate is not None else self.port.learning_rates[0]
        line: dict[str, Any] = {"step": self._step, "epoch": self.port.epoch, "lr": rate, **values}
        if updated:
            line["grad_norm"] = self.gradients.latest
        if self._batch.files:
            line["clips"] = self.roster.numbers(self._batch.files)
        self.steps.add(line)
        bad = [value for value in values.values() if not math.isfinite(value)]
        if bad:
            self._found.insert(0, ("nonfinite_loss", bad[0], None))
        elif (limit := self._spikes.limit(total)) is not None:
            self._found.insert(0, ("loss_spike", total, limit))
        found, self._found = self._found, []
        kinds = {kind for kind, _, _ in found}
        for kind, value, limit in found:
            if kind == "nonfinite_gradient" and "nonfinite_loss" in kinds:
                continue  # the same fault, and the loss tells the batch
            self._bad_batch(kind, value, limit)

    def _gradients_failed(self, error: Exception) -> None:
        message = f"gradients are not looked at any more: {type(error).__name__}: {error}"
        self.recorder.incident("gatekeeper_error", message)

    def _bad_update(self, kind: str, norm: float, limit: float | None) -> None:
        """Told from inside of the update; looked into when the step is over."""
        self._found.append((kind, norm, limit))

    # Batches that stand out

    def _bad_batch(self, kind: str, value: float, limit: float | None) -> None:
        self._counts[kind] += 1
        if self._counts[kind] > _RECORDED:
            return
        of_update = kind in ("nonfinite_gradient", "gradient_spike")
        batches = self._of_update if of_update else [self._batch]
        files = [file for batch in batches for file in batch.files]
        suspects = [file for batch in batches for file in clips_that_are_no_numbers(batch)]
        losses: dict[str, float] = {}
        if not suspects and len(batches) == 1:
            with self.recorder.softly("clips_alone"):
                losses = self._losses_alone(batches[0])
            suspects = files if len(files) == 1 else _suspects(losses)
        self.recorder.record(
            BadBatch(
                step=self._step,
                epoch=self.port.epoch,
                kind=kind,
                files=files,
                suspects=suspects,
                losses=losses,
                value=value,
                limit=limit,
            )
        )
        if self._counts[kind] <= _SAID:
            what = {
                "nonfinite_loss": f"the loss is {value:g}",
                "nonfinite_gradient": f"the gradient norm is {value:g}",
                "loss_spike": f"the loss {value:.4g} stands out (limit {limit or 0:.4g})",
                "gradient_spike": f"the gradient norm {value:.4g} stands out (limit {limit or 0:.4g})",
            }[kind]
            who = f"suspected: {', '.join(suspects)}" if suspects else f"clips: {', '.join(files) or 'not named'}"
            more = "; no more of these are said" if self._counts[kind] == _SAID else ""
            self.port.log(f"WARNING: step {self._step}: {what}; {who}{more}")

    def _losses_alone(self, batch: Batch) -> dict[str, float]:
        """The loss of each clip by itself, by its file; empty where that cannot be told, or would change something."""
        self._counts["probed"] += 1
        single = len(self.port.optimizers) == 1 and not self.port.accelerated
        if not self.acting or not single or self._counts["probed"] > _PROBED or len(batch.files) < 2:
            return {}
        parts = split(self._formatted, 1) or []
        if len(parts) != len(batch.files):
            return {}
        return {file: self.port.loss_alone(part) for file, part in zip(batch.files, parts, strict=True)}


def _suspects(losses: Mapping[str, float]) -> list[str]:
    """The files whose loss alone is no number, else the one whose loss is by far the highest."""
    bad = [file for file, loss in losses.items() if not math.isfinite(loss)]
    if bad or len(losses) < 2:
        return bad
    (second, _), (highest, file) = sorted((loss, file) for file, loss in losses.items())[-2:]
    return [file] if highest > _STANDS_OUT * second else []

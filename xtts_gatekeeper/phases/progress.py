"""Where a run stands in its phases, and how that is found again after a resume. Pure: no torch, no Trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from xtts_gatekeeper.phases.plan import Phase, PhasePlan
from xtts_gatekeeper.record import Evaluation, RunRecord, Start
from xtts_gatekeeper.record.events import Action, Event, PhaseStart
from xtts_gatekeeper.record.models import HIGHER_IS_BETTER
from xtts_gatekeeper.record.run import line_of

#: A new best counts for `until_plateau` when it is better by at least this share of the best before it.
LEAST_GAIN = 0.001


@dataclass(frozen=True)
class Patience:
    """How long the objective has not become better in a phase: `best` so far, and evaluations `waited` since.

    `best` has the sign that makes lower better. Values over another `eval_set` are not compared: it begins anew.
    """

    best: float | None = None
    waited: int = 0
    eval_set: str | None = None

    def after(self, loss: float, eval_set: str | None) -> Patience:
        """The patience after one more evaluation; a value that is no number is not better than anything."""
        if not math.isfinite(loss):
            return replace(self, waited=self.waited + 1)
        other = self.best is None or eval_set != self.eval_set
        if other or loss < (self.best or 0.0) - LEAST_GAIN * abs(self.best or 0.0):
            return Patience(loss, 0, eval_set)
        return replace(self, waited=self.waited + 1)


@dataclass(frozen=True)
class Progress:
    """Where a run stands in its plan.

    `step` and `epoch` of the plan are those of the Trainer plus the offsets: with `restore_path` the Trainer counts
    from 0 again and the plan goes on. `began_step` and `began_epoch` are the plan's when the phase began, the latter
    with its fraction. `lr_factor` is what the actions have made of the planned rates.
    """

    index: int = 0
    name: str = ""
    began_step: int = 0
    began_epoch: float = 0.0
    lr_factor: float = 1.0
    step_offset: int = 0
    epoch_offset: int = 0
    patience: Patience = Patience()

    def to_dict(self, step: int, epoch: int) -> dict[str, Any]:
        """As a checkpoint carries it, with the plan's step and epoch at which it was written."""
        at = {"step": step + self.step_offset, "epoch": epoch + self.epoch_offset}
        return {"progress": asdict(self), **at}

    @classmethod
    def restored(cls, carried: Mapping[str, Any]) -> Progress | None:
        """The progress to begin a new run with (`restore_path`), from what a checkpoint carries.

        None for what is not ours, or of a version that cannot be read.
        """
        try:
            values = carried["progress"]
            patience = values["patience"]
            best, eval_set = patience.get("best"), patience.get("eval_set")
            return cls(
                index=int(values["index"]),
                name=str(values["name"]),
                began_step=int(values.get("began_step", 0)),
                began_epoch=float(values.get("began_epoch", 0.0)),
                lr_factor=float(values.get("lr_factor", 1.0)),
                step_offset=int(carried["step"]),
                epoch_offset=int(carried["epoch"]),
                patience=Patience(
                    None if best is None else float(best),
                    int(patience.get("waited", 0)),
                    None if eval_set is None else str(eval_set),
                ),
            )
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            return None

    def fits(self, plan: PhasePlan) -> bool:
        """Whether `plan` has the phase that this progress is in, at the same place."""
        return 0 <= self.index < len(plan.phases) and plan.phases[self.index].name == self.name

    def ended(
        self, phase: Phase, verdict: str | None = None, latest: float | None = None, *, believed: bool = True
    ) -> str:
        """Why the evaluations end the phase, or an empty text.

        Args:
            phase: the phase it is in.
            verdict: what the gates made of the latest one, when that is about learning.
            latest: its value, with the sign that makes lower better; the best counts gains of 0.1 % and more alone.
            believed: whether a value that reaches the target counts, as one on clips that were trained on does not.
        """
        reached = [value for value in (self.patience.best, latest) if value is not None and math.isfinite(value)]
        if believed and phase.until_target is not None and reached and min(reached) <= phase.until_target:
            return f"the target {phase.until_target:g} is reached"
        if phase.until_plateau is not None and self.patience.waited >= phase.until_plateau:
            return f"{self.patience.waited} evaluations without a better one"
        if phase.until_tune and verdict == "tune":
            return "the verdict is tune"
        return ""


def loss_of(record: RunRecord, objective: str, evaluation: Evaluation) -> tuple[str, float] | None:
    """Name and value of the objective in an evaluation, with the sign that makes lower better."""
    metric = record.resolve(objective)
    value = evaluation.metrics.get(metric) if metric is not None else None
    if metric is None or value is None:
        return None
    return metric, -value if metric in HIGHER_IS_BETTER else value


def progress_at(record: RunRecord, start: Start, objective: str) -> Progress | None:
    """The progress that a journal tells of the moment at which `start` goes on; None without phases.

    Follows the events in order; a resume that goes back takes back what happened after the moment it goes back to.
    """
    progress: Progress | None = None
    for event in line_of((*record.events, start)):
        progress = _after(progress, event, record, objective) or progress
    return progress


def _after(before: Progress | None, event: Event, record: RunRecord, objective: str) -> Progress | None:
    """The progress after an event; None when the event does not change it."""
    if isinstance(event, PhaseStart):
        return Progress(
            index=event.index,
            name=event.name,
            began_step=event.step + event.step_offset if event.began_step is None else event.began_step,
            began_epoch=event.epoch + event.epoch_offset if event.began_epoch is None else event.began_epoch,
            lr_factor=event.lr_factor,
            step_offset=event.step_offset,
            epoch_offset=event.epoch_offset,
            patience=Patience(event.best, event.waited, event.eval_set),
        )
    if before is None:
        return None
    if isinstance(event, Action) and "lr_factor" in event.values:
        patience = replace(before.patience, waited=0) if event.name == "rewind" else before.patience
        return replace(before, lr_factor=float(event.values["lr_factor"]), patience=patience)
    if isinstance(event, Evaluation) and (loss := loss_of(record, objective, event)) is not None:
        return replace(before, patience=before.patience.after(loss[1], event.eval_set))
    return None

"""Losses that are numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding, require, too_early
from xtts_gatekeeper.record import Evaluation, RunRecord, TrainEpoch


@dataclass(frozen=True)
class Finite:
    """No NaN or Inf in the latest evaluation, and none in `consecutive` training batches in a row.

    A single non-finite training batch is a bad clip, not a diverged model: it is mentioned and does not fail the rule.
    So are eval batches that were not finite in the first evaluation of the same set either, unless they are most of it.
    """

    consecutive: int = 3

    def __post_init__(self) -> None:
        require(self.consecutive >= 1, f"consecutive is {self.consecutive}, it must be 1 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        evaluation = record.evaluations[-1] if record.evaluations else None
        epoch = record.train_epochs[-1] if record.train_epochs else None
        if evaluation is None and epoch is None:
            return too_early("the losses", 0, 1)
        known = record.segments[-1].evaluations[0].nonfinite_batches if evaluation else 0
        broken = (not_finite(evaluation, known_bad=known) if evaluation else None) or (
            not_finite(epoch, self.consecutive) if epoch else None
        )
        if broken:
            return broken
        isolated = epoch.nonfinite_batches if epoch is not None else 0
        bad = [name for name, value in epoch.metrics.items() if not math.isfinite(value)] if epoch is not None else []
        message = "losses are finite"
        if isolated:
            message += f"; {isolated} isolated NaN batches in the last epoch point to bad clips"
        elif bad:
            message = f"losses of the evaluation are finite; {', '.join(bad)} of the last epoch gave NaN or Inf"
        if evaluation is not None and evaluation.nonfinite_batches:
            message += f"; {evaluation.nonfinite_batches} eval batches gave NaN from the first evaluation on: bad clips"
        return Finding("passed", message, {"isolated_nonfinite_batches": isolated})


def not_finite(event: Evaluation | TrainEpoch, consecutive: int = 1, known_bad: int = 0) -> Finding | None:
    """The finding for an evaluation, or a training epoch, in which the losses ceased to be numbers; else None.

    Args:
        event: the evaluation or training epoch.
        consecutive: so many training batches in a row are no bad clips any more.
        known_bad: batches of the eval set that were not finite from the start.
    """
    bad = [name for name, value in event.metrics.items() if not math.isfinite(value)]
    if isinstance(event, TrainEpoch):
        if event.longest_nonfinite_run < consecutive:
            return None
        return Finding(
            "failed",
            f"{event.longest_nonfinite_run} training batches in a row gave NaN or Inf up to step {event.step}",
            {"step": event.step, "in_a_row": event.longest_nonfinite_run},
        )
    mostly_bad = not event.metrics or 2 * event.nonfinite_batches > (event.batches or math.inf)
    if not bad and (event.nonfinite_batches == 0 or (event.nonfinite_batches <= known_bad and not mostly_bad)):
        return None
    what = (
        f"{event.nonfinite_batches} of {event.batches} batches of the evaluation"
        if event.nonfinite_batches and event.batches
        else f"{', '.join(bad)} of the evaluation"
    )
    return Finding(
        "failed",
        f"{what} at step {event.step} gave NaN or Inf",
        {"step": event.step, "nonfinite_batches": event.nonfinite_batches, "metrics": bad},
    )

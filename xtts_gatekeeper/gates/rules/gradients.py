"""The checklist's "no exploding gradients"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from xtts_gatekeeper.gates.rules.base import Finding, require
from xtts_gatekeeper.record import RunRecord


@dataclass(frozen=True)
class Gradients:
    """The gradients of the latest epoch were numbers, but for a few updates, and no larger than they used to be.

    It fails when more than the share `lost` of the updates, and more than one, held NaN or infinity, those that a
    gradient scaler left out not counted, or when the median norm before clipping is more than `times` that of the
    epochs before.
    """

    lost: float = 0.05
    times: float = 10.0

    def __post_init__(self) -> None:
        require(0 <= self.lost < 1, f"lost is {self.lost}, it must be 0 or more and below 1")
        require(1 < self.times < math.inf, f"times is {self.times}, it must be above 1")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        epochs = [epoch for epoch in record.train_epochs if epoch.gradients.get("updates")]
        if not epochs:
            return Finding("not_measured", "gradients are not measured in this run")
        last = epochs[-1].gradients
        updates, lost = last["updates"], last["nonfinite_updates"] - last["scaler_skips"]
        evidence = {"step": epochs[-1].step, "updates": updates, "nonfinite_updates": lost}
        if lost > max(1, self.lost * updates):
            message = f"the gradients of {lost} of {updates} updates up to step {epochs[-1].step} held NaN or infinity"
            return Finding("failed", message, evidence)
        said = f" but for {lost} of {updates} updates" if lost else ""
        before = [norm for epoch in epochs[:-1] if (norm := epoch.gradients["norm_median"])]
        now = last["norm_median"]
        if not before or now is None:
            return Finding("passed", f"gradients are finite{said}", evidence)
        usual = median(before)
        evidence |= {"norm": now, "usual": usual, "times": now / usual}
        if now > self.times * usual:
            message = f"the gradient norm is {now:.3g} in the median, {now / usual:.0f} times what it was before"
            return Finding("failed", message, evidence)
        return Finding("passed", f"gradients are finite{said}, their norm is {now:.3g} ({usual:.3g} before)", evidence)

"""A goal, and a limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding, Metric, lacking, require
from xtts_gatekeeper.record import RunRecord


@dataclass(frozen=True)
class Target:
    """`metric` has not reached `value` yet. It fails on reaching it, so that a policy can stop there."""

    metric: Metric
    value: float

    def __post_init__(self) -> None:
        require(math.isfinite(self.value), f"value is {self.value}, it must be a finite number")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = record.series(self.metric)
        lack = lacking(points, 1)
        if lack:
            return lack
        latest, step = points.values[-1], points.steps[-1]
        evidence = {"latest": latest, "target": self.value, "distance": latest - self.value, "step": step}
        if math.isnan(latest):
            return Finding("passed", f"{points.metric} is not a number: see the rule finite", evidence)
        higher = points.losses is not points.values
        if latest >= self.value if higher else latest <= self.value:
            return Finding("failed", f"{points.metric} {latest:.4g} has reached the target {self.value:g}", evidence)
        side = "below" if higher else "above"
        return Finding(
            "passed",
            f"{points.metric} {latest:.4g} is {abs(latest - self.value):.4g} {side} the target {self.value:g}",
            evidence,
        )

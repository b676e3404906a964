"""A limit that a metric must keep."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding, Metric, lacking, require
from xtts_gatekeeper.record import RunRecord


@dataclass(frozen=True)
class Threshold:
    """The latest `metric` is not above `maximum` and not below `minimum`; give one of them or both."""

    metric: Metric
    maximum: float = math.inf
    minimum: float = -math.inf

    def __post_init__(self) -> None:
        require(not math.isnan(self.maximum), "maximum is nan, it must be a number")
        require(not math.isnan(self.minimum), "minimum is nan, it must be a number")
        given = math.isfinite(self.maximum) or math.isfinite(self.minimum)
        require(given, "maximum and minimum are both missing, one of them is needed")
        require(self.minimum <= self.maximum, f"minimum is {self.minimum:g}, above the maximum {self.maximum:g}")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = record.series(self.metric)
        lack = lacking(points, 1)
        if lack:
            return lack
        latest = points.values[-1]
        evidence = {"latest": latest, "maximum": self.maximum, "minimum": self.minimum, "step": points.steps[-1]}
        if latest > self.maximum:
            return Finding("failed", f"{points.metric} {latest:.4g} is above {self.maximum:g}", evidence)
        if latest < self.minimum:
            return Finding("failed", f"{points.metric} {latest:.4g} is below {self.minimum:g}", evidence)
        if math.isnan(latest):
            return Finding("failed", f"{points.metric} is not a number", evidence)
        return Finding("passed", f"{points.metric} {latest:.4g} keeps its limit", evidence)

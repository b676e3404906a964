"""No step back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from xtts_gatekeeper.gates.rules.base import Finding, Metric, between, intervals, lacking, require
from xtts_gatekeeper.record import RunRecord


@dataclass(frozen=True)
class NotRegressed:
    """The latest `metric` is not worse than it was by more than `by`, in the metric's own units.

    It was: the best before it, or with `since: first` the first point, for what training cannot improve and may spoil.
    For the checklist's "no major regression in pronunciation/stop behavior": a point or two of the rubric is taste.
    """

    metric: Metric
    by: float = 0.0
    since: Literal["best", "first"] = "best"

    def __post_init__(self) -> None:
        require(0 <= self.by < math.inf, f"by is {self.by}, it must be 0 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = record.series(self.metric)
        lack = lacking(points, 2)
        if lack:
            return lack
        earlier = range(len(points) - 1)
        if self.since == "first":
            then = next((i for i in earlier if math.isfinite(points.values[i])), 0)
        else:
            then = min(earlier, key=lambda i: (not math.isfinite(points.losses[i]), points.losses[i]))
        was, latest = points.values[then], points.values[-1]
        evidence = {
            self.since: was,
            f"{self.since}_step": points.steps[then],
            "latest": latest,
            "step": points.steps[-1],
            **intervals(points, **{self.since: then, "latest": len(points) - 1}),
        }
        if not (math.isfinite(was) and math.isfinite(latest)):
            return Finding("passed", f"{points.metric} is not finite: see the rule finite", evidence)
        if points.losses[-1] - points.losses[then] > self.by:
            sure = between(points, len(points) - 1)
            return Finding("failed", f"{points.metric} regressed from {was:.4g} to {latest:.4g}{sure}", evidence)
        return Finding("passed", f"{points.metric} has not regressed ({was:.4g} to {latest:.4g})", evidence)

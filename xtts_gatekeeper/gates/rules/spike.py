"""Sudden jumps of a metric to the worse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from xtts_gatekeeper.gates.rules.base import Finding, Metric, lacking, require
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.series import level


@dataclass(frozen=True)
class Spike:
    """The latest `metric` does not stand out from the `window` points before it, to the worse.

    It stands out when it is worse than all of them and further from their median than `times` their scaled median
    absolute deviation (Iglewicz and Hoaglin 1993 call more than 3.5 an outlier), and by at least `share` of the level.
    """

    metric: Metric
    window: int = 5
    times: float = 6.0
    share: float = 0.1

    def __post_init__(self) -> None:
        require(self.window >= 3, f"window is {self.window}, it must be 3 or more")
        require(self.times > 0, f"times is {self.times}, it must be above 0")
        require(0 <= self.share < math.inf, f"share is {self.share}, it must be 0 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = record.series(self.metric)
        lack = lacking(points, self.window + 1)
        if lack:
            return lack
        before = [value for value in points.losses[-self.window - 1 : -1] if math.isfinite(value)]
        latest = points.losses[-1]
        if len(before) < 3 or math.isnan(latest):
            return Finding("passed", f"{points.metric} is not finite often enough to compare: see the rule finite", {})
        middle = median(before)
        deviation = 1.4826 * median(abs(value - middle) for value in before)
        limit = middle + max(self.times * deviation, self.share * level(before))
        sign = 1 if points.losses is points.values else -1
        evidence = {
            "latest": points.values[-1],
            "median": sign * middle,
            "limit": sign * limit,
            "step": points.steps[-1],
        }
        if latest > limit and latest > max(before):
            message = f"{points.metric} jumped to {points.values[-1]:.4g} from about {sign * middle:.4g}"
            return Finding("failed", f"{message} at step {points.steps[-1]}", evidence)
        return Finding("passed", f"{points.metric} shows no spike", evidence)

"""A model that is running away."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding, Metric, lacking, require
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.series import level


@dataclass(frozen=True)
class Divergence:
    """The last two values of `metric` have not exploded: left the first one behind by `times` its size, and rising.

    The first value's size, or how far the metric has fallen since where that is more, so that a loss near zero is not
    called exploded for nothing. One wild value may come back, two that rise will not. NaN and Inf are the rule
    `finite`'s.
    """

    metric: Metric
    times: float = 3.0

    def __post_init__(self) -> None:
        require(0 < self.times < math.inf, f"times is {self.times}, it must be above 0")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = record.series(self.metric)
        lack = lacking(points, 3)
        if lack:
            return lack
        losses = [value for value in points.losses if math.isfinite(value)]
        if len(losses) < 3:
            return Finding("passed", f"{points.metric} is not finite often enough to compare: see the rule finite", {})
        limit = losses[0] + self.times * max(level(losses[:1]), losses[0] - min(losses))
        sign = 1 if points.losses is points.values else -1
        first, latest = sign * losses[0], sign * losses[-1]
        evidence = {"first": first, "latest": latest, "limit": sign * limit, "step": points.steps[-1]}
        if losses[-1] >= losses[-2] > limit > losses[0]:
            return Finding(
                "failed", f"{points.metric} has exploded: {latest:.4g} where it began at {first:.4g}", evidence
            )
        return Finding("passed", f"{points.metric} has not exploded", evidence)

"""Gain that is running out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding, Metric, lacking, require
from xtts_gatekeeper.gates.rules.plateau import level_off
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.series import MEMORY


@dataclass(frozen=True)
class Slowing:
    """Even at the optimistic end, one more evaluation promises at least `pace` of what one has brought on average.

    The laxer neighbour of `plateau`: scale-free, and early enough to change something before the gain is gone.
    """

    metric: Metric
    pace: float = 0.25
    window: int = 5

    def __post_init__(self) -> None:
        require(0 < self.pace < 1, f"pace is {self.pace}, it must be above 0 and below 1")
        require(3 <= self.window <= MEMORY, f"window is {self.window}, it must be 3 to {MEMORY}")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = record.series(self.metric)
        lack = lacking(points, self.window)
        if lack:
            return lack
        losses = [value for value in points.losses if math.isfinite(value)]
        average = (losses[0] - min(losses)) / (len(losses) - 1) if len(losses) > 1 else 0.0
        return level_off(points.metric, losses, self.pace * average, self.window, share=0.0)

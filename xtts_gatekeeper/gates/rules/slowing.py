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
    """One more evaluation promises, at its optimistic end, `pace` of what one has brought on average, or `share`.

    It fails when it promises less than both: less than a quarter of the average so far, and less than half a percent of
    the level (or of the whole fall, where that is more: a likelihood near zero has no level to speak of). The laxer
    neighbour of `plateau`, early enough to change something before the gain is gone.
    """

    metric: Metric
    pace: float = 0.25
    share: float = 0.005
    window: int = 5

    def __post_init__(self) -> None:
        require(0 < self.pace < 1, f"pace is {self.pace}, it must be above 0 and below 1")
        require(0 < self.share < 1, f"share is {self.share}, it must be above 0 and below 1")
        require(3 <= self.window <= MEMORY, f"window is {self.window}, it must be 3 to {MEMORY}")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = record.series(self.metric)
        lack = lacking(points, self.window)
        if lack:
            return lack
        losses = [value for value in points.losses if math.isfinite(value)]
        if len(losses) < 2:
            return level_off(points.metric, losses, 0.0, self.window, share=0.0)
        best = min(losses)
        fall = losses[0] - best
        asked = min(self.pace * fall / (len(losses) - 1), self.share * max(abs(best), fall))
        return level_off(points.metric, losses, asked, self.window, share=0.0)

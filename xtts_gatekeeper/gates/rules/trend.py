"""Which way a metric goes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from xtts_gatekeeper.gates.rules.base import Finding, Metric, lacking, require, too_early
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.series import median_slope, noise, noise_allowance


@dataclass(frozen=True)
class Trend:
    """The robust slope of `metric` over its last `window` points (0: all) is flat-to-better, or clearly better.

    `require: flat_to_down` fails when the fitted change over the window is a rise beyond its noise (`noise` is the
    share for it). `require: down` passes when it is a fall beyond its noise, and fails when it is none even at the
    optimistic end of its uncertainty, two standard errors of the fitted slope; in between more points have to tell.
    For a score, where higher is better, up and down change places.
    """

    metric: Metric
    window: int = 3
    noise: float = 0.01
    require: Literal["flat_to_down", "down"] = "flat_to_down"

    def __post_init__(self) -> None:
        require(self.window == 0 or self.window >= 2, f"window is {self.window}, it must be 0 (all) or 2 or more")
        require(0 <= self.noise < math.inf, f"noise is {self.noise}, it must be 0 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = record.series(self.metric)
        lack = lacking(points, self.window or 3)
        if lack:
            return lack
        # What is no number is the rule finite's business.
        finite = [i for i, value in enumerate(points.values) if math.isfinite(value)][-self.window :]
        values, losses = [points.values[i] for i in finite], [points.losses[i] for i in finite]
        if len(values) < 2:
            return too_early(points.metric, len(values), self.window or 3)
        change = median_slope(losses) * (len(values) - 1)
        allowed = noise_allowance(points.values, self.noise, values)
        evidence = {"change": change, "noise_allowance": allowed, "steps": [points.steps[i] for i in finite]}
        over = f"over the last {len(values)} points ({values[0]:.4g} to {values[-1]:.4g})"
        up, down = ("falls", "rises") if points.losses is not points.values else ("rises", "falls")
        if change > allowed:
            return Finding("failed", f"{points.metric} {up} {over}", evidence)
        if change < -allowed:
            return Finding("passed", f"{points.metric} {down} {over}", evidence)
        if self.require == "flat_to_down":
            return Finding("passed", f"{points.metric} is flat {over}", evidence)
        error = noise([loss for loss in points.losses if math.isfinite(loss)]) * math.sqrt(12 / len(values))
        if change - 2 * error < -allowed:
            return Finding("too_early", f"{points.metric} {over} is too noisy to tell a fall from none", evidence)
        return Finding("failed", f"{points.metric} is flat {over}", evidence)

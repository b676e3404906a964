"""The checklist's "consistently worsens for 3+ checks" and "drifting upward for 3+ epochs"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from xtts_gatekeeper.gates.rules.base import Finding, Metric, lacking, require, worse
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.series import level, noise


@dataclass(frozen=True)
class NotWorsening:
    """The last `checks` values of `metric` are not all worse than its best, clearly, and at their worst now.

    Clearly: their median is further from the best stretch (the best running median of as many values; the best single
    value is best by luck, the more so the longer the run) than `noises` standard deviations of the noise, and than
    `tolerance` of the level. At their worst now: of the way up from the best to the worst value since, less than a
    third (or no more than the noise) has been won back, which tells a climb from a spike that is coming down.

    For the validation objective, the auxiliary losses, and sample scores that regress for several checkpoints.
    """

    metric: Metric
    checks: int = 3
    noises: float = 2.5
    tolerance: float = 0.002

    def __post_init__(self) -> None:
        require(self.checks >= 1, f"checks is {self.checks}, it must be 1 or more")
        require(0 <= self.noises < math.inf, f"noises is {self.noises}, it must be 0 or more")
        require(0 <= self.tolerance < math.inf, f"tolerance is {self.tolerance}, it must be 0 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = record.series(self.metric)
        lack = lacking(points, self.checks + 1)
        if lack:
            return lack
        at = [i for i, value in enumerate(points.losses) if math.isfinite(value)]
        losses = [points.losses[i] for i in at]
        if len(losses) <= self.checks:
            return Finding("passed", f"{points.metric} is not finite often enough to compare: see the rule finite", {})
        best, last = min(losses), losses[-self.checks :]
        stretch = min(median(losses[i : i + self.checks]) for i in range(len(losses) - self.checks))
        sigma = noise(losses)
        rise = median(last) - stretch
        allowed = max(self.noises * sigma, self.tolerance * level(last))
        worst = max(losses[losses.index(best) :])
        first = points.values[points.losses.index(best)]
        evidence = {
            "steps": [points.steps[i] for i in at[-self.checks :]],
            "values": [points.values[i] for i in at[-self.checks :]],
            "best": first,
            "change": rise,
            "noise_allowance": allowed,
        }
        word, sign = worse(points), 1 if points.losses is points.values else -1
        so_far = f"{points.metric} has {word} to {points.values[at[-1]]:.4g} from its best of {first:.4g}"
        climbs = last[-1] > worst - max(sigma, (worst - best) / 3)
        if min(last) > best and rise > allowed and climbs:
            message = f"{so_far}, by more than its noise, and was worse than its best for {self.checks} checks in a row"
            return Finding("failed", message, evidence)
        if min(last) <= best:
            message = f"{points.metric} has not {word} for {self.checks} checks in a row"
        elif rise <= allowed:
            message = f"{so_far}, but its last {self.checks} checks are within its noise of its best stretch"
        else:
            message = f"{so_far}, but was at {sign * worst:.4g} and is coming back"
        return Finding("passed", message, evidence)

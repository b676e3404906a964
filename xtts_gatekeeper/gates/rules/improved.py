"""How much better a metric is than it was."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Literal

from xtts_gatekeeper.gates.rules.base import Finding, Metric, When, between, intervals, lacking, require
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.record.run import Series
from xtts_gatekeeper.series import level


@dataclass(frozen=True)
class Improved:
    """The latest `metric` is better than it was `since` then, by more than `by` (a share of what it was).

    The latest is the median of the last `window` values, so that with 3 one wild evaluation decides nothing; but a
    value better than all before it speaks for itself. What is at least as good as `enough` need not improve: nobody can
    sound better than real speech.

    `since` is `first` (the first comparable point), `previous` (the point before), `best` (the best before) or
    `previous_gate` (the point at which the gate before this one in the policy came due, `gate`; the policy's reader
    fills that in). Points that are not finite are passed over.
    """

    metric: Metric
    since: Literal["first", "previous", "best", "previous_gate"] = "first"
    by: float = 0.0
    window: int = 1
    gate: When | None = None
    enough: float | None = None

    def __post_init__(self) -> None:
        require(0 <= self.by < math.inf, f"by is {self.by}, it must be 0 or more")
        require(self.window >= 1, f"window is {self.window}, it must be 1 or more")
        good = self.enough is None or math.isfinite(self.enough)
        require(good, f"enough is {self.enough}, it must be a number")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = record.series(self.metric)
        lack = lacking(points, 2)
        if lack:
            return lack
        then = self._then(record, points)
        if then is None:
            return Finding("not_measured", f"{points.metric} has no point at the gate before that can be compared")
        name = f"{'its best' if self.since == 'best' else self.since.replace('_', ' ')}"
        latest = max(then + 1, len(points) - self.window)
        if not math.isfinite(points.values[-1]):
            return Finding("too_early", f"{points.metric} is not a number at the latest point: see the rule finite")
        if points.losses[-1] < min((v for v in points.losses[:-1] if math.isfinite(v)), default=-math.inf):
            latest = len(points) - 1  # a new best speaks for itself
        recent = [v for v in points.values[latest:] if math.isfinite(v)]
        was, value, step = points.values[then], median(recent), points.steps[-1]
        size = level([was]) or level([v for v in points.values if math.isfinite(v)] or [was])
        sign = 1 if points.losses is points.values else -1
        gain = sign * (was - value) / size if size else 0.0
        evidence = {
            self.since: was,
            f"{self.since}_step": points.steps[then],
            "latest": value,
            "step": step,
            "gain": gain,
            **intervals(points, **{self.since: then, "latest": len(points) - 1}),
        }
        share = f" ({(value - was) / size:+.1%})" if size else ""
        of = f", the median of the last {len(recent)}," if len(recent) > 1 else ""
        sure = between(points, len(points) - 1) if len(recent) == 1 else ""
        change = f"{was:.4g} at step {points.steps[then]} to {value:.4g}{sure}{of} at step {step}{share}"
        since = "the first measurement" if self.since == "first" else name
        if gain > self.by:
            return Finding("passed", f"{points.metric} improved since {since}: {change}", evidence)
        if self.enough is not None and sign * (self.enough - value) >= 0:
            return Finding("passed", f"{points.metric} is good enough at {value:.4g} ({self.enough:g})", evidence)
        enough = f" by {self.by:.1%}" if self.by else ""
        return Finding("failed", f"{points.metric} has not improved{enough} since {since}: {change}", evidence)

    def _then(self, record: RunRecord, points: Series) -> int | None:
        """Index of the point to compare with."""
        earlier = [i for i in range(len(points) - 1) if math.isfinite(points.values[i])] or [0]
        if self.since == "best":
            return min(earlier, key=lambda i: points.losses[i])
        if self.since == "previous_gate":
            due = [e.step for e in record.evaluations if self.gate is not None and self.gate.come(record, e)]
            return next((i for i in earlier if due and points.steps[i] >= due[0]), None)
        return earlier[0] if self.since == "first" else earlier[-1]

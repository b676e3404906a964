"""Whether the loss and what is heard tell the same story."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from xtts_gatekeeper.gates.rules.base import EVAL_OBJECTIVE, SAMPLE_SCORE, Finding, Metric, lacking, require
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.record.run import Series
from xtts_gatekeeper.series import level, noise


@dataclass(frozen=True)
class EarsAgree:
    """The samples have not become worse while the `metric` has become better.

    Worse: each of the last `checks` of the `samples` lies below the best stretch before them (the best running median
    of as many; the best single value is best by luck) by more than `by`, in its own units, and by more than `noises`
    standard deviations of the noise of those before. Better: from that stretch on the metric fell by more than `share`
    of its level. Mel cross entropy can fall while the voice gets worse, for it asks what the next token is when all
    before it are right, and never hears what comes out.
    """

    metric: Metric = EVAL_OBJECTIVE
    samples: Metric = SAMPLE_SCORE
    checks: int = 2
    by: float = 1.5
    share: float = 0.005
    noises: float = 2.5

    def __post_init__(self) -> None:
        require(self.checks >= 1, f"checks is {self.checks}, it must be 1 or more")
        require(0 <= self.by < math.inf, f"by is {self.by}, it must be 0 or more")
        require(0 <= self.share < 1, f"share is {self.share}, it must be from 0 to below 1")
        require(0 <= self.noises < math.inf, f"noises is {self.noises}, it must be 0 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        heard, loss = record.series(self.samples), record.series(self.metric)
        lack = lacking(heard, self.checks + 1) or lacking(loss, 2)
        if lack:
            return lack
        at = [i for i, value in enumerate(heard.losses) if math.isfinite(value)]
        if len(at) <= self.checks:
            return Finding("passed", f"{heard.metric} is not finite often enough to compare: see the rule finite", {})
        losses = [heard.losses[i] for i in at]
        before = losses[: -self.checks]
        window = min(self.checks, len(before))
        stretches = [median(before[i : i + window]) for i in range(len(before) - window + 1)]
        best = min(range(len(stretches)), key=lambda i: stretches[i])
        worse = min(losses[-self.checks :]) - stretches[best]
        allowed = max(self.by, self.noises * noise(before))
        then, now = _at(loss, heard.steps[at[best]]), _at(loss, heard.steps[at[-1]])
        if then is None or now is None:
            return Finding("passed", f"{loss.metric} is not finite: see the rule finite", {})
        gain = (then - now) / (level([then, now]) or 1.0)
        sign = 1 if heard.losses is heard.values else -1
        evidence = {
            "samples": heard.metric,
            "best": sign * stretches[best],
            "best_step": heard.steps[at[best]],
            "latest": heard.values[at[-1]],
            "step": heard.steps[at[-1]],
            "noise_allowance": allowed,
            "gain": gain,
        }
        told = f"{heard.metric} went from {sign * stretches[best]:.4g} to {heard.values[at[-1]]:.4g}"
        if worse > allowed and gain > self.share:
            message = f"{loss.metric} improved by {gain:.1%} since step {heard.steps[at[best]]} while {told}"
            return Finding("failed", message, evidence)
        return Finding("passed", f"{loss.metric} and {heard.metric} do not contradict each other", evidence)


def _at(loss: Series, step: int) -> float | None:
    """The value, lower is better, of the last finite evaluation up to a step, or of the first one after it.

    Samples are spoken before the first evaluation, too.
    """
    finite = [(s, v) for s, v in zip(loss.steps, loss.losses, strict=True) if math.isfinite(v)]
    before = [v for s, v in finite if s <= step]
    return before[-1] if before else finite[0][1] if finite else None

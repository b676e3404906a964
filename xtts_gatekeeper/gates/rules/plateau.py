"""More of the same is not worth the time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding, Metric, lacking, require, too_early
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.series import MEMORY, noise, outlook

#: For so many evaluations a plateau is remembered.
_MEANWHILE = 30


@dataclass(frozen=True)
class Plateau:
    """Even at the optimistic end, one more evaluation promises at least `worth` of what was gained so far.

    What was gained is the fall since the first comparable evaluation, but no more than a quarter of the size of the
    best, unless zero was crossed: near its floor, a loss that fell far is judged by what is left of it. The promise is
    that of `series.outlook`, over at least `window` evaluations and a third of the run, at most the last 60.

    Once levelled off it stays so until a best that is better by more than the noise: what it said within the last 30
    evaluations counts. A metric that has gained nothing is no plateau but a failure to learn: other rules see that.
    """

    metric: Metric
    worth: float = 0.003
    window: int = 10

    def __post_init__(self) -> None:
        require(0 < self.worth < 1, f"worth is {self.worth}, it must be above 0 and below 1")
        require(3 <= self.window <= MEMORY, f"window is {self.window}, it must be 3 to {MEMORY}")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = record.series(self.metric)
        lack = lacking(points, self.window)
        if lack:
            return lack
        losses = [value for value in points.losses if math.isfinite(value)]
        now = self._judge(points.metric, losses)
        if now.status == "failed":
            return now
        for end in range(len(losses) - 1, max(self.window, len(losses) - _MEANWHILE) - 1, -1):
            if min(losses[end:]) < min(losses[:end]) - noise(losses[:end]):
                break
            then = self._judge(points.metric, losses[:end])
            if then.status == "failed":
                since = len(losses) - end
                return Finding("failed", f"{then.message}; nothing better in {since} evaluations since", then.evidence)
        return now

    def _judge(self, metric: str, losses: list[float]) -> Finding:
        best = min(losses, default=0.0)
        gained = losses[0] - best if losses else 0.0
        if best > 0 or max(losses, default=0.0) < 0:  # a likelihood that crosses zero has no floor there
            gained = min(gained, abs(best) / 4)
        return level_off(metric, losses, self.worth * gained, self.window, share=1 / 3)


def level_off(metric: str, losses: list[float], asked: float, window: int, share: float) -> Finding:
    """Whether one more evaluation still promises the fall that is `asked` for."""
    if asked <= 0:
        return Finding("passed", f"{metric} has gained nothing yet that could level off", {"asked": asked})
    view = outlook(losses, asked, window, share)
    if isinstance(view, int):
        if view <= MEMORY:
            return too_early(metric, len(losses), view)
        return Finding(
            "passed", f"{metric} is too noisy to tell whether it levels off", {"asked_per_evaluation": asked}
        )
    evidence = {
        "promised_per_evaluation": view.promise,
        "asked_per_evaluation": asked,
        "noise": view.noise,
        "window": view.window,
    }
    promised = f"{max(view.promise, 0):.2g} at best where {asked:.2g} is asked for"
    if view.promise < asked:
        message = f"{metric} has levelled off: by the last {view.window} evaluations one more promises {promised}"
        return Finding("failed", message, evidence)
    return Finding("passed", f"{metric} still promises {view.promise:.2g} an evaluation", evidence)

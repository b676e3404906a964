"""The model learns its clips by heart."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import (
    EVAL_OBJECTIVE,
    TRAIN_OBJECTIVE,
    Finding,
    Metric,
    lacking,
    require,
    too_early,
)
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.series import median_slope, noise_allowance, scatter


@dataclass(frozen=True)
class Overfit:
    """Over the last `window` evaluations, `eval` gains at least `share` of what `train` gains.

    Judged where `train` falls beyond its noise (`noise` is the share for it); the noise of `eval` is allowed for. Below
    that share the gap between the two grows while what counts stands still or becomes worse.
    """

    eval: Metric = EVAL_OBJECTIVE
    train: Metric = TRAIN_OBJECTIVE
    window: int = 4
    share: float = 0.1
    noise: float = 0.01

    def __post_init__(self) -> None:
        require(self.window >= 3, f"window is {self.window}, it must be 3 or more")
        require(0 <= self.share <= 1, f"share is {self.share}, it must be 0 to 1")
        require(0 <= self.noise < math.inf, f"noise is {self.noise}, it must be 0 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        measured, trained = record.series(self.eval), record.series(self.train)
        lack = lacking(measured, self.window) or lacking(trained, 2)
        if lack:
            return lack
        steps, values = measured.steps[-self.window :], measured.values[-self.window :]
        # Epochs that ended after the first of these evaluations: the one before it is still part of an earlier fall.
        epochs = [(s, v) for s, v in zip(trained.steps, trained.values, strict=True) if steps[0] < s <= steps[-1]]
        if len(epochs) < 2:
            return too_early(trained.metric, len(epochs), 2)
        recent = [value for _, value in epochs]
        if not all(map(math.isfinite, (*values, *recent))):
            return Finding("passed", "train and eval losses are not all finite: see the rule finite", {})
        gain = -median_slope(values, steps)
        learned = -median_slope(recent, [step for step, _ in epochs])
        evidence = {
            "eval_gain_per_step": gain,
            "train_gain_per_step": learned,
            "gap": values[-1] - recent[-1],
            "steps": [steps[0], steps[-1]],
        }
        # The optimistic end of the gain counts; below seven evaluations, where noise cannot be told, a new best does.
        span = (steps[-1] - steps[0]) or 1
        error = scatter(measured.values) * math.sqrt(12 / len(values) ** 3) * (len(values) - 1) / span
        new_best = len(measured) < 7 and values[-1] < min(measured.values[:-1])
        falls = learned * (epochs[-1][0] - epochs[0][0]) > noise_allowance(trained.values, self.noise, recent)
        if falls and gain + error < self.share * learned and not new_best:
            message = (
                f"{trained.metric} falls on ({recent[0]:.4g} to {recent[-1]:.4g}) and {measured.metric} does not "
                f"follow ({values[0]:.4g} to {values[-1]:.4g} over the last {len(values)} evaluations): overfitting"
            )
            return Finding("failed", message, evidence)
        return Finding("passed", f"{measured.metric} follows {trained.metric}", evidence)

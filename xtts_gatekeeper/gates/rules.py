"""The rules: small pure dataclasses that look at a record and say what they find.

Every metric here is a loss: lower is better, and by convention positive (the cross entropies of XTTS are). A rule
never decides what follows from its finding; the policy does (`on_fail`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Literal, Protocol

from xtts_gatekeeper.record import RunRecord

Status = Literal["passed", "failed", "too_early"]


@dataclass(frozen=True)
class Finding:
    """What a rule saw: a status, one sentence, and the numbers it stands on."""

    status: Status
    message: str
    evidence: dict[str, Any] = field(default_factory=dict)


class Rule(Protocol):
    """A pure function of the record, with its parameters as fields."""

    def check(self, record: RunRecord) -> Finding:
        """Judge `record`, whose last evaluation is the one that is due."""


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


def series(record: RunRecord, metric: str) -> list[tuple[int, float]]:
    """`(step, value)` of `metric` over comparable points: the latest segment for `eval.*`, all epochs for `train.*`."""
    if metric.startswith("eval."):
        points: Sequence[Any] = record.segments[-1].evaluations if record.segments else ()
    else:
        points = record.train_epochs
    return [(point.step, point.metrics[metric]) for point in points if metric in point.metrics]


def median_slope(values: Sequence[float]) -> float:
    """Theil-Sen slope of equally spaced `values`, per interval: the median over all pairs.

    Robust: one wild point among many does not move it (Sen 1968).
    """
    pairs = [(values[j] - values[i]) / (j - i) for i in range(len(values)) for j in range(i + 1, len(values))]
    return median(pairs)


def scatter(values: Sequence[float]) -> float:
    """The standard deviation of the noise in a smooth series: robust, and 0 below seven points.

    From second differences, in which a trend cancels and independent noise of variance s^2 becomes 6 s^2 (Gasser,
    Sroka and Jennen-Steinmetz 1986); their median, scaled for normal noise, ignores the few large ones where a curve
    bends.
    """
    if len(values) < 7:
        return 0.0
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return 1.4826 * median(bends) / math.sqrt(6)


def noise_allowance(points: Sequence[tuple[int, float]], share: float, level: float) -> float:
    """How large a change of a metric may be and mean nothing: a share of its level, or twice its own scatter."""
    return max(share * abs(level), 2 * scatter([value for _, value in points if math.isfinite(value)]))


def _too_early(metric: str, have: int, need: int) -> Finding:
    return Finding(
        "too_early", f"{metric} has {have} of the {need} points this rule needs", {"have": have, "need": need}
    )


@dataclass(frozen=True)
class Finite:
    """No NaN or Inf in the latest evaluation, and none in `consecutive` training batches in a row.

    A single non-finite batch is a bad clip, not a diverged model: it is mentioned and does not fail the rule.
    """

    consecutive: int = 3

    def __post_init__(self) -> None:
        _require(self.consecutive >= 1, f"consecutive is {self.consecutive}, it must be 1 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        evaluation = record.evaluations[-1]
        bad = [name for name, value in evaluation.metrics.items() if not math.isfinite(value)]
        if evaluation.nonfinite_batches or bad:
            return Finding(
                "failed",
                f"{evaluation.nonfinite_batches} of {evaluation.batches} batches of the evaluation at step "
                f"{evaluation.step} gave NaN or Inf",
                {"step": evaluation.step, "nonfinite_batches": evaluation.nonfinite_batches, "metrics": bad},
            )
        epoch = record.train_epochs[-1] if record.train_epochs else None
        if epoch is not None and epoch.longest_nonfinite_run >= self.consecutive:
            return Finding(
                "failed",
                f"{epoch.longest_nonfinite_run} training batches in a row gave NaN or Inf up to step {epoch.step}",
                {"step": epoch.step, "in_a_row": epoch.longest_nonfinite_run},
            )
        isolated = epoch.nonfinite_batches if epoch is not None else 0
        note = f"; {isolated} isolated NaN batches in the last epoch point to bad clips" if isolated else ""
        return Finding("passed", f"losses are finite{note}", {"isolated_nonfinite_batches": isolated})


@dataclass(frozen=True)
class NotWorsening:
    """`metric` has not risen `checks` times in a row, by more than its noise in all (`tolerance` is the share for it).

    The checklist's "validation consistently worsens for 3+ checks", and for the auxiliary losses "drifting upward for
    3+ epochs". Without the allowance one in 24 stretches of a flat, noisy curve would count.
    """

    metric: str
    checks: int = 3
    tolerance: float = 0.002

    def __post_init__(self) -> None:
        _require(self.checks >= 1, f"checks is {self.checks}, it must be 1 or more")
        _require(0 <= self.tolerance < math.inf, f"tolerance is {self.tolerance}, it must be 0 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = series(record, self.metric)
        if len(points) <= self.checks:
            return _too_early(self.metric, len(points), self.checks + 1)
        steps, values = zip(*points[-self.checks - 1 :], strict=True)
        allowed = noise_allowance(points, self.tolerance, values[0])
        evidence = {"steps": list(steps), "values": list(values), "noise_allowance": allowed}
        rises = all(later > earlier for earlier, later in pairwise(values))
        if rises and values[-1] - values[0] > allowed:
            return Finding(
                "failed",
                f"{self.metric} has risen {self.checks} checks in a row, {values[0]:.4g} to {values[-1]:.4g}",
                evidence,
            )
        return Finding("passed", f"{self.metric} has not risen {self.checks} checks in a row", evidence)


@dataclass(frozen=True)
class Trend:
    """The robust slope of `metric` over its last `window` points (0: all) is flat-to-down, or clearly down.

    `require: flat_to_down` fails when the fitted change over the window is a rise beyond its noise (`noise` is the
    share for it). `require: down` fails unless it is a fall beyond its noise.
    """

    metric: str
    window: int = 3
    noise: float = 0.01
    require: Literal["flat_to_down", "down"] = "flat_to_down"

    def __post_init__(self) -> None:
        _require(self.window == 0 or self.window >= 2, f"window is {self.window}, it must be 0 (all) or 2 or more")
        _require(0 <= self.noise < math.inf, f"noise is {self.noise}, it must be 0 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = series(record, self.metric)
        need = self.window or 3
        if len(points) < need:
            return _too_early(self.metric, len(points), need)
        history = points
        points = points[-self.window :] if self.window else points
        values = [value for _, value in points]
        if not all(map(math.isfinite, values)):
            return Finding("failed", f"{self.metric} is not finite in the last {len(values)} points", {})
        change = median_slope(values) * (len(values) - 1)
        allowed = noise_allowance(history, self.noise, median(values))
        evidence = {"change": change, "noise_allowance": allowed, "steps": [step for step, _ in points]}
        over = f"over the last {len(values)} points ({values[0]:.4g} to {values[-1]:.4g})"
        if change > allowed:
            return Finding("failed", f"{self.metric} rises {over}", evidence)
        if change < -allowed:
            return Finding("passed", f"{self.metric} falls {over}", evidence)
        status: Status = "failed" if self.require == "down" else "passed"
        return Finding(status, f"{self.metric} is flat {over}", evidence)


@dataclass(frozen=True)
class ImprovedSinceFirst:
    """The latest `metric` is below the first measured one by more than `by` (a share of the first)."""

    metric: str
    by: float = 0.0

    def __post_init__(self) -> None:
        _require(0 <= self.by < math.inf, f"by is {self.by}, it must be 0 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = series(record, self.metric)
        if len(points) < 2:
            return _too_early(self.metric, len(points), 2)
        (first_step, first), (step, latest) = points[0], points[-1]
        gain = (first - latest) / abs(first) if first else 0.0
        evidence = {"first": first, "first_step": first_step, "latest": latest, "step": step, "gain": gain}
        change = f"{first:.4g} at step {first_step} to {latest:.4g} at step {step} ({-gain:+.1%})"
        if gain > self.by:
            return Finding("passed", f"{self.metric} improved since the first measurement: {change}", evidence)
        return Finding("failed", f"{self.metric} has not improved since the first measurement: {change}", evidence)


@dataclass(frozen=True)
class Target:
    """`metric` has not reached `value` yet. It fails on reaching it, so that a policy can stop there."""

    metric: str
    value: float

    def __post_init__(self) -> None:
        _require(math.isfinite(self.value), f"value is {self.value}, it must be a finite number")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        points = series(record, self.metric)
        if not points:
            return _too_early(self.metric, 0, 1)
        step, latest = points[-1]
        evidence = {"latest": latest, "target": self.value, "distance": latest - self.value, "step": step}
        if latest < self.value:
            return Finding("failed", f"{self.metric} {latest:.4g} has reached the target {self.value:g}", evidence)
        return Finding(
            "passed",
            f"{self.metric} {latest:.4g} is {latest - self.value:.4g} above the target {self.value:g}",
            evidence,
        )


@dataclass(frozen=True)
class Memory:
    """The memory state was low or moderate in at least one of the last `epochs` epochs."""

    epochs: int = 3

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, f"epochs is {self.epochs}, it must be 1 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        states = [epoch.memory_state for epoch in record.train_epochs[-self.epochs :]]
        if len(states) < self.epochs:
            return _too_early("memory state", len(states), self.epochs)
        if all(state in ("high", "critical") for state in states):
            return Finding(
                "failed", f"memory was {', '.join(states)} in the last {len(states)} epochs", {"states": states}
            )
        return Finding("passed", f"memory was {', '.join(states)}", {"states": states})


@dataclass(frozen=True)
class CheckpointIntact:
    """The newest checkpoint file was read back without an error."""

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        if not record.checkpoints:
            return Finding("too_early", "no checkpoint has been written yet")
        last = record.checkpoints[-1]
        evidence = {"path": last.path, "bytes": last.bytes, "step": last.step}
        if last.intact:
            return Finding("passed", f"{last.path} was written and read back intact", evidence)
        return Finding("failed", f"{last.path} could not be saved whole: {last.reason}", evidence)


@dataclass(frozen=True)
class LearningRate:
    """No update was made with a learning rate other than the planned one since the process started."""

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        started = max((i for i, event in enumerate(record.events) if event.type == "start"), default=0)
        wrong = [i for i in RunRecord(record.events[started:]).incidents if i.code == "lr_not_as_planned"]
        if wrong:
            return Finding("failed", wrong[-1].message, {"updates": len(wrong), "step": wrong[-1].step})
        return Finding("passed", "the learning rate in effect is the planned one")


@dataclass(frozen=True)
class Runtime:
    """All planned epochs, at the median time of an epoch so far, fit into `max_hours`."""

    max_hours: float

    def __post_init__(self) -> None:
        _require(self.max_hours > 0, f"max_hours is {self.max_hours}, it must be above 0")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        if not record.train_epochs or record.start is None:
            return _too_early("epoch time", 0, 1)
        per_epoch = median(epoch.seconds for epoch in record.train_epochs)
        hours = per_epoch * record.start.epochs_planned / 3600
        evidence = {"hours": hours, "seconds_per_epoch": per_epoch, "epochs": record.start.epochs_planned}
        sentence = f"the whole plan of {record.start.epochs_planned} epochs takes about {_duration(hours)}"
        if hours > self.max_hours:
            return Finding("failed", f"{sentence}, more than the {self.max_hours:g} h allowed", evidence)
        return Finding("passed", f"{sentence}, within the {self.max_hours:g} h allowed", evidence)


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


#: The name of a rule in a policy file, which is also its reason code.
RULES: dict[str, type[Any]] = {
    "finite": Finite,
    "not_worsening": NotWorsening,
    "trend": Trend,
    "improved_since_first": ImprovedSinceFirst,
    "target": Target,
    "memory": Memory,
    "checkpoint_intact": CheckpointIntact,
    "learning_rate": LearningRate,
    "runtime": Runtime,
}

"""What a rule is, and the few things that all of them use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NewType, Protocol

from xtts_gatekeeper.record import Evaluation, RunRecord
from xtts_gatekeeper.record.run import Series

#: A field of a rule that takes a metric (`eval.loss_dur`) or a role (`eval.duration`).
Metric = NewType("Metric", str)

EVAL_OBJECTIVE = Metric("eval.objective")
TRAIN_OBJECTIVE = Metric("train.objective")
SAMPLE_SCORE = Metric("sample.score")

#: `too_early`: the points will come; `not_measured`: this run has nothing of the kind.
Status = Literal["passed", "failed", "too_early", "not_measured"]


@dataclass(frozen=True)
class Finding:
    """What a rule saw: a status, one sentence, and the numbers it stands on."""

    status: Status
    message: str
    evidence: dict[str, Any] = field(default_factory=dict)


class Rule(Protocol):
    """A pure function of the record, with its parameters as fields.

    A rule never decides what follows from its finding; the policy does (`on_fail`). Fields are checked at
    construction: a `ValueError` whose sentence begins with the field.
    """

    def check(self, record: RunRecord) -> Finding:
        """Judge `record`, whose last evaluation is the one that is due."""


@dataclass(frozen=True)
class When:
    """The time at which a gate comes due: so many finished `epochs`, `evaluations`, or `steps` done."""

    unit: Literal["epochs", "evaluations", "steps"]
    count: int

    def come(self, record: RunRecord, evaluation: Evaluation) -> bool:
        """Whether `evaluation`, one of `record.evaluations`, is at that time or later."""
        if self.unit == "epochs":
            return record.epochs_done(evaluation) >= self.count
        if self.unit == "steps":
            return evaluation.step >= self.count
        return sum(e.step <= evaluation.step for e in record.evaluations) >= self.count

    def __str__(self) -> str:
        return f"{self.count} {self.unit}"


def require(condition: bool, sentence: str) -> None:
    """Raise `ValueError(sentence)` unless `condition`; the sentence begins with the field's name."""
    if not condition:
        raise ValueError(sentence)


def lacking(points: Series, need: int) -> Finding | None:
    """The finding of a rule that needs `need` points where there are fewer; None where there are enough."""
    if not points.values:
        return Finding("not_measured", f"{points.metric} is not measured in this run")
    if len(points) < need:
        return too_early(points.metric, len(points), need)
    return None


def between(points: Series, index: int) -> str:
    """How sure a value is, in brackets; empty where its series does not say."""
    ends = points.intervals.get(index)
    return f" (95 %: {ends[0]:.4g} to {ends[1]:.4g})" if ends else ""


def intervals(points: Series, **at: int) -> dict[str, list[float]]:
    """As evidence, by name: the 95 % intervals of the values at these indices, as far as they have any."""
    return {
        f"{name}_interval": list(points.intervals[index]) for name, index in at.items() if index in points.intervals
    }


def too_early(what: str, have: int, need: int) -> Finding:
    """The finding of a rule for which it is too early."""
    return Finding("too_early", f"{what} has {have} of the {need} points this rule needs", {"have": have, "need": need})


def worse(points: Series) -> str:
    """`risen` for a loss, `fallen` for a score: the word for a change to the worse."""
    return "fallen" if points.losses is not points.values else "risen"

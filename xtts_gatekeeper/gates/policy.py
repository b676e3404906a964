"""Policies: which rules are due when, and what follows when one fails."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.gates.rules import Rule, When
from xtts_gatekeeper.gates.rules.combine import AllOf, AnyOf, AtLeast
from xtts_gatekeeper.gates.rules.target import Target
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.record.names import read_label

Outcome = Literal["continue", "tune", "stop"]
OUTCOMES = typing.get_args(Outcome)

#: What a rule means for the verdict when the run does not measure what it asks for: nothing, or `undecided`.
Missing = Literal["ignore", "undecided"]


@dataclass(frozen=True)
class PolicyRule:
    """A rule, what its failure means, and what it means when the run has nothing to measure it by."""

    name: str
    rule: Rule
    on_fail: Outcome
    if_missing: Missing = "ignore"


@dataclass(frozen=True)
class Gate:
    """Rules that are due from the first evaluation at or after `when` until they are passed.

    `line` is its place in the file.
    """

    name: str
    when: When
    rules: tuple[PolicyRule, ...]
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Policy:
    """A set of rules.

    `objective` is the metric or role that `best` means; `metrics` gives names of the policy's own to tags, columns or
    logged metrics; `text` is the file as it was read, comments included, `path` where it was read from, `shipped`
    whether that is in this package.
    """

    name: str
    objective: str
    minimum_evaluations: int
    health: tuple[PolicyRule, ...]
    gates: tuple[Gate, ...]
    metrics: Mapping[str, str] = field(default_factory=dict)
    text: str = field(default="", compare=False)
    path: str = field(default="", compare=False)
    shipped: bool = field(default=False, compare=False)

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits of what the policy says; comments, layout and place do not count."""
        return hashlib.sha256(json.dumps(_said(self), sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def names(self) -> dict[str, str]:
        """`metrics` in our vocabulary: the policy's name -> the metric that a run logs."""
        return {name: _logged(name, said) for name, said in self.metrics.items()}

    def target_in(self, record: RunRecord) -> Target | None:
        """The goal for what is the objective in `record`, where a rule names one."""
        objective = record.resolve(self.objective) or self.objective
        rules = (due.rule for due in (*self.health, *(rule for gate in self.gates for rule in gate.rules)))
        goals = (rule for rule in _flat(rules) if isinstance(rule, Target))
        return next((goal for goal in goals if (record.resolve(goal.metric) or goal.metric) == objective), None)

    def check_plan(self, epochs: int) -> list[str]:
        """A sentence for each gate that cannot come due in a run of so many epochs.

        Raises:
            UserError: with file and line, unless the policy is a shipped one: who wrote the gate wants it asked.
        """
        late = [gate for gate in self.gates if gate.when.unit == "epochs" and gate.when.count > epochs]
        said = [
            f"{gate.name} comes after {gate.when.count} epochs and the run is planned for {epochs}: it can never come "
            "due"
            for gate in late
        ]
        if late and not self.shipped:
            raise UserError(f"{self.path}:{late[0].line}: {said[0]}.")
        return said


def _said(value: Any) -> Any:
    """`value` for JSON: of a dataclass its kind, too (a rule in `all_of` has no other name), and what it compares."""
    if dataclasses.is_dataclass(value):
        compared = (field for field in dataclasses.fields(value) if field.compare)
        return {"kind": type(value).__name__, **{field.name: _said(getattr(value, field.name)) for field in compared}}
    if isinstance(value, tuple):
        return [_said(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _logged(name: str, said: str) -> str:
    """The metric that `said` (a metric, a key, a tag or a column) is in a run; without a side it has that of `name`."""
    if said.startswith(("eval.", "train.", "sample.")):
        return said
    label = read_label(said)
    return label.metric if label.side else f"{name.partition('.')[0]}.{label.name}"


def _flat(rules: Any) -> Iterator[Rule]:
    for rule in rules:
        if isinstance(rule, AllOf | AnyOf | AtLeast):
            yield from _flat(rule.rules)
        else:
            yield rule

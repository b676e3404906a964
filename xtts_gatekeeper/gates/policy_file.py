"""Reads policies from strict, versioned YAML: whatever is wrong is said with file, line and the nearest valid name."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Collection
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from xtts_gatekeeper.errors import UserError, nearest
from xtts_gatekeeper.gates.policy import OUTCOMES, Gate, Missing, Policy, PolicyRule
from xtts_gatekeeper.gates.rules import RULES, Rule, When
from xtts_gatekeeper.gates.rules.base import Metric
from xtts_gatekeeper.gates.rules.improved import Improved
from xtts_gatekeeper.record.models import known_metrics

SHIPPED = Path(__file__).parent / "policies"
VERSION = 1
_KINDS = {int: "a whole number", float: "a number", str: "text"}
_WHEN = ("after_epochs", "after_steps", "after_evaluations")


def load_policy(name_or_path: str | Path = "checklist", metrics: Collection[str] = ()) -> Policy:
    """Load a shipped policy by its name, or a YAML file by its path.

    Args:
        name_or_path: `checklist`, or a file.
        metrics: names that the run at hand logs; a policy can name these beside those that every run can have.

    Raises:
        UserError: no such policy; or the file has an unknown key, rule or metric, a wrong type, something missing, or a
            gate that can never come due: with file and line.
    """
    shipped = {path.stem: path for path in SHIPPED.glob("*.yaml")}
    path = shipped.get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        raise UserError(
            f"there is no policy {str(name_or_path)!r}: give the path of a YAML file, or one of "
            f"{', '.join(sorted(shipped))}."
        )
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not valid YAML ({error.problem}).") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from None
    try:
        return _Reader(path, metrics).policy(node, text)
    except RecursionError:
        raise UserError(f"{path}: its rules are nested too deep, or hold themselves.") from None


@dataclass
class _Reader:
    """Builds the dataclasses from YAML nodes, which know their line."""

    path: Path
    metrics: Collection[str]

    def error(self, node: yaml.Node, message: str) -> UserError:
        return UserError(f"{self.path}:{node.start_mark.line + 1}: {message}")

    def policy(self, node: yaml.Node | None, text: str) -> Policy:
        if node is None:
            raise UserError(f"{self.path} is empty.")
        keys = self.mapping(
            node,
            {"version", "name", "objective", "minimum_evaluations", "metrics", "health", "gates"},
            needs=["version", "name"],
        )
        if self.scalar(keys["version"], int) != VERSION:
            raise self.error(keys["version"], f"policy version {keys['version'].value} is not {VERSION}.")
        own = self.names(keys["metrics"]) if "metrics" in keys else {}
        self.metrics = known_metrics() | set(self.metrics) | own.keys()
        policy = Policy(
            name=self.scalar(keys["name"], str),
            objective=self.objective(keys["objective"]) if "objective" in keys else "eval.objective",
            minimum_evaluations=self.whole("minimum_evaluations", keys) if "minimum_evaluations" in keys else 3,
            health=self.rules(keys["health"], []) if "health" in keys else (),
            gates=self.gates(keys["gates"]) if "gates" in keys else (),
            metrics=own,
            text=text,
            path=str(self.path),
            shipped=self.path.parent == SHIPPED,
        )
        if not policy.health and not policy.gates:
            raise self.error(node, "the policy has no rules: give `health`, `gates` or both.")
        return policy

    def objective(self, node: yaml.Node) -> str:
        name = self.metric(node)
        if not name.startswith("eval."):
            raise self.error(node, f"{name!r} cannot be the objective: it must be measured by evaluations (eval.*).")
        return name

    def names(self, node: yaml.Node) -> dict[str, str]:
        """The `metrics` section: a name of ours -> a tag, a column or a metric."""
        names = {}
        for key_node, (key, value) in zip(_keys(node), self.mapping(node, None, needs=[]).items(), strict=True):
            if not key.startswith(("eval.", "train.", "sample.")):
                raise self.error(key_node, f"{key!r} is no name for a metric: begin it with eval., train. or sample.")
            names[key] = self.scalar(value, str)
        return names

    def gates(self, node: yaml.Node) -> tuple[Gate, ...]:
        gates: list[Gate] = []
        for item in self.sequence(node):
            gate = self.gate(item, gates)
            if gate.name in (earlier.name for earlier in gates):
                raise self.error(item, f"gate {gate.name!r} stands twice.")
            gates.append(gate)
        return tuple(gates)

    def gate(self, node: yaml.Node, earlier: list[Gate]) -> Gate:
        keys = self.mapping(node, {"name", "rules", *_WHEN}, needs=["name", "rules"])
        given = [key for key in _WHEN if key in keys]
        if len(given) != 1:
            raise self.error(node, f"a gate needs one of {', '.join(_WHEN)}: without it, it can never come due.")
        when = When(_unit(given[0]), self.whole(given[0], keys))
        return Gate(self.scalar(keys["name"], str), when, self.rules(keys["rules"], earlier), node.start_mark.line + 1)

    def rules(self, node: yaml.Node, earlier: list[Gate]) -> tuple[PolicyRule, ...]:
        items = self.sequence(node)
        if not items:
            raise self.error(node, "a list of rules is expected here, this one is empty.")
        return tuple(self.policy_rule(item, earlier) for item in items)

    def policy_rule(self, node: yaml.Node, earlier: list[Gate]) -> PolicyRule:
        keys = self.mapping(node, None, needs=["rule", "on_fail"])
        outcome = self.choice(keys["on_fail"], OUTCOMES)
        missing: Missing = "ignore"
        if "if_missing" in keys:
            missing = self.choice(keys["if_missing"], typing.get_args(Missing))
        name, rule = self.rule(node, {"on_fail", "if_missing"}, earlier)
        return PolicyRule(name, rule, outcome, missing)

    def rule(self, node: yaml.Node, beside: set[str], earlier: list[Gate]) -> tuple[str, Rule]:
        name_node = self.mapping(node, None, needs=["rule"])["rule"]
        name = self.scalar(name_node, str)
        if name not in RULES:
            raise self.error(name_node, f"unknown rule {name!r}, {nearest(name, RULES)}")
        kind = RULES[name]
        hints = {key: hint for key, hint in typing.get_type_hints(kind).items() if hint != (When | None)}
        needs = [f.name for f in fields(kind) if f.default is MISSING and f.name in hints]
        keys = self.mapping(node, {"rule", *beside, *hints}, needs=needs)
        values = {key: self.value(keys[key], hints[key], earlier) for key in hints if key in keys}
        if kind is Improved and values.get("since") == "previous_gate":
            if not earlier:
                raise self.error(keys["since"], "since: previous_gate has no gate before it: it can never come due.")
            values["gate"] = earlier[-1].when
        try:
            return name, kind(**values)
        except ValueError as error:
            first = str(error).split()[0]  # the rules' sentences begin with the field
            raise self.error(keys.get(first, node), f"{error}.") from None

    def value(self, node: yaml.Node, hint: Any, earlier: list[Gate]) -> Any:
        if hint is Metric:
            return self.metric(node)
        if hint == tuple[Rule, ...]:
            items = self.sequence(node)
            if not items:
                raise self.error(node, "a list of rules is expected here, this one is empty.")
            return tuple(self.rule(item, set(), earlier)[1] for item in items)
        if typing.get_origin(hint) is Literal:
            return self.choice(node, typing.get_args(hint))
        return self.scalar(node, float if hint == (float | None) else hint)

    def whole(self, key: str, keys: dict[str, yaml.Node]) -> int:
        number: int = self.scalar(keys[key], int)
        if number < 1:
            never = ": it can never come due" if key in _WHEN else ""
            raise self.error(keys[key], f"{key} is {number}, it must be 1 or more{never}.")
        return number

    def metric(self, node: yaml.Node) -> str:
        name: str = self.scalar(node, str)
        if name not in self.metrics:
            side = [known for known in self.metrics if known.partition(".")[0] == name.partition(".")[0]]
            hint = nearest(name, side or self.metrics)
            raise self.error(node, f"unknown metric {name!r}, {hint} A name of your own goes into `metrics:` first.")
        return name

    def choice(self, node: yaml.Node, choices: tuple[str, ...]) -> Any:
        value = self.scalar(node, str)
        if value not in choices:
            raise self.error(node, f"{value!r} is not one of {', '.join(choices)}.")
        return value

    def scalar(self, node: yaml.Node, kind: type[Any]) -> Any:
        try:
            value = yaml.SafeLoader("").construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError):
            raise self.error(node, "this value cannot be read.") from None
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):
                value = float(value)  # YAML 1.1 takes 1e-3 for text
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(node, f"{value!r} is not {_KINDS[kind]}.")
        return value

    def sequence(self, node: yaml.Node) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, "a list is expected here.")
        return list(node.value)

    def mapping(self, node: yaml.Node, known: set[str] | None, needs: list[str]) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, "a mapping with keys is expected here.")
        keys: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self.scalar(key, str)
            if known is not None and name not in known:
                raise self.error(key, f"unknown key {name!r}, {nearest(name, known)}")
            if name in keys:
                raise self.error(key, f"key {name!r} stands twice.")
            keys[name] = value
        missing = [name for name in needs if name not in keys]
        if missing:
            raise self.error(node, f"{missing[0]!r} is missing.")
        return keys


def _keys(node: yaml.Node) -> list[yaml.Node]:
    return [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []


def _unit(key: str) -> Literal["epochs", "evaluations", "steps"]:
    return typing.cast(Literal["epochs", "evaluations", "steps"], key.removeprefix("after_"))

"""Policies: which rules are due when, and what follows when one fails. Read from strict, versioned YAML."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import typing
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.gates.rules import RULES, Rule

Outcome = Literal["continue", "tune", "stop"]
OUTCOMES = typing.get_args(Outcome)
SHIPPED = Path(__file__).parent / "policies"
VERSION = 1
_KINDS = {int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class PolicyRule:
    """A rule and what its failure means."""

    name: str
    rule: Rule
    on_fail: Outcome


@dataclass(frozen=True)
class Gate:
    """Rules that are due once, at the first evaluation after `after_epochs` finished epochs of training."""

    name: str
    after_epochs: int
    rules: tuple[PolicyRule, ...]


@dataclass(frozen=True)
class Policy:
    """A set of rules. `text` is the file as it was read, comments included."""

    name: str
    objective: str
    minimum_evaluations: int
    health: tuple[PolicyRule, ...]
    gates: tuple[Gate, ...]
    text: str = ""

    @property
    def hash(self) -> str:
        """Twelve hex digits of what the policy says; comments and layout do not count."""
        said = asdict(self)
        del said["text"]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def load_policy(name_or_path: str | Path = "checklist") -> Policy:
    """Load a shipped policy by its name, or a YAML file by its path.

    Raises:
        UserError: no such policy; or the file has an unknown key, a wrong type or a missing one: with file and line.
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
    return _Reader(path).policy(node, text)


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` when one of `known` is close to `name`, else the list of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}."


class _Reader:
    """Builds the dataclasses from YAML nodes, which know their line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def error(self, node: yaml.Node, message: str) -> UserError:
        return UserError(f"{self.path}:{node.start_mark.line + 1}: {message}")

    def policy(self, node: yaml.Node | None, text: str) -> Policy:
        if node is None:
            raise UserError(f"{self.path} is empty.")
        keys = self.mapping(
            node, {"version", "name", "objective", "minimum_evaluations", "health", "gates"}, needs=["version", "name"]
        )
        if self.scalar(keys["version"], int) != VERSION:
            raise self.error(keys["version"], f"policy version {keys['version'].value} is not {VERSION}.")
        policy = Policy(
            name=self.scalar(keys["name"], str),
            objective=self.metric(keys["objective"]) if "objective" in keys else "eval.mel_ce",
            minimum_evaluations=self.whole("minimum_evaluations", keys) if "minimum_evaluations" in keys else 2,
            health=self.rules(keys["health"]) if "health" in keys else (),
            gates=tuple(self.gate(item) for item in self.sequence(keys["gates"])) if "gates" in keys else (),
            text=text,
        )
        if not policy.health and not policy.gates:
            raise self.error(node, "the policy has no rules: give `health`, `gates` or both.")
        return policy

    def gate(self, node: yaml.Node) -> Gate:
        needs = ["name", "after_epochs", "rules"]
        keys = self.mapping(node, set(needs), needs=needs)
        after = self.whole("after_epochs", keys)
        return Gate(self.scalar(keys["name"], str), after, self.rules(keys["rules"]))

    def rules(self, node: yaml.Node) -> tuple[PolicyRule, ...]:
        return tuple(self.rule(item) for item in self.sequence(node))

    def rule(self, node: yaml.Node) -> PolicyRule:
        name_node = self.mapping(node, None, needs=["rule", "on_fail"])["rule"]
        name = self.scalar(name_node, str)
        if name not in RULES:
            raise self.error(name_node, f"unknown rule {name!r}, {nearest(name, RULES)}")
        kind = RULES[name]
        hints = typing.get_type_hints(kind)
        needs = [f.name for f in fields(kind) if f.default is MISSING]
        keys = self.mapping(node, {"rule", "on_fail", *hints}, needs=needs)
        outcome = self.choice(keys["on_fail"], OUTCOMES)
        values = {key: self.value(key, keys[key], hints[key]) for key in hints if key in keys}
        try:
            return PolicyRule(name, kind(**values), outcome)
        except ValueError as error:
            field = str(error).split()[0]  # the rules' sentences begin with the field
            raise self.error(keys.get(field, node), f"{error}.") from None

    def value(self, key: str, node: yaml.Node, hint: Any) -> Any:
        if key == "metric":
            return self.metric(node)
        if typing.get_origin(hint) is Literal:
            return self.choice(node, typing.get_args(hint))
        return self.scalar(node, hint)

    def whole(self, key: str, keys: dict[str, yaml.Node]) -> int:
        number: int = self.scalar(keys[key], int)
        if number < 1:
            raise self.error(keys[key], f"{key} is {number}, it must be 1 or more.")
        return number

    def metric(self, node: yaml.Node) -> str:
        name: str = self.scalar(node, str)
        if not name.startswith(("eval.", "train.")):
            raise self.error(node, f"unknown metric {name!r}: the names are eval.* and train.*, such as eval.mel_ce.")
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

"""Rules made of rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding, Rule, Status, require
from xtts_gatekeeper.record import RunRecord


def _findings(rules: Sequence[Rule], record: RunRecord) -> list[Finding]:
    return [rule.check(record) for rule in rules]


def _joined(status: Status, findings: Sequence[Finding], said: Sequence[Finding], word: str) -> Finding:
    evidence = {"of": [{"status": f.status, "message": f.message, "evidence": f.evidence} for f in findings]}
    return Finding(status, f" {word} ".join(f.message for f in said), evidence)


@dataclass(frozen=True)
class AllOf:
    """All of the `rules` pass; those that this run cannot measure do not count."""

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        require(bool(self.rules), "rules is empty, it must hold one rule or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        findings = _findings(self.rules, record)
        for status in ("failed", "too_early"):
            said = [f for f in findings if f.status == status]
            if said:
                return _joined(said[0].status, findings, said, "and")
        said = [f for f in findings if f.status == "passed"]
        return _joined("passed" if said else "not_measured", findings, said or findings, "and")


@dataclass(frozen=True)
class AnyOf:
    """At least one of the `rules` passes; those that this run cannot measure do not count."""

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        require(bool(self.rules), "rules is empty, it must hold one rule or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        return AtLeast(1, self.rules).check(record)


@dataclass(frozen=True)
class AtLeast:
    """At least `count` of the `rules` pass; with fewer than that left to measure, all that are left."""

    count: int
    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        ok = 1 <= self.count <= len(self.rules)
        require(ok, f"count is {self.count}, it must be 1 to {len(self.rules)}, the number of its rules")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        findings = _findings(self.rules, record)
        measured = [f for f in findings if f.status != "not_measured"]
        if not measured:
            return _joined("not_measured", findings, findings, "and")
        need = min(self.count, len(measured))
        passed = [f for f in measured if f.status == "passed"]
        open_ones = [f for f in measured if f.status == "too_early"]
        if len(passed) >= need:
            return _joined("passed", findings, passed, "and")
        if len(passed) + len(open_ones) >= need:
            return _joined("too_early", findings, open_ones, "and")
        return _joined("failed", findings, [f for f in measured if f.status == "failed"], "and")

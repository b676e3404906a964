"""The checklist's "frequent OOM despite conservative settings"."""

from __future__ import annotations

from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding, require
from xtts_gatekeeper.record import RunRecord


@dataclass(frozen=True)
class OutOfMemory:
    """The device ran out of memory at most `allowed` times in this run."""

    allowed: int = 2

    def __post_init__(self) -> None:
        require(self.allowed >= 0, f"allowed is {self.allowed}, it must be 0 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        steps = [incident.step for incident in record.incidents if incident.code == "oom"]
        if len(steps) > self.allowed:
            at = ", ".join(map(str, steps[-5:]))
            return Finding("failed", f"out of memory {len(steps)} times, last at steps {at}", {"steps": steps})
        return Finding("passed", f"out of memory {len(steps)} times", {"steps": steps})

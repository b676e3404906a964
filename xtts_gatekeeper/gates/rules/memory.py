"""The checklist's "memory state mostly low/moderate" and "frequent OOM"."""

from __future__ import annotations

from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding, require, too_early
from xtts_gatekeeper.record import RunRecord


@dataclass(frozen=True)
class Memory:
    """The memory state was low or moderate in at least one of the last `epochs` epochs."""

    epochs: int = 3

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"epochs is {self.epochs}, it must be 1 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        states = [epoch.memory_state for epoch in record.train_epochs if epoch.memory_state is not None]
        if not states:
            return Finding("not_measured", "memory is not measured in this run")
        if len(states) < self.epochs:
            return too_early("memory state", len(states), self.epochs)
        states = states[-self.epochs :]
        said = ", ".join(states)
        if all(state in ("high", "critical") for state in states):
            return Finding("failed", f"memory was {said} in the last {len(states)} epochs", {"states": states})
        return Finding("passed", f"memory was {said}", {"states": states})

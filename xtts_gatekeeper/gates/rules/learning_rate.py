"""The checklist's "scheduler confirmed"."""

from __future__ import annotations

from dataclasses import dataclass, replace

from xtts_gatekeeper.gates.rules.base import Finding
from xtts_gatekeeper.record import RunRecord


@dataclass(frozen=True)
class LearningRate:
    """No update was made with a learning rate other than the planned one since the process started."""

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        if record.source != "journal":
            return Finding("not_measured", "the learning rate that was asked for is not in this source")
        started = max((i for i, event in enumerate(record.events) if event.type == "start"), default=0)
        since = replace(record, events=record.events[started:])
        wrong = [incident for incident in since.incidents if incident.code == "lr_not_as_planned"]
        if wrong:
            return Finding("failed", wrong[-1].message, {"updates": len(wrong), "step": wrong[-1].step})
        return Finding("passed", "the learning rate in effect is the planned one")

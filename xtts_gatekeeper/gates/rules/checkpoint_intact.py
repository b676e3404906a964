"""The checklist's "checkpoint saved and restorable"."""

from __future__ import annotations

from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding
from xtts_gatekeeper.record import RunRecord


@dataclass(frozen=True)
class CheckpointIntact:
    """The newest checkpoint file was read back without an error."""

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        if not record.checkpoints:
            if record.source != "journal":
                return Finding("not_measured", "this source names no checkpoint")
            return Finding("too_early", "no checkpoint has been written yet")
        last = record.checkpoints[-1]
        evidence = {"path": last.path, "bytes": last.bytes, "step": last.step}
        if last.intact is None:
            return Finding("not_measured", f"whether {last.path} is intact is not in this log", evidence)
        if last.intact:
            return Finding("passed", f"{last.path} was written and read back intact", evidence)
        return Finding("failed", f"{last.path} could not be saved whole: {last.reason}", evidence)

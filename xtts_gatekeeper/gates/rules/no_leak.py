"""An eval set that the model has not seen."""

from __future__ import annotations

from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding
from xtts_gatekeeper.record import RunRecord


@dataclass(frozen=True)
class NoLeak:
    """No clip of the eval set is among those that are trained on."""

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        start = record.start
        leaked = start.eval_clips_trained_on if start else None
        if start is None or leaked is None:
            return Finding("not_measured", "whether the eval set was trained on is not known from this source")
        if leaked:
            message = (
                f"{leaked} of {start.eval_clips} eval clips are trained on, too: eval losses look better than they are"
            )
            return Finding("failed", message, {"clips": leaked, "eval_clips": start.eval_clips})
        return Finding("passed", "no eval clip is trained on", {"clips": 0})

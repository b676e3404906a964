"""An eval set that the model has not heard."""

from __future__ import annotations

from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding
from xtts_gatekeeper.record import RunRecord

#: So many clips are named in a sentence.
_NAMED = 3


@dataclass(frozen=True)
class NoLeak:
    """No clip of the eval set is among those that are trained on, or that a run before this one was trained on."""

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        start = record.start
        leaked = start.eval_clips_trained_on if start else None
        if start is None or leaked is None:
            return Finding("not_measured", "whether the eval set was trained on is not known from this source")
        if leaked:
            named = f" ({', '.join(start.leaked[:_NAMED])}{', ...' if leaked > _NAMED else ''})" if start.leaked else ""
            message = (
                f"{leaked} of {start.eval_clips} eval clips were trained on, too{named}: eval losses look better than "
                "the model is"
            )
            return Finding("failed", message, {"clips": leaked, "eval_clips": start.eval_clips, "names": start.leaked})
        return Finding("passed", "no eval clip is trained on", {"clips": 0})

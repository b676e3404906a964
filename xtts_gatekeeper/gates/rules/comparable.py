"""Whether the evaluations of a run may be compared with each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from xtts_gatekeeper.gates.rules.base import Finding
from xtts_gatekeeper.record import Evaluation, RunRecord

#: Five printed decimals, and the rounding of a subtraction.
_ROUNDING = 2e-5


@dataclass(frozen=True)
class Comparable:
    """All evaluations of the run are one segment, and no evaluation is missing between them.

    A segment ends where the eval set changes (its fingerprint, or the number of clips that a log names), or where the
    objective jumps at a resume by more than training explains (`record.run.unexplained_jump`). An evaluation is missing
    where the difference that the Trainer printed does not lead to the value before.
    """

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        breaks: list[dict[str, Any]] = [
            {"step": segment.evaluations[0].step, "why": segment.why} for segment in record.segments[1:]
        ]
        metric = record.resolve("eval.objective")
        lost = [later.step for earlier, later in pairwise(record.evaluations) if _lost(earlier, later, metric)]
        evidence = {"breaks": breaks, "evaluations_missing_before": lost}
        said = [entry["why"] for entry in breaks]
        if said:
            said[-1] += "; only what came after is compared"
        if lost:
            said.append(f"evaluations are missing before step {', '.join(map(str, lost[-5:]))}")
        if said:
            return Finding("failed", "; ".join(said), evidence)
        return Finding("passed", "all evaluations can be compared with each other", evidence)


def _lost(earlier: Evaluation, later: Evaluation, metric: str | None) -> bool:
    before = later.previous.get(metric or "", math.nan)
    value = earlier.metrics.get(metric or "", math.nan)
    if not (math.isfinite(before) and math.isfinite(value)):
        return False
    return abs(before - value) > _ROUNDING + 1e-6 * abs(value)

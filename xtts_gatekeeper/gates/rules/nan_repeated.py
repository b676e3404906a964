"""The checklist's "loss becomes NaN/Inf and repeats after restart"."""

from __future__ import annotations

from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding, require
from xtts_gatekeeper.gates.rules.finite import not_finite
from xtts_gatekeeper.record import Evaluation, RunRecord, Start, TrainEpoch


@dataclass(frozen=True)
class NanRepeated:
    """Losses have not become NaN or Inf (as the rule `finite` means it) in two processes of this run.

    Once may be an unlucky step that the checkpoint before it does not know; twice is the data, the rate or the code.
    """

    consecutive: int = 3

    def __post_init__(self) -> None:
        require(self.consecutive >= 1, f"consecutive is {self.consecutive}, it must be 1 or more")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        process = 0
        broken: dict[int, int] = {}  # process -> the first step at which it broke
        known: dict[str | None, int] = {}  # eval set -> batches of it that were not finite at first
        for event in record.events:
            if isinstance(event, Start):
                process += 1
            elif isinstance(event, Evaluation):
                if not_finite(event, known_bad=known.setdefault(event.eval_set, event.nonfinite_batches)):
                    broken.setdefault(process, event.step)
            elif isinstance(event, TrainEpoch) and not_finite(event, self.consecutive):
                broken.setdefault(process, event.step)
        evidence = {"steps": list(broken.values())}
        if len(broken) < 2:
            return Finding("passed", "NaN or Inf has not come back after a restart", evidence)
        steps = " and ".join(map(str, broken.values()))
        return Finding("failed", f"losses became NaN or Inf again after a restart, at steps {steps}", evidence)

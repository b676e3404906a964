"""The checklist's "throughput/runtime is acceptable for the full plan"."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from xtts_gatekeeper.gates.rules.base import Finding, require, too_early
from xtts_gatekeeper.record import RunRecord


@dataclass(frozen=True)
class Runtime:
    """All planned epochs, at the median time of an epoch and its evaluation so far, fit into `max_hours`."""

    max_hours: float

    def __post_init__(self) -> None:
        require(self.max_hours > 0, f"max_hours is {self.max_hours}, it must be above 0")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        planned = record.start.epochs_planned if record.start else None
        if not planned:
            return Finding("not_measured", "how many epochs are planned is not known")
        evaluated = {e.epoch: e.seconds or 0.0 for e in record.evaluations if not e.mid_epoch}
        times = [e.seconds + evaluated.get(e.epoch, 0.0) for e in record.train_epochs if e.seconds is not None]
        if not times:
            return too_early("epoch time", 0, 1)
        per_epoch = median(times)
        hours = per_epoch * planned / 3600
        left = max(0, planned - 1 - record.train_epochs[-1].epoch)
        evidence = {
            "hours": hours,
            "hours_left": per_epoch * left / 3600,
            "seconds_per_epoch": per_epoch,
            "epochs": planned,
            "max_hours": self.max_hours,
        }
        sentence = f"the whole plan of {planned} epochs takes about {duration(hours)}"
        if left:
            sentence += f" ({duration(evidence['hours_left'])} to come)"
        if hours > self.max_hours:
            return Finding("failed", f"{sentence}, more than the {self.max_hours:g} h allowed", evidence)
        return Finding("passed", f"{sentence}, within the {self.max_hours:g} h allowed", evidence)


def duration(hours: float) -> str:
    """`1.5 h` or `12 min`."""
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"

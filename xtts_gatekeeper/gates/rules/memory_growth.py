"""Memory that is not given back."""

from __future__ import annotations

from dataclasses import dataclass

from xtts_gatekeeper.gates.rules.base import Finding, require, too_early
from xtts_gatekeeper.record import RunRecord, Start, TrainEpoch
from xtts_gatekeeper.series import median_slope, noise_allowance


@dataclass(frozen=True)
class MemoryGrowth:
    """What this process takes does not grow so that the device would be `full` (a share) before the plan ends.

    By the robust slope over all epochs since the process began, at least `epochs`, or over the later half of them where
    that is less: what jumped once and stayed does not grow. A growth within the noise is none.
    """

    epochs: int = 5
    full: float = 0.95

    def __post_init__(self) -> None:
        require(self.epochs >= 3, f"epochs is {self.epochs}, it must be 3 or more")
        require(0 < self.full <= 1, f"full is {self.full}, it must be above 0 and at most 1")

    def check(self, record: RunRecord) -> Finding:
        """See the class."""
        began = max((i for i, event in enumerate(record.events) if isinstance(event, Start)), default=0)
        epochs = [e for e in record.events[began:] if isinstance(e, TrainEpoch) and e.memory]
        planned = record.start.epochs_planned if record.start else None
        if not planned or not any(isinstance(e, TrainEpoch) and e.memory for e in record.events):
            return Finding("not_measured", "what the process takes of the memory is not measured in this run")
        if len(epochs) < self.epochs:
            return too_early("memory of the process", len(epochs), self.epochs)
        own = [float(epoch.memory["own_bytes"]) for epoch in epochs]
        slope = min(median_slope(own), median_slope(own[len(own) // 2 :]))
        last = epochs[-1].memory
        left = max(0, planned - 1 - epochs[-1].epoch)
        share = (last["used_bytes"] + slope * left) / last["total_bytes"]
        evidence = {"bytes_per_epoch": slope, "epochs_left": left, "share_at_the_end": share}
        if slope * (len(own) - 1) <= noise_allowance(own, 0.01):
            return Finding("passed", "memory of the process does not grow", evidence)
        message = f"memory of the process grows by {slope / 1e6:.0f} MB an epoch"
        if share >= self.full:
            return Finding("failed", f"{message}: in the {left} epochs to come it runs out", evidence)
        return Finding("passed", f"{message}, which the {left} epochs to come have room for", evidence)

"""How much disk a run will need, and whether it is there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from xtts_gatekeeper.checkpoints.retention import Policy

#: Left free by every save: logs, journal and events have to go on.
RESERVE_BYTES = 64 << 20


@dataclass(frozen=True)
class Forecast:
    """What the files of a run will take, in bytes.

    `floor_peak` is the least that a run can do with: two checkpoints while the newer is written, and the best. `peak`
    is with all that retention is asked to keep, at the end of the run.
    """

    checkpoint: int
    weights: int
    steady: int
    peak: int
    floor_peak: int
    present: int
    free: int

    @property
    def fits_floor(self) -> bool:
        """Whether the run can save at all."""
        return self.floor_peak + RESERVE_BYTES <= self.present + self.free

    @property
    def fits(self) -> bool:
        """Whether all that is to be kept will have room."""
        return self.peak + RESERVE_BYTES <= self.present + self.free

    def __str__(self) -> str:
        """The numbers, in gigabytes."""
        return (
            f"a checkpoint takes {_gb(self.checkpoint)}, the best {_gb(self.weights)}; the run's files take "
            f"{_gb(self.steady)}, and {_gb(self.peak)} while saving, at least {_gb(self.floor_peak)}; "
            f"{_gb(self.free)} are free" + (f" and {_gb(self.present)} are this run's already" if self.present else "")
        )


def forecast(
    *,
    checkpoint: int,
    weights: int,
    policy: Policy,
    steps: int,
    gates: int,
    present: int,
    folder: Path,
    budget: int | None,
) -> Forecast:
    """Foresee the disk use of a run.

    Args:
        checkpoint: bytes of a resumable file.
        weights: bytes of a best file.
        policy: what is kept.
        steps: planned micro-batches.
        gates: gates of the policy.
        present: bytes of the checkpoint files that the run has already.
        folder: the run's folder.
        budget: bytes that the run's files may have.
    """
    resumable, best = policy.at_most(steps, gates)
    steady = max(1, resumable) * checkpoint + max(1, best) * weights
    floor = checkpoint + weights
    if budget is not None:
        steady = max(floor, min(steady, budget))
    return Forecast(
        checkpoint=checkpoint,
        weights=weights,
        steady=steady,
        peak=steady + checkpoint,
        floor_peak=floor + checkpoint,
        present=present,
        free=free_bytes(folder),
    )


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write where `folder` lies."""
    return shutil.disk_usage(folder).free


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"

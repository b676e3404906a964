"""The checklist's memory states, the peak of an epoch, and what each epoch leaves behind."""

from __future__ import annotations

import time
from typing import Any

from xtts_gatekeeper.trainer_port import Memory, TrainerPort

#: Upper limits of `low`, `moderate` and `high` as shares of the device's memory; above is `critical`. They are those
#: of the trainer that the checklist was written for.
LIMITS: dict[str, tuple[float, float, float]] = {
    "cuda": (0.65, 0.78, 0.88),
    "mps": (0.55, 0.70, 0.82),
    "cpu": (0.70, 0.80, 0.90),
}

#: Between two looks at the host's memory, which take a tenth of a millisecond.
_EVERY_SECONDS = 1.0


def memory_state(device: str, used: float) -> str:
    """`low`, `moderate`, `high` or `critical` for a used share (0 to 1) of the memory of `cuda`, `mps` or `cpu`.

    Another device is judged like a CPU.
    """
    for state, limit in zip(("low", "moderate", "high"), LIMITS.get(device, LIMITS["cpu"]), strict=True):
        if used < limit:
            return state
    return "critical"


class MemoryMonitor:
    """Looks at the memory once a second at the most, and at the end of an epoch.

    On CUDA the allocator itself counts the peak of what tensors take; nothing is asked of the device within an epoch.
    """

    def __init__(self, port: TrainerPort) -> None:
        self.port = port
        self._next = 0.0
        self._highest: Memory | None = None

    def begin_epoch(self) -> None:
        """See `Monitor`."""
        self._highest = None
        self.port.peak_device_bytes()

    def look(self) -> None:
        """Look at the memory, if it is time to."""
        now = time.monotonic()
        if now >= self._next and not self.port.on_gpu:
            self._next = now + _EVERY_SECONDS
            self._see(self.port.memory())

    def epoch(self) -> dict[str, Any]:
        """The device, its bytes and those in use by anybody, and those of this process now and at the epoch's peak.

        `used` is at the end of the epoch; `own` is host memory on a CPU and what tensors take on a GPU.
        """
        now = self.port.memory()
        self._see(now)
        peak = self.port.peak_device_bytes()
        highest = self._highest or now
        return {
            "device": now.device,
            "total_bytes": now.total,
            "used_bytes": now.used,
            "own_bytes": now.own,
            "peak_own_bytes": max(peak or 0, highest.own),
            "peak_share": round(max(highest.share, now.share), 4),
        }

    def _see(self, memory: Memory) -> None:
        if self._highest is None or memory.own > self._highest.own:
            self._highest = memory

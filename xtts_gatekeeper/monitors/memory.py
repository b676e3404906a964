"""The checklist's memory states."""

from __future__ import annotations

#: Upper limits of `low`, `moderate` and `high` as shares of the device's memory; above is `critical`. They are those
#: of the trainer that the checklist was written for.
LIMITS: dict[str, tuple[float, float, float]] = {
    "cuda": (0.65, 0.78, 0.88),
    "mps": (0.55, 0.70, 0.82),
    "cpu": (0.70, 0.80, 0.90),
}


def memory_state(device: str, used: float) -> str:
    """`low`, `moderate`, `high` or `critical` for a used share (0 to 1) of the memory of `cuda`, `mps` or `cpu`.

    Another device is judged like a CPU.
    """
    for state, limit in zip(("low", "moderate", "high"), LIMITS.get(device, LIMITS["cpu"]), strict=True):
        if used < limit:
            return state
    return "critical"

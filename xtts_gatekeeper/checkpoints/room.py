"""Room for the next save: on the disk, and in memory for its copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from xtts_gatekeeper.checkpoints.disk import RESERVE_BYTES, free_bytes
from xtts_gatekeeper.host_memory import available_bytes
from xtts_gatekeeper.trainer_port import StopTraining

#: Left free in host memory beside the copy of the state.
_MEMORY_RESERVE = 512 << 20
_LOOK_EVERY_SECONDS = 1.0


class Room(Enum):
    """What there is room for."""

    ALL = "all"
    WEIGHTS = "weights"
    NONE = "none"


def make_room(
    folder: Path,
    needed: int,
    weights: int | None,
    *,
    prune: Callable[[int], None],
    report: Callable[[str, str], None],
    pause_seconds: float | None,
    hurry: Callable[[], bool] = lambda: False,
    free: Callable[[Path], int] = free_bytes,
    sleep: Callable[[float], None] = time.sleep,
) -> Room:
    """Make room for a save, by what costs the user least first.

    Prune beyond what retention keeps; be content with the weights; wait for somebody to free some disk; stop.

    Args:
        folder: where the files go.
        needed: bytes of the save.
        weights: bytes of a save of weights alone, where that would do.
        prune: deletes files worth so many bytes, as far as it may.
        report: takes a code and a sentence.
        pause_seconds: how long to wait; None to do without the save instead.
        hurry: tells whether somebody wants the training to end, so that it must not wait any longer.
        free: tells the free bytes.
        sleep: waits so many seconds.

    Raises:
        StopTraining: the wait was in vain.
    """

    def short(size: int) -> int:
        return size + RESERVE_BYTES - free(folder)

    if short(needed) <= 0:
        return Room.ALL
    prune(short(needed))
    if short(needed) <= 0:
        report("disk_short", f"the disk has no room for {needed / 1e9:.2f} GB: pruned beyond what retention keeps")
        return Room.ALL
    numbers = f"{needed / 1e9:.2f} GB are needed and {free(folder) / 1e9:.2f} GB are free"
    if weights is not None and short(weights) <= 0:
        report("disk_short", f"{numbers}: saving the weights alone, the last resumable file stays")
        return Room.WEIGHTS
    if pause_seconds is None:
        report("disk_full", f"{numbers}: not saved")
        return Room.NONE
    report("disk_full", f"{numbers}: training waits up to {pause_seconds / 60:.0f} minutes for room on the disk")
    waited = 0.0
    while waited < pause_seconds:
        if hurry():
            report("disk_full", f"{numbers}: not saved")
            return Room.NONE
        sleep(min(_LOOK_EVERY_SECONDS, pause_seconds - waited))
        waited += _LOOK_EVERY_SECONDS
        if short(needed) <= 0:
            report("disk_room", "there is room on the disk again: training goes on")
            return Room.ALL
    raise StopTraining(f"the disk is full: {numbers}", "disk_full")


def memory_allows(size: int) -> bool:
    """Whether host memory has room for `size` more bytes, by the system's count and the container's limit."""
    if size <= 0:
        return True
    return size + _MEMORY_RESERVE <= available_bytes()

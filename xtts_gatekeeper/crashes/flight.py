"""What a training process is doing at this moment, in a file that outlives it however it ends.

A process that is killed or faults in native code tells nobody what it was at. So each step writes that before it begins
over what the one before has written: one call, no sync, for the system keeps what a dead process has written.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path

from xtts_gatekeeper.record.journal import FOLDER

FLIGHT = "flight.json"
#: Every write fills so many bytes, so that none leaves a rest of the one before.
_BYTES = 8192
#: So much is left for what is not names of files.
_ROOM = 1024


@dataclass(frozen=True)
class Flight:
    """The last that a process wrote.

    `doing` is `training`, `loading` (waiting for a batch), `evaluating`, `sampling` or `saving`; `files` are the clips
    of the batch in hand, or of the last one; `trained` counts the micro-batches that the process has trained. It hangs
    when it does not write anew within `limit` seconds, where that is given. `time` is the system's clock, in seconds.
    """

    pid: int
    doing: str
    step: int
    epoch: int
    trained: int = 0
    files: list[str] = field(default_factory=list)
    limit: float | None = None
    time: float = field(default_factory=time.time)


class FlightRecorder:
    """Writes the file; what cannot be written is let go of: it must not end a training."""

    def __init__(self, run: Path) -> None:
        self.path = flight_path(run)
        self._pid = os.getpid()
        self._file: FileIO | None = None
        with contextlib.suppress(OSError):
            self._file = self.path.open("wb", buffering=0)

    def write(
        self, doing: str, step: int, epoch: int, trained: int, files: Sequence[str] = (), limit: float | None = None
    ) -> None:
        """Say what is being done; see `Flight`."""
        if self._file is None:
            return
        line = json.dumps(asdict(Flight(self._pid, doing, step, epoch, trained, _few(files), limit)))
        try:
            self._file.seek(0)
            self._file.write(line.encode().ljust(_BYTES, b" ")[:_BYTES])
        except (OSError, ValueError):
            pass

    def close(self) -> None:
        """The process trains no more."""
        if self._file is not None:
            self._file.close()
            self._file = None


def flight_path(run: Path) -> Path:
    """Where the file of a run lies."""
    return run / FOLDER / FLIGHT


def read_flight(run: Path, pid: int | None = None) -> Flight | None:
    """The last that a process of the run wrote; None where there is nothing, or it is of another process than `pid`."""
    try:
        found = Flight(**json.loads(flight_path(run).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return found if pid in (None, found.pid) else None


def _few(files: Sequence[str]) -> list[str]:
    """As many names as there is room for."""
    kept: list[str] = []
    left = _BYTES - _ROOM
    for name in files:
        left -= len(json.dumps(name)) + 2
        if left < 0:
            break
        kept.append(name)
    return kept

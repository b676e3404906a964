"""The watch over a training that stands still: no step for many times the usual one."""

from __future__ import annotations

import contextlib
import faulthandler
import statistics
import time
from collections import deque
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_gatekeeper.crashes.evidence import CRASHES, stamp
from xtts_gatekeeper.crashes.flight import flight_path
from xtts_gatekeeper.record.journal import FOLDER

if TYPE_CHECKING:
    from xtts_gatekeeper.config import HangConfig

#: Steps whose times make the median.
_STEPS = 101
#: The alarm is set anew once this share of its time has passed: setting it starts a thread.
_SLACK = 0.1
#: A clock of the system's may count no further than 49 days.
_LONGEST_SECONDS = 30 * 86400.0


class HangWatch:
    """Writes the stack of every thread when no step comes, and ends the process where that is wanted.

    The alarm is that of `faulthandler`, which needs no GIL: it also goes off where native code holds that. What it
    writes goes to `<run>/gatekeeper/crashes/stacks-TIME-PID.txt`, together with the stacks of a segmentation fault
    where those are not written to stderr already.

    Args:
        run: the run's folder.
        pid: of this process, for the name of the file.
        settings: the section `hang`.
        leave: whether to end the process.
    """

    def __init__(self, run: Path, pid: int, settings: HangConfig, *, leave: bool) -> None:
        self.settings = settings
        self._leave = leave
        self._seconds: deque[float] = deque(maxlen=_STEPS)
        self._last: float | None = None
        self._armed = self._pause = 0.0
        self._limit: float | None = None
        self._faults = False
        self.path = run / FOLDER / CRASHES / f"stacks-{stamp()}-{pid}.txt"
        self._file: FileIO | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb", buffering=0)
        except OSError:  # then there is no watch
            return
        if not faulthandler.is_enabled():
            faulthandler.enable(self._file)
            self._faults = True

    @property
    def limit(self) -> float | None:
        """Seconds without a step after which the process is ended; None while it is not."""
        return self._limit if self._leave else None

    @property
    def watching(self) -> bool:
        """Whether a step is waited for."""
        return self._limit is not None

    def begin(self) -> None:
        """Training begins, or goes on after something else: wait for its next step from now on."""
        self._last = time.perf_counter()
        self._arm()

    def step_ends(self) -> float | None:
        """A step is over; the seconds since the one before it, if it has hung meanwhile and come back."""
        now = time.perf_counter()
        took = now - self._last if self._last is not None else 0.0
        hung = self._limit is not None and took > self._limit
        if self._last is not None:
            self._seconds.append(took)
        self._last = now
        if self._limit is None or now - self._armed > _SLACK * self._limit:
            self._arm()
        return took if hung else None

    def sign_of_life(self) -> bool:
        """Something other than a step has come on, such as an evaluation; whether the alarm was set anew."""
        due = self._limit is not None and time.perf_counter() - self._armed > _SLACK * self._limit
        if due:
            self._arm()
        return due

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not watch what is slow by nature; its time does not count as a step's."""
        if self._limit is None:
            yield
            return
        began = time.perf_counter()
        self._disarm()
        try:
            yield
        finally:
            if self._last is not None:
                self._last += time.perf_counter() - began
            self._arm()

    def rest(self) -> None:
        """No step is to come for a while."""
        self._disarm()
        self._last = None

    def end(self) -> None:
        """Training is over; a file that nothing was written to goes."""
        self._disarm()
        if self._file is None:
            return
        if self._faults:
            faulthandler.disable()
        self._file.close()
        self._file = None
        with contextlib.suppress(OSError):
            if self.path.stat().st_size == 0:
                self.path.unlink()

    def _arm(self) -> None:
        if self._file is None or not self.settings.factor:
            return
        usual = statistics.median(self._seconds) if self._seconds else 0.0
        limit = min(max(self.settings.minimum_seconds, self.settings.factor * usual), _LONGEST_SECONDS)
        self._armed, self._limit = time.perf_counter(), None
        with contextlib.suppress(Exception):  # no thread to be had: then there is no watch
            faulthandler.dump_traceback_later(limit * (1 + _SLACK), exit=self._leave, file=self._file)
            self._limit = limit

    def _disarm(self) -> None:
        if self._limit is not None:
            faulthandler.cancel_dump_traceback_later()
            self._limit = None


def hung(run: Path, pid: int, since: str) -> bool:
    """Whether the process has written that it hung, and nothing since: one that is not ended may come back.

    `since` is the `stamp` of its start: another may have had its number before.
    """
    for path in (run / FOLDER / CRASHES).glob(f"stacks-*-{pid}.txt"):
        if path.name < f"stacks-{since}":
            continue
        with contextlib.suppress(OSError):
            text = path.read_bytes()
            later = path.stat().st_mtime_ns < flight_path(run).stat().st_mtime_ns
            if not later and (text.startswith(b"Timeout (") or b"\nTimeout (" in text):
                return True
    return False

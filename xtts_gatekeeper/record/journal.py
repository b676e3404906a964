"""The append-only journal: one JSON object a line, in `<run>/gatekeeper/journal.jsonl`.

A line is written with one call and synced, so that a kill leaves at most one torn line; the next writer begins on a
fresh one. Several processes may write: a training, and the page on which people listen to its samples. They need no
lock, on which a training could hang: the system appends what one call writes as a whole.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.events import Event, Incident, parse_event

FOLDER = "gatekeeper"
JOURNAL = "journal.jsonl"


def journal_path(run: Path) -> Path:
    """Where the journal of the run folder `run` lies."""
    return run / FOLDER / JOURNAL


def _strict(value: Any) -> Any:
    """JSON has no NaN: non-finite floats are written as the strings that `float()` reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON of `value`; NaN and infinities become the strings `nan`, `inf`, `-inf`."""
    return json.dumps(_strict(value), indent=indent, allow_nan=False, ensure_ascii=False)


class Journal:
    """Appends events to a journal file and keeps all of them in `events`, those that were there before included.

    What another process has written since is taken up with the next `append`, and stands before what that appends.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        there = path.read_bytes() if path.exists() else b""
        self.events: list[Event] = list(_parse(there.split(b"\n"), path, None, first=1))
        self._read = len(there)  # so many bytes of the file are in `events`
        self._unwritten = ""
        self._lock = threading.Lock()  # checkpoints are recorded by the thread that writes them

    def append(self, event: Event) -> None:
        """Write `event` durably: it is on the disk when this returns.

        Raises:
            OSError: it could not be written; `events` has it all the same.
        """
        with self._lock:
            self.events.append(event)
            # What a full disk did not take is written with the next line: the file must not know less than `events`.
            self._unwritten += to_json(event.to_dict()) + "\n"
            with self.path.open("a+b", buffering=0) as file:
                line = ("\n" if _is_torn(file) else "") + self._unwritten
                data = line.encode(errors="backslashreplace")
                begin, sent = file.seek(0, os.SEEK_END), 0
                try:
                    while sent < len(data):  # a write may take only a part, on a disk that is nearly full
                        written = file.write(data[sent:])
                        if not sent:  # at the end that the file had by then
                            begin = file.tell() - written
                        sent += written
                finally:
                    self._take_up(file, begin, file.tell())
                self._unwritten = ""
                os.fsync(file.fileno())

    def _take_up(self, file: FileIO, begin: int, end: int) -> None:
        """Put what others wrote before the event that was just appended, whose line lies between `begin` and `end`."""
        if begin > self._read:
            file.seek(self._read)
            others = file.read(begin - self._read).split(b"\n")
            last = self.events[-2] if len(self.events) > 1 else None
            self.events[-1:-1] = _parse(others, self.path, last, first=None)
        self._read = end


def _is_torn(file: FileIO) -> bool:
    """Whether a file ends within a line."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def read_events(path: Path) -> Iterator[Event]:
    """The events of a journal, in order.

    A line that a kill or a full disk cut short is passed over and reported as an `Incident` in its place.

    Raises:
        UserError: the file does not begin like a journal.
    """
    with path.open("rb") as file:
        yield from _parse(file, path, None, first=1)


def _parse(lines: Iterable[bytes], path: Path, last: Event | None, first: int | None) -> Iterator[Event]:
    """The events of lines, of which the first one has the number `first`, None where that is not known."""
    for number, raw in enumerate(lines, first or 1):
        if not raw.strip():
            continue
        try:
            event = parse_event(json.loads(raw))
            if event is not None and not (isinstance(event.step, int) and isinstance(event.epoch, int)):
                raise ValueError("step and epoch are no whole numbers")
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if last is None and not b'{"type"'.startswith(raw.strip()[:7]):
                raise UserError(f"{path}:{number} is not a line of a gatekeeper journal ({error}).") from None
            event = Incident(
                step=last.step if last else 0,
                epoch=last.epoch if last else 0,
                time=last.time if last else "",
                code="journal_line_unreadable",
                message=f"{f'line {number}' if first else 'a line'} of the journal is cut short or damaged and was "
                "passed over",
            )
        if event is not None:
            last = event
            yield event

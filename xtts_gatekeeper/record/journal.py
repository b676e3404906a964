"""The append-only journal: one JSON object a line, in `<run>/gatekeeper/journal.jsonl`.

A line is written with one call and synced, so that a kill leaves at most one torn line; the next writer begins on a
fresh one.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator
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
    """Appends events to a journal file and keeps all of them, the file's earlier ones included, in `events`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.events: list[Event] = list(read_events(path)) if path.exists() else []
        self._torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
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
            line = ("\n" if self._torn else "") + self._unwritten
            self._torn = True  # until the write below has ended, the file may hold a part of the line
            with self.path.open("ab", buffering=0) as file:
                rest = memoryview(line.encode(errors="backslashreplace"))
                while rest:  # an unbuffered write may take only a part, on a disk that is nearly full
                    rest = rest[file.write(rest) :]
                self._torn, self._unwritten = False, ""
                os.fsync(file.fileno())


def read_events(path: Path) -> Iterator[Event]:
    """The events of a journal, in order.

    A line that a kill or a full disk cut short is passed over and reported as an `Incident` in its place.

    Raises:
        UserError: the file does not begin like a journal.
    """
    last: Event | None = None
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
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
                    message=f"line {number} of the journal is cut short or damaged and was passed over",
                )
            if event is not None:
                last = event
                yield event

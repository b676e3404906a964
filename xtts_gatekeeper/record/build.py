"""`RunBuilder`: what every reader fills, a piece of input at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from xtts_gatekeeper.record.events import Event
from xtts_gatekeeper.record.run import Note, RunRecord


@dataclass
class _Building:
    name: str
    continues: bool
    events: list[Event] = field(default_factory=list)
    notes: dict[str, Note] = field(default_factory=dict)


class RunBuilder:
    """Collects the events of one or several runs that stand in one source, in order."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._runs: list[_Building] = []

    def new_run(self, name: str = "", continues: bool = False) -> None:
        """What follows belongs to another run; `continues` when it goes on where the run before it ended."""
        self._runs.append(_Building(name, continues))

    def add(self, event: Event) -> None:
        """Append an event to the current run."""
        self._current.events.append(event)

    def note(self, code: str, message: str) -> None:
        """Say what could not be read, or had to be assumed; the same `code` is counted, the first message stays."""
        notes = self._current.notes
        known = notes.get(code)
        notes[code] = Note(code, known.message if known else message, (known.count if known else 0) + 1)

    @property
    def events(self) -> Sequence[Event]:
        """The events of the current run."""
        return self._current.events

    @property
    def _current(self) -> _Building:
        if not self._runs:
            self.new_run()
        return self._runs[-1]

    def records(self) -> list[RunRecord]:
        """The runs so far, each a record; one that continues another holds that one's events before its own."""
        records: list[RunRecord] = []
        for run in self._runs:
            before = records[-1].events if run.continues and records else ()
            events = (*before, *run.events)
            records.append(RunRecord(events, self.source, run.name, tuple(run.notes.values())))
        return records


class Parser(Protocol):
    """Turns bytes into runs, a chunk at a time. Memory does not grow with what was read, only with the evaluations.

    Whatever the bytes: no exception but `UserError`.
    """

    def feed(self, data: bytes) -> None:
        """Take the next bytes; a chunk may end anywhere, in the middle of a line or of a character."""

    def close(self) -> None:
        """The input is over: what is pending (a line without its end, an epoch that was cut off) is settled."""

    def records(self) -> list[RunRecord]:
        """The runs in the input so far, in order; only what is complete."""

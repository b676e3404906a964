"""The live record of one run: what every part of the gatekeeper writes to and reads from while training goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from xtts_gatekeeper.record import Incident, Journal, RunRecord, journal_path
from xtts_gatekeeper.record.events import Event
from xtts_gatekeeper.record.run import moves_on
from xtts_gatekeeper.trainer_port import TrainerPort


class Recorder:
    """Appends to the run's journal; only the process that writes has one.

    Args:
        port: the Trainer.
        names: the policy's own names for metrics.
    """

    def __init__(self, port: TrainerPort, names: Mapping[str, str]) -> None:
        self.port = port
        self.journal = Journal(journal_path(port.run_folder)) if port.is_main else None
        self._names = names
        self._memo: dict[Any, bool] = {}
        #: How many events that move the run on are on record.
        self.told = sum(map(moves_on, self.journal.events)) if self.journal is not None else 0

    def record(self, event: Event) -> None:
        """Append to the journal. A journal that cannot be written must not end a training run."""
        if self.journal is None:
            return
        self.told += moves_on(event)
        try:
            self.journal.append(event)
        except OSError as error:
            self.port.log(f"WARNING: the journal could not be written: {error}")

    def seen(self) -> RunRecord:
        """The record up to now."""
        events = tuple(self.journal.events) if self.journal is not None else ()
        return RunRecord(events, names=self._names, memo=self._memo)

    def incident(self, code: str, message: str) -> None:
        """Record that something went wrong beside the training, and say so."""
        self.record(Incident(step=self.port.step, epoch=self.port.epoch, code=code, message=message))
        self.port.log(f"WARNING: {message}")

    @contextlib.contextmanager
    def softly(self, what: str) -> Iterator[None]:
        """Record an error of ours as an incident and let training go on."""
        try:
            yield
        except Exception as error:
            self.incident("gatekeeper_error", f"{what}: {type(error).__name__}: {error}")

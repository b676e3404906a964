"""The record of one run: typed events, the append-only journal, and the reader that turns it into a `RunRecord`.

Imports neither torch nor TTS.
"""

from xtts_gatekeeper.record.events import (
    Checkpoint,
    Evaluation,
    Incident,
    PhaseStart,
    SampleScore,
    Start,
    TrainEpoch,
    VerdictEvent,
)
from xtts_gatekeeper.record.journal import Journal, journal_path, read_events
from xtts_gatekeeper.record.run import Note, RunRecord, Segment, Series

__all__ = [
    "Checkpoint",
    "Evaluation",
    "Incident",
    "Journal",
    "Note",
    "PhaseStart",
    "RunRecord",
    "SampleScore",
    "Segment",
    "Series",
    "Start",
    "TrainEpoch",
    "VerdictEvent",
    "journal_path",
    "read_events",
]

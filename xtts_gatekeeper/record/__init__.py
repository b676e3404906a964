"""The record of one run: typed events, the append-only journal, and the reader that turns it into a `RunRecord`.

Imports neither torch nor TTS.
"""

from xtts_gatekeeper.record.events import Checkpoint, Evaluation, Incident, PhaseStart, Start, TrainEpoch, VerdictEvent
from xtts_gatekeeper.record.journal import Journal, journal_path, read_events
from xtts_gatekeeper.record.run import RunRecord, Segment, read_run

__all__ = [
    "Checkpoint",
    "Evaluation",
    "Incident",
    "Journal",
    "PhaseStart",
    "RunRecord",
    "Segment",
    "Start",
    "TrainEpoch",
    "VerdictEvent",
    "journal_path",
    "read_events",
    "read_run",
]

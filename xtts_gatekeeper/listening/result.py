"""Scores of a session, collected from its answers and written down: for the report, and in the run's journal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtts_gatekeeper.listening.answers import Answers, Kept, complete
from xtts_gatekeeper.listening.scores import Results, results_of, to_events
from xtts_gatekeeper.listening.session import SAMPLES, Place, Session, locked, sessions_in
from xtts_gatekeeper.listening.sheets import Sheet, sheet_of
from xtts_gatekeeper.listening.trials import trials_for
from xtts_gatekeeper.record import Journal, SampleScore, journal_path
from xtts_gatekeeper.record.events import Event, now
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.record.run import LISTENERS
from xtts_gatekeeper.samples.sets import write_json

RESULTS = "results.json"


@dataclass(frozen=True)
class Recorded:
    """What was scored (None: nobody has answered everything yet), and how many scores are new in the journal."""

    results: Results | None
    added: int = 0
    journal: bool = False


def collect(session: Session, answers: Answers) -> Results | None:
    """Score what has been answered completely; None where nothing has.

    Raises:
        UserError: a file of answers is not what we write.
    """
    sheets = [sheet for key in answers.known() if (sheet := _sheet(session, key, answers.read(key))) is not None]
    return results_of(session, sheets) if sheets else None


def unfinished(place: Place, besides: Session) -> list[Session]:
    """The other sessions that somebody has begun and not gone through, the oldest first.

    Raises:
        UserError: a session or a file of answers is not what we write.
    """
    found = []
    for folder, session in sessions_in(place.listening):
        answers = Answers(folder, session.id)
        if session.id != besides.id and any(_sheet(session, key, answers.read(key)) is None for key in answers.known()):
            found.append(session)
    return found


def record(place: Place, session: Session) -> Recorded:
    """Score a session, write `results.json`, and add to the run's journal what is not in it yet.

    A run without a journal of ours gets none.

    Raises:
        UserError: a file of answers is not what we write.
        OSError: the results could not be written.
    """
    folder = place.listening / session.id
    with locked(folder / f"{RESULTS}.lock"):
        results = collect(session, Answers(folder, session.id))
        if results is None:
            return Recorded(None)
        unchanged = _as_kept(results) == _kept(folder / RESULTS)
        write_json(folder / RESULTS, results.to_dict())
        if place.run is None or not journal_path(place.run).is_file():
            return Recorded(results)
        journal = Journal(journal_path(place.run))
        epochs = {system.source: _epoch(system.epoch, system.step, journal.events) for system in session.systems}
        added = 0
        for score in to_events(results, epochs, f"{FOLDER}/{SAMPLES}", now()):
            if not _known(score, journal.events, unchanged):
                journal.append(score)
                added += 1
        return Recorded(results, added, journal=True)


def own_result(session: Session, key: str, kept: Kept) -> dict[str, Any]:
    """What one listener is told when everything is answered."""
    sheet = _sheet(session, key, kept)
    assert sheet is not None  # the caller has seen to it
    results = results_of(session, [sheet])
    consistency = results.listeners[0].consistency
    return {
        "systems": [
            {"name": one.name, "step": one.step, "score": one.score, "rows": one.rows, "preferred": one.preferred}
            for one in results.systems
        ],
        "real": None if results.real is None else {"score": results.real.score, "rows": results.real.rows},
        "consistency": None
        if consistency is None
        else {
            "repeats": consistency.repeats,
            "difference": consistency.difference,
            "sentence": consistency.sentence,
        },
    }


def _sheet(session: Session, key: str, kept: Kept | None) -> Sheet | None:
    """What a listener said; None where something is missing yet."""
    trials = trials_for(session, key)
    if kept is None or not all(complete(trial, kept.answers.get(trial.id)) for trial in trials):
        return None
    return sheet_of(kept.listener, trials, kept.answers)


def _epoch(epoch: int | None, step: int, events: Sequence[Event]) -> int:
    """The epoch of weights: the one that their samples tell, else that of the last event up to their step."""
    before = [event.epoch for event in events if event.step <= step]
    return epoch if epoch is not None else before[-1] if before else 0


def _known(score: SampleScore, events: Iterable[Event], unchanged: bool) -> bool:
    """Whether listeners gave these samples this score already.

    Where the session says what it said before, at any time: another session of the same samples, which has spoken
    since, is not contradicted. Where it says something new, lately.
    """
    same = [
        replace(event, time=score.time) == score
        for event in events
        if isinstance(event, SampleScore)
        and (event.by, event.folder, event.prompts) == (LISTENERS, score.folder, score.prompts)
    ]
    return any(same) if unchanged else bool(same) and same[-1]


def _as_kept(results: Results) -> Any:
    return json.loads(json.dumps(results.to_dict()))


def _kept(path: Path) -> Any:
    """The results of last time; None where there are none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

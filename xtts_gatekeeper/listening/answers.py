"""What listeners say: checked before it is taken, and kept so that a kill at any instant loses nothing acknowledged.

A file a listener, `answers/<key>.json`, written whole and brought to the disk before anybody is told so.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xtts_gatekeeper.checkpoints.writer import sync_folder
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.listening.trials import LONGEST_NAME, Trial
from xtts_gatekeeper.record.events import now
from xtts_gatekeeper.samples.score import ROWS
from xtts_gatekeeper.samples.sets import write_json

#: What a listener can object to, in words: of `samples.faults.KINDS` those that an ear tells for sure.
FAULTS: Mapping[str, str] = {
    "mispronounced": "Mispronounced",
    "skipped": "Words skipped",
    "repeated": "Words repeated",
    "trailing_noise": "Noise at the end",
    "early_stop": "Stops early",
    "late_stop": "Stops late",
}
#: The answer to the question which is best, where none is.
NONE_BETTER = "none"
ANSWERS = "answers"
#: A session that more people have begun is no session of ours.
MOST_LISTENERS = 500
#: Longer than anybody thinks about one page: a day.
_MOST_SECONDS = 86400.0

Row = Literal["intelligibility", "prosody", "pronunciation", "stopping", "artifacts"]
FaultKind = Literal["mispronounced", "skipped", "repeated", "trailing_noise", "early_stop", "late_stop"]
Mark = Annotated[int, Field(ge=1, le=5)]
Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
TrialId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Strict(BaseModel):
    """What comes from outside: of the types that are named and no others, without further keys, NaN and infinity."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Answer(Strict):
    """What is said of one trial, as far as it goes, by tokens of its stimuli.

    `preferred` is a token or `none`; `seconds` is how long the listener was on the page.
    """

    marks: dict[Token, dict[Row, Mark]] = {}
    faults: dict[Token, list[FaultKind]] = {}
    notes: dict[Token, Annotated[str, Field(max_length=1000)]] = {}
    preferred: Token | Literal["none"] | None = None
    seconds: Annotated[float, Field(ge=0, le=_MOST_SECONDS)] = 0.0


class Posted(Strict):
    """The body of `POST /api/answer`."""

    listener: Annotated[str, Field(max_length=4 * LONGEST_NAME)]
    trial: TrialId
    answer: Answer


class Kept(Strict):
    """The file of one listener, or of one imported copy."""

    version: Literal[1] = 1
    session: str
    listener: str
    saved: str
    answers: dict[TrialId, Answer]


def wrong_with(trial: Trial, answer: Answer) -> str:
    """What an answer says that the trial did not ask; empty where nothing is wrong."""
    tokens = {shown.token for shown in trial.shown}
    if not {*answer.marks, *answer.faults, *answer.notes} <= tokens:
        return "The answer is about a sample that this trial does not have."
    if answer.preferred not in (None, NONE_BETTER, *tokens):
        return "The answer prefers a sample that this trial does not have."
    if answer.preferred is not None and not trial.preference:
        return "The answer prefers a sample where there is only one."
    return ""


def complete(trial: Trial, answer: Answer | None) -> bool:
    """Whether everything is answered: all rows of all stimuli, and which is best where there are several."""
    if answer is None or (trial.preference and answer.preferred is None):
        return False
    return all(len(answer.marks.get(shown.token, {})) == len(ROWS) for shown in trial.shown)


def done(trials: Sequence[Trial], answers: Mapping[str, Answer]) -> int:
    """How many trials are complete."""
    return sum(complete(trial, answers.get(trial.id)) for trial in trials)


def in_words(error: ValidationError) -> str:
    """The first thing that is wrong with what was sent, in one sentence."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:120]
    return f"{where}: {first['msg']}." if where else f"{first['msg']}."


class Answers:
    """The answers of a session on disk; for several threads."""

    def __init__(self, folder: Path, session: str) -> None:
        self._folder = folder / ANSWERS
        self._session = session
        self._locks: dict[str, threading.Lock] = {}
        self._locking = threading.Lock()

    def known(self) -> list[str]:
        """The keys of all listeners and copies that have answered."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def read(self, key: str) -> Kept | None:
        """What a listener has said so far; None for a new one.

        Raises:
            UserError: the file is not what we write.
        """
        path = self._path(key)
        try:
            kept: Kept = Kept.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise UserError(f"{path} is not what we write ({in_words(error)}) Move it away.") from None
        return kept

    def save(self, key: str, listener: str, answers: Mapping[str, Answer]) -> Kept:
        """Put answers to those of a listener, and return all of them: they are on the disk when this returns.

        Args:
            key: of the listener or copy.
            listener: the name.
            answers: by trial; they take the place of those before.

        Raises:
            OSError: they could not be written; the answers before are still there.
            UserError: the file is not what we write, or there are too many listeners.
        """
        with self._lock(key):
            before = self.read(key)
            if before is None and len(self.known()) >= MOST_LISTENERS:
                raise UserError(f"The session has {MOST_LISTENERS} listeners already; begin another one.")
            known = before.answers if before is not None else {}
            kept = Kept(session=self._session, listener=listener, saved=now(), answers={**known, **answers})
            if before is None or before.answers != kept.answers:
                if not self._folder.is_dir():
                    self._folder.mkdir(parents=True, exist_ok=True)
                    sync_folder(self._folder.parent)
                write_json(self._path(key), kept.model_dump(mode="json"))
                sync_folder(self._folder)
            return kept

    def _lock(self, key: str) -> threading.Lock:
        with self._locking:
            return self._locks.setdefault(key, threading.Lock())

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"

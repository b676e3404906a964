"""What the page can ask for, without HTTP: trials, sound by token, answers, and in the end the result."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.listening.answers import FAULTS, Answers, Kept, Posted, complete, done, wrong_with
from xtts_gatekeeper.listening.result import own_result
from xtts_gatekeeper.listening.rubric import RUBRIC
from xtts_gatekeeper.listening.session import Place, Session
from xtts_gatekeeper.listening.stimuli import Changed, Rendered, render, target_of
from xtts_gatekeeper.listening.trials import Trial, clean_name, listener_key, trials_for

#: The trials of so many listeners are kept at hand; those of others are drawn anew.
_LISTENERS = 200


class Refused(Exception):
    """Something that was asked for cannot be had: the HTTP status, and one sentence without any path."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Service:
    """A session as its listeners use it; for several threads.

    Args:
        place: where the samples lie.
        session: what is heard.
        answers: where the answers are kept.
        finished: called when a listener's last answer is on the disk.
        complain: told what a person beside the server should know.
    """

    def __init__(
        self,
        place: Place,
        session: Session,
        answers: Answers,
        finished: Callable[[], None] = lambda: None,
        complain: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.session = session
        self._place, self._answers, self._finished = place, answers, finished
        self.complain = complain
        self._target = target_of(session.stimuli)
        self._sounds = Rendered()
        self._trials: OrderedDict[str, dict[str, Trial]] = OrderedDict()
        self._tokens: dict[str, Trial] = {}
        self._lock = threading.Lock()
        for key in answers.known()[:_LISTENERS]:  # a page that was open when the server ended goes on
            self._trials_of(key)

    def trials_document(self, name: str) -> dict[str, Any]:
        """What `GET /api/session` answers.

        Raises:
            Refused: it is no name, or the listener's answers cannot be read.
        """
        key = _key(name)
        trials = self._trials_of(key)
        kept = self._read(key)
        answers = kept.answers if kept is not None else {}
        return {
            "listener": clean_name(name),
            **document_of(list(trials.values())),
            "answers": {trial: answer.model_dump() for trial, answer in answers.items() if trial in trials},
            "done": done(list(trials.values()), answers),
        }

    def take(self, posted: Posted) -> dict[str, Any]:
        """Keep an answer, and say so once it is on the disk: what `POST /api/answer` answers.

        Raises:
            Refused: it does not fit to the listener's trials.
            OSError: it could not be written.
        """
        key = _key(posted.listener)
        trials = self._trials_of(key)
        trial = trials.get(posted.trial)
        if trial is None:
            raise Refused(404, "This listener has no such trial.")
        wrong = wrong_with(trial, posted.answer)
        if wrong:
            raise Refused(400, wrong)
        before = self._read(key)
        had = done(list(trials.values()), before.answers) if before is not None else 0
        try:
            kept = self._answers.save(key, clean_name(posted.listener), {posted.trial: posted.answer})
        except UserError as error:
            self.complain(str(error))
            raise Refused(409, "The session takes no answers of this listener.") from None
        count = done(list(trials.values()), kept.answers)
        if had < count == len(trials):
            self._finished()
        return {
            "saved": True,
            "complete": complete(trial, posted.answer),
            "done": count,
            "of": len(trials),
        }

    def result(self, name: str) -> dict[str, Any]:
        """What `GET /api/result` answers: what this listener's own answers come to.

        Raises:
            Refused: not everything is answered yet.
        """
        key = _key(name)
        trials = list(self._trials_of(key).values())
        kept = self._read(key)
        if kept is None or done(trials, kept.answers) < len(trials):
            raise Refused(409, "There are trials to answer yet.")
        return own_result(self.session, key, kept)

    def sound(self, token: str) -> bytes:
        """The FLAC of a stimulus.

        Raises:
            Refused: no listener has such a token, or the file has gone.
        """
        with self._lock:
            trial = self._tokens.get(token)
        shown = trial.of(token) if trial is not None else None
        stimulus = trial.group.of(shown.source) if trial is not None and shown is not None else None
        if stimulus is None:
            raise Refused(404, "There is no such sample.")
        path = self._place.samples / stimulus.file  # an absolute one stays what it is
        try:
            return self._sounds.get(stimulus.file, lambda: render(path, stimulus, self._target))
        except Changed as error:
            self.complain(f"{path}: {error}.")
            raise Refused(410, "The sample has changed or has gone since the session began.") from None

    def _read(self, key: str) -> Kept | None:
        try:
            return self._answers.read(key)
        except UserError as error:
            self.complain(str(error))
            raise Refused(409, "The answers of this listener cannot be read.") from None

    def _trials_of(self, key: str) -> dict[str, Trial]:
        """The trials of a listener by id, in their order; their tokens are known from now on."""
        with self._lock:
            if key in self._trials:
                self._trials.move_to_end(key)
                return self._trials[key]
        trials = {trial.id: trial for trial in trials_for(self.session, key)}
        with self._lock:
            self._trials[key] = trials
            self._tokens.update((shown.token, trial) for trial in trials.values() for shown in trial.shown)
            while len(self._trials) > _LISTENERS:
                _, gone = self._trials.popitem(last=False)
                for shown in (shown for trial in gone.values() for shown in trial.shown):
                    self._tokens.pop(shown.token, None)
        return trials


def document_of(trials: list[Trial]) -> dict[str, Any]:
    """What a page has to know of trials: nothing that tells whose a sample is, or that it was heard before."""
    return {
        "rows": [asdict(row) for row in RUBRIC],
        "faults": [{"key": key, "name": name} for key, name in FAULTS.items()],
        "trials": [
            {
                "id": trial.id,
                "text": trial.group.text,
                "language": trial.group.language,
                "stimuli": [{"token": shown.token, "label": shown.label} for shown in trial.shown],
                "preference": trial.preference,
            }
            for trial in trials
        ],
    }


def _key(name: str) -> str:
    try:
        return listener_key(name)
    except UserError as error:
        raise Refused(400, str(error)) from None

"""A copy of the page in one file, for a listener elsewhere, and the answers that it brings back."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from xtts_gatekeeper.checkpoints.writer import PARTIAL
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.listening.answers import Answer, Answers, Strict, TrialId, done, in_words, wrong_with
from xtts_gatekeeper.listening.page import offline_page
from xtts_gatekeeper.listening.service import document_of
from xtts_gatekeeper.listening.session import SESSION, Place, Session, read_session
from xtts_gatekeeper.listening.stimuli import Changed, render, target_of
from xtts_gatekeeper.listening.trials import LONGEST_NAME, clean_name, is_copy, new_copy, trials_for

#: A hundred trials of six samples with long notes have less.
MOST_BYTES = 5_000_000


class Saved(Strict):
    """What the page saves."""

    format: Literal["xtts-gatekeeper-listening"]
    version: Literal[1]
    session: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    copy_id: Annotated[str, Field(alias="copy", max_length=60)]
    listener: Annotated[str, Field(max_length=4 * LONGEST_NAME)]
    answers: dict[TrialId, Answer]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Answers that were taken in: whose, of which session, and how many of its trials are complete."""

    file: str
    session: str
    listener: str
    done: int
    of: int


def export_copy(place: Place, session: Session, path: Path, title: str) -> int:
    """Write the page with all its sound into a file, and return its size in bytes.

    Every copy has an id of its own, and with it orders and tokens of its own. Nothing in the file tells whose a sample
    is.

    Args:
        place: where the samples lie.
        session: what is heard.
        path: the file, which is there whole or not at all.
        title: of the page.

    Raises:
        UserError: a sample has gone, or is another one.
        OSError: the file cannot be written.
    """
    copy = new_copy(session, secrets.token_hex(8))
    trials = trials_for(session, copy)
    target = target_of(session.stimuli)
    audio = {}
    for trial in trials:
        for shown in trial.shown:
            stimulus = trial.group.of(shown.source)
            assert stimulus is not None  # only what can be heard is shown
            try:
                sound = render(place.samples / stimulus.file, stimulus, target)
            except Changed as error:
                raise UserError(f"{place.samples / stimulus.file}: {error}.") from None
            audio[shown.token] = f"data:audio/flac;base64,{base64.b64encode(sound).decode()}"
    document = {"session": session.id, "copy": copy, "listener": "", "answers": {}, "done": 0}
    page = offline_page(title, {**document, **document_of(trials), "audio": audio}).encode()
    partial = path.with_name(path.name + PARTIAL)
    partial.write_bytes(page)
    partial.replace(path)
    return len(page)


def import_copies(place: Place, paths: Sequence[Path]) -> list[Imported]:
    """Take in the answers of copies: of all files, or, where one of them cannot be used, of none.

    Answers that a copy has brought before are replaced, trial by trial.

    Raises:
        UserError: a file is not what a page of a session kept here has saved.
        OSError: the answers could not be written.
    """
    found = [_checked(place, path) for path in paths]
    imported = []
    for path, (session, saved) in zip(paths, found, strict=True):
        answers = Answers(place.listening / session.id, session.id)
        kept = answers.save(saved.copy_id, clean_name(saved.listener), saved.answers)
        trials = trials_for(session, saved.copy_id)
        imported.append(
            Imported(
                file=str(path),
                session=session.id,
                listener=kept.listener,
                done=done(trials, kept.answers),
                of=len(trials),
            )
        )
    return imported


def _checked(place: Place, path: Path) -> tuple[Session, Saved]:
    """The session and the content of a file that can be taken in as it is."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); give the file that a page has saved."
        ) from None
    if len(content) > MOST_BYTES:
        raise UserError(f"{path} has more than {MOST_BYTES / 1e6:g} MB: it is not what a listening page saves.")
    try:
        saved = Saved.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"{path} is not what a listening page saves: {in_words(error)}") from None
    folder = place.listening / saved.session
    if not (folder / SESSION).is_file():
        raise UserError(f"{path} has answers for the session {saved.session}, which {place.listening} does not have.")
    session = read_session(folder)
    if not is_copy(session, saved.copy_id):
        raise UserError(f"{path} has answers of the copy {saved.copy_id!r}, which was not made of this session.")
    try:
        clean_name(saved.listener)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    trials = {trial.id: trial for trial in trials_for(session, saved.copy_id)}
    for id_, answer in saved.answers.items():
        if id_ not in trials:
            raise UserError(f"{path} answers the trial {id_}, which its copy does not have.")
        wrong = wrong_with(trials[id_], answer)
        if wrong:
            raise UserError(f"{path}, trial {id_}: {wrong}")
    return session, saved

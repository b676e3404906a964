"""Which samples are heard against each other, and the session that is made of them."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from xtts_gatekeeper.errors import UserError, nearest
from xtts_gatekeeper.listening.session import (
    LISTENING,
    REAL,
    SAMPLES,
    SESSION,
    Group,
    Place,
    Session,
    Stimulus,
    System,
    place_in,
    read_session,
    write_session,
)
from xtts_gatekeeper.listening.stimuli import probe
from xtts_gatekeeper.record.events import now
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.samples.audio import NoSpeech
from xtts_gatekeeper.samples.comparison import label
from xtts_gatekeeper.samples.sets import Sample, SampleSet
from xtts_gatekeeper.samples.speak import sets_in
from xtts_gatekeeper.samples.voice import HeldOut

#: More cannot be kept apart side by side.
MOST_SETS = 6
#: So many real clips with texts of their own are heard, each of at most so many seconds.
_REAL_ALONE, _REAL_SECONDS = 2, (1.0, 12.0)


def find_place(path: Path) -> Place:
    """Where samples lie and sessions are kept: of a run folder, of what holds just one, or of a plain folder of sets.

    Raises:
        UserError: there are no samples.
    """
    if not path.is_dir():
        raise UserError(f"{path} is no folder; give a run's folder, or one that `sample -o` has written to.")
    folder = path.resolve()
    if folder.parts[-2:] == (FOLDER, SAMPLES):
        folder = folder.parent
    if folder.name == FOLDER:
        folder = folder.parent
    if place_in(folder).samples.is_dir():
        return place_in(folder)
    if sets_in(folder):
        return Place(folder / LISTENING, folder)
    runs = [place for child in sorted(folder.iterdir()) if (place := place_in(child)).samples.is_dir()]
    if len(runs) == 1:
        return runs[0]
    if runs:
        names = ", ".join(place.run.name for place in runs if place.run is not None)
        raise UserError(f"{path} holds {len(runs)} runs with samples; name one of them: {names}.")
    raise UserError(
        f"{path} holds no samples to listen to; a run speaks them at its checks, and `xtts-gatekeeper sample` later."
    )


def choose_sets(sets: Sequence[SampleSet], wanted: Sequence[str] = (), best: int | None = None) -> list[SampleSet]:
    """The sets that are heard against each other, by step.

    Args:
        sets: all that there are, by step.
        wanted: names of their folders; by default the newest set and the one before it of the same prompts, and that of
            the best checkpoint where it is another.
        best: step of the best checkpoint, where it is known.

    Raises:
        UserError: there is none, or what is wanted is not there or cannot be compared.
    """
    if not sets:
        raise UserError("there are no samples to listen to; `xtts-gatekeeper sample` speaks them from any checkpoint.")
    if wanted:
        by_name = {made.folder.name: made for made in sets}
        for name in wanted:
            if name not in by_name:
                raise UserError(f"there is no set of samples {name!r}, {nearest(name, by_name)}")
        chosen = [made for made in sets if made.folder.name in wanted]
        for made in chosen:
            if made.prompts != chosen[-1].prompts:
                raise UserError(
                    f"the sets {made.folder.name} and {chosen[-1].folder.name} are not of the same prompts, voice and "
                    "settings: speak one of them again with the prompts of the other."
                )
        if len(chosen) > MOST_SETS:
            raise UserError(f"{len(chosen)} sets are too many to keep apart; give up to {MOST_SETS}.")
        return chosen
    comparable = [made for made in sets if made.prompts == sets[-1].prompts and _to_hear(made)]
    if not comparable:
        raise UserError(f"the samples in {sets[-1].folder} could not be spoken; there is nothing to hear.")
    chosen = comparable[-2:]
    if all(made.step != best for made in chosen):
        chosen = [made for made in comparable if made.step == best][:1] + chosen
    return chosen


def plan_session(
    sets: Sequence[SampleSet], real: Sequence[HeldOut] = (), prompts: int | None = None, *, created: str, secret: str
) -> Session:
    """A new session of chosen sets.

    Heard are the prompts in the languages that are trained on, of each the first take; further takes are not. A sample
    that could not be spoken, or whose file holds nothing to hear, is never played and is judged by itself: 1 in every
    row, as measures have it. One that was skipped for want of time is left out. A real clip that says what a prompt
    says stands among its samples; others, at most two, stand alone.

    Args:
        sets: of the same prompts.
        real: clips that were held out of training; those of the samples' speaker are heard, where some are.
        prompts: so many of the prompts, the first ones; by default all.
        created: now.
        secret: 32 random hexadecimal digits.

    Raises:
        UserError: there is nothing to hear.
    """
    speaker = str(sets[-1].voice.get("speaker") or "")
    real = [clip for clip in real if clip.speaker == speaker] or real
    first = {sample.prompt: sample for made in sets for sample in _own(made)}
    chosen = list(first.values())[:prompts]
    if not chosen:
        raise UserError(f"{sets[-1].folder} has no prompt in a language that is trained on: there is nothing to judge.")
    matching = _matching(chosen, real)
    groups = [_group(sample, sets, matching.get(sample.prompt)) for sample in chosen]
    groups += _alone([clip for clip in real if clip not in matching.values()], chosen)
    if not any(stimulus.source != REAL for group in groups for stimulus in group.stimuli):
        raise UserError("none of the samples could be spoken, or can be read: there is nothing to hear.")
    judged = {stimulus.source for group in groups for stimulus in group.stimuli}
    judged.update(source for group in groups for source in group.failed)
    for made in sets:
        if made.folder.name not in judged:
            raise UserError(f"none of the prompts was spoken in {made.folder}, for want of time; leave that set out.")
    systems = [
        System(source=made.folder.name, name=label(made), step=made.step, epoch=made.epoch, weights=made.weights)
        for made in sets
    ]
    return Session(
        id=_identity(groups),
        created=created,
        secret=secret,
        prompts=_prompts(sets[0].prompts, [sample.prompt for sample in chosen], len(first)),
        systems=tuple(systems),
        groups=tuple(groups),
    )


def open_session(
    place: Place, sets: Sequence[SampleSet], real: Sequence[HeldOut] = (), prompts: int | None = None
) -> tuple[Session, bool]:
    """The session of a choice, gone on with where it was begun before; whether it is new.

    Raises:
        UserError: see `plan_session`; or the one that was begun cannot be read.
    """
    session = plan_session(sets, real, prompts, created=now(), secret=secrets.token_hex(16))
    folder = place.listening / session.id
    if (folder / SESSION).is_file():
        return read_session(folder), False
    write_session(folder, session)
    return session, True


def _own(made: SampleSet) -> list[Sample]:
    return [sample for sample in made.samples if sample.own and sample.take == 0]


def _to_hear(made: SampleSet) -> bool:
    return any(sample.file for sample in _own(made))


def _group(prompt: Sample, sets: Sequence[SampleSet], real: HeldOut | None) -> Group:
    stimuli, failed = [], []
    for made in sets:
        sample = next((one for one in _own(made) if one.prompt == prompt.prompt), None)
        if sample is None or sample.skipped:
            continue
        source = made.folder.name
        stimulus = (
            _stimulus(source, _inside(made.folder, sample.file), f"{source}/{sample.file}") if sample.file else None
        )
        if stimulus is None:
            failed.append(source)
        else:
            stimuli.append(stimulus)
    if real is not None and (own := _stimulus(REAL, real.path, str(real.path.resolve()))) is not None:
        stimuli.append(own)
    return Group(
        id=prompt.prompt, text=prompt.text, language=prompt.language, stimuli=tuple(stimuli), failed=tuple(failed)
    )


def _inside(folder: Path, file: str) -> Path:
    """The path of a sample, which lies in the folder of its set and nowhere else.

    Raises:
        UserError: it does not.
    """
    path = folder / file
    if path.resolve().parent != folder.resolve():
        raise UserError(f"the samples in {folder} name the file {file!r}, which does not lie there; speak them again.")
    return path


def _stimulus(source: str, path: Path, file: str) -> Stimulus | None:
    """A stimulus of a file; None where there is nothing in it to hear."""
    try:
        found = probe(path)
    except NoSpeech:
        return None
    return Stimulus(source=source, file=file, sha256=found.sha256, loudness=found.loudness, peak=found.peak)


def _matching(prompts: Sequence[Sample], real: Sequence[HeldOut]) -> dict[str, HeldOut]:
    """Prompt -> the real clip that says the same, in the same language."""
    found: dict[str, HeldOut] = {}
    for prompt in prompts:
        for clip in real:
            same = _spelling(clip.text) == _spelling(prompt.text) and _spelling(clip.text)
            if same and clip.language in ("", prompt.language) and clip.seconds <= _REAL_SECONDS[1]:
                found.setdefault(prompt.prompt, clip)
    return found


def _alone(real: Sequence[HeldOut], prompts: Sequence[Sample]) -> list[Group]:
    """Groups of one real clip each: those whose texts are about as long as a prompt."""
    languages = {prompt.language for prompt in prompts}
    shortest, longest = _REAL_SECONDS
    usable = [
        clip
        for clip in real
        if clip.text.strip() and shortest <= clip.seconds <= longest and clip.language in {"", *languages}
    ]
    usual = median(len(prompt.text) for prompt in prompts)
    usable.sort(key=lambda clip: (abs(len(clip.text) - usual), str(clip.path)))
    groups: list[Group] = []
    for clip in usable:
        if len(groups) == _REAL_ALONE:
            break
        stimulus = _stimulus(REAL, clip.path, str(clip.path.resolve()))
        if stimulus is not None:
            language = clip.language or prompts[0].language
            # No prompt has such an id, which names files.
            group = Group(id=f"real/{len(groups) + 1}", text=clip.text, language=language, stimuli=(stimulus,))
            groups.append(group)
    return groups


def _spelling(text: str) -> str:
    """A text without case, punctuation and spaces."""
    return "".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))


def _prompts(fingerprint: str, chosen: Sequence[str], all_of_them: int) -> str:
    """By what scores are compared: not with those over other prompts of the same set."""
    if len(chosen) == all_of_them:
        return fingerprint
    return hashlib.sha256(json.dumps([fingerprint, *chosen]).encode()).hexdigest()[: len(fingerprint)]


def _identity(groups: Sequence[Group]) -> str:
    """The same for the same samples, whatever else changes."""
    told: list[Mapping[str, object]] = [
        {
            "id": group.id,
            "text": group.text,
            "language": group.language,
            "stimuli": [[stimulus.source, stimulus.sha256] for stimulus in group.stimuli],
            "failed": list(group.failed),
        }
        for group in groups
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

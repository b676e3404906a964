"""A set of samples out of a model: all prompts and takes, within a time, in one folder that is there whole or not."""

from __future__ import annotations

import contextlib
import os
import shutil
import wave
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.checkpoints.export_check import first_line
from xtts_gatekeeper.checkpoints.writer import PARTIAL, sync_folder
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.samples.prompts import Prompt, fingerprint
from xtts_gatekeeper.samples.sets import Sample, SampleSet, read_set, write_spoken
from xtts_gatekeeper.samples.voice import Voice

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Characters of text that are spoken in a second. Europe's languages lie between 13 and 16; where a character stands
#: for a syllable or a word it is fewer.
_CHARACTERS_A_SECOND = {"zh": 4.5, "ja": 6.0, "ko": 6.0, "hi": 11.0, "ar": 11.0}
_USUAL = 14.0
#: A digit is a word, spoken.
_DIGIT = 5.0
#: Speech may take so many times as long as it should, and so many seconds more, before it is ended: no real clip of
#: several speakers and languages comes near to that, and a model that has lost the end goes on to its limit of 28 s.
_PATIENCE, _MORE_SECONDS = 2.5, 2.0

#: The old set while a new one takes its place.
_OLD = ".old"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is spoken at every check of a run: it does not change within one, except for `seconds`, the time for it."""

    prompts: tuple[Prompt, ...]
    voice: Voice
    takes: int = 1
    seconds: float = 120.0


def plan_fingerprint(plan: Plan, settings: Any) -> str:
    """What sets of this plan are compared by; `settings` are those of the model (`trainer_port.speech.settings_of`)."""
    told = {**settings.speech, **settings.voice, "patience": _PATIENCE, "more_seconds": _MORE_SECONDS}
    return fingerprint(plan.prompts, plan.takes, plan.voice.digests, told)


def expected_seconds(text: str, language: str) -> float:
    """How long a text is, spoken: roughly, by its characters."""
    characters = sum(_DIGIT if character.isdigit() else 1.0 for character in text)
    return characters / _CHARACTERS_A_SECOND.get(language.split("-")[0], _USUAL)


def limit_seconds(text: str, language: str) -> float:
    """After how many seconds of speech the model has not come to an end by itself."""
    return _PATIENCE * expected_seconds(text, language) + _MORE_SECONDS


def speak_set(
    xtts: Any,
    folder: Path,
    plan: Plan,
    *,
    step: int,
    epoch: int | None,
    weights: str,
    asked: Callable[[], bool] = lambda: False,
    said: Callable[[Sample], None] = lambda sample: None,
) -> SampleSet | None:
    """Speak all prompts of a plan and write them to `folder`, which appears when it is whole.

    A prompt that cannot be spoken has an error and no file, and does not keep the others from being spoken. A set that
    is there already, of the same plan and the same weights, stays as it is.

    Args:
        xtts: the model, which is left as it was.
        folder: where to; what lies there of other prompts or weights is replaced.
        plan: what to speak.
        step: of the weights.
        epoch: of the weights.
        weights: whose they are, in words.
        asked: whether to give up; then nothing is written and the answer is None.
        said: told each sample as it is done.

    Raises:
        OSError: the folder cannot be written; nothing is left of it.
    """
    from xtts_gatekeeper.trainer_port import speech

    prints = plan_fingerprint(plan, speech.settings_of(xtts))
    digest = speech.weights_digest(xtts)
    if (there := existing(folder, prints, digest)) is not None:
        return there
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        samples = _speak_all(xtts, partial, plan, asked, said)
        if asked():
            return None
        made = SampleSet(
            folder=partial,
            step=step,
            epoch=epoch,
            weights=weights,
            prompts=prints,
            samples=tuple(samples),
            voice=plan.voice.to_dict(),
            rate=int(xtts.args.output_sample_rate),
            digest=digest,
        )
        write_spoken(made)
        sync_folder(partial)
        _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return replace(made, folder=folder)


def existing(folder: Path, prompts: str, digest: str) -> SampleSet | None:
    """The set in `folder`, where it is whole and of this fingerprint and these weights."""
    try:
        made = read_set(folder)
    except UserError:
        return None
    whole = all((folder / sample.file).is_file() for sample in made.samples if sample.file)
    return made if whole and (made.prompts, made.digest) == (prompts, digest) else None


def sets_in(folder: Path) -> list[SampleSet]:
    """The sets of a run, by step; those that cannot be read are passed over."""
    found = []
    for item in folder.iterdir() if folder.is_dir() else ():
        if item.is_dir() and not item.name.endswith((PARTIAL, _OLD)):
            with contextlib.suppress(UserError):
                found.append(read_set(item))
    return sorted(found, key=lambda made: (made.step, made.folder.name))


# Speaking


def _speak_all(
    xtts: Any, folder: Path, plan: Plan, asked: Callable[[], bool], said: Callable[[Sample], None]
) -> list[Sample]:
    from xtts_gatekeeper.trainer_port import release_memory, speech

    late = speech.Clock(plan.seconds)
    samples: list[Sample] = []
    with speech.speaking(xtts):
        try:
            voice, wrong = speech.voice_latents(xtts, plan.voice.files), None
        except Exception as error:  # what a broken model or clip ends in is theirs to choose
            voice, wrong = None, error
        # A whole take of everything first: what a short time leaves is complete as far as it goes.
        for take in range(plan.takes):
            for prompt in plan.prompts:
                if asked():
                    return samples
                sample = Sample(
                    file="",
                    prompt=prompt.id,
                    text=prompt.text,
                    language=prompt.language,
                    take=take,
                    seed=prompt.seed_of(take),
                    own=prompt.own,
                )
                if voice is None:
                    sample = _not_spoken(sample, wrong)
                elif late():
                    sample = replace(sample, error=_too_late(plan), skipped=True)
                else:
                    try:
                        sample = _speak_one(xtts, folder, plan, sample, voice, lambda: late() or asked())
                    except OSError:
                        raise
                    except Exception as error:
                        sample = _not_spoken(sample, error)
                    if sample.error:
                        release_memory()
                samples.append(sample)
                said(sample)
    return samples


def _not_spoken(sample: Sample, error: Exception | None) -> Sample:
    """A sample with its error: a fault of the model where it made no numbers, else nothing that speaks against it."""
    from xtts_gatekeeper.trainer_port import is_out_of_memory, speech

    if isinstance(error, speech.NoNumbers):
        return replace(sample, error=str(error))
    if error is not None and is_out_of_memory(error):
        return replace(sample, error="out of memory", skipped=True)
    if isinstance(error, speech.Unreadable):
        return replace(sample, error=str(error), skipped=True)
    said = f"{type(error).__name__}: {first_line(error)}" if error is not None else "no voice"
    return replace(sample, error=said, skipped=True)


def _speak_one(
    xtts: Any, folder: Path, plan: Plan, sample: Sample, voice: tuple[Any, Any], asked: Callable[[], bool]
) -> Sample:
    from xtts_gatekeeper.trainer_port import speech

    limit = limit_seconds(sample.text, sample.language)
    spoken = speech.speak(xtts, sample.text, sample.language, voice, seed=sample.seed, limit_seconds=limit, asked=asked)
    if spoken.ending == "asked":
        return replace(sample, error=_too_late(plan), skipped=True)
    name = f"{sample.prompt}-{sample.take + 1}.wav" if plan.takes > 1 else f"{sample.prompt}.wav"
    try:
        write_wav(folder / name, spoken.audio, spoken.rate)
    except ValueError as error:
        raise speech.NoNumbers(str(error)) from None
    seconds = round(len(spoken.audio) / spoken.rate, 3)
    return replace(sample, file=name, seconds=seconds, cut=spoken.ending == "limit")


def _too_late(plan: Plan) -> str:
    return f"there was no time for it: the samples of one check have {plan.seconds:g} s (samples.seconds)"


# Files


def write_wav(path: Path, audio: NDArray[Any], rate: int) -> None:
    """Write mono audio between -1 and 1 as 16 bit PCM, on the disk when this returns; what lies beyond is clipped.

    Raises:
        ValueError: there is none, or it is NaN or infinite somewhere.
    """
    import numpy as np

    if audio.ndim != 1 or not len(audio):
        raise ValueError("the model spoke nothing")
    if not np.isfinite(audio).all():
        raise ValueError("the audio holds NaN or Inf")
    pcm = np.round(np.clip(audio, -1.0, 1.0) * 32767.0).astype("<i2")
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        with wave.open(file, "wb") as content:
            content.setnchannels(1)
            content.setsampwidth(2)
            content.setframerate(rate)
            content.writeframes(pcm.tobytes())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_wav(path: Path) -> tuple[NDArray[Any], int]:
    """The audio of a file that `write_wav` has written, and its rate in Hz."""
    import numpy as np

    with wave.open(str(path), "rb") as content:
        frames = content.readframes(content.getnframes())
        return np.frombuffer(frames, "<i2").astype("float32") / 32767.0, content.getframerate()


def _replace(partial: Path, folder: Path) -> None:
    """Give a whole new set its name; an old one of that name is out of the way for a moment and then gone."""
    old = folder.with_name(folder.name + _OLD)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)

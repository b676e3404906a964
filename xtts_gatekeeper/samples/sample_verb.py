"""The verb `sample`: the prompts of a run spoken later, from any checkpoint, measured, and compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.export_card import choose_clips
from xtts_gatekeeper.checkpoints.lock import writer_of
from xtts_gatekeeper.checkpoints.source import stock_stack
from xtts_gatekeeper.checkpoints.writer import PARTIAL
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.samples.calibration import read_calibration
from xtts_gatekeeper.samples.comparison import Comparison, compare
from xtts_gatekeeper.samples.prompts import Prompt, choose_prompts
from xtts_gatekeeper.samples.sampling import CALIBRATION, samples_folder
from xtts_gatekeeper.samples.sets import Sample, SampleSet, read_set
from xtts_gatekeeper.samples.speak import Plan, existing, plan_fingerprint, sets_in, speak_set
from xtts_gatekeeper.samples.targets import Loaded, Target, choose_device, config_of, find_targets, loaded
from xtts_gatekeeper.samples.voice import (
    HeldOut,
    Voice,
    choose_voice,
    held_out,
    kept_voice,
    read_held_out,
    references_of,
)

#: How long one look at the process that measures takes.
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the command line asks for; None and empty mean the run's own."""

    checkpoints: tuple[str, ...] = ()
    prompts: Path | None = None
    takes: int | None = None
    voice: tuple[Path, ...] = ()
    device: str | None = None
    output: Path | None = None
    measure: bool = True
    models: Path | None = None
    download: bool = False


@dataclass(frozen=True)
class Result:
    """Sets in the order asked for, comparisons of each with the one before it, and what else there is to say."""

    sets: tuple[SampleSet, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    calibration: Path

    def to_dict(self) -> dict[str, Any]:
        """The result as `sample --json` prints it."""
        return {
            "sets": [{**asdict(made), "folder": str(made.folder)} for made in self.sets],
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "notes": list(self.notes),
        }

    @property
    def spoke(self) -> bool:
        """Whether there is anything to hear."""
        return any(sample.file for made in self.sets for sample in made.samples)


def sample(paths: Sequence[Path], wish: Wish, say: Callable[[str], None] = lambda line: None) -> Result:
    """Speak with the weights that are asked for, all by the plan of the first one's run; a set that is there stays.

    Nothing is written to a run but samples and the scale by which they are measured: its journal is that of its
    training.

    Args:
        paths: run folders and checkpoints.
        wish: what else is asked for.
        say: told what is being done.

    Raises:
        UserError: what was given cannot be used.
    """
    say("loading the stock stack (torch, TTS) ...")
    with stock_stack("sample"):
        targets = find_targets(paths, wish.checkpoints)
        run = targets[0].run
        folder = wish.output.resolve() if wish.output else samples_folder(run) if run is not None else None
        if folder is None:
            raise UserError(f"{targets[0].file} lies in no run's folder; say where the samples go to with -o DIR.")
        runs = sorted({target.run for target in targets if target.run is not None})
        device = choose_device(wish.device, runs)
        clips = read_held_out(run) if run is not None else []
        plan = _plan(run, clips, wish)
        notes: list[str] = []
        spoken: list[SampleSet | None] = []
        for target in targets:
            if target.file is None:
                spoken.append(None)  # a set that is there: which one is known when the best is
                continue
            say(f"{target.file.name}: loading ...")
            with loaded(target, device) as model:
                spoken.append(_speak(model, folder, plan, say))
        _fill_in_previous(targets, spoken, folder, bool(wish.checkpoints), notes)
    sets = list({made.folder: made for made in spoken if made is not None}.values())
    if len(sets) < sum(made is not None for made in spoken):
        notes.append("some of what was asked for has the same weights; it is listed once")
    scale = folder / CALIBRATION
    if wish.measure:
        whisper = str(_settings(run).get("whisper") or "base")  # else its own sets could not be compared
        sets = _measure(sets, scale, clips, plan.voice, wish, whisper, notes, say)
    comparisons = []
    for before, after in pairwise(sets):
        if before.measured and after.measured:
            try:
                spread = read_calibration(scale).spread if scale.is_file() else {}
                comparisons.append(compare(before, after, spread))
            except UserError as error:
                notes.append(str(error))
    return Result(tuple(sets), tuple(comparisons), tuple(notes), scale)


# What is spoken


def _plan(run: Path | None, clips: Sequence[HeldOut], wish: Wish) -> Plan:
    """The plan of the run's newest samples, changed where the command line says so; else that of its settings."""
    config = config_of(run) if run is not None else {}
    settings = _settings(run)
    spoken = sets_in(samples_folder(run)) if run is not None else []
    newest = next((made for made in reversed(spoken) if made.weights == "live"), None)
    takes = wish.takes or (newest and 1 + max(s.take for s in newest.samples)) or int(settings.get("takes") or 1)
    if wish.voice:
        voice = choose_voice(clips, [str(path) for path in wish.voice])
    elif newest is not None:
        voice = kept_voice(newest.voice)
        if voice is None:
            raise UserError(f"the voice of {newest.folder} is not there any more, or another; give it with --voice.")
    else:
        voice = choose_voice(clips, settings.get("voice") or ()) or _voice_of_tests(run, config)
    if voice is None:
        raise UserError("there is no clip of the voice: the run names none; give one of 3 to 12 s with --voice.")
    if wish.prompts is None and newest is not None:
        prompts = _prompts_of(newest)
    else:
        languages = _languages(clips, config)
        file = wish.prompts or (Path(settings["prompts"]) if settings.get("prompts") else None)
        others = settings.get("other_languages")
        prompts = choose_prompts(languages, 2 if others is None else int(others), file)
        if not prompts or not any(prompt.own for prompt in prompts):
            raise UserError("nothing tells the language of the voice; give prompts that name theirs with --prompts.")
    return Plan(prompts=prompts, voice=voice, takes=int(takes), seconds=math.inf)


def _settings(run: Path | None) -> Mapping[str, Any]:
    """The section `samples` that the run was trained under."""
    if run is None:
        return {}
    try:
        section = json.loads((run / FOLDER / "config.json").read_text(encoding="utf-8")).get("samples")
    except (OSError, ValueError, AttributeError):
        return {}
    return section if isinstance(section, dict) else {}


def _prompts_of(made: SampleSet) -> tuple[Prompt, ...]:
    return tuple(
        Prompt(id=one.prompt, text=one.text, language=one.language, seed=one.seed, own=one.own)
        for one in made.samples
        if one.take == 0
    )


def _voice_of_tests(run: Path | None, config: Mapping[str, Any]) -> Voice | None:
    """The voice of the run's test sentences, as an export takes it."""
    if run is None:
        return None
    found = held_out({"audio_file": str(clip.path)} for clip in choose_clips(run, config, ()))
    return choose_voice(found, [str(clip.path) for clip in found]) if found else None


def _languages(clips: Sequence[HeldOut], config: Mapping[str, Any]) -> list[str]:
    """Those of the held-out clips, the most frequent first; else those that the run's config names."""
    told = [clip.language for clip in clips if clip.language]
    if told:
        return sorted(dict.fromkeys(told), key=lambda language: -told.count(language))
    named = [
        str(item.get("language") or "")
        for key in ("datasets", "test_sentences")
        for item in config.get(key) or ()
        if isinstance(item, Mapping)
    ]
    return [language for language in dict.fromkeys(named) if language]


def _speak(model: Loaded, folder: Path, plan: Plan, say: Callable[[str], None]) -> SampleSet:
    from xtts_gatekeeper.trainer_port import speech

    prints, digest = plan_fingerprint(plan, speech.settings_of(model.xtts)), speech.weights_digest(model.xtts)
    for made in sets_in(folder):  # by whatever name these weights have spoken
        if existing(made.folder, prints, digest) is not None:
            say(f"{model.weights}: the samples are there, in {made.folder}")
            return made
    name = "base" if model.weights == "base" else str(model.step)
    if (folder / name).exists():
        name = f"{name}-{prints[:6]}-{digest[:6]}"  # another plan's, or of weights at the same step of another line
    if (folder / (name + PARTIAL)).exists() and folder.parent.name == FOLDER:
        writer = writer_of(folder.parent.parent)
        if writer is not None:
            raise UserError(f"{folder / name} is being written by {writer}; wait for that, or use -o DIR.")
    count = len(plan.prompts) * plan.takes
    done = 0

    def tell(spoken: Sample) -> None:
        nonlocal done
        done += 1
        what = spoken.error or f"{spoken.seconds:.1f} s" + (", cut: it did not come to an end" if spoken.cut else "")
        say(f"{model.weights}: {done} of {count}: {spoken.prompt}: {what}")

    new = speak_set(
        model.xtts, folder / name, plan, step=model.step, epoch=model.epoch, weights=model.weights, said=tell
    )
    assert new is not None  # nobody asks to leave
    return new


def _fill_in_previous(
    targets: Sequence[Target], spoken: list[SampleSet | None], folder: Path, asked_for: bool, notes: list[str]
) -> None:
    """Put the newest set of lower steps where the one before the best is asked for."""
    for number, target in enumerate(targets):
        if target.file is not None:
            continue
        after = next((made for made in spoken[number:] if made is not None), None)
        like = after or next((made for made in spoken if made is not None), None)
        found = [
            made
            for made in sets_in(folder)
            if (like is None or made.prompts == like.prompts) and (after is None or made.step < after.step)
        ]
        if found:
            spoken[number] = found[-1]
        elif asked_for:
            raise UserError(f"{folder} holds no earlier samples of the same prompts; name a checkpoint to speak with.")
        else:
            notes.append("there are no earlier samples of the same prompts to compare with")


# Measuring


def _measure(
    sets: Sequence[SampleSet],
    scale: Path,
    clips: Sequence[HeldOut],
    voice: Voice,
    wish: Wish,
    whisper: str,
    notes: list[str],
    say: Callable[[str], None],
) -> list[SampleSet]:
    from xtts_gatekeeper.samples.worker import Worker

    references = references_of(clips, voice) or references_of(
        held_out({"audio_file": str(f)} for f in voice.files), voice
    )
    worker = Worker(wish.models, 1, wish.download, whisper)
    try:
        for made in sets:
            worker.submit(made.folder, scale, references)
        say(f"measuring {len(sets)} sets of samples ...")
        while not worker.wait(_LOOK_SECONDS):
            pass
        notes += [f"not measured: {done.folder.name}: {done.error}" for done in worker.finished() if done.error]
    finally:
        worker.close()
    return [read_set(made.folder) for made in sets]

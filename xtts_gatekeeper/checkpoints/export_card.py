"""What goes beside an exported model for people: clips of the voice, and a card with the run's evidence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper import __version__
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.gates import evaluate
from xtts_gatekeeper.offline import Opened, open_run
from xtts_gatekeeper.record import Start
from xtts_gatekeeper.report.table import COLUMNS, format_cell, tracking_rows
from xtts_gatekeeper.samples.voice import longest_of_a_speaker, read_held_out, seconds_of, usable_seconds

if TYPE_CHECKING:
    from xtts_gatekeeper.checkpoints.source import Source

_TEXT = "This is how the voice sounds after its fine-tuning."
_XTTS_V2 = {"gpt_layers": 30, "gpt_n_model_channels": 1024, "gpt_n_heads": 16, "gpt_use_perceiver_resampler": True}
_CPML = "https://huggingface.co/coqui/XTTS-v2/blob/main/LICENSE.txt"


@dataclass(frozen=True)
class Clip:
    """A clip of the voice: where it lies, its name in the export, where it is from, and what is said in it."""

    path: Path
    name: str
    origin: str
    text: str = ""
    language: str = ""


# Clips of the voice


def choose_clips(run: Path, config: Mapping[str, Any], given: Sequence[Path]) -> list[Clip]:
    """Clips to put into the export: those `given`, else the test sentences' voices, else held-out clips of the run.

    Of the held-out clips the longest three of 3 to 12 s are taken, all of one speaker. Those that the run names and
    that cannot be read are passed over.

    Raises:
        UserError: a clip that was given cannot be used.
    """
    for path in given:
        seconds_of(path)
    found = [Clip(path, "", "given") for path in dict.fromkeys(given)]
    found = found or list(_test_voices(config)) or _held_out(run)
    return [
        Clip(clip.path, f"reference_{number}{clip.path.suffix}", clip.origin, clip.text, clip.language)
        for number, clip in enumerate(found, 1)
    ]


def _test_voices(config: Mapping[str, Any]) -> Iterator[Clip]:
    seen = set()
    for sentence in config.get("test_sentences") or ():
        if not isinstance(sentence, Mapping):
            continue
        voices = sentence.get("speaker_wav") or ()
        for voice in [voices] if isinstance(voices, str) else voices:
            path = Path(str(voice))
            if path not in seen and usable_seconds(path) is not None:
                seen.add(path)
                said = str(sentence.get("text") or ""), str(sentence.get("language") or "")
                yield Clip(path, "", "voice of the run's test sentences", *said)


def _held_out(run: Path) -> list[Clip]:
    return [
        Clip(clip.path, "", "held out of training", clip.text, clip.language)
        for clip in longest_of_a_speaker(read_held_out(run))
    ]


# The card


def card(file: Path, source: Source, clips: Sequence[Clip], *, beside: bool, half: bool, difference: float) -> str:
    """The model card: how to use it, what it is from, how the training went, under which licence its base stands.

    Args:
        file: the checkpoint.
        source: what it holds.
        clips: the clips of the voice in the export.
        beside: whether the base's studio speakers are in the export.
        half: whether the weights were rounded to 16 bits.
        difference: see `export.Exported.max_difference`.
    """
    run = file.resolve().parent
    opened = _evidence(run)
    parts = [
        _front_matter(source, clips),
        f"# {run.name}\n\nXTTS, fine-tuned with the Coqui Trainer and exported by xtts_gatekeeper {__version__}."
        + (" It began with random weights: a toy, whose voice is no voice." if not _base(source) else ""),
        f"## Use it\n\nIn this folder, with `pip install coqui-tts`:\n\n```python\n{_snippet(clips)}\n```\n\n"
        + _about_clips(clips, beside),
        "## Where it is from\n\n" + _origin(file, source, opened, half, difference),
        "## How the training went\n\n" + (_training(opened) if opened else "The run's folder holds no log of it."),
        "## Licence\n\n" + _licence(source),
    ]
    return _without_folders("\n\n".join(parts) + "\n", run, source)


def _evidence(run: Path) -> Opened | None:
    """The run's journal or log, and the rules it was trained under."""
    try:
        opened = open_run(run)
    except UserError:
        return None
    # `open_run` looks one folder deeper, too: that would be another run.
    return opened if opened.source.folder is not None and opened.source.folder.resolve() == run else None


def _base(source: Source) -> str:
    """The model that the run began with, in words; empty when it began with random weights."""
    args = source.model_args
    if not (args.get("xtts_checkpoint") or args.get("gpt_checkpoint")):
        return ""
    return "XTTS v2" if _is_v2(source) else "an XTTS of another size than the public ones"


def _is_v2(source: Source) -> bool:
    return all(source.model_args.get(key) == value for key, value in _XTTS_V2.items())


def _languages(source: Source, clips: Sequence[Clip]) -> list[str]:
    """The languages that the run tells it was trained or tested on."""
    told = [clip.language for clip in clips]
    for key in ("datasets", "test_sentences"):
        told += [str(item.get("language") or "") for item in source.config.get(key) or () if isinstance(item, Mapping)]
    return list(dict.fromkeys(language for language in told if language))


def _front_matter(source: Source, clips: Sequence[Clip]) -> str:
    lines = ["---"]
    languages = dict.fromkeys(language.split("-")[0] for language in _languages(source, clips))
    if languages:
        lines += ["language:", *(f"- {json.dumps(language)}" for language in languages)]
    if _base(source) == "XTTS v2":
        lines += ["license: other", "license_name: coqui-public-model-license", f"license_link: {_CPML}"]
        lines += ["base_model: coqui/XTTS-v2"]
    lines += ["library_name: coqui", "pipeline_tag: text-to-speech", "tags:", "- xtts", "- text-to-speech", "---"]
    return "\n".join(lines)


def _snippet(clips: Sequence[Clip]) -> str:
    """A program that speaks a sentence; run as it stands where there are clips."""
    said = next((clip for clip in clips if clip.text and clip.language), None)
    text, language = (said.text, said.language) if said else (_TEXT, "en")
    voice = [clip.name for clip in clips] or ["a-clip-of-the-voice.wav"]
    return "\n".join(
        (
            "from TTS.api import TTS",
            "",
            'tts = TTS(model_path=".", config_path="config.json")  # .to("cuda") for a GPU',
            "tts.tts_to_file(",
            f"    {json.dumps(text, ensure_ascii=False)},",
            f"    speaker_wav={json.dumps(voice)},",
            f"    language={json.dumps(language)},",
            '    file_path="speech.wav",',
            ")",
        )
    )


def _about_clips(clips: Sequence[Clip], beside: bool) -> str:
    if clips:
        said = "; ".join(f"`{clip.name}`: {clip.origin}" for clip in clips) + "."
    else:
        said = "No clip of the voice is in this folder, for the run names none: put in one of 3 to 12 s."
    if beside:
        said += " `speakers_xtts.pth` holds the studio speakers of the base, as the base had them."
    return said


def _origin(file: Path, source: Source, opened: Opened | None, half: bool, difference: float) -> str:
    start = opened.record.start if opened else None
    reloaded = (
        f"every weight as it was rounded, every output within {difference:.2%} of the checkpoint's"
        if half
        else "every weight and every output the same, bit for bit"
    )
    facts = {
        "Run": file.resolve().parent.name,
        "Began with": _began_with(source, start),
        "Checkpoint": f"{file.name}, step {source.step}, epoch {source.epoch} by the Trainer's count",
        "SHA-256 of the checkpoint": _digest(file),
        "At this checkpoint": _at_checkpoint(source, opened) if opened else "",
        "Precision": "16 bits, buffers 32" if half else "32 bits",
        "Read back": f"with `Xtts.load_checkpoint`: {reloaded}",
        "Clips": f"{start.train_clips} trained on, {start.eval_clips} held out"
        if start and start.train_clips is not None
        else "",
        "Versions": ", ".join(f"{name} {version}" for name, version in _versions(start)),
    }
    return _table(("", ""), [(name, fact) for name, fact in facts.items() if fact])


def _began_with(source: Source, start: Start | None) -> str:
    base = _base(source)
    began = f"{base}, by the size of the model" if base == "XTTS v2" else base or "random weights"
    if start and start.resume_mode == "restore" and start.resumed_from:
        return f"{began}, restored from {Path(start.resumed_from).name}"
    return began


def _versions(start: Start | None) -> list[tuple[str, str]]:
    """Python and packages of the training; the system's own version is that machine's business."""
    return [(name, version) for name, version in start.versions.items() if name != "platform"] if start else []


def _at_checkpoint(source: Source, opened: Opened) -> str:
    at = [evaluation for evaluation in opened.record.evaluations if evaluation.step == source.step]
    return ", ".join(f"{name} {value:.4f}" for name, value in sorted(at[-1].metrics.items())) if at else ""


def _training(opened: Opened) -> str:
    """Verdict, reasons, best and latest, the eval sets, and the tracking table."""
    verdict = evaluate(opened.record, opened.policy)
    lines = [f"Verdict: **{verdict.verdict}** by the policy `{verdict.policy}` ({verdict.policy_hash}).", ""]
    for reason in verdict.reasons:
        if reason.status == "not_measured":
            continue
        failed = "note" if reason.outcome == "continue" else reason.outcome
        mark = {"passed": "ok", "too_early": "too early"}.get(reason.status, failed)
        lines.append(f"- {mark}: {_cell(reason.message)}")
    for word, point in (("best", verdict.best), ("latest", verdict.latest)):
        if point is not None and point["value"] is not None:
            lines.append(
                f"- {word}: {verdict.objective} {point['value']:.4f} after {point['epochs_done']} epochs, "
                f"step {point['step']}"
            )
    sets = dict.fromkeys(e.eval_set for e in opened.record.evaluations if e.eval_set is not None)
    if sets:
        lines.append(f"- eval set{'s' if len(sets) > 1 else ''}, by fingerprint: {', '.join(map(str, sets))}")
    rows = tracking_rows(opened.record, opened.policy)
    table = _table(tuple(COLUMNS), [tuple(format_cell(key, row[key]) for key in COLUMNS.values()) for row in rows])
    return "\n".join(lines) + "\n\n" + table


def _licence(source: Source) -> str:
    if _base(source) == "XTTS v2":
        return (
            f"The weights of XTTS v2 are published under the [Coqui Public Model License]({_CPML}). What it means for "
            "a model that was trained from them, and for the voice in the clips, is for you to check before you share "
            "or sell anything made with this one."
        )
    return "The run does not tell a licence: it depends on the base and on the recordings."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _without_folders(text: str, run: Path, source: Source) -> str:
    """`text` without the folders of the machine that trained: a reason can quote an error with a path in it."""
    output = str(source.config.get("output_path") or "")
    for folder in (str(run), output, str(run.parent), str(Path.home())):
        if len(folder) > 1 and Path(folder).is_absolute():
            text = text.replace(folder, "...")
    return text

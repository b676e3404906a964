"""The `measure` verb: any audio, measured and its faults named."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from xtts_gatekeeper.data import METADATA, require_language
from xtts_gatekeeper.dataset.clip import Clip
from xtts_gatekeeper.dataset.source import open_source
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.samples.calibration import Reference, read_calibration
from xtts_gatekeeper.samples.measures import default_measures
from xtts_gatekeeper.samples.measures.base import Measure
from xtts_gatekeeper.samples.measures.models import Models
from xtts_gatekeeper.samples.measuring import Ears
from xtts_gatekeeper.samples.sets import Measured

#: What the table shows of a file: value -> header and decimals. `--json` has every value.
_COLUMNS = {
    "seconds": ("s", 1),
    "wer": ("WER", 2),
    "cer": ("CER", 2),
    "duration_ratio": ("length", 2),
    "trailing_silence_seconds": ("end s", 1),
    "dnsmos": ("DNSMOS", 1),
    "naturalness": ("natural", 1),
    "loudness_lufs": ("LUFS", 0),
    "pitch_semitones": ("pitch", 1),
    "likeness": ("alike", 2),
}


@dataclass(frozen=True)
class Asked:
    """A file to measure, with what is known of it."""

    path: Path
    text: str = ""
    language: str = ""


def run_measure(
    wavs: Sequence[Path],
    text: str | None,
    metadata: Path | None,
    language: str | None,
    references: Sequence[Path],
    calibration: Path | None,
    models: Models,
    as_json: bool,
) -> int:
    """Measure files and print what was found; the exit code: 1 where a fault was, or a file that is no speech.

    Raises:
        UserError: nothing can be measured, or what was given does not go together.
    """
    asked = _asked(wavs, text, metadata, language)
    ears = Ears(models)
    console = Console(stderr=True, highlight=False)
    if calibration is not None:
        ears.calibration = read_calibration(calibration)
    clips = [clip for path in references for clip in _references(path, language)]
    if clips:
        if not as_json:
            console.print(f"Listening to {len(clips)} clips of the speaker ...")
        if not ears.calibrate(clips).own:
            raise UserError(f"none of the references can be used ({_why_not(ears, clips[0])}); give clips of speech.")
    quiet = as_json or len(asked) < 3
    found = [
        ears.listen(one.path, one.text, one.language)
        for one in track(asked, "Measuring", console=console, disable=quiet, transient=True)
    ]
    if all(measured.error for measured in found):
        raise UserError(f"{asked[0].path} cannot be measured: {found[0].error}")
    if as_json:
        json.dump(document(asked, found, ears), sys.stdout, ensure_ascii=False, indent=2)
        print()
    else:
        print_measured(Console(highlight=False), found, ears)
    return int(any(measured.error or measured.faults for measured in found))


def document(asked: Sequence[Asked], found: Sequence[Measured], ears: Ears) -> dict[str, Any]:
    """Everything measured, as `--json` prints it."""
    voice = ears.calibration
    return {
        "measured_as": ears.fingerprint,
        "calibration": {"own": voice.own, "fingerprint": voice.fingerprint, "clips": list(voice.clips)},
        "measures": [
            {
                "name": one.name,
                "needs": one.needs,
                "core_seconds_per_second": one.cost,
                "values": [asdict(value) for value in one.values],
            }
            for one in _measures()
        ],
        "files": [
            {**asdict(measured), "file": str(one.path), "text": one.text, "language": one.language}
            for one, measured in zip(asked, found, strict=True)
        ],
    }


def print_measured(console: Console, found: Sequence[Measured], ears: Ears) -> None:
    """A row a file, then its faults in words, then what could not be measured and why."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("File", overflow="fold")
    shown = [name for name in _COLUMNS if any(name in measured.values for measured in found)]
    for name in shown:
        table.add_column(_COLUMNS[name][0], justify="right", no_wrap=True)
    table.add_column("Faults", style="red")
    for measured in found:
        cells = [_cell(measured.values, name) for name in shown]
        said = "not measured" if measured.error else ", ".join(dict.fromkeys(f.kind for f in measured.faults))
        table.add_row(escape(measured.file), *cells, escape(said))
    console.print(table)
    for measured in found:
        if measured.error:
            console.print(f"{measured.file}: {measured.error}", markup=False, soft_wrap=True)
        for fault in measured.faults:
            console.print(f"{measured.file}: {fault.kind}: {fault.message}", markup=False, soft_wrap=True)
        if measured.heard is not None and any(f.kind in _OF_WORDS for f in measured.faults):
            console.print(f"  heard: {measured.heard}", style="dim", markup=False, soft_wrap=True)
    reasons = {(name, why) for measured in found for name, why in measured.missing.items()}
    for name, why in sorted(reasons):
        console.print(f"Not measured: {name} ({why})", style="yellow", markup=False, soft_wrap=True)
    if not ears.calibration.own:
        console.print(
            "Judged by real speech in general: give clips of the speaker with --reference to judge by the voice.",
            style="dim",
            soft_wrap=True,
        )


_OF_WORDS = ("mispronounced", "skipped", "repeated", "early_stop", "late_stop")


def _cell(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.{_COLUMNS[name][1]}f}" if name in values else ""


def _measures() -> tuple[Measure, ...]:
    return default_measures()


def _asked(wavs: Sequence[Path], text: str | None, metadata: Path | None, language: str | None) -> list[Asked]:
    """What to measure: the files given, or those of the metadata, or those of the files given that it names."""
    if language is not None:
        require_language(language)
    if text is not None and metadata is not None:
        raise UserError("--text and --metadata both tell what is said: give one of them.")
    if text is not None and len(wavs) > 1:
        raise UserError(f"--text is what one file says, and {len(wavs)} are given: use --metadata.")
    if metadata is None:
        if not wavs:
            raise UserError("there is nothing to measure: give audio files, or --metadata.")
        return [Asked(path, text or "", language or "") for path in wavs]
    clips = list(_clips(metadata, language))
    if not wavs:
        return [Asked(Path(clip.audio_file), clip.text, clip.language) for clip in clips]
    by_name = {Path(clip.audio_file).stem: clip for clip in clips}
    unknown = [path for path in wavs if path.stem not in by_name]
    if unknown:
        raise UserError(f"{metadata} has no line for {unknown[0].name}; it tells of {len(clips)} clips.")
    return [Asked(path, by_name[path.stem].text, by_name[path.stem].language) for path in wavs]


def _clips(metadata: Path, language: str | None) -> list[Clip]:
    found = [entry for entry in open_source(metadata, language=language).entries() if isinstance(entry, Clip)]
    if not found:
        raise UserError(f"{metadata} names no clip.")
    return found


def _references(path: Path, language: str | None) -> list[Reference]:
    """Clips of the speaker: a metadata file, a folder with one, a run, or one audio file (whose text is not known)."""
    if not path.exists():
        raise UserError(f"the reference {path} does not exist; give an audio file, or a metadata file of the speaker.")
    if path.is_dir() or path.name == METADATA or path.suffix.lower() in (".csv", ".txt", ".tsv"):
        return [
            Reference(audio_file=clip.audio_file, text=clip.text, language=clip.language, speaker=clip.speaker)
            for clip in _clips(path, language)
        ]
    return [Reference(audio_file=str(path), language=language or "")]


def _why_not(ears: Ears, reference: Reference) -> str:
    path = Path(reference.audio_file)
    return f"{path.name}: {ears.listen(path).error or 'too long'}".rstrip(".")

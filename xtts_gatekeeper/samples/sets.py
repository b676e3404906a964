"""One set of samples on disk: the folder `<run>/gatekeeper/samples/<step>/` and the two files in it that tell of it.

`samples.json` is written by who spoke, `measures.json` by who measured, each in one piece.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from xtts_gatekeeper.errors import UserError

SPOKEN = "samples.json"
MEASURED = "measures.json"
#: Raised when what is in a file changes so that an older one says something else.
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One file of a set.

    `prompt` names the prompt, `take` counts its samples from 0; `own` is False for a prompt in another language than
    those trained on, which watches forgetting. `cut`: the model did not come to an end by itself and was ended.
    `error`: one sentence, where nothing could be spoken; `file` is then empty. `skipped`: it was not tried, for there
    was no time left.
    """

    file: str
    prompt: str
    text: str
    language: str
    take: int = 0
    seed: int = 0
    own: bool = True
    seconds: float = 0.0
    cut: bool = False
    skipped: bool = False
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that an ear would object to.

    `kind` is one of `faults.KINDS`; `severity` from 1 (just over the threshold) up; `evidence` holds what was measured
    and the threshold.
    """

    kind: str
    message: str
    severity: float = 1.0
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one file: numbers by name, faults, what was heard, and what could not be measured and why.

    `error`: one sentence, where the audio is no speech to measure (empty, silent, unreadable); what we could not
    measure for a reason of our own is in `missing`.
    """

    file: str
    values: Mapping[str, float] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    heard: str | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """A folder of samples.

    `weights` tells whose they are in words (`live`, the name of a checkpoint, `base`); `prompts` is the fingerprint of
    prompts, voice and settings: sets of different ones are not compared. `measured` is empty until somebody has
    measured; `measured_as` tells by what: the fingerprint of measures and calibration.
    """

    folder: Path
    step: int
    epoch: int | None
    weights: str
    prompts: str
    samples: tuple[Sample, ...]
    digest: str = ""
    voice: Mapping[str, Any] = field(default_factory=dict)
    rate: int = 24000
    measured: tuple[Measured, ...] = ()
    measured_as: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    def of(self, sample: Sample) -> Measured | None:
        """What was measured of a sample."""
        return next((m for m in self.measured if m.file == sample.file), None) if sample.file else None


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file in one piece: temporary file, fsync, rename."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_spoken(made: SampleSet) -> None:
    """Write `samples.json` of a set, whose WAV files lie in its folder already."""
    document = {
        "version": VERSION,
        **{name: getattr(made, name) for name in ("step", "epoch", "weights", "prompts", "digest", "voice", "rate")},
        "samples": [asdict(sample) for sample in made.samples],
    }
    write_json(made.folder / SPOKEN, document)


def write_measured(
    folder: Path, measured: Sequence[Measured], measured_as: str, scores: Mapping[str, float], **more: Any
) -> None:
    """Write `measures.json` of a folder; `more` are further keys of the document."""
    document = {
        "version": VERSION,
        "measured_as": measured_as,
        "scores": dict(scores),
        **more,
        "samples": [asdict(one) for one in measured],
    }
    write_json(folder / MEASURED, document)


def read_set(folder: Path) -> SampleSet:
    """Read a folder of samples, measured or not yet.

    Raises:
        UserError: there is no `samples.json`, or it or `measures.json` cannot be read.
    """
    document = _document(folder / SPOKEN, f"{folder} holds no samples ({SPOKEN} is missing)")
    try:
        samples = tuple(_make(Sample, one) for one in document["samples"])
        made = SampleSet(
            folder=folder,
            step=int(document["step"]),
            epoch=document["epoch"],
            weights=str(document["weights"]),
            prompts=str(document["prompts"]),
            digest=str(document.get("digest") or ""),
            samples=samples,
            voice=document.get("voice") or {},
            rate=int(document.get("rate") or 24000),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / SPOKEN} is not what we write: {type(error).__name__} {error}.") from None
    if not (folder / MEASURED).is_file():
        return made
    document = _document(folder / MEASURED, "")
    try:
        measured = tuple(
            _make(Measured, {**one, "faults": tuple(_make(Fault, fault) for fault in one.get("faults") or ())})
            for one in document["samples"]
        )
        told = {"measured_as": str(document["measured_as"]), "scores": dict(document["scores"])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / MEASURED} is not what we write: {type(error).__name__} {error}.") from None
    values = {f.name: getattr(made, f.name) for f in fields(made)}
    return SampleSet(**{**values, "measured": measured, **told})


def _document(path: Path, missing: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{missing}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} is not what we write: no JSON object.")
    return document


def _make(kind: type[Any], values: Mapping[str, Any]) -> Any:
    known = {f.name for f in fields(kind)}
    return kind(**{key: value for key, value in values.items() if key in known})

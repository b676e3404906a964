"""Which clips are held out: decided by what is heard in them, so that a growing data set never moves one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xtts_gatekeeper.dataset.identity import audio_digests
from xtts_gatekeeper.dataset.selection import leave_out
from xtts_gatekeeper.errors import UserError

Samples = list[dict[str, Any]]

#: A speaker or language of so many clips should have one held out.
_WORTH_EVALUATING = 10


def stable_split(
    samples: Sequence[dict[str, Any]],
    eval_fraction: float = 0.15,
    *,
    minimum_clips: int = 1,
    minimum_seconds: float = 0.0,
) -> tuple[Samples, Samples]:
    """Split samples into (train, eval), each in the order given.

    Every clip is placed by the bytes of its own audio alone: adding or removing a clip never moves another, a corrected
    transcript moves none, and copies of one file come to the same side. A larger fraction only moves clips from train
    to eval. So each speaker and each language has about its share held out, and none has it exactly: a rule that always
    met a share or a floor would have to move clips that were there before. A floor that is not met is therefore refused
    with the fraction that meets it.

    Args:
        samples: Coqui's, with `audio_file`.
        eval_fraction: share of clips to hold out, between 0 and 1.
        minimum_clips: how many clips have to be held out at least, 1 or more.
        minimum_seconds: how many seconds of them.

    Raises:
        UserError: fewer than two samples, a fraction outside (0, 1), an empty side, or a floor that is not met.
    """
    if not 0 < eval_fraction < 1:
        raise UserError(f"eval_fraction is {eval_fraction}; it must lie between 0 and 1, for instance 0.15")
    if len(samples) < 2:
        raise UserError(f"{len(samples)} clip(s) cannot be split into training and evaluation; give at least two")
    digests = audio_digests(sample["audio_file"] for sample in samples)
    places = [_place(digests[sample["audio_file"]]) for sample in samples]
    train = [sample for sample, place in zip(samples, places, strict=True) if place >= eval_fraction]
    held_out = [sample for sample, place in zip(samples, places, strict=True) if place < eval_fraction]
    if not train:
        raise UserError(
            f"all {len(samples)} clips fell into the evaluation set at eval_fraction={eval_fraction}; "
            "add clips or use a smaller fraction"
        )
    seconds = _seconds(held_out) if minimum_seconds > 0 else math.inf
    if len(held_out) < max(1, minimum_clips) or seconds < minimum_seconds:
        raise UserError(_below_the_floor(samples, places, eval_fraction, len(held_out), minimum_clips, minimum_seconds))
    return train, held_out


def pinned_split(samples: Sequence[dict[str, Any]], names: Iterable[str]) -> tuple[Samples, Samples, list[str]]:
    """Hold out the clips that a list names, and no other.

    Returns:
        Train, eval, each in order, and the names that no clip has.

    Raises:
        UserError: a side is empty.
    """
    train, unknown = leave_out(samples, names)
    kept = {id(sample) for sample in train}
    held_out = [sample for sample in samples if id(sample) not in kept]
    if not held_out:
        raise UserError(f"none of the {len(samples)} clips is on the list of those to evaluate with")
    if not train:
        raise UserError(f"all {len(samples)} clips are on the list of those to evaluate with: none is left to train on")
    return train, held_out, unknown


def without_evaluation(train: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each speaker of each language that is trained on and not evaluated, though it has the clips."""

    def groups(samples: Sequence[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
        return Counter((str(s.get("speaker_name", "")), str(s.get("language", ""))) for s in samples)

    evaluated = groups(held_out)
    return [
        f"none of the {count} clips of speaker {speaker or '?'} ({language or '?'}) is held out to evaluate with"
        for (speaker, language), count in sorted(groups(train).items())
        if count >= _WORTH_EVALUATING and not evaluated[speaker, language]
    ]


def _below_the_floor(
    samples: Sequence[Mapping[str, Any]],
    places: Sequence[float],
    fraction: float,
    found: int,
    clips: int,
    seconds: float,
) -> str:
    wanted = f"{max(1, clips)} clips" + (f" and {seconds:g} s" if seconds > 0 else "")
    said = f"{found} of {len(samples)} clips were held out at eval_fraction={fraction}, {wanted} are needed"
    order = sorted(range(len(samples)), key=lambda number: places[number])
    heard = 0.0
    for count, number in enumerate(order[:-1], start=1):
        heard += _seconds([samples[number]]) if seconds > 0 else 0.0
        enough = math.floor(places[number] * 100 + 1) / 100
        if count >= max(1, clips) and heard >= seconds and fraction < enough < 1:
            return f"{said}; add clips or use eval_fraction={enough:g}"
    return f"{said}; add clips"


def _place(digest: str) -> float:
    """Between 0 and 1, evenly, by the first 52 bits."""
    return int(digest[:13], 16) / 16**13


def _seconds(samples: Iterable[Mapping[str, Any]]) -> float:
    from xtts_gatekeeper.data import import_extra

    soundfile = import_extra("soundfile")
    total = 0.0
    for sample in samples:
        try:
            total += float(soundfile.info(str(Path(sample["audio_file"]))).duration)
        except (OSError, soundfile.SoundFileError):
            continue
    return total

"""The audit at the start of a training: of the clips that the Trainer was given, with the model's own tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.dataset.check import sentences, unusable_samples
from xtts_gatekeeper.dataset.clip import Audio, Clip, Fault
from xtts_gatekeeper.dataset.store import Store, missing
from xtts_gatekeeper.dataset.tokens import Tokens
from xtts_gatekeeper.dataset.usable import Limits, unusable

#: What tells of one recording in two clips.
_TWICE = ("duplicate", "near_duplicate")
#: So many clips are named in a sentence.
_NAMED = 3
#: A training does not wait until more than so many new clips have been listened to, which is well below a minute.
_MOST_NEW = 5000


@dataclass(frozen=True)
class Looked:
    """What was found in the clips of a training.

    `seconds` of audio in `clips` clips, None where they were not listened to; `faults` by code; `unusable` names the
    clips that XTTS will not use; `near` are pairs of an eval clip and the training clip of which it is a copy with
    other bytes.
    """

    clips: int
    seconds: float | None
    faults: dict[str, int]
    unusable: list[str]
    near: list[tuple[str, str]]
    warnings: list[str]


def look_at_clips(
    train: Sequence[Mapping[str, Any]],
    held_out: Sequence[Mapping[str, Any]],
    limits: Limits | None,
    encode: Callable[[str, str], Tokens] | None,
    say: Callable[[str], None] = lambda text: None,
) -> Looked:
    """Audit the samples of a training.

    What is known from an earlier start or from the verb `audit` is not looked at again. The first time it takes a few
    seconds for an hour of speech; of a large set that is not known, only the headers are read.

    Args:
        train: Coqui's samples, with `audio_file`, `text` and `language`.
        held_out: those to evaluate with.
        limits: of XTTS; None for another model, whose limits are not known.
        encode: (language, text) -> tokens of the model's tokenizer; None: they are not looked at.
        say: told before it takes its time.

    Raises:
        UserError: a package of the extra is missing.
        KeyError: a sample is none of Coqui's.
    """
    from xtts_gatekeeper.dataset.examine import examine
    from xtts_gatekeeper.dataset.scan import scan

    import_extra("soundfile")
    samples = [_clip(sample) for sample in train] + [_clip(sample) for sample in held_out]
    files = list(dict.fromkeys(clip.audio_file for clip in samples))
    with Store.open() as store:
        new = len(files) - len(store.audio(files))
        if new > _MOST_NEW:
            return _by_headers([*train, *held_out], new, limits, encode, store)
        if new:
            say(f"listening to {new} clips")
        scan(store, files)
        measures = store.audio(files)

        def heard() -> Iterator[tuple[Clip, Audio]]:
            for clip in samples:
                yield clip, measures.get(clip.audio_file) or missing(clip.audio_file)

        quality = list(examine(store, heard))
    useless: list[Fault] = []
    if limits is not None:
        for clip, audio in heard():
            tokens = encode(clip.language, clip.text) if encode is not None else None
            useless += (fault for fault in unusable(clip, audio, tokens, limits) if fault.severity == "unusable")
    evaluated = {clip.name for clip in samples[len(train) :]}
    pairs = [(fault.clip, fault.other) for fault in quality if fault.code in _TWICE]
    near = [pair for pair in pairs if len(evaluated & set(pair)) == 1]
    return Looked(
        clips=len(samples),
        seconds=round(sum(audio.seconds or 0.0 for _, audio in heard()), 3),
        faults=dict(Counter(fault.code for fault in (*useless, *quality) if fault.severity != "note")),
        unusable=sorted({fault.clip for fault in useless}),
        near=[(one, other) if one in evaluated else (other, one) for one, other in near],
        warnings=[*sentences(useless, len(samples)), *_wrong(quality), *_heard_twice(near)],
    )


def _by_headers(
    samples: Sequence[Mapping[str, Any]],
    new: int,
    limits: Limits | None,
    encode: Callable[[str, str], Tokens] | None,
    store: Store,
) -> Looked:
    useless = unusable_samples(samples, limits, encode, store) if limits is not None else []
    said = f"{new} clips were not listened to, for that takes minutes: `xtts-gatekeeper audit` does it once for all"
    return Looked(
        clips=len(samples),
        seconds=None,
        faults=dict(Counter(fault.code for fault in useless)),
        unusable=sorted({fault.clip for fault in useless}),
        near=[],
        warnings=[*sentences(useless, len(samples)), said],
    )


def _clip(sample: Mapping[str, Any]) -> Clip:
    audio = str(sample["audio_file"])
    return Clip(audio, audio, str(sample["text"]), str(sample.get("language") or ""))


def _wrong(faults: Sequence[Fault]) -> list[str]:
    """One sentence for what is surely wrong with clips that are trained on."""
    hard = [fault for fault in faults if fault.severity == "hard"]
    if not hard:
        return []
    codes = ", ".join(f"{count} {code}" for code, count in Counter(fault.code for fault in hard).most_common())
    named = ", ".join(dict.fromkeys(Path(fault.clip).name for fault in hard[:_NAMED]))
    more = ", ..." if len(hard) > _NAMED else ""
    return [f"the audio of some clips is wrong ({codes}): {named}{more}; `xtts-gatekeeper audit` says more"]


def _heard_twice(near: Sequence[tuple[str, str]]) -> list[str]:
    if not near:
        return []
    named = "; ".join(" and ".join(Path(name).name for name in pair) for pair in near[:_NAMED])
    more = "; ..." if len(near) > _NAMED else ""
    return [f"{len(near)} recordings are trained on and evaluated on, in copies with other bytes: {named}{more}"]

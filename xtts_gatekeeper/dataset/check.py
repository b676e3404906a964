"""Which clips of a training will XTTS not use? For a set that is too large to be listened to before each start.

No audio is decoded for it. Of a file that an audit has measured, the measures are at hand; of another one the header is
read, which says how long it is, and not whether all of it is there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.dataset.clip import Audio, Clip, Fault
from xtts_gatekeeper.dataset.store import Store, missing
from xtts_gatekeeper.dataset.tokens import Tokens
from xtts_gatekeeper.dataset.usable import Limits, unusable

#: So many clips of a kind are named.
_NAMED = 3
_AT_ONCE = 500


def unusable_samples(
    samples: Iterable[Mapping[str, Any]],
    limits: Limits,
    encode: Callable[[str, str], Tokens] | None = None,
    store: Store | None = None,
) -> list[Fault]:
    """Every reason for which XTTS will not use one of some samples; a fault's clip is its audio file.

    Args:
        samples: Coqui's, with `audio_file`, `text` and `language`.
        limits: of the training, `Limits.of_config` of its config.
        encode: (language, text) -> tokens, as `functools.partial(tokens.encode, model.xtts.tokenizer)`; None: tokens
            are not looked at.
        store: the cache of measures; None: the user's.

    Raises:
        UserError: soundfile is not installed.
        KeyError: a sample is none of Coqui's.
    """
    if store is None:
        with Store.open() as opened:
            return unusable_samples(samples, limits, encode, opened)
    found: list[Fault] = []
    rest = iter(samples)
    while part := list(islice(rest, _AT_ONCE)):
        clips = [_clip(sample) for sample in part]
        known = store.audio([clip.audio_file for clip in clips])
        for clip in clips:
            audio = known.get(clip.audio_file) or _by_header(clip.audio_file)
            tokens = encode(clip.language, clip.text) if encode else None
            found += (fault for fault in unusable(clip, audio, tokens, limits) if fault.severity == "unusable")
    return found


def sentences(faults: Sequence[Fault], clips: int) -> list[str]:
    """What to say of them: one sentence for all, and one for each kind with the first clips of it."""
    if not faults:
        return []
    names = {fault.clip for fault in faults}
    said = [
        f"XTTS will not use {len(names)} of {clips} clips, and draws others in their place without a word: leave them "
        "out with --exclude, by the list that `xtts-gatekeeper audit DATA --exclude-list FILE` writes"
    ]
    for code, count in Counter(fault.code for fault in faults).most_common():
        of_it = [fault for fault in faults if fault.code == code]
        named = "; ".join(f"{Path(fault.clip).name}: {fault.message}" for fault in of_it[:_NAMED])
        said.append(f"{code}, {count} clip{'s' * (count > 1)}: {named}" + ("; ..." if count > _NAMED else ""))
    return said


def _clip(sample: Mapping[str, Any]) -> Clip:
    audio = str(sample["audio_file"])
    return Clip(audio, os.path.abspath(audio), str(sample["text"]), str(sample.get("language") or ""))  # noqa: PTH100


def _by_header(path: str) -> Audio:
    """Length and rate as the header has them; an error where it has none."""
    soundfile = import_extra("soundfile")
    if not Path(path).is_file():
        return missing(path)
    try:
        info = soundfile.info(path)
    except (OSError, soundfile.SoundFileError) as error:
        return Audio("", f"{path} is not readable as audio ({error})")
    return Audio("", seconds=info.frames / info.samplerate, sample_rate=info.samplerate, channels=info.channels)

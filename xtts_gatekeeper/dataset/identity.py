"""What a clip is, whatever it is called and wherever it lies: names by content, for clips and for sets of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from xtts_gatekeeper.dataset.store import Store


def audio_digests(paths: Iterable[Any]) -> dict[str, str]:
    """Path -> 32 hex digits of the bytes of the file; `store.MISSING` where it cannot be read.

    What has been looked at before, and has the size and the time that it had then, is not read again.
    """
    with Store.open() as store:
        return store.digests(list(dict.fromkeys(map(str, paths))))


def clip_id(sample: Mapping[str, Any], digest: str) -> str:
    """Return 32 hex digits that depend on the text, the language and the bytes of the audio, and on nothing else.

    Not on the speaker: formatters take that from the name of a folder, and XTTS does not train by it.

    Args:
        sample: Coqui's.
        digest: of its audio file.
    """
    content = json.dumps([sample["text"], sample.get("language"), digest])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def fingerprint(samples: Iterable[Mapping[str, Any]]) -> str:
    """Return 16 hex digits that name the set of clips: the same for any order, folder and machine.

    A clip whose audio cannot be read counts as one without audio.
    """
    clips = list(samples)
    digests = audio_digests(clip["audio_file"] for clip in clips)
    names = sorted({clip_id(clip, digests[str(clip["audio_file"])]) for clip in clips})
    return hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()

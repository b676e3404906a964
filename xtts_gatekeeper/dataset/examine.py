"""All that is looked at in a set beyond what XTTS itself refuses, in one call; kept, so that a second one is quick."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple

from xtts_gatekeeper.dataset.clip import Audio, Clip, Fault
from xtts_gatekeeper.dataset.store import MEASURES, Store

#: Of what is looked for, and how. Faults of another version are looked for again.
VERSION = 5
#: More faults than this are not kept: they are to be read one by one, and not all at once.
_MOST_KEPT = 200_000

Clips = Callable[[], Iterable[tuple[Clip, Audio]]]


def examine(store: Store, clips: Clips) -> Iterator[Fault]:
    """Yield the faults of quality: of the signal, of text against audio, of clips that are there twice.

    Args:
        store: holds the measures of every clip, and keeps the outcome under a name that all of it decides.
        clips: a stream of all clips with their measures, in the order of the metadata; it is read several times.
    """
    key = _key(clips())
    kept = store.kept(key)
    if kept is not None:
        with contextlib.suppress(ValueError, TypeError, zlib.error):
            yield from [Fault(*fields) for fields in json.loads(zlib.decompress(kept))]
            return
    found: list[Fault] | None = []
    for fault in _look(store, clips):
        yield fault
        if found is not None:
            found.append(fault)
            if len(found) > _MOST_KEPT:
                found = None
    if found is not None:
        store.keep(key, zlib.compress(json.dumps([astuple(fault) for fault in found]).encode()))


def _key(clips: Iterable[tuple[Clip, Audio]]) -> str:
    digest = hashlib.blake2b(f"faults {VERSION} {MEASURES}".encode(), digest_size=16)
    for clip, audio in clips:
        parts = (clip.name, clip.text, clip.language, clip.speaker, audio.digest, audio.error)
        digest.update("\0".join(parts).encode("utf-8", "surrogatepass") + b"\1")
    return digest.hexdigest()


def _look(store: Store, clips: Clips) -> Iterator[Fault]:
    # What needs numpy is not imported when the outcome is known.
    from xtts_gatekeeper.dataset.near import duplicates
    from xtts_gatekeeper.dataset.quality import judge, same_texts
    from xtts_gatekeeper.dataset.texts import mismatches

    yield from judge(clips)
    with contextlib.closing(sqlite3.connect("")) as table:
        yield from same_texts(table, clips)
    yield from duplicates(clips, store.frames)
    yield from mismatches(clips, store.frames)

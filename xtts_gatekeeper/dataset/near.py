"""One recording used twice: as the same file, or resampled, encoded again, louder or softer.

Prints are compared by hashing, not each with each: two clips are looked at when they agree in one of many small random
choices of bits. What is looked at lies in a temporary SQLite file, so memory does not grow with the number of clips.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from xtts_gatekeeper.dataset.clip import Audio, Clip, Fault
from xtts_gatekeeper.dataset.measure import FRAME_DB, MELS
from xtts_gatekeeper.dataset.prints import BYTES

#: Of 256 bits, 36 differed at most between a recording and its copy (8 kHz, 22 kHz, MP3, Ogg, FLAC; 54 clips); 32 at
#: least between two recordings of one sentence: so what differs less is looked at closer.
_BITS_APART = 48
#: Two clips that differ in 36 bits agree in one of so many choices of so many bits with a probability of 97 %, two that
#: differ in 20 with one of 99.999 %.
_TABLES, _CHOSEN = 40, 16
#: In a bucket, a clip is compared with so many before it: this keeps the work proportional to the number of clips.
_BEFORE = 8
#: The courses of a recording and its copy differ by less than this, on average over all that is loud, in dB.
_COURSE_DB = 3.0
_LOUD_DB = -25.0
_SHIFT_FRAMES = 4
_AT_ONCE, _PAIRS_AT_ONCE = 500, 10_000
#: Of the clips before it the nearest, and of those the first.
_NEAREST = (
    "INSERT INTO pairs VALUES (?, ?, ?) ON CONFLICT (later) DO UPDATE SET first = excluded.first, bits = excluded.bits "
    "WHERE excluded.bits < bits OR (excluded.bits = bits AND excluded.first < first)"
)

Array: TypeAlias = Any  # of numpy, which mypy does not look into
Clips = Callable[[], Iterable[tuple[Clip, Audio]]]
Frames = Callable[[Sequence[str]], dict[str, bytes]]


def duplicates(clips: Clips, frames: Frames) -> Iterator[Fault]:
    """Yield a fault for each clip whose recording was there before it, "duplicate" or "near_duplicate".

    Args:
        clips: in the order of the metadata; read once.
        frames: digest -> the course of the spectrum, as `Store.frames`.
    """
    with contextlib.closing(sqlite3.connect("")) as table:
        table.execute("PRAGMA journal_mode = OFF")
        table.execute("CREATE TABLE clips (number INTEGER PRIMARY KEY, name TEXT, digest TEXT, text TEXT, file TEXT)")
        table.execute(
            "CREATE TABLE keys (key INTEGER, number INTEGER, print BLOB, PRIMARY KEY (key, number)) WITHOUT ROWID"
        )
        table.execute("CREATE TABLE pairs (later INTEGER PRIMARY KEY, first INTEGER, bits INTEGER)")
        _fill(table, clips)
        yield from _same_bytes(table)
        yield from _same_sound(table, frames)


def _fill(table: sqlite3.Connection, clips: Clips) -> None:
    choices = _choices()
    weights = 1 << np.arange(_CHOSEN, dtype=np.int64)
    rows: list[tuple[Any, ...]] = []
    prints: list[tuple[int, bytes]] = []

    def flush() -> None:
        table.executemany("INSERT INTO clips VALUES (?, ?, ?, ?, ?)", rows)
        if prints:
            bits = np.unpackbits(
                np.frombuffer(b"".join(mark for _, mark in prints), np.uint8).reshape(-1, BYTES), axis=1
            )
            keys = bits[:, choices] @ weights + (np.arange(_TABLES, dtype=np.int64) << _CHOSEN)
            table.executemany(
                "INSERT INTO keys VALUES (?, ?, ?)",
                ((key, n, mark) for (n, mark), of in zip(prints, keys.tolist(), strict=True) for key in of),
            )
        rows.clear()
        prints.clear()

    for number, (clip, audio) in enumerate(clips()):
        if audio.seconds is None:
            continue
        rows.append((number, clip.name, audio.digest, clip.text, clip.audio_file))
        if len(audio.print) == BYTES:
            prints.append((number, audio.print))
        if len(rows) >= _AT_ONCE:
            flush()
    flush()
    table.execute("CREATE INDEX by_digest ON clips (digest, number)")


def _choices() -> Array:
    chance = random.Random(0)
    return np.array([chance.sample(range(8 * BYTES), _CHOSEN) for _ in range(_TABLES)])


def _same_bytes(table: sqlite3.Connection) -> Iterator[Fault]:
    found = table.execute(
        "SELECT later.name, first.name, later.text = first.text FROM "
        "(SELECT digest, MIN(number) AS number FROM clips GROUP BY digest HAVING COUNT(*) > 1) AS once "
        "JOIN clips AS first ON first.number = once.number "
        "JOIN clips AS later ON later.digest = once.digest AND later.number > once.number "
        "AND later.file != first.file ORDER BY later.number"
    )
    for name, first, same_text in found:
        but = "" if same_text else ", with another text"
        yield Fault(name, "duplicate", "hard", f"its audio is, byte for byte, that of {first!r}{but}", 1.0, first)


def _same_sound(table: sqlite3.Connection, frames: Frames) -> Iterator[Fault]:
    before: deque[tuple[int, int]] = deque(maxlen=_BEFORE)
    at = None
    batch: list[tuple[int, int, int]] = []
    for key, number, mark in table.execute("SELECT key, number, print FROM keys ORDER BY key, number"):
        if key != at:
            before.clear()
            at = key
        bits = int.from_bytes(mark, "big")
        for other, other_bits in before:
            apart = (bits ^ other_bits).bit_count()
            if apart <= _BITS_APART:
                batch.append((number, other, apart))
        before.append((number, bits))
        if len(batch) >= _PAIRS_AT_ONCE:
            table.executemany(_NEAREST, batch)
            batch.clear()
    table.executemany(_NEAREST, batch)
    asked = table.execute(
        "SELECT later.name, later.digest, later.text, first.name, first.digest, first.text FROM pairs "
        "JOIN clips AS later ON later.number = pairs.later JOIN clips AS first ON first.number = pairs.first "
        "WHERE later.digest != first.digest ORDER BY pairs.later"
    )
    while rows := asked.fetchmany(_AT_ONCE // 2):
        courses = frames(sorted({digest for row in rows for digest in (row[1], row[4])}))
        for name, digest, text, first, first_digest, first_text in rows:
            apart_db = course_distance(courses.get(digest, b""), courses.get(first_digest, b""))
            if apart_db < _COURSE_DB:
                but = "" if text == first_text else ", with another text"
                what = f"it sounds like {first!r} (spectra {apart_db:.1f} dB apart){but}"
                yield Fault(name, "near_duplicate", "hard", what, 1 / (1 + apart_db), first)


def course_distance(one: bytes, other: bytes) -> float:
    """Mean difference of two courses, in dB, where one of them is loud; infinite for those of different length.

    The second may lie a few frames earlier or later.
    """
    first, second = (np.frombuffer(data, np.int8).reshape(-1, MELS) * np.float32(FRAME_DB) for data in (one, other))
    best = float("inf")
    for shift in range(-_SHIFT_FRAMES, _SHIFT_FRAMES + 1):
        a, b = first[max(0, shift) :], second[max(0, -shift) :]
        length = min(len(a), len(b))
        if length < 10 or abs(len(a) - len(b)) > max(12, 0.15 * length):
            continue
        a, b = a[:length], b[:length]
        loud = np.maximum(a, b) > _LOUD_DB
        apart = np.abs(a - b)[loud]
        if len(apart):
            best = min(best, float(apart.mean()))
    return best

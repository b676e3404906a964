"""The clips and faults of one audit, in a temporary SQLite file: what is in memory does not grow with their number."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from xtts_gatekeeper.dataset.clip import Audio, Clip, Fault
from xtts_gatekeeper.dataset.sampler import Group
from xtts_gatekeeper.dataset.tokens import Tokens, text_key

#: From the worst on. `unusable`: XTTS replaces it without a word. `hard`: surely wrong. `soft`: worth a look. `note`:
#: true of the data, and no accusation.
SEVERITIES = ("unusable", "hard", "soft", "note")
#: What a histogram can be made of.
MEASURES = ("seconds", "level_dbfs", "snr_db", "characters_per_second")

_AT_ONCE = 500
#: A single clip of an hour must not press all others into one bar: what is further off than half of what this share on
#: both sides leaves is drawn at the edge.
_OUTERMOST = 0.005
_SCHEMA = """
CREATE TABLE clips (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, audio BLOB NOT NULL, text TEXT NOT NULL,
    language TEXT NOT NULL, speaker TEXT NOT NULL, place TEXT NOT NULL, key BLOB NOT NULL,
    tokens INTEGER, unknown INTEGER, stops INTEGER, token_error TEXT,
    usable INTEGER, content TEXT, seconds REAL, sample_rate INTEGER, channels INTEGER,
    level_dbfs REAL, snr_db REAL, characters_per_second REAL
);
CREATE INDEX by_audio ON clips (audio);
CREATE INDEX by_key ON clips (key);
CREATE TABLE faults (
    clip TEXT NOT NULL, code TEXT NOT NULL, severity INTEGER NOT NULL, message TEXT NOT NULL, value REAL
);
CREATE INDEX by_clip ON faults (clip);
"""
_CLIP = "name, audio, text, language, speaker, place"


class Board:
    """One audit's clips, in the order of the metadata, and faults, in any order."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    @staticmethod
    @contextlib.contextmanager
    def open() -> Iterator[Board]:
        """A new one, gone when the block ends. Its file has no name, so that a kill leaves none behind."""
        connection = sqlite3.connect("", isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.executescript(_SCHEMA)
            yield Board(connection)
        finally:
            connection.close()

    def enter(self, entries: Iterable[Clip | Fault], said: Callable[[int], None] = lambda _count: None) -> None:
        """Take in what a metadata file holds.

        A name that is taken is told apart by its place in the file, so that a fault finds its clip by the name alone.
        An audio file that was listed before is a fault of its second line.

        Args:
            entries: clips and faults of lines.
            said: called now and then with the number of clips so far.
        """
        for number, entry in enumerate(entries):
            if isinstance(entry, Fault):
                self.add([entry])
                continue
            name = entry.name
            while self.connection.execute("SELECT 1 FROM clips WHERE name = ?", [_storable(name)]).fetchone():
                name = f"{name} ({entry.where})"
            audio = os.fsencode(entry.audio_file)  # a name that is not UTF-8 is none for a text column
            before = self.connection.execute("SELECT place FROM clips WHERE audio = ?", [audio]).fetchone()
            texts = map(_storable, (entry.text, entry.language, entry.speaker, entry.where))
            self.connection.execute(
                f"INSERT INTO clips ({_CLIP}, key) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (_storable(name), audio, *texts, text_key(entry.language, entry.text)),
            )
            if before:
                self.add([Fault(name, "listed_twice", "hard", f"{entry.where} lists the audio of {before[0]} again")])
            if number % _AT_ONCE == 0:
                said(number)

    def add(self, faults: Iterable[Fault]) -> None:
        """Write faults down."""
        self.connection.executemany(
            "INSERT INTO faults VALUES (?, ?, ?, ?, ?)",
            ((_storable(f.clip), f.code, SEVERITIES.index(f.severity), _storable(f.message), f.value) for f in faults),
        )

    def clips(self) -> Iterator[tuple[Clip, Tokens | None]]:
        """Every clip in order, and what became of its text, None where that was not looked at."""
        last = -1
        query = (
            f"SELECT number, tokens, unknown, stops, token_error, {_CLIP} FROM clips WHERE number > ? ORDER BY number "
            f"LIMIT {_AT_ONCE}"
        )
        while rows := self.connection.execute(query, [last]).fetchall():
            for _, count, unknown, stops, error, name, audio, *others in rows:
                tokens = None if count is None else Tokens(count, unknown, stops, error)
                yield Clip(name, os.fsdecode(audio), *others), tokens
            last = rows[-1][0]

    def audio_files(self) -> Iterator[str]:
        """The path of every audio file, once."""
        last = b""
        query = f"SELECT DISTINCT audio FROM clips WHERE audio > ? ORDER BY audio LIMIT {_AT_ONCE}"
        while rows := self.connection.execute(query, [last]).fetchall():
            yield from (os.fsdecode(row[0]) for row in rows)
            last = rows[-1][0]

    def count(self) -> int:
        """How many clips there are."""
        return int(self.connection.execute("SELECT count(*) FROM clips").fetchone()[0])

    def text_keys(self) -> Iterator[bytes]:
        """The key of every text, once."""
        yield from (row[0] for row in self._texts("1"))

    def new_texts(self) -> Iterator[tuple[bytes, str, str]]:
        """(key, language, text) of those of which the tokens are not known, each once."""
        yield from self._texts("tokens IS NULL")

    def _texts(self, which: str) -> Iterator[tuple[bytes, str, str]]:
        last = b""
        query = (
            f"SELECT key, language, text FROM clips WHERE key > ? AND {which} GROUP BY key ORDER BY key "
            f"LIMIT {_AT_ONCE}"
        )
        while rows := self.connection.execute(query, [last]).fetchall():
            yield from rows
            last = rows[-1][0]

    def set_tokens(self, found: Iterable[tuple[bytes, Tokens]]) -> None:
        """Write down what became of texts, by their keys."""
        self.connection.executemany(
            "UPDATE clips SET tokens = ?, unknown = ?, stops = ?, token_error = ? WHERE key = ?",
            ((one.count, one.unknown, one.stops, _storable(one.error), key) for key, one in found),
        )

    def measured(self, rows: Iterable[tuple[Clip, Audio, str, bool]]) -> None:
        """Write down what is counted later on: clip, audio, `identity.clip_id`, and whether XTTS trains on it."""
        self.connection.executemany(
            "UPDATE clips SET usable = ?, content = ?, seconds = ?, sample_rate = ?, channels = ?, level_dbfs = ?, "
            "snr_db = ?, characters_per_second = ? WHERE name = ?",
            (
                (
                    usable,
                    content,
                    audio.seconds,
                    audio.sample_rate,
                    audio.channels,
                    audio.level_dbfs,
                    audio.snr_db,
                    _characters_per_second(clip, audio),
                    clip.name,
                )
                for clip, audio, content, usable in rows
            ),
        )

    def contents(self) -> Iterator[str]:
        """The content of every clip, each once, sorted."""
        yield from (row[0] for row in self.connection.execute("SELECT DISTINCT content FROM clips ORDER BY content"))

    def groups(self) -> list[Group]:
        """Clips and seconds of each speaker of each language."""
        rows = self.connection.execute(
            "SELECT language, speaker, count(*), total(usable), total(seconds), total(usable * seconds) FROM clips "
            "GROUP BY language, speaker ORDER BY language, speaker"
        )
        return [
            Group(language, speaker, count, int(ok), total, used) for language, speaker, count, ok, total, used in rows
        ]

    def formats(self) -> list[tuple[int, int, int]]:
        """(sample rate in Hz, channels, clips), the most frequent first."""
        return self.connection.execute(
            "SELECT sample_rate, channels, count(*) FROM clips WHERE sample_rate IS NOT NULL GROUP BY sample_rate, "
            "channels ORDER BY count(*) DESC, sample_rate, channels"
        ).fetchall()

    def histogram(self, measure: str, bins: int) -> dict[str, Any] | None:
        """How a measure is spread; None where no clip has it.

        Returns:
            Its least, middle and largest value, and the counts of equally wide bars from `low` on. They span all but
            what lies far off, which the first and the last bar take in.
        """
        assert measure in MEASURES
        known = f"FROM clips WHERE {measure} IS NOT NULL"
        (count,) = self.connection.execute(f"SELECT count(*) {known}").fetchone()
        if not count:
            return None
        query = f"SELECT {measure} {known} ORDER BY {measure} LIMIT 1 OFFSET ?"
        least, low, middle, high, largest = (
            self.connection.execute(query, [round(share * (count - 1))]).fetchone()[0]
            for share in (0.0, _OUTERMOST, 0.5, 1 - _OUTERMOST, 1.0)
        )
        span = high - low
        low, high = max(least, low - span / 2), min(largest, high + span / 2)
        width = (high - low) / bins or 1.0
        counts = [0] * bins
        for bar, clips in self.connection.execute(
            f"SELECT max(0, min(CAST(({measure} - ?) / ? AS INTEGER), ?)) AS bar, count(*) {known} GROUP BY bar",
            [low, width, bins - 1],
        ):
            counts[bar] = clips
        return {
            "count": count,
            "min": least,
            "median": middle,
            "max": largest,
            "low": low,
            "bin": width,
            "counts": counts,
        }

    def totals(self) -> list[dict[str, Any]]:
        """Faults and clips of each code, the worst severity first, then the most frequent."""
        rows = self.connection.execute(
            "SELECT code, severity, count(*), count(DISTINCT clip) FROM faults GROUP BY code, severity "
            "ORDER BY severity, count(*) DESC, code"
        )
        return [
            {"code": code, "severity": SEVERITIES[severity], "faults": faults, "clips": clips}
            for code, severity, faults, clips in rows
        ]

    def clips_with(self, *severities: str) -> int:
        """How many clips (or lines that give none) have a fault of one of these severities."""
        marks = ", ".join(str(SEVERITIES.index(severity)) for severity in severities)
        (count,) = self.connection.execute(
            f"SELECT count(DISTINCT clip) FROM faults WHERE severity IN ({marks})"
        ).fetchone()
        return int(count)

    def faults(self, severities: Sequence[str] = SEVERITIES) -> Iterator[Mapping[str, Any]]:
        """Every fault with its clip, the worst first: by severity, then by code, the largest value first."""
        marks = ", ".join(str(SEVERITIES.index(severity)) for severity in severities)
        yield from self._named(f"FROM faults WHERE severity IN ({marks}) ORDER BY severity, code, value DESC, clip")

    def worst(self) -> Iterator[Mapping[str, Any]]:
        """Every fault, notes left out, of a clip that can be heard: each code in turn, its worst clip first."""
        yield from self._named(
            "FROM (SELECT *, row_number() OVER (PARTITION BY code ORDER BY value DESC, clip) AS turn FROM faults "
            f"WHERE severity < {SEVERITIES.index('note')} AND clip IN (SELECT name FROM clips WHERE seconds > 0)) "
            "ORDER BY turn, severity, code"
        )

    def faults_of(self, clip: str) -> list[Mapping[str, Any]]:
        """Every fault of one clip, the worst first."""
        return list(self._named("FROM faults WHERE clip = ? ORDER BY severity, code", [clip]))

    def _named(self, rest: str, values: Sequence[str] = ()) -> Iterator[Mapping[str, Any]]:
        find = f"SELECT {_CLIP}, seconds FROM clips WHERE name = ?"
        for clip, code, severity, message, value in self.connection.execute(
            f"SELECT clip, code, severity, message, value {rest}", values
        ):
            _, audio, text, language, speaker, place, seconds = (
                self.connection.execute(find, [clip]).fetchone() or (None,) * 7
            )
            yield {
                "clip": clip,
                "code": code,
                "severity": SEVERITIES[severity],
                "message": message,
                "value": value,
                "audio_file": None if audio is None else os.fsdecode(audio),
                "text": text,
                "language": language,
                "speaker": speaker,
                "where": place,
                "seconds": seconds,
            }


def _storable(text: str) -> str:
    """SQLite takes no lone surrogates, which are what Python makes of file names that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _characters_per_second(clip: Clip, audio: Audio) -> float | None:
    """Letters and digits of the text for each second of speech, pauses not counted."""
    spoken = sum(character.isalnum() for character in clip.text)
    return spoken / audio.active_seconds if audio.active_seconds and spoken else None

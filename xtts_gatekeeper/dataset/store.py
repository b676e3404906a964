"""What is known of audio files: kept from run to run in the user's cache, by path, size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from xtts_gatekeeper.dataset.clip import Audio

#: In place of the digest of a file that cannot be read.
MISSING = "missing"
#: Names another file for the cache.
VARIABLE = "XTTS_GATEKEEPER_CACHE"

_NAME = "audio-1.sqlite"
_BLOCK_BYTES = 1 << 20
_AT_ONCE = 500
_KEPT = 100
#: So many measures stay in memory, some 15 MB: an audit asks for those of each clip a few times.
_AT_HAND = 20_000
#: How long another process that writes is waited for.
_PATIENCE_SECONDS = 1.0
#: Of what is measured, and how. Measures of another version are made again.
MEASURES = 4
#: `measures` is by content: a file that was moved or copied is not measured again.
_COLUMNS = {
    "audio": "path TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest TEXT NOT NULL",
    "measures": "digest TEXT NOT NULL, version INTEGER NOT NULL, numbers TEXT NOT NULL, "
    "spectrum BLOB NOT NULL, print BLOB NOT NULL, frames BLOB NOT NULL",
    "kept": "key TEXT NOT NULL, time REAL NOT NULL, value BLOB NOT NULL",
}
#: Table -> its key, and which of its rows count.
_KEYS = {"audio": ("path", "1"), "measures": ("digest", f"version = {MEASURES}"), "kept": ("key", "1")}
_SCHEMA = "".join(
    f"CREATE TABLE IF NOT EXISTS {name} ({columns}, PRIMARY KEY ({_KEYS[name][0]}));"
    for name, columns in _COLUMNS.items()
)
_NUMBERS = tuple(field.name for field in fields(Audio) if field.name not in ("digest", "spectrum", "print"))


def cache_file() -> Path:
    """Where the cache is: `XTTS_GATEKEEPER_CACHE`, else the system's usual place for caches."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library/Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "xtts_gatekeeper" / _NAME


class Store:
    """The cache. One that cannot be opened or written costs time, nothing else: a temporary one takes its place."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        #: Tables of this process alone, for what the file would not take.
        self._spare: set[str] = set()
        self._at_hand: dict[str, Audio] = {}

    @staticmethod
    @contextlib.contextmanager
    def open(path: Path | None = None) -> Iterator[Store]:
        """Open the cache, or a temporary one where that cannot be."""
        connection = _connect(path or cache_file()) or _connect(None)
        assert connection is not None
        try:
            yield Store(connection)
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.commit()
            connection.close()

    def digests(self, paths: Sequence[str], *, verify: bool = False) -> dict[str, str]:
        """Path -> 32 hex digits of the file's bytes; `MISSING` where it cannot be read.

        What has the size and the time of change that it had is not read again, unless `verify` says so.
        """
        found: dict[str, str] = {}
        for at in range(0, len(paths), _AT_ONCE):
            part = {path: stat_of(path) for path in paths[at : at + _AT_ONCE]}
            known = {} if verify else self._known([os.path.abspath(path) for path in part])  # noqa: PTH100
            new = []
            for path, stat in part.items():
                name = os.path.abspath(path)  # noqa: PTH100
                size_time_digest = known.get(name)
                if stat is None:
                    found[path] = MISSING
                elif size_time_digest is not None and size_time_digest[:2] == stat:
                    found[path] = size_time_digest[2]
                else:
                    found[path] = digest_of(path)
                    if found[path] != MISSING:
                        new.append((name, *stat, found[path]))
            if new:
                self._write("audio", new)
        return found

    def audio(self, paths: Sequence[str]) -> dict[str, Audio]:
        """Path -> what was measured of the file, for those that were and that have not changed since.

        A file that cannot be read is an `Audio` with an error. No file is opened.
        """
        found: dict[str, Audio] = {}
        for at in range(0, len(paths), _AT_ONCE):
            part = paths[at : at + _AT_ONCE]
            stats = {path: stat_of(path) for path in part}
            names = {path: os.path.abspath(path) for path in part}  # noqa: PTH100
            known = self._known(list(names.values()))
            digests: dict[str, str] = {}
            for path, stat in stats.items():
                entry = known.get(names[path])
                if stat is None:
                    found[path] = missing(path)
                elif entry is not None and entry[:2] == stat:
                    digests[path] = entry[2]
            measured = self.measured(list(set(digests.values())))
            found |= {path: measured[digest] for path, digest in digests.items() if digest in measured}
        return found

    def measured(self, digests: Sequence[str]) -> dict[str, Audio]:
        """Digest -> what was measured of a file with this content."""
        if len(self._at_hand) > _AT_HAND:
            self._at_hand.clear()
        unread = [digest for digest in digests if digest not in self._at_hand]
        for digest, numbers, spectrum, mark in self._rows("digest, numbers, spectrum, print", "measures", unread):
            known = dict(zip(_NUMBERS, json.loads(numbers), strict=True))
            self._at_hand[digest] = Audio(digest=digest, spectrum=spectrum, print=mark, **known)
        return {digest: self._at_hand[digest] for digest in digests if digest in self._at_hand}

    def frames(self, digests: Sequence[str]) -> dict[str, bytes]:
        """Digest -> the course of the spectrum of a file with this content, see `measure.Measured`."""
        return dict(self._rows("digest, frames", "measures", digests))

    def add_measures(self, measured: Iterable[tuple[Audio, bytes]]) -> None:
        """Keep what was measured, with the frames."""
        rows = [
            (
                one.digest,
                MEASURES,
                json.dumps([getattr(one, name) for name in _NUMBERS]),
                one.spectrum,
                one.print,
                frames,
            )
            for one, frames in measured
        ]
        self._write("measures", rows)

    def kept(self, key: str) -> bytes | None:
        """What was kept under a key that names all that it depends on."""
        found = [value for (value,) in self._rows("value", "kept", [key])]
        return bytes(found[-1]) if found else None

    def keep(self, key: str, value: bytes) -> None:
        """Keep something for `kept`; the oldest go."""
        self._write("kept", [(key, time.time(), value)])
        with contextlib.suppress(sqlite3.Error):
            self.connection.execute(
                "DELETE FROM kept WHERE key NOT IN (SELECT key FROM kept ORDER BY time DESC LIMIT ?)", (_KEPT,)
            )
            self.connection.commit()

    def _known(self, names: Sequence[str]) -> dict[str, tuple[int, int, str]]:
        rows = self._rows("path, size, mtime_ns, digest", "audio", names)
        return {path: (size, changed, digest) for path, size, changed, digest in rows}

    def _rows(self, columns: str, table: str, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The rows of some keys; those of the spare table last, for they are the newer ones."""
        key, rest = _KEYS[table]
        for name in (table, f"temp.spare_{table}") if table in self._spare else (table,):
            for at in range(0, len(keys), _AT_ONCE):
                part = keys[at : at + _AT_ONCE]
                asked = f"SELECT {columns} FROM {name} WHERE {rest} AND {key} IN ({','.join('?' * len(part))})"
                with contextlib.suppress(sqlite3.Error):  # what cannot be looked up is worked out again
                    yield from self.connection.execute(asked, part).fetchall()

    def _write(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write rows; where the file takes none (full disk, another process), into a table of this process."""
        if not rows:
            return
        marks = ",".join("?" * len(rows[0]))
        with contextlib.suppress(sqlite3.Error):
            self.connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)
            self.connection.commit()
            return
        self.connection.rollback()
        if table not in self._spare:
            columns, (key, _) = _COLUMNS[table], _KEYS[table]
            self.connection.execute(f"CREATE TEMP TABLE spare_{table} ({columns}, PRIMARY KEY ({key}))")
            self._spare.add(table)
        self.connection.executemany(f"INSERT OR REPLACE INTO temp.spare_{table} VALUES ({marks})", rows)
        self.connection.commit()


def digest_of(path: str) -> str:
    """32 hex digits of the bytes of a file; `MISSING` where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return MISSING
    return digest.hexdigest()


def missing(path: str) -> Audio:
    """What is known of a file that is not there, or may not be read."""
    what = "cannot be read" if os.path.exists(path) else "does not exist"  # noqa: PTH110
    return Audio(digest=MISSING, error=f"the audio file {what}")


def stat_of(path: str) -> tuple[int, int] | None:
    """Size in bytes and time of change in nanoseconds; None where there is no such file."""
    try:
        stat = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _connect(path: Path | None) -> sqlite3.Connection | None:
    """A connection to a file, or to a temporary one that is gone with it; None where it cannot be had."""
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect("" if path is None else path, timeout=_PATIENCE_SECONDS)
    except (OSError, sqlite3.Error):
        return None
    try:
        connection.execute("PRAGMA synchronous = OFF")  # what a crash loses is looked up again
        connection.executescript(_SCHEMA)
        connection.execute("SELECT path, size, mtime_ns, digest FROM audio LIMIT 1").fetchall()
    except sqlite3.Error:
        connection.close()
        return None
    return connection

"""Whole audits, kept beside the cache of measures: one of data that has not changed is a look at its files, no more."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from xtts_gatekeeper import __version__
from xtts_gatekeeper.dataset.board import Board
from xtts_gatekeeper.dataset.examine import VERSION
from xtts_gatekeeper.dataset.source import OUR_OWN, Source
from xtts_gatekeeper.dataset.store import MEASURES, MISSING, cache_file, digest_of, stat_of
from xtts_gatekeeper.dataset.usable import Limits

#: So many are kept, the latest.
_KEPT = 20
_FOLDER = "audits"
_AT_ONCE = 500


def kept_file(source: Source, limits: Limits, vocab: str) -> Path | None:
    """Where an audit of this would be kept; None for one that depends on more than can be looked at.

    By the content of the metadata, all settings, and our version. What Coqui's own readers read is not known.

    Args:
        source: what is audited.
        limits: what XTTS is taken to be set to.
        vocab: the name of the vocabulary, empty without one.
    """
    parts = []
    for part in source.parts:
        digest = MISSING if part.file is None or part.format not in OUR_OWN else digest_of(str(part.file))
        if digest == MISSING:
            return None
        parts.append([str(part), digest])
    settings = [__version__, VERSION, MEASURES, str(source.path.absolute()), asdict(limits), vocab, list(source.said)]
    told = json.dumps([settings, parts, [asdict(clip) for clip in source.clips]], sort_keys=True)
    name = hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return cache_file().parent / _FOLDER / f"{name}.sqlite"


def keep(file: Path, board: Board, fingerprint: str, not_checked: list[str]) -> None:
    """Keep an audit. Where that cannot be it is made anew the next time."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        board.connection.execute("CREATE TABLE files (audio BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER)")
        board.connection.executemany(
            "INSERT INTO files VALUES (?, ?, ?)",
            ((os.fsencode(path), *(stat_of(path) or (None, None))) for path in board.audio_files()),
        )
        board.connection.execute("CREATE TABLE facts (fingerprint TEXT, not_checked TEXT)")
        board.connection.execute("INSERT INTO facts VALUES (?, ?)", (fingerprint, json.dumps(not_checked)))
        board.connection.execute("VACUUM INTO ?", [str(partial)])
        partial.replace(file)
        for old in sorted(file.parent.glob("*.sqlite"), key=lambda one: one.stat().st_mtime)[:-_KEPT]:
            old.unlink(missing_ok=True)
    except (OSError, sqlite3.Error):
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def kept(file: Path) -> Iterator[tuple[Board, str, tuple[str, ...]] | None]:
    """The audit in a file, its fingerprint and what was not checked; None where an audio file has changed since."""
    connection = None
    with contextlib.suppress(OSError, sqlite3.Error):
        if file.is_file():
            connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        yield None if connection is None else _unchanged(connection)
    finally:
        if connection is not None:
            connection.close()


def _unchanged(connection: sqlite3.Connection) -> tuple[Board, str, tuple[str, ...]] | None:
    try:
        rows = connection.execute("SELECT audio, size, mtime_ns FROM files")
        while part := rows.fetchmany(_AT_ONCE):
            for audio, size, changed in part:
                if (stat_of(os.fsdecode(audio)) or (None, None)) != (size, changed):
                    return None
        fingerprint, not_checked = connection.execute("SELECT fingerprint, not_checked FROM facts").fetchone()
        return Board(connection), str(fingerprint), tuple(map(str, json.loads(not_checked)))
    except (sqlite3.Error, ValueError, TypeError):
        return None

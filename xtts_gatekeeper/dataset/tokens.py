"""How many tokens XTTS makes of a text, and if it knows all of them: by its own tokenizer, in a process of its own.

Importing TTS takes seconds and, with torch, half a gigabyte. So it is done beside the measuring of the audio, once for
each text and vocabulary: what was found is kept in the user's cache.

    python -m xtts_gatekeeper.dataset.tokens VOCAB < TEXTS > TOKENS
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from xtts_gatekeeper.dataset.store import Store, digest_of

#: `XTTSDataset.get_text` refuses both.
STOP, UNKNOWN = 0, 1
#: The rest of a line of stderr says which import it was.
_LAST_WORDS = 300
_AT_ONCE = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (
    vocab TEXT NOT NULL, key BLOB NOT NULL, count INTEGER NOT NULL, unknown INTEGER NOT NULL, stops INTEGER NOT NULL,
    error TEXT NOT NULL, PRIMARY KEY (vocab, key)
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one text: the tokens XTTS makes of it, the language's own included; how many are [UNK] and [STOP].

    `error`: why the tokenizer raises, as for a language it does not know; XTTS takes another clip then.
    """

    count: int
    unknown: int
    stops: int
    error: str = ""


def text_key(language: str, text: str) -> bytes:
    """16 bytes that stand for a text in a language."""
    return hashlib.blake2b(json.dumps([language, text]).encode(), digest_size=16).digest()


def encode(tokenizer: Any, language: str, text: str) -> Tokens:
    """Do as `XTTSDataset.get_text` does.

    Args:
        tokenizer: XTTS's `VoiceBpeTokenizer`.
        language: as in the samples.
        text: as in the samples.
    """
    try:
        ids = list(tokenizer.encode(text, language))
    except Exception as error:  # num2words and the romanizers raise all kinds
        return Tokens(0, 0, 0, f"{type(error).__name__}: {error}")
    return Tokens(len(ids), ids.count(UNKNOWN), ids.count(STOP))


def vocab_name(vocab: Path) -> str:
    """What the tokens of a vocabulary are kept under: its content, and the version of the code that cleans the text."""
    try:
        version = metadata.version("coqui-tts")
    except metadata.PackageNotFoundError:
        version = ""
    return f"{digest_of(str(vocab))} {version}"


def known_tokens(store: Store, vocab: str, keys: Iterable[bytes]) -> Iterator[tuple[bytes, Tokens]]:
    """What the cache has for some texts."""
    try:
        store.connection.execute(_SCHEMA)
    except sqlite3.Error:
        return
    query = "SELECT count, unknown, stops, error FROM tokens WHERE vocab = ? AND key = ?"
    for key in keys:
        try:
            row = store.connection.execute(query, [vocab, key]).fetchone()
        except sqlite3.Error:
            return
        if row is not None:
            yield key, Tokens(*row)


def keep_tokens(store: Store, vocab: str, found: Iterable[tuple[bytes, Tokens]]) -> None:
    """Put tokens into the cache. Not what was raised for want of a package: it may be installed by the next time."""
    rows = (
        (vocab, key, one.count, one.unknown, one.stops, one.error)
        for key, one in found
        if not one.error.startswith(("ImportError", "ModuleNotFoundError"))
    )
    try:
        store.connection.execute(_SCHEMA)
        store.connection.executemany("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?, ?, ?, ?)", rows)
        store.connection.commit()
    except sqlite3.Error:
        return


class TokenProcess:
    """The tokenizer at work on some texts, in a process of its own that ends with the block.

    Args:
        vocab: XTTS's vocab.json.
        texts: (key, language, text); read through at once, into a temporary file.
    """

    def __init__(self, vocab: Path, texts: Iterable[tuple[bytes, str, str]]) -> None:
        self._files: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115
        questions, answers, errors = self._files
        for key, language, text in texts:
            questions.write(json.dumps([key.hex(), language, text]).encode() + b"\n")
        questions.seek(0)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(vocab.absolute())],
            stdin=questions,
            stdout=answers,
            stderr=errors,
        )

    def __enter__(self) -> TokenProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for file in self._files:
            file.close()

    def wait(self) -> str | None:
        """Wait for its end; why it has failed, as a fragment of a sentence, or None."""
        if self._process.wait() == 0:
            return None
        errors = self._files[2]
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _LAST_WORDS))
        lines = errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the tokenizer's process ended with code {self._process.returncode}"

    def answers(self) -> Iterator[tuple[bytes, Tokens]]:
        """What it has found."""
        file = self._files[1]
        file.seek(0)
        for line in file:
            key, *found = json.loads(line)
            yield bytes.fromhex(key), Tokens(*found)


def main(vocab: str) -> None:
    """Answer the texts on stdin, a line each."""
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing that prints on import may get among them
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

    tokenizer = VoiceBpeTokenizer(vocab)
    with os.fdopen(answers, "w", encoding="utf-8") as out:
        for line in sys.stdin.buffer:
            key, language, text = json.loads(line)
            one = encode(tokenizer, language, text)
            out.write(json.dumps([key, one.count, one.unknown, one.stops, one.error]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

"""Metadata of speech data as a stream of clips: LJSpeech and Coqui's own CSV line by line, the rest by Coqui's readers.

A line that is wrong is a fault of that line, and the reading goes on. Read are the texts that the stock readers read,
with the quoting rules of Python's csv module where those use it: a stray quotation mark does to us what it does there.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtts_gatekeeper.dataset.clip import Clip, Fault
from xtts_gatekeeper.errors import UserError, nearest

LJSPEECH = "ljspeech"
COQUI = "coqui"
#: The files that Coqui's fine-tuning page writes, in place of one.
TRAIN_AND_EVAL = ("metadata_train.csv", "metadata_eval.csv")
#: And the one with the language in it.
LANGUAGE_FILE = "lang.txt"

#: No line of metadata is as long: what has one is another kind of file.
_LONGEST_LINE = 1 << 20
_BYTE_ORDER_MARK = "\ufeff"
#: What `surrogateescape` makes of bytes that are not UTF-8.
_UNDECODABLE = re.compile("[\udc80-\udcff]")
#: The format is guessed from so many lines.
_GUESSED_FROM = 50
_COQUI_COLUMNS = ("audio_file", "text")


@dataclass(frozen=True)
class Metadata:
    """One metadata file and how it is read.

    Args:
        root: folder that the audio files are named from.
        file: the metadata; None for a reader of Coqui's that looks for its files itself.
        format: `ljspeech`, `coqui`, or the name of another reader of Coqui's.
        language: of its clips, as XTTS names it; empty: what the file itself says.
        ignored_speakers: whose clips are passed over, as in the config of a run.
    """

    root: Path
    file: Path | None
    format: str
    language: str = ""
    ignored_speakers: tuple[str, ...] = field(default=())

    def entries(self) -> Iterator[Clip | Fault]:
        """The clips in the order of the file, and the faults of its lines.

        Raises:
            UserError: it cannot be read at all.
        """
        if self.file is not None and self.format == LJSPEECH:
            return _ljspeech(self.root, self.file, self.language)
        if self.file is not None and self.format == COQUI:
            return _coqui(self.root, self.file, self.language, frozenset(self.ignored_speakers))
        return _by_formatter(self)


def guess_format(file: Path) -> str:
    """`ljspeech` or `coqui`, by the first lines of a file.

    Raises:
        UserError: it is neither.
    """
    lines = [text.strip() for _, text in zip(range(_GUESSED_FROM), _texts(file), strict=False) if text and text.strip()]
    if not lines:
        raise UserError(
            f"{file} lists no clip; write one line for each, 'id|text' or under a header 'audio_file|text'."
        )
    if set(_COQUI_COLUMNS) <= {name.strip() for name in lines[0].split("|")}:
        return COQUI
    if 2 * sum("|" in line for line in lines) < len(lines):
        raise UserError(
            f"{file} is neither LJSpeech metadata (lines 'id|text') nor Coqui's (a header with audio_file|text): its "
            "lines have no '|'; name its format with --formatter."
        )
    return LJSPEECH


def language_beside(file: Path) -> str:
    """What a `lang.txt` beside the metadata says, as Coqui's fine-tuning page writes it; empty without one."""
    try:
        return (file.parent / LANGUAGE_FILE).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError):
        return ""


def _ljspeech(root: Path, file: Path, language: str) -> Iterator[Clip | Fault]:
    for number, text in enumerate(_texts(file), start=1):
        where = f"{file.name}:{number}"
        if text is None:
            yield _line(where, "encoding", f"{where} is not UTF-8; save the file as UTF-8")
            continue
        if not text.strip():
            continue
        name, *texts = (column.strip() for column in text.split("|"))
        if not texts:
            yield _line(where, "columns", f"{where} has no '|': 'id|text' is expected, so there is no text to train on")
            continue
        if not name or any(part in ("", ".", "..") for part in re.split(r"[/\\]", name)):
            yield _line(where, "bad_id", f"{where}: the id {name!r} names no file inside wavs")
            continue
        if len(texts) > 2:
            said = f"{where} has {len(texts) + 1} columns: a '|' in the text, of which XTTS gets one piece"
            yield Fault(name, "columns", "hard", said)
        spoken = next((column for column in reversed(texts[:2]) if column), "")
        yield Clip(name, os.path.abspath(root / "wavs" / f"{name}.wav"), spoken, language, LJSPEECH, where)  # noqa: PTH100


def _coqui(root: Path, file: Path, language: str, ignored: frozenset[str]) -> Iterator[Clip | Fault]:
    undecodable: list[int] = []
    rows = csv.reader(_decodable(file, undecodable), delimiter="|")
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise UserError(f"{file}:1 cannot be read ({error}).") from None
    if missing := [name for name in _COQUI_COLUMNS if name not in header]:
        raise UserError(f"{file}: its first line, the header, has no column {' or '.join(missing)}.")
    if _has_byte_order_mark(file):
        said = f"{file.name} begins with a byte order mark: Coqui's reader misses the first column; save it without"
        yield _line(f"{file.name}:1", "byte_order_mark", said)
    before = rows.line_num
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            before = rows.line_num
            yield _line(f"{file.name}:{before}", "columns", f"{file.name}:{before} cannot be read ({error})")
            continue
        for number in undecodable:
            yield _line(
                f"{file.name}:{number}", "encoding", f"{file.name}:{number} is not UTF-8; save the file as UTF-8"
            )
        undecodable.clear()
        if row is None:
            return
        first, before = before + 1, rows.line_num
        if row:
            yield from _coqui_row(root, f"{file.name}:{first}", header, row, before - first, language, ignored)


def _coqui_row(
    root: Path, where: str, header: list[str], row: list[str], swallowed: int, language: str, ignored: frozenset[str]
) -> Iterator[Clip | Fault]:
    fields = dict(zip(header, row, strict=False))
    audio, text = fields.get("audio_file"), fields.get("text")
    if not audio:
        yield _line(where, "bad_id", f"{where} names no audio file")
        return
    speaker = fields.get("speaker_name", "" if "speaker_name" in header else COQUI)
    if speaker in ignored:
        return
    if text is None:  # csv.DictReader says None there, and XTTSDataset makes a text of it
        yield _line(where, "columns", f"{where} has no text: XTTS would train on the word 'None'")
        return
    if len(row) > len(header):
        said = f"{where} has {len(row)} columns under a header of {len(header)}: a '|' in the text, which ends there"
        yield Fault(audio, "columns", "hard", said)
    if swallowed > 0:
        said = f"{where}: a quotation mark takes the next {swallowed} line(s) into this text; no clip is read from them"
        yield Fault(audio, "open_quote", "hard", said, float(swallowed))
    code = language or fields.get("language", "").strip()
    yield Clip(audio, os.path.abspath(root / audio), text, code, speaker, where)  # noqa: PTH100


def _by_formatter(metadata: Metadata) -> Iterator[Clip | Fault]:
    """By a reader of Coqui's, which reads the whole of it at once."""
    from xtts_gatekeeper.data import import_extra

    registry = import_extra("TTS.tts.datasets.formatters")._FORMATTER_REGISTRY
    name = metadata.format.lower()
    if name not in registry:
        raise UserError(f"Coqui has no formatter {metadata.format!r}; {nearest(name, registry)}")
    file = str(metadata.file.relative_to(metadata.root)) if metadata.file else ""
    try:
        with redirect_stdout(sys.stderr):  # a document may be on its way to stdout
            samples = registry[name](str(metadata.root), file, ignored_speakers=list(metadata.ignored_speakers) or None)
    except Exception as error:  # they raise whatever Python does at the line that they do not expect
        raise UserError(
            f"Coqui's formatter {name} cannot read {metadata.file or metadata.root} ({type(error).__name__}: {error})."
        ) from None
    for number, sample in enumerate(samples, start=1):
        yield _of_sample(sample, metadata, f"{file or metadata.root.name}, clip {number}")


def _of_sample(sample: dict[str, Any], metadata: Metadata, where: str) -> Clip:
    audio = os.path.abspath(str(sample["audio_file"]))  # noqa: PTH100
    name = os.path.relpath(audio, metadata.root) if metadata.root.is_absolute() else audio
    return Clip(
        name if not name.startswith("..") else audio,
        audio,
        str(sample["text"]),
        metadata.language or str(sample.get("language") or ""),
        str(sample.get("speaker_name") or ""),
        where,
    )


def _line(where: str, code: str, message: str) -> Fault:
    """A fault of a line that gives no clip; it is named by its place."""
    return Fault(where, code, "hard", message)


def _texts(file: Path) -> Iterator[str | None]:
    """The lines of a file, None where one is not UTF-8.

    Raises:
        UserError: it cannot be opened, or is no text.
    """
    try:
        # Lines end where they end for the stock readers, at a lone carriage return, too.
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            number = 0
            while line := stream.readline(_LONGEST_LINE):
                number += 1
                if "\0" in line or len(line) == _LONGEST_LINE:
                    raise UserError(f"{file} is no metadata: line {number} is not text.")
                if number == 1:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                yield None if _UNDECODABLE.search(line) else line
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}); check path and permissions.") from None


def _decodable(file: Path, undecodable: list[int]) -> Iterable[str]:
    """The lines for csv, an empty one in place of one that is not UTF-8, whose number is noted."""
    for number, text in enumerate(_texts(file), start=1):
        if text is None:
            undecodable.append(number)
        yield "\n" if text is None else text


def _has_byte_order_mark(file: Path) -> bool:
    with file.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(1) == _BYTE_ORDER_MARK

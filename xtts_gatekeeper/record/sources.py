"""From a path to records: what lies there, which reader reads it, and which of its runs is meant.

A reader is imported when something is there for it to read.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.build import Parser
from xtts_gatekeeper.record.events import Evaluation
from xtts_gatekeeper.record.journal import FOLDER, JOURNAL, journal_path, read_events
from xtts_gatekeeper.record.run import RunRecord

#: What a run folder may hold, in order of how much it tells. The Trainer writes one log a rank; rank 0 evaluates.
_LOGS = ("trainer_0_log.txt", "trainer_*_log.txt")
_OTHER_LOGS = "*.log"
_EVENTS = "events.out.tfevents.*"
_TABLES = ("*.csv", "*.tsv", "*.md")

_CHUNK = 1 << 20
_SNIFFED = 1 << 16
_HEAD = 1 << 12  # by which a file that was replaced is told from one that has grown

_LONGEST_SAFETENSORS_HEADER = 100_000_000
#: First bytes of files that people give by mistake.
_MAGIC = {
    b"PK\x03\x04": "a zip archive or a checkpoint; give the run's folder or its log",
    b"\x80\x02": "a checkpoint in the old pickle format; give the run's folder or its log",
    b"\x80\x03": "a pickle; give the run's folder or its log",
    b"\x80\x04": "a pickle; give the run's folder or its log",
    b"\x80\x05": "a pickle; give the run's folder or its log",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"RIFF": "an audio file",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"%PDF": "a PDF",
}


@dataclass(frozen=True)
class Input:
    """Files that tell one story: a journal, one or several console logs, event files, or a table.

    `folder` is the run folder when they lie in one.
    """

    kind: str
    files: tuple[Path, ...]
    folder: Path | None = None


def find_input(path: Path) -> Input:
    """What to read for `path`: a file of any kind that is known, a run folder, or a folder that holds just one run.

    In a run folder the journal comes first, then the Trainer's console log, then TensorBoard events, then tables.

    Raises:
        UserError: nothing there, nothing to read in it, or several runs.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder, a log, an event file or a table.")
    if not path.is_dir():
        return _file_input(path)
    folder = path.resolve()
    if folder.name == FOLDER and (folder / JOURNAL).is_file():
        folder = folder.parent
    found = _in_folder(folder)
    if found is not None:
        return found
    runs: dict[str, Input | UserError] = {}
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            try:
                inside: Input | UserError | None = _in_folder(child)
            except UserError as error:  # several logs in it: which of them matters only if there is no other run
                inside = error
            if inside is not None:
                runs[child.name] = inside
    if len(runs) == 1:
        (only,) = runs.values()
        if isinstance(only, UserError):
            raise only
        return only
    if runs:
        raise UserError(f"{path} holds {len(runs)} runs; name one of them: {', '.join(runs)}.")
    raise UserError(
        f"{path} holds no run: no {FOLDER}/{JOURNAL}, no trainer_0_log.txt, no TensorBoard events and no table."
    )


def find_run(path: Path) -> Path:
    """The run folder meant by `path`; for a verb that needs the folder itself.

    Raises:
        UserError: see `find_input`; also when `path` is a log that lies in no run folder.
    """
    found = find_input(path)
    if found.folder is None:
        raise UserError(f"{path} is not a run folder; give the folder of a run.")
    return found.folder


def _in_folder(folder: Path) -> Input | None:
    for journal in (journal_path(folder), folder / JOURNAL):  # the second was copied out of its run
        if journal.is_file():
            return Input("journal", (journal,), folder)
    for pattern in _LOGS:
        logs = _matching(folder, pattern)
        if logs:
            return _one_of(folder, "console", logs)
    logs = [file for file in _matching(folder, _OTHER_LOGS) if _is_log(file)]
    if logs:
        return _one_of(folder, "console", logs)
    events = _matching(folder, _EVENTS)
    if events:
        return Input("tensorboard", tuple(events), folder)
    tables = [file for pattern in _TABLES for file in _matching(folder, pattern) if _is_table(file)]
    if tables:
        return _one_of(folder, "table", tables)
    texts = [file for file in _matching(folder, "*.txt") if _is_log(file)]
    return _one_of(folder, "console", texts) if texts else None


def _matching(folder: Path, pattern: str) -> list[Path]:
    return sorted(file for file in folder.glob(pattern) if file.is_file())


def _one_of(folder: Path, kind: str, files: list[Path]) -> Input:
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"{folder} holds {len(files)} logs or tables; name one of them: {names}.")
    return Input(kind, (files[0],), folder)


def _file_input(path: Path) -> Input:
    from xtts_gatekeeper.record.table import looks_like_table
    from xtts_gatekeeper.record.tensorboard import looks_like_events

    if not path.is_file():
        raise UserError(f"{path} is no file that can be read twice; write what comes out of it to a file first.")
    head = _head(path)
    if not head:
        raise UserError(f"{path} is empty.")
    if path.name == JOURNAL:
        folder = path.resolve().parent
        return Input("journal", (path,), folder.parent if folder.name == FOLDER else folder)
    if head.lstrip().startswith(b'{"type"'):
        return Input("journal", (path,))
    if looks_like_events(head):
        return Input("tensorboard", (path,))
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"{path} is no log: it is {what}.")
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < _LONGEST_SAFETENSORS_HEADER:
        raise UserError(f"{path} is no log: it is a checkpoint (safetensors); give the run's folder or its log.")
    if "tfevents" in path.name:  # its first record may be damaged
        return Input("tensorboard", (path,))
    text = Decoder().decode(head)
    control = sum(byte < 9 or 13 < byte < 27 or 27 < byte < 32 for byte in text)
    if not head.strip(b"\0") or control > len(text) / 50:  # nothing but zeros: a disk lost what was written
        raise UserError(f"{path} is no log: it is a binary file.")
    if looks_like_table(text):
        return Input("table", (path,))
    in_its_folder = path.match(_LOGS[0])
    return Input("console", (path,), path.resolve().parent if in_its_folder else None)


def _head(path: Path, size: int = _SNIFFED) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _is_table(path: Path) -> bool:
    from xtts_gatekeeper.record.table import looks_like_table

    return looks_like_table(Decoder().decode(_head(path)))


def _is_log(path: Path) -> bool:
    from xtts_gatekeeper.record.console import ConsoleParser

    parser = ConsoleParser()
    parser.feed(Decoder().decode(_head(path)))
    return parser.recognised


class Decoder:
    """Brings a text file to bytes in an encoding that contains ASCII, a chunk at a time.

    PowerShell's `Tee-Object` and `>` write UTF-16, and append it to files in other encodings. With a byte order mark
    at the start the whole is decoded; further on, the zero bytes of UTF-16 are dropped, which leaves the grammar of
    the logs whole and spoils only letters outside Latin-1.
    """

    def __init__(self) -> None:
        self._utf16: codecs.IncrementalDecoder | None = None
        self._begun = False

    def decode(self, data: bytes) -> bytes:
        """The next bytes."""
        if not self._begun and data:
            self._begun = True
            if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                self._utf16 = codecs.getincrementaldecoder("utf-16")(errors="replace")
        if self._utf16 is not None:
            return self._utf16.decode(data).encode(errors="replace")
        return data.replace(b"\0", b"") if b"\0" in data else data


def parser_for(kind: str, metrics: Mapping[str, str] | None = None) -> Parser:
    """A new reader of `console`, `tensorboard` or `table` input.

    Args:
        kind: see `Input`.
        metrics: our name -> tag or column, for those whose own name says too little.
    """
    if kind == "tensorboard":
        from xtts_gatekeeper.record.tensorboard import TensorBoardParser

        return TensorBoardParser(metrics=metrics)
    if kind == "table":
        from xtts_gatekeeper.record.table import TableParser

        return TableParser(metrics=metrics)
    from xtts_gatekeeper.record.console import ConsoleParser

    return ConsoleParser()


def read_runs(source: Input, metrics: Mapping[str, str] | None = None) -> list[RunRecord]:
    """Every run in `source`, in order; streaming, whatever its size.

    Raises:
        UserError: the file is empty, or holds nothing that a training writes.
    """
    if source.kind == "journal":
        events = tuple(read_events(source.files[0]))
        if not events:
            raise UserError(f"{source.files[0]} is empty: the run has recorded nothing yet.")
        return [RunRecord(events)]
    parser = parser_for(source.kind, metrics)
    for file in source.files:
        _next_file(parser)
        for chunk in _chunks(file, decode=source.kind != "tensorboard"):
            parser.feed(chunk)
    parser.close()
    records = parser.records()
    if source.kind == "tensorboard":
        return _of_events(source, records)
    if not getattr(parser, "recognised", bool(records)):
        raise UserError(f"{source.files[0]} holds no output of a training that is known: nothing to judge.")
    return records or [RunRecord((), source.kind)]


def _of_events(source: Input, records: list[RunRecord]) -> list[RunRecord]:
    """`records`, or an empty one for event files that hold no evaluation yet.

    Raises:
        UserError: no file is what its name says.
    """
    from xtts_gatekeeper.record.tensorboard import looks_like_events

    if not any(record.events for record in records):
        if not any(looks_like_events(_head(file)) for file in source.files):
            raise UserError(f"{source.files[0]} is no event file of TensorBoard: nothing in it can be read.")
        return records or [RunRecord((), "tensorboard")]
    return records


def _next_file(parser: Parser) -> None:
    """Tell a reader of several files that another one begins."""
    begin = getattr(parser, "next_file", None)
    if begin is not None:
        begin()


def _chunks(path: Path, decode: bool) -> Iterator[bytes]:
    decoder = Decoder()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield decoder.decode(chunk) if decode else chunk


class Follower:
    """Reads a source that is still growing, only what is new each time."""

    def __init__(self, path: Path, metrics: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._metrics = metrics
        self._begin(find_input(path))

    def _begin(self, source: Input) -> None:
        self._source = source
        self._parser = None if source.kind == "journal" else parser_for(source.kind, self._metrics)
        self._read: dict[Path, int] = {}
        self._heads: dict[Path, bytes] = {}
        self._decoders: dict[Path, Decoder] = {}

    def poll(self) -> list[RunRecord]:
        """Every run so far. A file that was replaced or has become shorter is read anew.

        Raises:
            UserError: what was there is gone.
        """
        source = find_input(self._path)
        if source.files[: len(self._source.files)] != self._source.files or self._rewritten(source):
            self._begin(source)
        self._source = source
        if self._parser is None:
            return read_runs(source)
        before = sum(self._read.values())
        for file in source.files:
            self._feed(self._parser, file)
        if source.kind == "tensorboard" and before and sum(self._read.values()) == before:
            # The scalars of one evaluation come one by one, and no mark ends them; now they have ceased to come.
            return read_runs(source, self._metrics)
        return self._parser.records() or [RunRecord((), source.kind)]

    def _rewritten(self, source: Input) -> bool:
        """Whether a file shrank, begins otherwise, or, being one before the last, has grown after its end was read."""
        if any(not _head(file, _HEAD).startswith(self._heads.get(file, b"")) for file in source.files):
            return True
        sizes = [(file.stat().st_size, self._read.get(file)) for file in source.files]
        return any(had is not None and size < had for size, had in sizes) or any(
            had is not None and size > had and later is not None for (size, had), (_, later) in pairwise(sizes)
        )

    def _feed(self, parser: Parser, file: Path) -> None:
        if file not in self._read:
            _next_file(parser)
        decoder = self._decoders.setdefault(file, Decoder())
        with file.open("rb") as stream:
            stream.seek(self._read.get(file, 0))
            while chunk := stream.read(_CHUNK):
                if len(head := self._heads.get(file, b"")) < _HEAD and self._read.get(file, 0) == len(head):
                    self._heads[file] = (head + chunk)[:_HEAD]
                self._read[file] = stream.tell()
                parser.feed(chunk if self._source.kind == "tensorboard" else decoder.decode(chunk))

    def wait(self, seconds: float) -> None:
        """Until the next look. A look by the clock works on network drives, too, where no event is sent."""
        time.sleep(seconds)


def choose_run(runs: list[RunRecord], name: str | None, path: Path, folder: Path | None = None) -> RunRecord:
    """The run called `name`, or by its number from 1.

    Without a name it is the last, which is the newest; but in a run folder the one that is called like the folder, for
    the Trainer never closes its log, and a later run of the same process writes into that of the earlier one, too.

    Raises:
        UserError: no such run.
    """
    if name is None:
        own = [run for run in runs if folder is not None and run.name == folder.name]
        return own[0] if own else runs[-1]
    for number, run in enumerate(runs, 1):
        if name in (run.name, str(number)):
            return run
    names = ", ".join(run.name or str(number) for number, run in enumerate(runs, 1))
    raise UserError(f"{path} has no run {name!r}; it has {names}.")


def read_run(path: str | Path, name: str | None = None, metrics: Mapping[str, str] | None = None) -> RunRecord:
    """Read the record of a run, finished or still running, watched by the gatekeeper or not.

    Args:
        path: a run folder, a folder that holds just one run, a journal, a console log, an event file or a table.
        name: which run, where the file holds several; by default the last.
        metrics: our name -> tag or column, for those whose own name says too little.

    Raises:
        UserError: see `find_input`; also for a file that holds nothing to read.
    """
    path = Path(path)
    source = find_input(path)
    return choose_run(read_runs(source, metrics), name, path, source.folder)


_MOST_DIGITS = 18  #: of a step


def evaluation_at(record: RunRecord, at: str) -> Evaluation:
    """The evaluation meant by `epoch:N` (the one that ended the Nth epoch) or `step:N` (the last up to there).

    Raises:
        UserError: another form, or no evaluation there.
    """
    kind, _, number = at.partition(":")
    if kind not in ("epoch", "step") or not number.isdecimal() or len(number) > _MOST_DIGITS:
        raise UserError(f"--at {at!r} is neither epoch:N nor step:N, with N a whole number.")
    limit = int(number)
    if kind == "epoch":
        found = [e for e in record.evaluations if not e.mid_epoch and record.epochs_done(e) == limit]
    else:
        found = [e for e in record.evaluations if e.step <= limit]
    if not found:
        raise UserError(f"the run has no evaluation at {at}; it has {len(record.evaluations)} evaluations.")
    return found[0] if kind == "epoch" else found[-1]

"""`ConsoleParser`: the console log of any Coqui Trainer (`trainer_0_log.txt`, a terminal's output, a notebook) as runs.

Nearly all of a log are logged training steps, nearly all of them alike. One step is read line by line, which teaches
the `Layout` of the log; from then on a regex cuts whole chunks into steps, and of a stretch of them only the first and
the last are read line by line. Of those between, only the losses are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from operator import lt

from xtts_gatekeeper.record.console_epoch import Step, iso, seconds_of
from xtts_gatekeeper.record.console_grammar import (
    BARE_EXCEPTION,
    CHAINED,
    EXCEPTION,
    IN_TRAINING,
    MARK,
    MAYBE_MARK,
    PATH,
    SETTING,
    TRACEBACK,
    VALUE,
    Layout,
    Logged,
    clean,
    decoded,
    incident_code,
)
from xtts_gatekeeper.record.console_run import ConsoleStory
from xtts_gatekeeper.record.names import XTTS_WEIGHTS
from xtts_gatekeeper.record.run import RunRecord

#: What is read at once; also the longest line that counts as one, since binary data has lines without end.
_PIECE = 1 << 20
_LONGEST_LINE = 1 << 20
#: Below that, cutting a text into steps costs more than reading its lines.
_SHORT = 4096
_MOST_VALUES = 500  # of a block; the largest models log about twenty
_LONGEST_VALUE = 200  # bytes, with its average; a tensor with its device has 40
_LONGEST_STEP = 16_384
_LONGEST_MESSAGE = 2000
_MOST_LAYOUTS = 50  # a log has one or two
_MOST_FRAMES = 400  # lines of a traceback
_FAILURE = re.compile(rb"CUDA out of memory|No space left on device")


class _Block:
    """The lines below a header, until one is no value."""

    def __init__(self, header: re.Match[bytes], raw: bytes) -> None:
        self.header = header
        self.kind = header.lastgroup
        self.values: list[Logged] = []
        #: The lines as they stand in the log, None when there is more than lines of values between them.
        self.raw: list[bytes] | None = [raw]


class _Traceback:
    """A traceback on its way to its last line, and those chained to it."""

    def __init__(self, chain: Sequence[str] = (), in_training: bool = False) -> None:
        self.chain = list(chain)
        self.in_training = in_training
        self.again = bool(chain)
        self.lines = 0
        self.ended = False
        self.chained = False


class ConsoleParser:
    """A `Parser` of console logs.

    Args:
        weights: logged key -> (our name, weight of that loss), see `names.named_metrics`.
    """

    def __init__(self, weights: Mapping[str, tuple[str, float]] = XTTS_WEIGHTS) -> None:
        self._story = ConsoleStory(weights)
        self._tail = bytearray()  # a line without its end
        self._too_long = False
        self._layout: Layout | None = None
        self._layouts = 0
        self._learned = False
        self._block: _Block | None = None
        self._settings = False  # within the Training Environment block
        self._epoch: tuple[int, int] | None = None  # its folder comes on the next line
        self._traceback: _Traceback | None = None

    @property
    def recognised(self) -> bool:
        """Whether anything was seen that only a Coqui Trainer prints."""
        opened = self._block is not None and self._block.kind != "eval_step"
        return self._story.begun or self._epoch is not None or opened

    def feed(self, data: bytes) -> None:
        """Take the next bytes; a chunk may end anywhere."""
        for start in range(0, len(data), _PIECE):
            self._feed(data[start : start + _PIECE])

    def close(self) -> None:
        """The input is over: settle what is pending."""
        last = bytes(self._tail)
        self._tail.clear()
        if last and not self._too_long and len(last) <= _LONGEST_LINE:
            # A number at the end of a line that was cut off lacks its last digits, or its exponent.
            value = last.rfind(b"| > ")
            self._all_lines(last if value < 0 or b"(" in last[value:] else last[:value])
        self._end_block()
        self._settle_epoch(None)

    def records(self) -> list[RunRecord]:
        """The runs so far; an evaluation counts once its block is over."""
        return self._story.records()

    # -- bytes to lines

    def _feed(self, piece: bytes) -> None:
        if self._tail.endswith(b"\r"):  # it ends a line, unless the line feed that belongs to it comes now
            del self._tail[-1]
            piece = b"\r" + piece
        # A carriage return ends a line, too: progress bars write over themselves. The last byte waits for its \n.
        end = max(piece.rfind(b"\n"), piece.rfind(b"\r", 0, len(piece) - 1)) + 1
        if end == 0:
            self._keep(piece)
            return
        text = piece[:end]
        if self._too_long:
            text = text[_first_line(text) :]
        elif self._tail:
            text = bytes(self._tail) + text
        self._tail.clear()
        self._too_long = False
        self._keep(piece[end:])
        while text:
            text = self._steps(text) if self._layout is not None and len(text) >= _SHORT else self._lines(text)

    def _keep(self, rest: bytes) -> None:
        if not self._too_long:
            self._tail += rest
            self._too_long = len(self._tail.removesuffix(b"\r")) > _LONGEST_LINE
        if self._too_long:
            self._tail[:] = b"\r" if rest.endswith(b"\r") else b""

    # -- whole steps

    def _steps(self, text: bytes) -> bytes:
        """Read `text`, whole steps at a time; returns what is left, nothing."""
        layout = self._layout
        assert layout is not None
        parts = layout.split(text)
        stride = layout.stride
        gaps = parts[::stride]
        filled = [index for index, gap in enumerate(gaps) if gap]
        if any(not gaps[index].endswith((b"\n", b"\r")) for index in filled):
            # A step that begins in the middle of a line is none.
            self._all_lines(text)
            return b""
        columns = [parts[group::stride] for group in range(1, stride)]
        start = 0
        for index in filled:
            self._stretch(layout, columns, start, index)
            self._all_lines(gaps[index])
            start = index
        self._stretch(layout, columns, start, len(gaps) - 1)
        return b""

    def _stretch(self, layout: Layout, columns: Sequence[Sequence[bytes]], start: int, end: int) -> None:
        """Steps that follow each other, of which the first and the last go the long way."""
        wholes = columns[0]
        if end - start > 3 and self._regular(columns, slice(start, end)):
            self._all_lines(wholes[start])
            inner = slice(start + 1, end - 1)
            losses = {key: columns[4 + i][inner] for i, key in enumerate(layout.keys)}
            start = end - 1 if self._story.add_many(losses) else start + 1
        for whole in wholes[start:end]:
            self._all_lines(whole)

    @staticmethod
    def _regular(columns: Sequence[Sequence[bytes]], part: slice) -> bool:
        """Whether the steps are of one epoch of one process: s and GLOBAL_STEP only grow, N stays."""
        sizes = columns[2][part]
        if sizes.count(sizes[0]) < len(sizes):
            return False
        within, done = list(map(int, columns[1][part])), list(map(int, columns[3][part]))
        return all(map(lt, within, within[1:])) and all(map(lt, done, done[1:]))

    def _learn(self, raw: list[bytes]) -> None:
        if self._layouts >= _MOST_LAYOUTS or sum(map(len, raw)) > _LONGEST_STEP:
            return
        if self._layout is not None and self._layout.takes(b"".join(raw)):
            return
        described = Layout.describe(raw)
        if described is not None and (self._layout is None or described[0] != self._layout.pattern):
            self._layout = Layout(*described)
            self._layouts += 1
            self._learned = True

    # -- lines

    def _all_lines(self, text: bytes) -> None:
        while text:
            text = self._lines(text)

    def _lines(self, text: bytes) -> bytes:
        """Read lines until a layout was learned; returns the rest."""
        self._learned = False
        position = 0
        for raw in text.splitlines(keepends=True):
            position += len(raw)
            if len(raw) <= _LONGEST_LINE + 2 and len(raw.rstrip(b"\r\n")) <= _LONGEST_LINE:
                lines = clean(raw)
                if len(lines) > 1 and self._block is not None:
                    self._block.raw = None
                for line in lines:
                    self._line(line, raw if len(lines) == 1 else b"")
                if self._learned:
                    return text[position:]
        return b""

    def _line(self, line: bytes, raw: bytes) -> None:
        blank = not line.strip()
        block = self._block
        if block is not None:
            value = VALUE.match(line)
            if value is not None:
                if len(block.values) < _MOST_VALUES:
                    block.values.append(Logged(value[1].decode(), value[2][:_LONGEST_VALUE]))
                    if block.raw is not None:
                        block.raw.append(raw)
                return
            if block.values:
                self._end_block(raw if blank else None)
            else:
                block.raw = None
        if blank:
            return
        if self._epoch is not None:
            path = PATH.match(line)
            self._settle_epoch(None if path is None else decoded(path[1].strip()))
            if path is not None:
                return
        if b">" in line or b"! Run" in line:
            setting = SETTING.match(line) if self._settings else None
            if setting is not None:
                self._story.setting(decoded(setting[1].strip()), decoded(setting[2].strip()))
                return
            mark = MARK.search(line) if MAYBE_MARK.search(line) else None
            if mark is not None:
                self._mark(mark, raw)
                return
        self._settings = False
        if self._story.begun or self._block is not None:
            self._other(line)

    def _mark(self, mark: re.Match[bytes], raw: bytes) -> None:
        self._end_block()
        self._settings = False
        self._traceback = None
        kind = mark.lastgroup
        if kind in ("step", "eval_step", "performance", "train_performance"):
            self._block = _Block(mark, raw)
        else:
            _MARKS[kind or ""](self, mark)

    def _end_block(self, blank: bytes | None = None) -> None:
        """Tell what a block holds; `blank` is the line that ended it, if it was a blank one."""
        block, self._block = self._block, None
        if block is None:
            return
        header, values = block.header, block.values
        if block.kind == "step":
            self._story.step(Step(int(header["s"]), int(header["n"]), int(header["g"]), iso(header["time"]), values))
            if block.raw is not None and blank is not None and blank.endswith(b"\n"):
                self._learn([*block.raw, blank])
        elif block.kind == "performance":
            self._story.performance(values)
        elif block.kind == "train_performance":
            done = header["done"]
            self._story.train_performance(values, seconds_of(header["seconds"]), int(done) if done else None)
        # The lines below `STEP: n` are an evaluation's, printed with `print_eval`: nobody's mean.

    def _settle_epoch(self, path: str | None) -> None:
        if self._epoch is not None:
            number, last = self._epoch
            self._epoch = None
            self._story.epoch(number, last, path)

    def _begin_epoch(self, mark: re.Match[bytes]) -> None:
        self._epoch = int(mark["number"]), int(mark["last"])

    def _begin_environment(self, mark: re.Match[bytes]) -> None:
        self._story.environment()
        self._settings = True

    # -- everything else

    def _other(self, line: bytes) -> None:
        """A line that is no mark: part of a traceback, an exception, or nothing of ours."""
        line = line[:_LONGEST_MESSAGE]
        trace = self._traceback
        if TRACEBACK in line:
            chained = trace is not None and trace.ended and trace.chained
            self._traceback = _Traceback(trace.chain, trace.in_training) if trace and chained else _Traceback()
        elif trace is not None and not trace.ended:
            trace.lines += 1
            if EXCEPTION.match(line):
                trace.ended = True
                trace.chain.append(decoded(line.strip()))
                self._story.failure(trace.chain, trace.in_training, trace.again)
            elif IN_TRAINING.search(line):
                trace.in_training = True
            elif trace.lines > _MOST_FRAMES:
                self._traceback = None
        elif trace is not None and CHAINED.search(line):
            trace.chained = True
        elif BARE_EXCEPTION.match(line):
            self._story.failure([decoded(line.strip())], in_training=False, again=False)
        elif _FAILURE.search(line):
            message = decoded(line.strip())
            if incident_code(message) != "error":
                self._story.trouble(message)


def _first_line(text: bytes) -> int:
    """Where the second line begins."""
    found = re.search(rb"\r\n|\r|\n", text)
    return found.end() if found else len(text)


def _path(text: bytes) -> str:
    """A path at the end of a line, without what Markdown and JSON put behind it."""
    return decoded(text).strip().rstrip("*`\"'")


_MARKS: dict[str, Callable[[ConsoleParser, re.Match[bytes]], None]] = {
    "epoch": ConsoleParser._begin_epoch,
    "environment": ConsoleParser._begin_environment,
    "training": lambda parser, mark: parser._story.training(iso(mark["started"])),
    "evaluation": lambda parser, mark: parser._story.evaluation(),
    "best": lambda parser, mark: parser._story.checkpoint("best", _path(mark["best_path"])),
    "checkpoint": lambda parser, mark: parser._story.checkpoint("latest", _path(mark["checkpoint_path"])),
    "folder": lambda parser, mark: parser._story.folder(_path(mark["folder_path"])),
    "eval_clips": lambda parser, mark: parser._story.eval_clips(int(mark["clips"])),
    "restoring": lambda parser, mark: parser._story.restoring(decoded(mark["file"])),
    "restored": lambda parser, mark: parser._story.restored(int(mark["restored_step"])),
    "interrupted": lambda parser, mark: parser._story.interrupted(),
    "left": lambda parser, mark: parser._story.left(),
}

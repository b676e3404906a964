"""The grammar of the Coqui Trainer's console log: marks, values, and the layout in which a log repeats its steps.

Everything is bytes: the grammar is ASCII, and decoding a log of gigabytes would cost more than reading it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from xtts_gatekeeper.record.names import is_loss

# More digits are no count of anything, and Python refuses to convert thousands of them.
_INT = rb"\d{1,18}"
_STAMP = rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
_NUMBER = rb"[-+]?(?:\d[\d.]*(?:[eE][-+]?\d+)?|[nN]a[nN]|[iI]nf)"
# What may follow a number. Without it a regex would take `5` for a `5e-06` that is cut off or oddly written.
_BORDER = rb"(?=[\s,()])"

#: The lines that mean something, wherever they stand in a line: notebooks and loggers put things before them.
MARK = re.compile(
    rb"(?P<epoch>> EPOCH: (?P<number>" + _INT + rb")/(?P<last>" + _INT + rb"))"
    rb"|(?P<training>> TRAINING \((?P<started>" + _STAMP + rb")\))"
    rb"|(?P<step>--> (?:TIME: (?P<time>" + _STAMP + rb") -- )?STEP: (?P<s>" + _INT + rb")/(?P<n>" + _INT + rb")"
    rb" -- GLOBAL_STEP: (?P<g>" + _INT + rb"))"
    rb"|(?P<eval_step>--> STEP: " + _INT + rb"\s*$)"
    rb"|(?P<evaluation>> EVALUATION\b)"
    rb"|(?P<performance>--> EVAL PERFORMANCE)"
    rb"|(?P<train_performance>--> TRAIN PERFORMAN?CE(?: -- EPOCH TIME: (?P<seconds>[\d.]+) sec)?"
    rb"(?: -- GLOBAL_STEP: (?P<done>" + _INT + rb"))?)"
    rb"|(?P<best>> BEST MODEL : (?P<best_path>.+))"
    rb"|(?P<checkpoint>> CHECKPOINT : (?P<checkpoint_path>.+))"
    rb"|(?P<environment>> Training Environment:)"
    rb"|(?P<folder>> Start Tensorboard: tensorboard --logdir=(?P<folder_path>.+))"
    rb"|(?P<eval_clips>> Total eval samples after filtering: (?P<clips>" + _INT + rb"))"
    rb"|(?P<restoring>> (?P<verb>Continuing|Restoring) from (?P<file>[^\s/\\]+\.pth)\s)"
    rb"|(?P<restored>> Model restored from step (?P<restored_step>" + _INT + rb"))"
    rb"|(?P<interrupted>> Keyboard interrupt detected)"
    rb"|(?P<left>! Run is (?:kept in|removed from) )"
)
#: Found in every line that holds a mark, and far faster to look for.
MAYBE_MARK = re.compile(rb"[>!] [BCEKMRST]")
#: Says where a run is written; only right after its EPOCH line, since everything else begins with an arrow, too.
PATH = re.compile(rb"\s*--> (?!STEP|TIME|EVAL|TRAIN)(.+)")
#: `| > key: value`
VALUE = re.compile(rb"[\s*>]*\| > ([A-Za-z_][\w./-]{0,99})\s?:(.*)", re.DOTALL)
SETTING = re.compile(rb"[\s*>]*\| > ([^:]+): ?(.*)")
_READING = re.compile(
    # The second number is an average or a difference. One without its closing bracket may be cut off: no number.
    rb"\s*(?:tensor\()?(" + _NUMBER + rb")(?=[\s,()]|$)[^(]*(?:\((?:tensor\()?(" + _NUMBER + rb")(?:[^()]*\))?\))?"
)
_COLOUR = re.compile(rb"\x1b\[[\d;?]*[A-Za-z]|\[\d{1,2}(?:;\d{1,2})*m")

TRACEBACK = b"Traceback (most recent call last)"
CHAINED = re.compile(rb"During handling of the above exception|The above exception was the direct cause")
#: A frame of the traceback lies in the Trainer's own loop.
IN_TRAINING = re.compile(rb"trainer\.py.*\bin (?:Trainer\.)?(?:_?fit|train_epoch|train_step|eval_epoch)\b")
#: The last line of a traceback. Outside of one only names that can be nothing else are taken for it.
EXCEPTION = re.compile(rb"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:: .*)?$")
BARE_EXCEPTION = re.compile(rb"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)(?:: .*)?$")

_CODES = (
    ("oom", re.compile(r"out of memory|OutOfMemoryError|not enough memory|MemoryError|Cannot allocate memory")),
    ("disk_full", re.compile(r"Errno 28\b|No space left on device|WinError 112\b")),
    ("cuda_error", re.compile(r"CUDA error|cuDNN error|CUBLAS_STATUS|CUDNN_STATUS|NCCL error|device-side assert")),
)


@dataclass(frozen=True)
class Logged:
    """A `| > key: value (bracket)` line; the bracket holds an average or a difference. NaN is a value, None is not.

    Reading a bracket is left to who needs it: of a million steps only the last of each epoch.
    """

    key: str
    text: bytes

    @property
    def value(self) -> float | None:
        """The value, None where it cannot be read."""
        return self._number(1)

    @property
    def bracket(self) -> float | None:
        """The number in brackets, None where there is none or it cannot be read."""
        return self._number(2)

    def _number(self, group: int) -> float | None:
        found = _READING.match(self.text)
        return None if found is None or found[group] is None else to_float(found[group])


def to_float(text: bytes) -> float | None:
    """The number, or None: the grammar lets `1.2.3` pass."""
    try:
        return float(text)
    except ValueError:
        return None


def decoded(text: bytes) -> str:
    """A path or a message as text, whatever its encoding: UTF-8, else that of a Central European Windows."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("cp1250", errors="replace")


def clean(line: bytes) -> Sequence[bytes]:
    """The line without colours; in a notebook's JSON a line is a string, which may hold several lines.

    Some consoles and pages drop the escape character and leave its `[92m`.

    >>> clean(b"\\x1b[1m > EVALUATION \\x1b[0m")
    [b' > EVALUATION ']
    """
    line = line.rstrip(b"\r\n")
    if line.lstrip()[:1] == b'"':
        try:
            text = json.loads(line.strip().rstrip(b",").decode(errors="replace"), strict=False)
        except ValueError:
            text = None
        if isinstance(text, str):
            encoded = text.encode(errors="replace")
            return [_COLOUR.sub(b"", part) for part in encoded.splitlines()] or [b""]
    return [_COLOUR.sub(b"", line) if b"[" in line else line]


def incident_code(message: str) -> str:
    """What kind of failure an exception's text tells of."""
    return next((code for code, pattern in _CODES if pattern.search(message)), "error")


def finite(value: float | None) -> bool:
    """Whether it is a number that can be calculated with."""
    return value is not None and math.isfinite(value)


class Layout:
    """How a log writes its training steps, learned from one of them: one regex then takes whole steps, in C.

    It must take nothing that reading line by line would understand in another way, so it is narrow: the same keys in
    the same order, each with or without a bracket as before, a readable value for every loss, a blank line at the end.
    """

    def __init__(self, pattern: bytes, keys: tuple[str, ...]) -> None:
        self.pattern = pattern
        self.keys = keys
        self.split = re.compile(pattern).split
        self.takes = re.compile(pattern).fullmatch
        #: Parts of a split per step: what stood before it, the whole step, s, N, GLOBAL_STEP, the losses.
        self.stride = 5 + len(keys)

    @staticmethod
    def describe(lines: Sequence[bytes]) -> tuple[bytes, tuple[str, ...]] | None:
        """Regex and keys of the losses for the lines of one step, line ends and the blank line included."""
        header, *values, blank = lines
        found = MARK.search(header)
        if found is None or found.lastgroup != "step" or b"\r" in header.rstrip(b"\r\n"):
            return None
        pattern = _alike(header[: found.start("s")]) + b"(" + _INT + b")/(" + _INT + b")"
        pattern += _alike(header[found.end("n") : found.start("g")]) + b"(" + _INT + rb")(?!\d)"
        pattern += _alike(header[found.end("g") :].rstrip(b"\r\n")) + rb"\r?\n"
        keys = []
        for line in values:
            value = re.search(rb"\| > ([A-Za-z_][\w./-]*): ", line)
            if value is None:
                return None
            rest = line[value.end() :].rstrip(b"\r\n")
            number = b""
            if is_loss(key := value[1].decode()):
                keys.append(key)
                number = rb"(?:tensor\()?(" + _NUMBER + b")" + _BORDER
                rest = re.sub(rb"^(?:tensor\()?" + _NUMBER, b"", rest)
            text, escape, tail = rest.partition(b"\\")  # the `\n",` of a notebook's JSON
            bracket = rb"[^\r\n\\(]*" + (rb"\([^\r\n\\]*" if b"(" in text else b"")
            pattern += re.escape(line[: value.end()]) + number + bracket + re.escape(escape + tail) + rb"\r?\n"
        if len(set(keys)) < len(keys) or not keys:
            return None
        return b"(" + pattern + b"(?:" + re.escape(blank.rstrip(b"\r\n")) + rb"\r?\n)+)", tuple(keys)


def _alike(text: bytes) -> bytes:
    """A regex for the same text with other digits; as many, since a time has to stay a time."""
    return re.sub(rb"\d", rb"\\d", re.escape(text))

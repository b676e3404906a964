"""Python tracebacks in what a process printed, and what makes one exception the same as another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

_LONGEST_SIGNATURE = 100

_COLOURS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_HEADER = "Traceback (most recent call last):"
_FRAME = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
_ERROR = re.compile(r"(?P<type>[^\W\d][\w.]*(?:\.<locals>\.[\w.]+)*)(?P<colon>: ?(?P<message>.*))?$")
_CHAINED = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
#: Before a traceback that did not end the process.
_HARMLESS = ("Exception ignored ", "Exception in thread ", "Error in atexit.", "--- Logging error ---")
#: A line that is no message any more: another block, a part of an exception group, or a line of a log.
_AFTER = re.compile(
    rf".*{re.escape(_HEADER)}$|\+[-+]+|\s+[>|] |xtts-gatekeeper: |usage: |terminate called |Fatal Python error"
    r"|Exception (ignored|in thread) "
)
_GROUP_PART = re.compile(r"\+[-+]+ \d+ -+")
_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\\/]+[^\\/\s'\"<>:|]+){2,}")
_NUMBER = re.compile(r"\b(?:0x)?(?=[a-f]*\d)[\da-f]{7,}\b|0x[\da-fA-F]+|\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Error:
    """A Python exception.

    `type` is qualified as in a traceback. `traceback` is its text, with that of the exceptions it came from. `where` is
    the innermost frame, `file.py:123 in function`, the file without its folder.
    """

    type: str
    message: str
    traceback: str
    where: str = ""

    @property
    def signature(self) -> str:
        """The same for the same bug: type, place, and the message's first line without numbers, addresses and paths.

        Of an exception that a loader's worker passed on it is that of the worker, whichever of the two was seen.
        """
        inner = last_traceback(self.message)
        if inner is not None:
            return inner.signature
        said = _PATH.sub(lambda path: "*" + PurePosixPath(path[0].replace("\\", "/")).suffix, self.first_line)
        said = _NUMBER.sub("N", said)[:_LONGEST_SIGNATURE].strip()
        # A traceback leaves out the module of a script's own exceptions.
        return " ".join(part for part in (self.type.removeprefix("__main__."), self.where, said) if part)

    @property
    def first_line(self) -> str:
        """The first line of the message that is not blank."""
        return next((line.strip() for line in self.message.splitlines() if line.strip()), "")

    def causes(self) -> list[Error]:
        """The exceptions of its traceback, the last one first: itself, and those that it came from or consists of."""
        return [block.error for block in _blocks(clean(self.traceback).split("\n"))][::-1]


def last_traceback(output: str) -> Error | None:
    """The last Python traceback in what was printed, or None.

    One that did not end the process is passed over: of an exception in a thread, in a destructor or at exit. Of chained
    exceptions it is the last one, of a group the group itself, and of one that a loader's worker passed on the
    worker's. `traceback` has all of them.
    """
    found = _last(output)
    return found[0] if found else None


def after_tracebacks(output: str) -> str:
    """What was printed after the last traceback, cleaned; all of it where there is none."""
    found = _last(output)
    return found[1] if found else clean(output)


def clean(output: str) -> str:
    """Lines as they were meant: no colours, the states of a progress bar one below the other, no names of ranks."""
    text = re.sub(r"\r+", "\n", re.sub(r"\r+\n", "\n", _COLOURS.sub("", output)))
    text = re.sub(r"^\[rank\d+\]: ?", "", text, flags=re.MULTILINE)
    if f"Exception Group {_HEADER}" in text:
        text = re.sub(r"^ +(?:\| ?|(?=\+[-+])|\+ (?=Exception Group))", "", text, flags=re.MULTILINE)
    return text


@dataclass(frozen=True)
class _Block:
    """An exception in printed lines, of which it takes those from `start` to before `end`.

    `joined`: it belongs to the one before it. `part`: it is one of an exception group.
    """

    error: Error
    start: int
    end: int
    joined: bool
    part: bool
    harmless: bool


def _last(output: str) -> tuple[Error, str] | None:
    """The error of the last traceback that counts, and what was printed after it."""
    lines = clean(output).split("\n")
    blocks = [*_blocks(lines)]
    while blocks:
        first = len(blocks) - 1
        while first > 0 and blocks[first].joined:
            first -= 1
        group = blocks[first:]
        if not group[0].harmless:
            error = next((block.error for block in reversed(group) if not block.part), group[-1].error)
            text = "\n".join(lines[group[0].start : group[-1].end])
            return Error(error.type, error.message, text, error.where), "\n".join(lines[group[-1].end :])
        del blocks[first:]
    return None


def _blocks(lines: list[str]) -> Iterator[_Block]:
    """Every whole traceback, in order; where no header is left, or a script was no Python, one of the frames alone."""
    headers = [number for number, line in enumerate(lines) if line.rstrip().endswith(_HEADER)]
    starts = [(number, number + 1) for number in headers]
    if not headers:
        starts = [(number, number) for number, line in enumerate(lines) if _FRAME.match(line)][:1]
    for start, number in starts:
        frame = None
        while number < len(lines) and lines[number].startswith("  "):
            frame = _FRAME.match(lines[number]) or frame
            number += 1
        error = _ERROR.match(lines[number]) if number < len(lines) else None
        if error is None or not (headers or error["type"].endswith(("Error", "Exception"))):
            continue
        message = [error["message"] or ""]
        number += 1
        while error["colon"] and not message[0].strip() and number < len(lines) and not lines[number].strip():
            number += 1  # the message begins below
        while number < len(lines) and lines[number].strip() and not _AFTER.match(lines[number]):
            message.append(lines[number])
            number += 1
        before = next((line for line in reversed(lines[:start]) if line.strip()), "")
        part = _GROUP_PART.match(before) is not None
        passed_on = lines[start].startswith("Original ") or before.endswith("terminated with the following error:")
        yield _Block(
            Error(
                error["type"],
                "\n".join(message).strip(),
                "\n".join(lines[start:number]),
                _where(frame) if frame else "",
            ),
            start,
            number,
            joined=before in _CHAINED or passed_on or part,
            part=part,
            harmless=before.startswith(_HARMLESS),
        )


def _where(frame: re.Match[str]) -> str:
    file = re.split(r"[\\/]", frame["file"])[-1]
    return f"{file}:{frame['line']}{' in ' + frame['function'] if frame['function'] else ''}"

"""The list of clips that an audit says are better left out: for a recipe's `--exclude FILE`."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xtts_gatekeeper.errors import UserError

_NOT_BY_PATH = frozenset({"listed_twice"})


def write_exclusions(file: Path, faults: Iterable[Mapping[str, Any]], heading: str) -> int:
    """Write a list of clips to leave out, each by its path, under a comment for every reason.

    The file is written in one step. Not on it are lines of metadata that give no clip, for there is nothing to leave
    out, and clips that are listed twice, for their path would leave out both.

    Args:
        file: where to.
        faults: those to go by, of `AuditResult.faults`.
        heading: a comment for the first line.

    Returns:
        How many clips are on it.

    Raises:
        UserError: it cannot be written.
    """
    reasons: dict[str, list[str]] = {}
    for fault in faults:
        if fault["code"] not in _NOT_BY_PATH and _is_a_line(fault["audio_file"]):
            reasons.setdefault(fault["audio_file"], []).append(f"{fault['code']}: {fault['message']}")
    lines = ((*(f"# {_one_line(reason)}" for reason in why), path) for path, why in sorted(reasons.items()))
    text = "".join(f"{line}\n" for line in (f"# {_one_line(heading)}", *itertools.chain.from_iterable(lines)))
    write_whole(file, text)
    return len(reasons)


def write_whole(file: Path, text: str) -> None:
    """Write a file so that a reader finds the whole of it, or what was there before.

    Raises:
        UserError: it cannot be written.
    """
    try:
        if file.exists() and not file.is_file():  # a pipe, or /dev/stdout
            file.write_text(text, encoding="utf-8")
            return
        target = file.resolve()
        handle, unfinished = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as out:
                out.write(text)
            os.chmod(unfinished, 0o666 & ~_umask())  # noqa: PTH101
            os.replace(unfinished, target)  # noqa: PTH105
        except BaseException:
            os.unlink(unfinished)  # noqa: PTH108
            raise
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror or error}); name another file.") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_a_line(path: str | None) -> bool:
    """Whether a path can be a line of a list: some file names hold line breaks, or are not UTF-8."""
    if path is None or len(path.splitlines()) != 1:
        return False
    return path.encode(errors="ignore").decode() == path


def _one_line(text: str) -> str:
    return " ".join(text.split())

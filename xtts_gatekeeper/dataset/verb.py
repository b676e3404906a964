"""The verb `audit`: what its options mean, and where the answers go."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from xtts_gatekeeper.dataset.audit import AuditResult, Progress, audit
from xtts_gatekeeper.dataset.board import SEVERITIES
from xtts_gatekeeper.dataset.exclusion import write_exclusions, write_whole
from xtts_gatekeeper.errors import UserError, nearest
from xtts_gatekeeper.record.journal import to_json

#: What `--exclude-list` lists by default.
LEFT_OUT = "unusable,hard"


def run_audit(
    path: Path,
    *,
    formatter: str | None = None,
    language: str | None = None,
    vocab: Path | None = None,
    max_wav_length: int | None = None,
    max_text_length: int | None = None,
    verify: bool = False,
    as_json: bool = False,
    html: Path | None = None,
    exclude_list: Path | None = None,
    faults: str = LEFT_OUT,
    show: int = 20,
) -> int:
    """Do what the verb does: audit, print, write the files that were asked for.

    Args:
        path: a metadata file, a folder with one, or a run.
        formatter: name of one of Coqui's readers.
        language: of the clips.
        vocab: XTTS's vocab.json or its folder.
        max_wav_length: longest clip, in samples.
        max_text_length: longest text, in tokens.
        verify: read all files again.
        as_json: one document on stdout.
        html: page to write.
        exclude_list: list of clips to write.
        faults: severities of the faults that put a clip on that list, with commas.
        show: how many faults to print.

    Returns:
        The exit code: 1 where a clip is unusable or surely wrong, else 0.

    Raises:
        UserError: something given is of no use.
    """
    severities = _severities(faults)
    for file in (html, exclude_list):
        _require_place(file)
    if html is not None:
        _require_modules("jinja2", "matplotlib", "soundfile")
    limits = {
        name: value
        for name, value in (("max_wav_length", max_wav_length), ("max_text_length", max_text_length))
        if value is not None
    }
    with (
        _bar() as progress,
        audit(
            path,
            formatter=formatter,
            language=language,
            vocab=vocab,
            limits=limits,
            verify=verify,
            progress=progress,
        ) as result,
    ):
        progress("", 0, None)
        if as_json:
            write_json(result, sys.stdout)
        else:
            from rich.console import Console

            from xtts_gatekeeper.dataset.table import print_audit

            print_audit(Console(highlight=False), result, show)
        if exclude_list is not None:
            heading = f"clips of {path} with faults ({', '.join(severities)}), by xtts-gatekeeper audit"
            count = write_exclusions(exclude_list, result.faults(severities), heading)
            print(
                f"{exclude_list}: {count} clip{'s' * (count != 1)} to leave out, with --exclude {exclude_list}",
                file=sys.stderr,
            )
        if html is not None:
            from xtts_gatekeeper.dataset.page import audit_page

            write_whole(html, audit_page(result))
            print(f"{html}: the page", file=sys.stderr)
        return 1 if result.bad else 0


def write_json(result: AuditResult, out: TextIO) -> None:
    """Write one document, `AuditResult.to_dict` and the list `faults`, without holding all of them in memory."""
    head = to_json(result.to_dict(), indent=2)
    out.write(head[: head.rindex("\n}")] + ',\n  "faults": [')
    comma = "\n    "
    for fault in result.faults():
        out.write(comma + to_json(fault))
        comma = ",\n    "
    out.write("\n  ]\n}\n")


def _severities(asked: str) -> Sequence[str]:
    names = [name.strip() for name in asked.split(",") if name.strip()]
    for name in names:
        if name not in SEVERITIES:
            raise UserError(f"--faults knows no {name!r}; {nearest(name, SEVERITIES)}")
    if not names:
        raise UserError(f"--faults names none; give some of {', '.join(SEVERITIES)}.")
    return names


def _require_place(file: Path | None) -> None:
    """Refuse before the work what could not be written after it."""
    if file is None:
        return
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UserError(f"{file} cannot be written: the folder {folder} does not exist.")
    if file.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{file} cannot be written; name another file.")


def _require_modules(*names: str) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--html needs the Python package {name!r}; run: pip install {name}")


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar on a terminal, on stderr; nothing where stderr is a file."""
    if not sys.stderr.isatty():
        yield lambda _stage, _done, _all: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(stage: str, done: int, total: int | None) -> None:
            if stage:
                bar.update(task, description=stage, completed=done, total=total)
            else:
                bar.stop()

        yield show

"""The verb `report`: what its options mean, and where the page goes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.dataset.exclusion import write_whole
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.gates import evaluate
from xtts_gatekeeper.offline import Opened, open_run
from xtts_gatekeeper.record.journal import FOLDER, to_json
from xtts_gatekeeper.report.sample_view import Audio
from xtts_gatekeeper.report.watching import follow, over

NAME = "report.html"
#: An open page is not read anew more often than this: a reader has to get on.
_LEAST_SECONDS = 10.0


def run_report(
    run: Path,
    output: Path | None = None,
    *,
    policy: str | None = None,
    which: str | None = None,
    audio: Audio = "few",
    audit: bool = False,
    watch: bool = False,
    interval: float = 5.0,
    as_json: bool = False,
) -> int:
    """Do what the verb does: build the page and write it in one piece, once or whenever the run has something new.

    Args:
        run: anything that `offline.open_run` takes.
        output: the file; by default `report.html` in the run's `gatekeeper`, for a lone log in the current folder.
        policy: rules to judge by.
        which: which run, where a source holds several.
        audio: which samples can be played.
        audit: audit the run's data for it.
        watch: go on until the run ends, or until Ctrl-C.
        interval: seconds between two looks of `watch`.
        as_json: a document a page on stdout, instead of a line.

    Returns:
        The exit code, 0.

    Raises:
        UserError: nothing to read, a package that is missing, or a file that cannot be written.
    """
    if not watch:
        _tell(write_report(open_run(run, policy, which), output, audio=audio, audit=audit), as_json)
        return 0
    try:
        for opened in follow(run, policy, which, interval):
            live = None if over(opened.record) else max(interval, _LEAST_SECONDS)
            _tell(write_report(opened, output, audio=audio, audit=audit, live=live), as_json)
    except KeyboardInterrupt:  # how one leaves it
        print(file=sys.stderr)
    return 0


def _tell(told: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(to_json(told), flush=True)
    else:
        size = f"{told['bytes'] / 1e6:.1f} MB"
        print(f"{told['file']}: {told['verdict']}, {size} in {told['seconds']:.1f} s", flush=True)


def write_report(
    opened: Opened, output: Path | None = None, *, audio: Audio = "few", audit: bool = False, live: float | None = None
) -> dict[str, Any]:
    """Build the page of a run and write it in one piece; the arguments are those of `run_report` and `page.build`.

    Returns:
        `file` (a path), `bytes`, `seconds` that it took, and the `verdict` on the run.

    Raises:
        UserError: a package that is missing, or a file that cannot be written.
    """
    for package in ("bokeh", "jinja2"):
        import_extra(package, "report")
    from xtts_gatekeeper.report.page import build

    began = time.perf_counter()
    file = output or default_file(opened)
    _require_place(file)
    text = build(opened, audio=audio, audit=audit, live=live)
    write_whole(file, text)
    return {
        "file": str(file),
        "bytes": len(text.encode("utf-8")),
        "seconds": round(time.perf_counter() - began, 2),
        "verdict": evaluate(opened.record, opened.policy).verdict,
    }


def default_file(opened: Opened) -> Path:
    """Where the page of a run goes to by itself; the folder `gatekeeper` is made in a stock run."""
    folder = opened.source.folder
    return folder / FOLDER / NAME if folder is not None else Path(NAME)


def _require_place(file: Path) -> None:
    """Refuse before the work what could not be written after it."""
    folder = file.absolute().parent
    if folder.name == FOLDER and not folder.exists() and os.access(folder.parent, os.W_OK):
        folder.mkdir()
    if not folder.is_dir():
        raise UserError(f"{file} cannot be written: the folder {folder} does not exist; make it or name another file.")
    if file.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{file} cannot be written; name another file with -o.")

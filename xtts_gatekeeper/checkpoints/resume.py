"""Which file of a run to go on from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from xtts_gatekeeper.checkpoints.integrity import damage
from xtts_gatekeeper.checkpoints.retention import best_files
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.journal import journal_path
from xtts_gatekeeper.record.sources import read_run

_NAME = {"best": re.compile(r"best_model_(\d+)\.pth"), "latest": re.compile(r"(?:checkpoint|best_model)_(\d+)\.pth")}


def resume_file(path: Path, which: Literal["best", "latest"] = "best") -> Path:
    """The checkpoint to restore from `path`: a file itself, or the best or latest one of a run folder.

    In a run of ours the journal says which file is the best. In a stock run it is the `best_model_N.pth` of the
    highest N, the last one that the Trainer took for the best. Names are matched alone, never with their folders.

    Raises:
        UserError: nothing there, or the file is damaged.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give the folder of a run or one of its checkpoints.")
    file = path if path.is_file() else _choose(path, which)
    wrong = damage(file, legacy=True)
    if wrong is not None:
        raise UserError(f"{file} cannot be resumed from: {wrong}.")
    return file


def latest_file(run: Path) -> Path | None:
    """The numbered checkpoint of the highest step in a run folder, by the files' own names; None without one."""
    return _highest(run, "latest")


def _choose(run: Path, which: Literal["best", "latest"]) -> Path:
    if which == "best" and journal_path(run).is_file():
        best = best_files(file for file in read_run(run).files if (run / file.path).is_file())
        if best:
            return run / best[-1].path
    file = _highest(run, which)
    if file is None:
        raise UserError(
            f"{run} holds no {which} checkpoint; give a run folder with checkpoint_N.pth or best_model_N.pth."
        )
    return file


def _highest(run: Path, which: Literal["best", "latest"]) -> Path | None:
    steps = {
        int(match[1]): file
        for file in sorted(run.iterdir())
        if (match := _NAME[which].fullmatch(file.name)) and file.is_file()
    }
    return steps[max(steps)] if steps else None

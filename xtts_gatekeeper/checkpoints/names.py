"""The names by which stock code finds a run's files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from xtts_gatekeeper.checkpoints.inventory import BEST_NAME, NUMBERED, PARKED, SPARE, is_plain, number_in
from xtts_gatekeeper.checkpoints.retention import Candidate
from xtts_gatekeeper.checkpoints.writer import link


def name_best(run: Path, best: str, own: Collection[str]) -> str | None:
    """Let `best_model.pth` be a second name of the file `best`; why it could not be, or None.

    There is no such name while the best is called otherwise for stock code's sake (parked, or spare): where no best
    model has a number, that reads the step in the file and may resume from it.

    Args:
        run: the run folder.
        best: the name of a file in it.
        own: the names of this run's files: `best_model.pth` is only taken from one of them.
    """
    name = run / BEST_NAME
    if name.is_symlink() or name.exists():
        if name.is_symlink() or not any((run / file).exists() and name.samefile(run / file) for file in own):
            return f"{BEST_NAME} is not from this run and stays"
        if name.samefile(run / best) and NUMBERED.fullmatch(best):
            return None
    try:
        if not NUMBERED.fullmatch(best):
            name.unlink(missing_ok=True)
        else:
            link(run / best, name)
    except OSError as error:
        with contextlib.suppress(OSError):  # rather no such name than one of a file that is about to go
            name.unlink(missing_ok=True)
        return f"{BEST_NAME} could not be made a link ({error})"
    return None


def give_name(run: Path, old: str, new: str) -> bool:
    """Rename a checkpoint, unless a file of the new name is there (of another stretch): False then.

    Where the new name is one that stock code passes over, `best_model.pth` goes first if it is a second name of the
    file: stock code reads the step in it.

    Raises:
        OSError: it could not be renamed.
    """
    if os.path.lexists(run / new):
        return False
    alias = run / BEST_NAME
    if not NUMBERED.fullmatch(new) and is_plain(alias) and alias.samefile(run / old):
        alias.unlink()
    (run / old).rename(run / new)
    return True


def other_names(name: str) -> list[str]:
    """The names that `parking` may give, or have given, to the file `name`."""
    number = number_in(name)
    if number is None or name.startswith("checkpoint"):
        return []
    return [other for other in (f"best_model_{number}.pth", f"best_{number}.pth") if other != name]


def parking(files: Sequence[Candidate]) -> Iterator[tuple[str, str, str]]:
    """Renames (old, new, why) after which stock code resumes from a file that can be resumed from.

    `continue_path` takes the highest number among checkpoints and best models. A best model of weights alone has a
    higher number than every resumable file only after training went back to an earlier checkpoint, or when a broken
    file was put aside; until it is overtaken it is called `best_N.pth`, which stock code passes over. Overtaken, not
    reached: at its own number the name may be needed for the new stretch's best. Weights saved for want of room
    (`weights_N.pth`) get a stock name at the same time, if retention still wants them.
    """
    highest = max((file.number for file in files if file.resumable and file.number is not None), default=-1)
    for file in files:
        if file.resumable or file.number is None:
            continue
        if NUMBERED.fullmatch(file.path) and file.number > highest:
            yield file.path, f"best_{file.number}.pth", "weights only, with no resumable file of its number or above"
        elif (PARKED.fullmatch(file.path) or SPARE.fullmatch(file.path)) and file.number < highest:
            yield file.path, f"best_model_{file.number}.pth", f"a resumable file of step {highest} is there"

"""Deleting checkpoint files, and only those of which it is sure that they are this run's own."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xtts_gatekeeper.checkpoints.writer import sync_folder


@dataclass(frozen=True)
class Removed:
    """What a deletion did. `freed` are the bytes that the disk got back; `kept` says why a file was not deleted."""

    names: list[str]
    freed: int
    kept: dict[str, str]


def refusal(run: Path, name: str) -> str | None:
    """Why the file `name` of the run folder must not be deleted, whoever asks; None when it may be.

    Never through a path, a symbolic link or a folder, and never a file that has a name outside of the run folder: such
    a file is somebody's copy, and deleting our name of it would free nothing.
    """
    if Path(name).name != name or name in (".", "..") or "\\" in name:
        return "it does not lie in the run folder itself"
    try:
        info = (run / name).lstat()
    except OSError as error:
        return f"it cannot be looked at ({error.strerror or error})"
    if stat.S_ISLNK(info.st_mode):
        return "it is a symbolic link"
    if not stat.S_ISREG(info.st_mode):
        return "it is no file"
    if info.st_nlink > 1 and info.st_nlink > _names_inside(run)[info.st_dev, info.st_ino]:
        return "it has a second name outside of the run folder"
    return None


def delete(run: Path, names: Iterable[str]) -> Removed:
    """Delete files of a run folder, except those that `refusal` speaks for; what cannot be deleted is said."""
    removed, freed, kept = [], 0, {}
    for name in names:
        why = refusal(run, name)
        if why is None:
            try:
                info = (run / name).lstat()
                (run / name).unlink()
            except OSError as error:
                why = f"it could not be deleted ({error.strerror or error})"
            else:
                removed.append(name)
                freed += info.st_size if info.st_nlink == 1 else 0
        if why is not None:
            kept[name] = why
    if removed:
        sync_folder(run)
    return Removed(removed, freed, kept)


def _names_inside(run: Path) -> Counter[tuple[int, int]]:
    """How many names each file has in the folder, links not followed."""
    names: Counter[tuple[int, int]] = Counter()
    for path in run.iterdir():
        try:
            info = path.lstat()
        except FileNotFoundError:
            continue
        names[info.st_dev, info.st_ino] += 1
    return names

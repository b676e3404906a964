"""Whether a run is being written: our own lock file, and files that another process has open for writing."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.journal import FOLDER

#: The system releases the lock when the process ends, however it ends: a lock file that is there says nothing.
LOCK = "run.lock"

#: What a training process has open for writing in a run folder: a user's `tee RUN/console.txt` is none.
_WRITTEN = re.compile(r"trainer_[0-9]+_log\.txt|.*\.pth|.*\.partial")

_held: dict[Path, FileLock] = {}


def hold(run: Path) -> None:
    """Mark the run folder as being written by this process, until `release` or the process's end.

    Raises:
        UserError: another process writes it.
    """
    run = run.resolve()
    if run in _held:
        return
    lock = FileLock(run / FOLDER / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{run} is being written by another training process; end that one first.") from None
    except (OSError, NotImplementedError):  # a file system without locks: the run goes on without
        return
    _held[run] = lock


def release(run: Path) -> None:
    """The run folder is no longer written by this process."""
    lock = _held.pop(run.resolve(), None)
    if lock is not None:
        lock.release()


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold a run folder for a while, or go on holding it. One without our folder is not ours to mark.

    Raises:
        UserError: another process writes it.
    """
    if run.resolve() in _held or not (run / FOLDER).is_dir():
        yield
        return
    hold(run)
    try:
        yield
    finally:
        release(run)


def refuse_if_written(run: Path) -> None:
    """Refuse a run folder that another process writes.

    Raises:
        UserError: it does.
    """
    writer = writer_of(run)
    if writer not in (None, "this process"):
        raise UserError(f"{run} is being written by {writer}; end that one first.")


def writer_of(run: Path) -> str | None:
    """Who writes the run folder now, as words; None when nobody is seen to.

    A stock Trainer holds no lock, but it has its log open for writing as long as it lives. Processes of other users can
    only be seen by an administrator.
    """
    run = run.resolve()
    if run in _held:
        return "this process"
    if (run / FOLDER / LOCK).exists():
        try:
            with FileLock(run / FOLDER / LOCK).acquire(timeout=0):
                pass
        except Timeout:
            return "a training process that holds its lock"
        except (OSError, NotImplementedError):
            pass
    return _by_open_files(run)


def _by_open_files(run: Path) -> str | None:
    import psutil

    # A data loader's processes have this process's files open, too.
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in own:
                continue
            for file in process.open_files():
                path = Path(file.path)
                writes = getattr(file, "mode", "a") not in ("r", "rt")
                if writes and path.parent == run and _WRITTEN.fullmatch(path.name):
                    return f"process {process.pid}, which has {path.name} open"
    return None

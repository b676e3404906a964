"""Writing a checkpoint so that its final name only ever names a whole file, beside training if wished."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.integrity import Scan, scan

#: Ending of files that are being written; neither the Trainer nor we take such a file for a checkpoint.
PARTIAL = ".partial"


def write_verified(path: Path, save: Callable[[Path], Any], check: Callable[[Path], str | None] | None = None) -> Scan:
    """Let `save` write to a temporary file beside `path`, sync it, read it back, and only then give it its name.

    Args:
        path: the final name.
        save: writes to the path that it is given.
        check: looks at the file before it gets its name; what it returns is what is wrong.

    Returns:
        What was read back, with the digest by which the file can be told from any other.

    Raises:
        OSError: the write failed or did not read back whole. The temporary file is gone, and what stood at `path`
            before still stands.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.unlink(missing_ok=True)  # emptying a large file in the way would hold up every thread
        try:
            save(partial)
        except RuntimeError as error:  # torch's zip writer reports a full disk as a RuntimeError
            raise OSError(str(error).splitlines()[0]) from error
        sync_file(partial)
        found = scan(partial)
        wrong = found.problem or (check(partial) if check is not None else None)
        if wrong is not None:
            raise OSError(f"{path.name} was written and does not read back: {wrong}")
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return found


class BackgroundWriter:
    """Does one piece of work at a time on a thread of its own.

    A process that ends by itself waits for it, so a file that is being written is finished. The thread is there from
    `start` on: where memory has run out, starting one can wait for ever, for Python does not notice that the new thread
    has died before it said that it lives.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gatekeeper-writer")
        self._work: Future[None] | None = None
        self._writing: int | None = None

    def start(self) -> None:
        """Have the thread ready."""
        self.submit(lambda: None)
        self.wait()

    def submit(self, work: Callable[[], None]) -> None:
        """Begin `work`, after the work before it has ended. `work` handles its own errors."""
        self.wait()
        self._work = self._threads.submit(self._do, work)

    def wait(self) -> None:
        """Wait until nothing is in flight."""
        if self._work is not None and self._writing != threading.get_ident():
            self._work.result()
            self._work = None

    def _do(self, work: Callable[[], None]) -> None:
        self._writing = threading.get_ident()
        try:
            work()
        finally:
            self._writing = None


def link(source: Path, name: Path) -> None:
    """Make `name` a second name of the file `source`, in one step.

    Raises:
        OSError: the file system has no hard links, or the name cannot be written; what stood there still stands.
    """
    partial = name.with_name(name.name + PARTIAL)
    partial.unlink(missing_ok=True)
    os.link(source, partial)
    partial.replace(name)
    # rename() leaves both names when they are links of one file already.
    partial.unlink(missing_ok=True)
    sync_folder(name.parent)


def sync_file(path: Path) -> None:
    """Bring the file to the disk, and let the system forget its copy in memory: what is read next is what was kept."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable, where the system can: Windows and some network drives cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

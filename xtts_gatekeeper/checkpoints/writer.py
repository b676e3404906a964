"""Writing a checkpoint so that its final name only ever names a whole file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from xtts_gatekeeper.checkpoints.integrity import damage

#: Ending of files that are being written; neither the Trainer nor we take such a file for a checkpoint.
PARTIAL = ".partial"


def write_verified(path: Path, save: Callable[[Path], None]) -> None:
    """Let `save` write to a temporary file beside `path`, sync it, read it back, and only then give it its name.

    Raises:
        OSError: the write failed or did not read back whole. The temporary file is gone, and what stood at `path`
            before still stands.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        save(partial)
        _sync(partial)
        wrong = damage(partial)
        if wrong is not None:
            raise OSError(f"{path.name} was written and does not read back: {wrong}")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
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

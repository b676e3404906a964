"""A verified copy of a run folder on `s3://` or any other file system of fsspec, kept beside the training.

The run itself stays in a local folder. `remote_store` tells what the copy consists of, `remote_pass` how it is brought
to where the run is, `remote_fetch` leads back.
"""

from __future__ import annotations

import io
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xtts_gatekeeper.checkpoints.remote_pass import Pass, SyncReport, read_journal
from xtts_gatekeeper.checkpoints.remote_store import (
    MANIFEST,
    Manifest,
    RemoteFile,
    RemoteFolder,
    RemoteRun,
    find_run,
    in_a_sentence,
    reading,
    runs_in,
    why,
)
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.events import Event, Incident


@dataclass(frozen=True)
class Reread:
    """How a file of a mirror read back now: `wrong` is None when its SHA-256 is the manifest's."""

    name: str
    bytes: int
    wrong: str | None


class Mirror:
    """Keeps `<url>/<run folder name>/` a verified copy of a run folder, beside the training.

    Uploaded are the files that the run's journal lists and that are as it says, each read back in full before it
    counts; then config, log, event files and `gatekeeper/`. Deleted is only what the journal says was pruned and this
    mirror uploaded, and only when all that the run holds is on the remote.

    `sync` does one pass here and now. `start`, `request` and `close` let a thread do it: training neither waits nor
    meets an error. Used by one process at a time.

    Args:
        run: the run folder.
        url: the remote folder that holds runs, of any protocol of fsspec.
        record: gets an `Incident` for every distinct failure; called from the thread that syncs.
        log: gets one-line messages; likewise.
    """

    def __init__(
        self, run: Path, url: str, record: Callable[[Event], None] | None = None, *, log: Callable[[str], None]
    ) -> None:
        self.run = run
        self.url = f"{url.rstrip('/')}/{run.absolute().name}"
        self._record = record
        self._log = log
        self._remote: RemoteFolder | None = None
        self._said: set[str] = set()
        self._failing = False
        self._syncing = threading.Lock()
        self._changed = threading.Condition()
        self._wanted = self._closing = False
        self._thread: threading.Thread | None = None

    def sync(self) -> SyncReport:
        """Bring the remote to where the run is now; nothing to do costs one listing and one small read.

        Trouble of any kind is in the report, and told by `log` and `record`, once for each message. The next call
        takes up what is left.
        """
        report, begin = SyncReport(), time.perf_counter()
        with self._syncing:
            try:
                if self._remote is None:
                    self._remote = RemoteFolder(self.url)
                Pass(self.run, self._remote, report, self._log).reconcile()
            except Exception as error:  # what a file system of fsspec raises is its library's matter
                report.failed[""] = why(error)
                if self._remote is not None:
                    self._remote.disconnect()
                self._remote = None
            report.seconds = time.perf_counter() - begin
            self._tell(report)
        return report

    def start(self) -> None:
        """Begin to serve requests in a thread of its own, one that does not keep the process alive."""
        self._thread = threading.Thread(target=self._serve, name="gatekeeper-mirror", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Ask for a pass. Requests made while one is running become one more."""
        with self._changed:
            self._wanted = True
            self._changed.notify()

    def close(self, timeout: float | None = None) -> bool:
        """Finish what was requested and end the thread.

        Args:
            timeout: seconds to wait for it; None for as long as it takes.

        Returns:
            False when the time was over first. What is uploaded by then stays; the next mirror goes on from there.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closing)
                if not self._wanted:
                    return
                self._wanted = False
            self.sync()

    def _tell(self, report: SyncReport) -> None:
        for name, reason in report.failed.items():
            message = f"the mirror {self.url} is behind: {reason}"
            if message not in self._said:
                self._said.add(message)
                self._log(f"WARNING: {message}{'' if name else ' (the next save tries again)'}")
                self._note(message)
        if report.ok and self._failing:
            self._log(f"the mirror {self.url} is complete again")
        self._failing = not report.ok

    def _note(self, message: str) -> None:
        if self._record is None:
            return
        try:
            last = read_journal(self.run)[1][-1:]
            step, epoch = (last[0].step, last[0].epoch) if last else (0, 0)
        except (OSError, UserError):
            step = epoch = 0
        try:
            self._record(Incident(step=step, epoch=epoch, code="remote_failed", message=message))
        except OSError as error:  # the disk is full: training shall not end for that
            self._log(f"WARNING: the journal could not be written: {error}")


# Before training


def local_output(output_path: str | os.PathLike[str]) -> Path:
    """`output_path` as the local folder that it must be.

    Raises:
        UserError: it is a URL, of which the Trainer would make a local folder called `s3:`.
    """
    text = os.fspath(output_path)
    protocol = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)  # two letters at least: C:/runs is a folder of Windows
    if protocol is not None:
        raise UserError(
            f"output_path {text!r} would become a local folder named {protocol[1] + ':'!r}; give a local output_path, "
            "and the URL as gatekeeper.checkpoints.remote."
        )
    return Path(output_path)


def check_remote(url: str) -> None:
    """Write, read and delete a small object below `url`.

    Raises:
        UserError: that does not work; in one sentence why, and what to do.
    """
    remote = RemoteFolder(url)
    name, content = f".gatekeeper-probe-{uuid.uuid4().hex}", b"xtts-gatekeeper"
    with in_a_sentence(f"{url} cannot be used"):
        remote.put(name, io.BytesIO(content), len(content))
        remote.remove(name)
        if name in remote.sizes():
            raise UserError(f"{url} does not delete: a probe object stays; the mirror could not prune.")


# Looking at it


def remote_runs(url: str) -> list[RemoteRun]:
    """The runs in a remote folder, by name: mirrors, and plain folders with checkpoints.

    Raises:
        UserError: it cannot be read.
    """
    remote = RemoteFolder(url)
    with reading(url):
        return runs_in(remote, remote.sizes())


def verify_remote(url: str) -> list[Reread]:
    """Read every file that a mirror's manifest lists, and compare.

    Args:
        url: a run on the remote, or the folder above when it holds just one.

    Raises:
        UserError: it cannot be read, or is no mirror.
    """
    remote, there = find_run(url)
    if MANIFEST not in there:
        raise UserError(f"{remote.url} has no {MANIFEST}: there is nothing to compare its files with.")
    with reading(remote.url):
        manifest = Manifest.parse(remote.read(MANIFEST), remote.url)
        return [Reread(n, f.bytes, _reread(remote, there, n, f)) for n, f in sorted(manifest.files.items())]


def _reread(remote: RemoteFolder, there: dict[str, int], name: str, known: RemoteFile) -> str | None:
    if name not in there:
        return "it is not there"
    grows = known.step is None  # a log may be ahead of the manifest
    return known.difference(remote.copy(name, limit=known.bytes if grows else None))

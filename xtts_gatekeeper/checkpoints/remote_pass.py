"""One pass of a mirror over a run: upload what is missing, write the manifest, delete what was pruned."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from xtts_gatekeeper.checkpoints.integrity import damage
from xtts_gatekeeper.checkpoints.inventory import is_plain
from xtts_gatekeeper.checkpoints.remote_store import MANIFEST, FileTrouble, Manifest, RemoteFile, RemoteFolder, is_small
from xtts_gatekeeper.checkpoints.writer import PARTIAL
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.events import Checkpoint, Event, Pruned, Renamed, now
from xtts_gatekeeper.record.journal import FOLDER, JOURNAL, journal_path, read_events, to_json
from xtts_gatekeeper.record.run import RunRecord

_JOURNAL = f"{FOLDER}/{JOURNAL}"


@dataclass
class SyncReport:
    """What one pass of a mirror did. `skipped` and `failed` hold the reason by file name.

    A failure that is not one file's has the name "". `deferred`: files that would have been deleted, had all of the
    run's files been on the remote.
    """

    uploaded: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    deferred: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    bytes_uploaded: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed


class Pass:
    """One pass over a run: upload, manifest, delete, in this order."""

    def __init__(self, run: Path, remote: RemoteFolder, report: SyncReport, log: Callable[[str], None]) -> None:
        self.run = run
        self.remote = remote
        self.report = report
        self.log = log
        self.journal, events = read_journal(run)
        self.record = RunRecord(events)
        self.there = remote.sizes()
        self.manifest = self._read_manifest()
        self._written = self.manifest.dump() if MANIFEST in self.there else ""

    def reconcile(self) -> None:
        """Bring the remote to where the run is."""
        self.remote.drop_parts({*self.manifest.pending})
        missing = self._missing()
        for file in missing:
            self._upload_checkpoint(file)
        self._upload_small()
        self.manifest.aliases = self._aliases()
        self._write_manifest()
        self._remove({file.path for file in missing})

    def _read_manifest(self) -> Manifest:
        """The manifest of the mirror, which must be that of this run at an earlier time.

        Raises:
            UserError: it is not.
        """
        begin = hashlib.sha256(self.journal.partition(b"\n")[0]).hexdigest()
        if MANIFEST not in self.there:
            if any(not name.endswith(PARTIAL) for name in self.there):
                raise UserError(f"{self.remote.url} holds files and is no mirror; name another remote folder.")
            return Manifest(begin)
        manifest = Manifest.parse(self.remote.read(MANIFEST), self.remote.url)
        if manifest.begin != begin:
            raise UserError(f"{self.remote.url} is the mirror of another run; name another remote folder.")
        known = manifest.files.get(_JOURNAL)
        if known is not None and hashlib.sha256(self.journal[: known.bytes]).hexdigest() != known.sha256:
            raise UserError(
                f"{self.remote.url} holds a journal that goes on otherwise than that of {self.run}: the run was "
                "continued elsewhere; go on there, or name another remote folder."
            )
        return manifest

    def _write_manifest(self) -> None:
        text = self.manifest.dump()
        if text != self._written:
            data = to_json({"format": 1, "updated": now(), **json.loads(text)}, indent=1).encode()
            self.remote.put(MANIFEST, io.BytesIO(data), len(data))
            self._written = text

    def _missing(self) -> list[Checkpoint]:
        """The run's files that are to be uploaded, in the order of writing."""
        missing = []
        for file in self.record.files:
            if not self._has(file):
                wrong = _changed(self.run / file.path, file)
                if wrong is None:
                    missing.append(file)
                else:
                    self.report.skipped[file.path] = wrong
        return missing

    def _has(self, file: Checkpoint) -> bool:
        known = self.manifest.files.get(file.path)
        if known is None or self.there.get(file.path) != known.bytes or known.bytes != file.bytes:
            return False
        if known.digest is not None and file.digest is not None:
            return known.digest == file.digest
        return known.mtime_ns == file.mtime_ns

    def _upload_checkpoint(self, file: Checkpoint) -> None:
        name, begin = file.path, time.perf_counter()
        try:
            size, sha256 = self._send(file)
        except FileNotFoundError as error:
            if (self.run / name).exists():  # then it is the remote folder that is missing
                raise
            self.report.skipped[name] = f"it was pruned meanwhile ({error})"
            return
        except FileTrouble as error:
            self.report.failed[name] = str(error)
            return
        self._count(
            name,
            RemoteFile(
                bytes=size,
                sha256=sha256,
                step=file.step,
                kind=file.kind,
                resumable=file.kind != "weights" if file.resumable is None else file.resumable,
                digest=file.digest,
                mtime_ns=file.mtime_ns,
                order=self._order(file),
            ),
        )
        self._write_manifest()
        self.log(f"mirrored {name}: {size / 1e9:.2f} GB in {time.perf_counter() - begin:.0f} s")

    def _send(self, file: Checkpoint) -> tuple[int, str]:
        """Upload a checkpoint that is as it was written; its bytes and SHA-256.

        Raises:
            FileTrouble: it is not, or does not read back, or another file has the name.
        """
        name = file.path
        with (self.run / name).open("rb") as source:  # a handle, so that pruning does not tear the upload
            size = os.fstat(source.fileno()).st_size
            # Read once more: a copy of what has rotted on the disk would be as good as none.
            wrong = damage(self.run / name, legacy=True, digest=file.digest)
            if wrong is not None and (self.run / name).exists():
                raise FileTrouble(f"{name} is not uploaded: {wrong}")
            sha256 = self._standing(name, source, size)
            if sha256 is None:
                self.manifest.files.pop(name, None)  # of another content, which from here on may be gone
                self.manifest.pending.add(name)
                self._write_manifest()
                sha256 = self.remote.put(name, source, size)
        return size, sha256

    def _standing(self, name: str, source: BinaryIO, size: int) -> str | None:
        """The SHA-256 of a remote file that nobody here uploaded, if it is the same; None when the name is free.

        Raises:
            FileTrouble: another file has the name.
        """
        if not self._is_foreign(name):
            return None
        sha256 = self.remote.same(name, source, size)
        if sha256 is None:
            raise FileTrouble(f"{name} stands on the remote and is not from this mirror; move it away")
        return sha256

    def _is_foreign(self, name: str) -> bool:
        return name in self.there and name not in self.manifest.files and name not in self.manifest.pending

    def _order(self, file: Checkpoint) -> int:
        """The place of the file's line in the journal; the file may have got another name since."""
        same = (file.step, file.time, file.mtime_ns, file.bytes)
        return max(
            i
            for i, event in enumerate(self.record.events)
            if isinstance(event, Checkpoint) and (event.step, event.time, event.mtime_ns, event.bytes) == same
        )

    def _upload_small(self) -> None:
        """Upload the small files that have changed, the journal last: what it tells of is there then."""
        changed = self._changed_small()
        self.manifest.pending |= {name for name in changed if not self._is_foreign(name)}
        if changed:
            self._write_manifest()
        for name, size in changed.items():
            try:
                with self._open_small(name) as source:
                    sha256 = self._standing(name, source, size) or self.remote.put(name, source, size)
            except FileNotFoundError:
                if (self.run / name).exists():
                    raise
                self.manifest.pending.discard(name)
                continue
            except FileTrouble as error:
                self.report.failed[name] = str(error)
                continue
            self._count(name, RemoteFile(size, sha256))

    def _changed_small(self) -> dict[str, int]:
        """Names and sizes of the small files that are not on the remote as they are here."""
        changed = {}
        for name in _small_files(self.run):
            with contextlib.suppress(FileNotFoundError), self._open_small(name) as source:
                data = source.read()
                known, sha256 = self.manifest.files.get(name), hashlib.sha256(data).hexdigest()
                size = len(data)
                if known is None or (known.bytes, known.sha256, self.there.get(name)) != (size, sha256, size):
                    changed[name] = size
        return changed

    def _open_small(self, name: str) -> BinaryIO:
        # The journal as it was when the pass began: later lines tell of files that are not on the remote yet.
        return io.BytesIO(self.journal) if name == _JOURNAL else (self.run / name).open("rb")

    def _count(self, name: str, file: RemoteFile) -> None:
        """Note a file that is on the remote now."""
        self.manifest.files[name] = file
        self.manifest.pending.discard(name)
        self.there[name] = file.bytes
        self.report.uploaded.append(name)
        self.report.bytes_uploaded += file.bytes

    def _aliases(self) -> dict[str, str]:
        """Second names of the run's files. They are noted, for S3 knows no links and a copy would cost the room."""
        aliases = {}
        for path in sorted(self.run.glob("*.pth")):
            for name in self.manifest.files:
                with contextlib.suppress(OSError):  # pruned meanwhile
                    if path.name != name and not path.is_symlink() and path.samefile(self.run / name):
                        aliases[path.name] = name
        return {name: of for name, of in aliases.items() if name not in self.manifest.files}

    def _remove(self, wanted: set[str]) -> None:
        """Delete what the journal says has been pruned and this mirror uploaded, if all that is newer is there."""
        in_run = [file.path for file in self.record.files]
        ours = {n for n, file in self.manifest.files.items() if file.step is not None} | self.manifest.pending
        gone = sorted((_left_names(self.record) & ours) - {*in_run})
        there = self.manifest.files
        all_there = self.report.ok and {*wanted, *in_run} <= {*there}
        safe = all_there and any(there[name].resumable for name in in_run)
        if not safe:
            self.report.deferred += gone
            return
        delete = []
        for name in gone:
            known = self.manifest.files.pop(name, None)
            if known is not None and self.there.get(name, known.bytes) != known.bytes:
                self.report.skipped[name] = "it is no longer what was uploaded, and stays"
                self.manifest.pending.discard(name)
            else:
                self.manifest.pending.add(name)
                delete.append(name)
        self._write_manifest()  # before the deleting: it never lists what is gone
        for name in delete:
            for written in (name, name + PARTIAL):
                if written in self.there:
                    self.remote.remove(written)
            self.manifest.pending.discard(name)
            self.report.removed.append(name)
        self._write_manifest()


def read_journal(run: Path) -> tuple[bytes, tuple[Event, ...]]:
    """The journal's bytes and their events: one state of it, while others append.

    Raises:
        UserError: there is none.
    """
    try:
        data = journal_path(run).read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{run} has no {_JOURNAL}, so what is whole in it is not known; mirror a gatekept run."
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, JOURNAL)
        copy.write_bytes(data)
        return data, tuple(read_events(copy))


def _changed(path: Path, file: Checkpoint) -> str | None:
    """Why the local file is not the one that the journal tells of; None when it is."""
    if not is_plain(path):
        return "it is not in the run folder"
    stat = path.stat()
    if stat.st_size != file.bytes or (file.mtime_ns and stat.st_mtime_ns != file.mtime_ns):
        return "it is no longer the file that the journal tells of"
    return None


def _left_names(record: RunRecord) -> set[str]:
    """Names that, by the journal, no file of the run has any more. One put aside as broken may be whole remotely."""
    names: set[str] = set()
    for event in record.events:
        if isinstance(event, Pruned):
            names.update(event.removed)
        elif isinstance(event, Renamed) and "/" not in event.new:
            names.add(event.old)
    return names


def _small_files(run: Path) -> list[str]:
    """The names of the files to mirror that are no checkpoints, the journal last."""
    paths = [*run.glob("*"), *(run / FOLDER).rglob("*")]
    names = {path.relative_to(run).as_posix() for path in paths if is_plain(path)}
    return sorted(filter(is_small, names), key=lambda name: (name == _JOURNAL, name))

"""What a mirror on a remote consists of: a folder of a file system of fsspec, and the manifest of what is whole in it.

The mirror of a run is `<remote>/<run folder name>/`, with a manifest (`gatekeeper/remote.json`) of what was uploaded
and read back: a file that it does not list is not promised to be whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from xtts_gatekeeper.checkpoints.inventory import NUMBERED
from xtts_gatekeeper.checkpoints.writer import PARTIAL
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.journal import FOLDER, to_json

MANIFEST = f"{FOLDER}/remote.json"
#: The run's own config, without which the Trainer cannot go on.
CONFIG = "config.json"
#: What is mirrored of a run folder beside its checkpoints and our own folder: config, log, scalars, training script.
_SMALL = (CONFIG, "trainer_*_log.txt", "events.out.tfevents.*", "*.py")

_CHUNK = 1 << 22
#: Parts of an upload in pieces: S3 takes 5 MiB to 5 GiB, and 10,000 of them.
_PART_BYTES = 16 << 20
#: Where an object appears under its name in one step, when it is complete.
_ATOMIC_PUT = frozenset({"s3", "s3a"})
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "az"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
}


class FileTrouble(Exception):
    """One file cannot be mirrored now; the others can."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that was uploaded and read back: `sha256` of its bytes. `step` is None for what is no checkpoint.

    `digest` and `mtime_ns` are those of the journal's line. `order` grows in the order of writing.
    """

    bytes: int
    sha256: str
    step: int | None = None
    kind: str = ""
    resumable: bool = False
    digest: str | None = None
    mtime_ns: int = 0
    order: int = 0

    def difference(self, read: tuple[int, str]) -> str | None:
        """What tells this file from one of which these bytes and SHA-256 were read; None when nothing does."""
        size, sha256 = read
        if size != self.bytes:
            return f"it has {size} bytes, the manifest says {self.bytes}"
        return None if sha256 == self.sha256 else "its SHA-256 is not the manifest's"


@dataclass
class Manifest:
    """What a mirror holds. `pending` are names that are being uploaded or deleted: the mirror's own, with no promise.

    `begin` is the SHA-256 of the first line of the run's journal, which tells runs of one name apart. `aliases` are
    second names of files (hard links) that were not uploaded.
    """

    begin: str
    files: dict[str, RemoteFile] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)

    def dump(self) -> str:
        """The manifest as JSON, without the time of writing."""
        files = {name: asdict(file) for name, file in sorted(self.files.items())}
        return to_json(
            {"begin": self.begin, "files": files, "pending": sorted(self.pending), "aliases": self.aliases}, indent=1
        )

    @staticmethod
    def parse(data: bytes, url: str) -> Manifest:
        """Read what `dump` wrote; keys of later versions are ignored.

        Raises:
            UserError: it is no manifest, or names a file outside of the run.
        """
        known = {f.name for f in fields(RemoteFile)}
        try:
            content = json.loads(data)
            manifest = Manifest(
                content["begin"],
                {n: RemoteFile(**{k: v for k, v in f.items() if k in known}) for n, f in content["files"].items()},
                set(content["pending"]),
                dict(content["aliases"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{url}/{MANIFEST} is no manifest of a mirror ({type(error).__name__}: {error}); move it away."
            ) from None
        check_names({*manifest.files, *manifest.pending, *manifest.aliases, *manifest.aliases.values()}, url)
        return manifest


@dataclass(frozen=True)
class RemoteRun:
    """A run folder on a remote; `mirrored` when it has a manifest. `bytes` are those of all its files."""

    name: str
    url: str
    checkpoints: tuple[str, ...]
    bytes: int
    mirrored: bool


# The file system


class RemoteFolder:
    """A folder of a remote file system; files go by their names in it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.fs, root = _file_system(url)
        self.root: str = root.rstrip("/")
        self.atomic = url.partition("://")[0] in _ATOMIC_PUT

    def disconnect(self) -> None:
        """Let the next one connect anew: fsspec would hand out the same file system again, broken or not."""
        type(self.fs).clear_instance_cache()

    def sizes(self) -> dict[str, int]:
        """The bytes of every file below the folder, by name; empty when there is no such folder."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        start = self.root + "/"
        return {path[len(start) :]: int(info["size"]) for path, info in found.items() if path.startswith(start)}

    def read(self, name: str) -> bytes:
        """All of a small file."""
        data: bytes = self.fs.cat_file(self._path(name))
        return data

    def copy(self, name: str, target: BinaryIO | None = None, limit: int | None = None) -> tuple[int, str]:
        """Read a file, at most `limit` bytes, into `target`; returns bytes and SHA-256 of what was read."""
        self.fs.invalidate_cache()
        return self._copy(self._path(name), target, limit)

    def put(self, name: str, source: BinaryIO, size: int) -> str:
        """Upload the next `size` bytes of `source`, read them back and return their SHA-256.

        The name stands for a whole file or none: an object of S3 appears when it is complete, elsewhere the file gets
        its name after it was read back.

        Raises:
            FileTrouble: what was read back is something else, and is gone again; or `source` has less.
        """
        path = self._path(name)
        written = path if self.atomic else path + PARTIAL
        if not self.atomic:  # on S3 there are no folders, and s3fs would make a bucket
            self.fs.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        sha256 = self._write(written, source, size)
        self.fs.invalidate_cache()
        if self._copy(written) != (size, sha256):
            with contextlib.suppress(Exception):
                self.fs.rm_file(written)
            raise FileTrouble(f"{name} was uploaded and does not read back the same")
        if not self.atomic:
            self.fs.mv(written, path)
        return sha256

    def same(self, name: str, source: BinaryIO, size: int) -> str | None:
        """The SHA-256 of a file that holds just the next `size` bytes of `source`; None when it holds others.

        Raises:
            FileTrouble: `source` has less, or cannot be read.
        """
        hasher = hashlib.sha256()
        for chunk in _chunks(source, size):
            hasher.update(chunk)
        sha256 = hasher.hexdigest()
        return sha256 if self.copy(name) == (size, sha256) else None

    def remove(self, name: str) -> None:
        """Delete a file; it need not be there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._path(name))

    def drop_parts(self, names: set[str]) -> None:
        """Drop the parts that uploads cut short by a kill left on S3: nobody sees them, and they are paid for."""
        if not self.atomic or not names:
            return
        with contextlib.suppress(Exception):  # a right of its own, and other makes of S3 lack it
            bucket, _, _ = self.fs.split_path(self.root)
            keys = {self.fs.split_path(self._path(name))[1] for name in names}
            for upload in self.fs.list_multipart_uploads(bucket):
                if upload["Key"] in keys:
                    self.fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _copy(self, path: str, target: BinaryIO | None = None, limit: int | None = None) -> tuple[int, str]:
        with self.fs.open(path, "rb") as file:
            return digest_of(file, target, limit)

    def _write(self, path: str, source: BinaryIO, size: int) -> str:
        if self.atomic and size <= _PART_BYTES:
            data = b"".join(_chunks(source, size))
            self.fs.pipe_file(path, data)
            return hashlib.sha256(data).hexdigest()
        hasher = hashlib.sha256()
        # Without autocommit nothing appears before commit(), whatever closes the file.
        file = self.fs.open(path, "wb", **({"autocommit": False, "block_size": _PART_BYTES} if self.atomic else {}))
        try:
            for chunk in _chunks(source, size):
                hasher.update(chunk)
                file.write(chunk)
            file.flush()
            with contextlib.suppress(OSError, AttributeError):  # only local files can be synced
                os.fsync(file.fileno())
            file.close()
            if self.atomic:
                file.commit()
        except BaseException:
            with contextlib.suppress(Exception):
                file.discard() if self.atomic else file.close()
            if self.atomic:
                file.closed = True  # or the garbage collector would send the rest
            raise
        return hasher.hexdigest()


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it.

    Raises:
        UserError: it is no URL, or a package is missing.
    """
    protocol, mark, rest = url.partition("://")
    if not mark or not rest.strip("/") or "::" in url:
        raise UserError(f"the remote {url!r} is no URL of a folder; write s3://BUCKET/FOLDER or another of fsspec's.")
    try:
        from fsspec.core import url_to_fs

        fs, root = url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(protocol, "fsspec")
        raise UserError(f"{url} needs a package that is not installed: pip install {package} ({error}).") from None
    except Exception as error:  # an address that is wrong, or a server that is met while connecting
        raise UserError(f"{url} cannot be opened: {why(error)}.") from None
    return fs, root


def digest_of(file: BinaryIO, target: BinaryIO | None = None, limit: int | None = None) -> tuple[int, str]:
    """Bytes and SHA-256 of a file, or of its first `limit` bytes; written to `target` on the way."""
    hasher, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK if limit is None else min(_CHUNK, limit - size)):
        hasher.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return size, hasher.hexdigest()


def _chunks(source: BinaryIO, size: int) -> Iterator[bytes]:
    """The next `size` bytes of a local file."""
    while size:
        try:
            chunk = source.read(min(_CHUNK, size))
        except OSError as error:
            raise FileTrouble(f"the local file cannot be read: {error}") from None
        if not chunk:
            raise FileTrouble(f"the local file ended {size} bytes early")
        size -= len(chunk)
        yield chunk


# Names


def check_names(names: set[str], url: str) -> None:
    """A name is joined to a local folder at download; it must stay in there.

    Raises:
        UserError: one does not.
    """
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or "\\" in name or ":" in name:
            raise UserError(f"{url} holds a file named {name!r}, which cannot be one of a run; move it away.")


def is_small(name: str) -> bool:
    """Whether a file of a run is mirrored, though no checkpoint; by its name in the run."""
    if name.startswith(f"{FOLDER}/"):
        # Our folder also holds what was put aside as broken, the lock of the process that trains here, and samples that
        # are being spoken.
        whole = not name.endswith((PARTIAL, ".lock")) and f"{PARTIAL}/" not in name
        return name != MANIFEST and ".pth" not in name and whole
    return any(fnmatchcase(name, pattern) for pattern in _SMALL)


# Runs


def find_run(url: str) -> tuple[RemoteFolder, dict[str, int]]:
    """The run at `url`, or the only one below it, and the sizes of its files.

    Raises:
        UserError: none, or several.
    """
    remote = RemoteFolder(url)
    with reading(url):
        there = remote.sizes()
        if MANIFEST in there or any(NUMBERED.fullmatch(name) for name in there):
            return remote, there
        runs = runs_in(remote, there)
        if len(runs) == 1:
            remote = RemoteFolder(runs[0].url)
            return remote, remote.sizes()
    if runs:
        raise UserError(f"{url} holds {len(runs)} runs; name one of them: {', '.join(run.name for run in runs)}.")
    raise UserError(f"{url} holds no run: no {MANIFEST} and no checkpoint_N.pth or best_model_N.pth.")


def runs_in(remote: RemoteFolder, there: dict[str, int]) -> list[RemoteRun]:
    """The runs among the files `there` (sizes by name) of a remote folder, by name."""
    folders: dict[str, dict[str, int]] = {}
    for path, size in sorted(there.items()):
        folder, mark, name = path.partition("/")
        if mark:
            folders.setdefault(folder, {})[name] = size
    return [
        RemoteRun(folder, f"{remote.url}/{folder}", checkpoints, sum(files.values()), MANIFEST in files)
        for folder, files in folders.items()
        if (checkpoints := tuple(filter(NUMBERED.fullmatch, files))) or MANIFEST in files
    ]


# What goes wrong


def reading(url: str) -> contextlib.AbstractContextManager[None]:
    """Turn what goes wrong while reading a remote into one sentence."""
    return in_a_sentence(f"{url} could not be read", ", and try again")


@contextlib.contextmanager
def in_a_sentence(what: str, more: str = "") -> Iterator[None]:
    """Turn what goes wrong in the block into one `UserError`: `what`, why, what to do, and `more`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # what a file system of fsspec raises is its library's matter
        raise UserError(f"{what}: {why(error)}; {_advice(error)}{more}.") from None


def why(error: BaseException) -> str:
    """What went wrong, in one line."""
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".") if lines else ""
    return text if isinstance(error, UserError | FileTrouble) else f"{type(error).__name__}: {text}"


def _advice(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "create the bucket or folder first, or correct the name"
    if isinstance(error, PermissionError):
        return "give credentials that may list, read, write and delete there"
    if "credential" in f"{type(error).__name__} {error}".lower():
        return "give credentials, for S3 as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or in ~/.aws"
    return "check the address, the network and the credentials"

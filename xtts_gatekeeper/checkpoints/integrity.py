"""Whether a checkpoint file is whole, found out without loading it (and without torch).

`torch.save` writes a zip archive: one stored (uncompressed) record for the pickle, one for each tensor. The archive's
directory holds a CRC-32 of every record, and nothing protects the directory. `scan` therefore looks at a file in two
parts, which together are every byte of it:

- the records' contents, each against its CRC-32;
- everything else (local headers, padding, data descriptors, directory, end records): its parts say most things twice
  and have to agree, and a SHA-256 over all of it, with the file's size, is the `digest` of the scan.

The digest covers the CRCs, the CRCs cover the contents. So one pass over the file that costs no more than the CRCs
shows every flipped bit, once the digest of the file as it was written is known. It is a checksum against accidents: a
CRC-32 meets all bursts of up to 32 bits, other damage with a chance of 1 - 2^-32, and a forger not at all.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from xtts_gatekeeper.checkpoints.zip_layout import CHUNK, Damage, Record, SharedFile, read_layout, shown

#: What `damage` says where only the digest tells.
NOT_AS_WRITTEN = "its checksums hold and yet it is not the file that was written: its digest differs"

#: Records are handed to a thread in runs of at least this size: neighbours on the disk are read one after the other.
_RUN_BYTES = 16 << 20


@dataclass(frozen=True)
class Scan:
    """What one pass over a file found.

    `digest` stands for the whole file where `problem` is None (see the module); None where the archive has no readable
    structure. `problem` is a fragment of a sentence.
    """

    bytes: int
    digest: str | None
    problem: str | None


def scan(path: Path, threads: int = 1) -> Scan:
    """Read every byte of the file at `path` and check it; never raises, whatever the file holds.

    The contents of the records, that is all but some kilobytes, are read exactly once, into a small buffer. They are
    not mapped into memory, which would be a little faster: where a disk fails to read, or another process shortens the
    file, a mapping ends in a signal that kills the process, and this runs inside of a training, too.

    Without the digest of the whole file to compare with, these bits of a file that torch wrote have nothing to
    disagree with: the versions in the zip64 end record (32 bits). In an archive of another writer it is also the
    directory's attributes, comments and the unknown kinds of extra fields.

    Args:
        path: the file.
        threads: how many read and check at the same time. Python's lock is free meanwhile.
    """
    size = 0
    digest = None
    try:
        with SharedFile(path) as file:
            size = file.size
            layout = read_layout(file)
            digest = layout.digest
            bad = _bad_records(file, layout.records, threads)
            if layout.compressed:
                bad += _bad_compressed(path)
        problem = _crc_problem(bad)
    except Damage as damaged:
        problem = str(damaged)
    except Exception as error:  # the system, or zipfile, which meets damage with a dozen kinds of error
        problem = f"it cannot be read ({shown(f'{type(error).__name__}: {error}')})"
    return Scan(size, digest, problem)


def damage(path: Path, *, legacy: bool = False, digest: str | None = None, threads: int = 1) -> str | None:
    """What is wrong with the file, as a fragment of a sentence, or None when it is whole; never raises.

    Args:
        path: the file. A missing file and a folder are damaged, too.
        legacy: let files pass that are in torch's format before 1.6, a pickle without checksums.
        digest: that of the file as it was written (`Scan.digest`): then every flipped bit is found.
        threads: see `scan`.
    """
    if legacy and digest is None and is_legacy(path):
        return None
    found = scan(path, threads)
    if found.problem is None and digest is not None and found.digest != digest:
        return NOT_AS_WRITTEN
    return found.problem


def is_legacy(path: Path) -> bool:
    """Whether the file is in torch's format before 1.6, a pickle without checksums; by its first byte."""
    try:
        with SharedFile(path) as file:
            return file.read(0, 1) == b"\x80"
    except Exception:  # no file, none that may be read, or no path at all
        return False


def _crc_problem(bad: Sequence[bytes]) -> str | None:
    if not bad:
        return None
    more = f", nor those of {len(bad) - 1} more records" if len(bad) > 1 else ""
    return f"the CRC of {shown(bad[0])} does not hold{more}"


def _bad_records(file: SharedFile, records: list[Record], threads: int) -> list[bytes]:
    """Names of the records whose CRC-32 does not hold, in the file's order."""
    runs = _runs(records)
    if threads < 2 or len(runs) < 2:
        return [name for run in runs for name in _bad_in_run(file, run)]
    # The largest first, so that no thread is left with a large one at the end.
    order = sorted(range(len(runs)), key=lambda i: -sum(record.size for record in runs[i]))
    pool = ThreadPoolExecutor(min(threads, len(runs)), "scan")
    try:
        found = dict(zip(order, pool.map(lambda i: _bad_in_run(file, runs[i]), order), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    return [name for i in range(len(runs)) for name in found[i]]


def _runs(records: list[Record]) -> list[list[Record]]:
    """The records in groups of neighbours, each large enough to be worth handing over."""
    runs: list[list[Record]] = []
    size = _RUN_BYTES
    for record in records:
        if size >= _RUN_BYTES:
            runs.append([])
            size = 0
        runs[-1].append(record)
        size += record.size
    return runs


def _bad_in_run(file: SharedFile, run: list[Record]) -> list[bytes]:
    buffer = memoryview(bytearray(min(CHUNK, max(record.size for record in run))))
    return [record.name for record in run if file.crc(record.begin, record.size, buffer) != record.crc]


def _bad_compressed(path: Path) -> list[bytes]:
    """Names of the compressed records that do not unpack to what their CRC-32 says; zipfile does the unpacking."""
    bad = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type == zipfile.ZIP_STORED:
                continue
            try:
                with archive.open(info) as record:
                    while record.read(CHUNK):
                        pass
            except Exception:  # zlib's, bz2's, lzma's and zipfile's own errors
                bad.append(info.filename.encode(errors="surrogateescape"))
    return bad

"""The structure of a zip archive as `torch.save` writes it: every byte of the file but the records' contents.

Headers, directory and end records say most things twice. `read_layout` walks through all of them, compares, and hashes
what it walks over.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_LOCAL = struct.Struct("<4s5H3L2H")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_EXTRA = struct.Struct("<2H")
_LOCAL_MARK, _ENTRY_MARK, _END_MARK = b"PK\3\4", b"PK\1\2", b"PK\5\6"
_LOCATOR_MARK, _END64_MARK, _DESCRIPTOR_MARK = b"PK\6\7", b"PK\6\6", b"PK\7\x08"
_ALL16, _ALL32 = 0xFFFF, 0xFFFFFFFF
_HAS_DESCRIPTOR = 1 << 3
#: Ids of extra fields: zip64 sizes, and torch's padding, which aligns a tensor in the file.
_ZIP64, _PADDING = 0x0001, 0x4246

_LONGEST_COMMENT = 1 << 16
_LONGEST_GAP = 1 << 16
_LONGEST_DIRECTORY = 1 << 30
#: Bytes that are read at a time.
CHUNK = 1 << 18


class Damage(Exception):
    """What is wrong, as a fragment of a sentence."""


def _no_zip(why: str) -> Damage:
    return Damage(f"it is no whole zip archive: {why}")


def shown(text: str | bytes) -> str:
    """`text` on one line, whatever is in it; long ones cut."""
    text = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return text if text.isprintable() else ascii(text)


class SharedFile:
    """A file that several threads read at the same time, each at its own place."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer
            raise Damage("it is a folder" if stat.S_ISDIR(mode) else "it is no regular file")
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> SharedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read_into(self, buffer: memoryview, at: int) -> int:
        """Fill the start of `buffer` from byte `at` on; returns how many bytes there were."""
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [buffer], at)
        with self._lock:
            self._file.seek(at)
            return self._file.readinto(buffer) or 0

    def read(self, at: int, size: int) -> bytes:
        """Exactly `size` bytes from `at` on.

        Raises:
            Damage: the file ends before.
        """
        if not 0 <= at <= at + size <= self.size:
            raise _no_zip(f"it speaks of {size} bytes at {at}, and the file has {self.size}")
        data = bytearray(size)
        view = memoryview(data)
        done = 0
        while done < size:
            count = self.read_into(view[done:], at + done)
            if not count:
                raise Damage("it has become shorter while it was read")
            done += count
        return bytes(data)

    def crc(self, at: int, size: int, buffer: memoryview) -> int:
        """CRC-32 of `size` bytes from `at` on."""
        crc = 0
        end = at + size
        while at < end:
            count = self.read_into(buffer[: end - at], at)
            if not count:
                raise Damage("it has become shorter while it was read")
            crc = zlib.crc32(buffer[:count], crc)
            at += count
        return crc


@dataclass(frozen=True)
class _Entry:
    """A record as the directory tells of it; `marks` is the fields that torch leaves zero."""

    name: bytes
    version: int
    flags: int
    method: int
    time: tuple[int, int]
    crc: int
    packed: int
    size: int
    offset: int
    zip64: bool
    marks: tuple[int, ...]


@dataclass(frozen=True)
class Record:
    """The content of a record: where it lies, and its CRC-32."""

    name: bytes
    begin: int
    size: int
    crc: int


@dataclass(frozen=True)
class _End:
    """What the end records say: where the directory lies, and how many bytes and entries it has."""

    directory: int
    bytes: int
    entries: int


@dataclass(frozen=True)
class Layout:
    """Every part of the file: the stored contents, whether others are compressed, and the digest over all the rest."""

    records: list[Record]
    compressed: bool
    digest: str


def read_layout(file: SharedFile) -> Layout:
    """Walk through the file from its first byte to its last, over the contents of stored records.

    Raises:
        Damage: two parts of the structure disagree, or some bytes belong to no part.
    """
    end = _read_end(file)
    entries = _read_directory(file, end)
    _check_names([entry.name for entry in entries])
    torchs = _is_torchs(entries)
    entries.sort(key=lambda entry: entry.offset)
    digest = hashlib.sha256(str(file.size).encode())
    records = []
    if entries[0].offset:
        raise _no_zip(f"{entries[0].offset} bytes before the first record belong to nothing")
    for entry, begin_of_next in zip(entries, [*(e.offset for e in entries[1:]), end.directory], strict=True):
        header = _read_local(file, entry, torchs)
        digest.update(header)
        begin = entry.offset + len(header)
        if entry.method == zipfile.ZIP_STORED:
            records.append(Record(entry.name, begin, entry.size, entry.crc))
        else:  # the bits that pad a compressed stream are covered by no CRC
            for at in range(begin, begin + entry.packed, CHUNK):
                digest.update(file.read(at, min(CHUNK, begin + entry.packed - at)))
        digest.update(_read_gap(file, entry, begin + entry.packed, begin_of_next))
    digest.update(file.read(end.directory, file.size - end.directory))
    return Layout(records, len(records) < len(entries), f"zip:{digest.hexdigest()}")


def _check_names(names: list[bytes]) -> None:
    pickles = sum(name.endswith(b"data.pkl") for name in names)
    if not pickles:
        raise Damage("it has no data.pkl, so torch did not write it")
    if pickles > 1 or len(set(names)) < len(names):  # which of them counts would be each reader's own choice
        raise Damage("it has several records of one name, so torch did not write it")


def _read_end(file: SharedFile) -> _End:
    """Find the end record, and the zip64 one before it, and compare what they say."""
    if file.size < _END.size:
        raise _no_zip("it is empty" if not file.size else f"it has only {file.size} bytes")
    begin = file.size - _END.size
    tail = file.read(begin, _END.size)
    if not tail.startswith(_END_MARK) or tail[-2:] != b"\0\0":
        first = max(0, begin - _LONGEST_COMMENT)
        tail = file.read(first, file.size - first)
        place = tail.rfind(_END_MARK)
        if place < 0 or len(tail) - place < _END.size:
            raise _no_zip("its end is missing")
        tail, begin = tail[place:], first + place
    _, disk, directory_disk, entries_here, entries, size, offset, comment = _END.unpack_from(tail)
    if comment != len(tail) - _END.size:
        raise _no_zip("its end record is damaged")
    said = (disk, directory_disk, entries_here, entries, size, offset)
    return _read_end64(file, begin, said) or _checked_end(begin, said)


def _checked_end(begin: int, said: tuple[int, ...]) -> _End:
    disk, directory_disk, entries_here, entries, size, offset = said
    if disk or directory_disk or entries_here != entries or offset + size != begin:
        raise _no_zip("its end record disagrees with its directory")
    if not entries or size > _LONGEST_DIRECTORY:
        raise _no_zip(f"its directory has {entries} entries in {size} bytes")
    return _End(offset, size, entries)


def _read_end64(file: SharedFile, end: int, said: tuple[int, ...]) -> _End | None:
    """The zip64 end record, or None without one. Where the plain end record says something, it says the same."""
    if end < _LOCATOR.size + _END64.size:
        return None
    signature, disk, begin, disks = _LOCATOR.unpack(file.read(end - _LOCATOR.size, _LOCATOR.size))
    if signature != _LOCATOR_MARK:
        return None
    if disk or disks != 1 or begin + _END64.size > end - _LOCATOR.size:
        raise _no_zip("the locator of its zip64 end record is damaged")
    signature, size, _, _, *full = _END64.unpack(file.read(begin, _END64.size))
    if signature != _END64_MARK or begin + 12 + size != end - _LOCATOR.size:
        raise _no_zip("its zip64 end record is damaged")
    for short, long, unsaid in zip(said, full, (_ALL16,) * 4 + (_ALL32,) * 2, strict=True):
        if short not in (long, unsaid):
            raise _no_zip("its two end records disagree")
    return _checked_end(begin, tuple(full))


def _read_directory(file: SharedFile, end: _End) -> list[_Entry]:
    data = file.read(end.directory, end.bytes)
    entries, at = [], 0
    while at < len(data):
        if len(data) - at < _ENTRY.size:
            raise _no_zip("its directory is damaged")
        entry, at = _parse_entry(data, at)
        entries.append(entry)
    if len(entries) != end.entries:
        raise _no_zip(f"its directory has {len(entries)} entries, and its end record says {end.entries}")
    return entries


def _parse_entry(data: bytes, at: int) -> tuple[_Entry, int]:
    """The entry at `at`, and where the next one begins."""
    (signature, made_by, version, flags, method, time, date, crc, packed, size, *rest) = _ENTRY.unpack_from(data, at)
    name_length, extra_length, comment_length, disk, internal, external, offset = rest
    name_begin = at + _ENTRY.size
    extra_begin = name_begin + name_length
    next_begin = extra_begin + extra_length + comment_length
    if signature != _ENTRY_MARK or next_begin > len(data):
        raise _no_zip("its directory is damaged")
    name = data[name_begin:extra_begin]
    extra = _extra_fields(data[extra_begin : extra_begin + extra_length], name)
    longer = extra.get(_ZIP64, b"")
    try:
        size, longer = _long(size, longer)
        packed, longer = _long(packed, longer)
        offset, longer = _long(offset, longer)
    except struct.error:
        raise _no_zip(f"the directory's entry of {shown(name)} is damaged") from None
    if disk or (method == zipfile.ZIP_STORED and packed != size):
        raise _no_zip(f"the directory's entry of {shown(name)} is damaged")
    marks = (made_by, internal, external, time, date, comment_length, *(set(extra) - {_ZIP64}))
    zip64 = _ZIP64 in extra
    return _Entry(name, version, flags, method, (time, date), crc, packed, size, offset, zip64, marks), next_begin


def _long(value: int, longer: bytes) -> tuple[int, bytes]:
    """The value itself, or the next one of the zip64 field where it is too large for its place."""
    if value != _ALL32:
        return value, longer
    return struct.unpack_from("<Q", longer)[0], longer[8:]


def _extra_fields(data: bytes, name: bytes) -> dict[int, bytes]:
    fields, at = {}, 0
    while at < len(data):
        if len(data) - at < _EXTRA.size:
            raise _no_zip(f"a header of {shown(name)} is damaged")
        kind, length = _EXTRA.unpack_from(data, at)
        at += _EXTRA.size
        if at + length > len(data):
            raise _no_zip(f"a header of {shown(name)} is damaged")
        fields[kind] = data[at : at + length]
        at += length
    return fields


def _is_torchs(entries: list[_Entry]) -> bool:
    """Whether the writer is torch, which leaves dates and attributes zero.

    By the most of the entries, so that a damaged one does not hide itself.

    Raises:
        Damage: it is, and some entry has them.
    """
    marked = [entry for entry in entries if any(entry.marks)]
    if 2 * len(marked) >= len(entries):
        return False
    if marked:
        raise _no_zip(f"the directory's entry of {shown(marked[0].name)} is unlike the others")
    return True


def _read_local(file: SharedFile, entry: _Entry, torchs: bool) -> bytes:
    """The local header of a record, all of it, after comparison with the directory's entry."""
    fixed = file.read(entry.offset, _LOCAL.size)
    signature, version, flags, method, time, date, crc, packed, size, name_length, extra_length = _LOCAL.unpack(fixed)
    told = file.read(entry.offset + _LOCAL.size, name_length + extra_length)
    name, extra = told[:name_length], _extra_fields(told[name_length:], entry.name)
    # zipfile raises the version in the directory alone when a record lies beyond 4 GiB.
    same_version = version == entry.version or entry.zip64
    same = (name, flags, method, (time, date)) == (entry.name, entry.flags, entry.method, entry.time) and same_version
    if signature != _LOCAL_MARK or not same:
        raise _no_zip(f"the header of {shown(entry.name)} disagrees with the directory")
    long = _ALL32 if _ZIP64 in extra else None
    full = ((entry.crc, entry.packed, entry.size), (entry.crc, long or entry.packed, long or entry.size))
    # All of them or none: a flipped bit turns one 0 into a size that is a power of two, not both.
    unsaid = ((0, 0, 0), (entry.crc, 0, 0), (0, *full[0][1:]), (0, *full[1][1:])) if flags & _HAS_DESCRIPTOR else ()
    sizes_fit = (crc, packed, size) in (*full, *unsaid)
    if not sizes_fit or not _extra_fits(extra, entry, torchs):
        raise _no_zip(f"the header of {shown(entry.name)} disagrees with the directory")
    return fixed + told


def _extra_fits(extra: dict[int, bytes], entry: _Entry, torchs: bool) -> bool:
    """Whether a local header's extra fields say what the directory says, and torch's padding is what torch fills in."""
    long = extra.get(_ZIP64, b"")
    values = struct.unpack(f"<{len(long) // 8}Q", long[: len(long) // 8 * 8])
    if len(long) % 8 or not set(values) <= {0, entry.size, entry.packed, entry.offset}:
        return False
    if not torchs:
        return True
    return set(extra) <= {_ZIP64, _PADDING} and not extra.get(_PADDING, b"").strip(b"Z")


def _read_gap(file: SharedFile, entry: _Entry, begin: int, end: int) -> bytes:
    """What lies between the content of `entry` and the next record: a data descriptor where one is due, else zeros."""
    if not begin <= end <= begin + _LONGEST_GAP:
        raise _no_zip(f"what follows {shown(entry.name)} lies {end - begin} bytes after its end")
    gap = file.read(begin, end - begin)
    rest = gap
    if entry.flags & _HAS_DESCRIPTOR and (gap or entry.size):  # torch writes none after an empty record
        rest = next((gap[len(form) :] for form in _descriptors(entry) if gap.startswith(form)), b"?")
    if rest.strip(b"\0"):
        raise _no_zip(f"the bytes after {shown(entry.name)} are damaged")
    return gap


def _descriptors(entry: _Entry) -> list[bytes]:
    """The forms of a data descriptor that are in use, the longest first."""
    forms = [struct.pack("<4sLQQ", _DESCRIPTOR_MARK, entry.crc, entry.packed, entry.size)]
    if max(entry.packed, entry.size) <= _ALL32:
        forms.append(struct.pack("<4sLLL", _DESCRIPTOR_MARK, entry.crc, entry.packed, entry.size))
    return forms + [form[4:] for form in forms]

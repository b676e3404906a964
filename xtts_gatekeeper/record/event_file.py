"""Scalars out of a TensorBoard event file, a chunk at a time: TFRecord framing and a reader of protobuf's wire format.

A record is a length (uint64), its masked CRC-32C, the data and the masked CRC-32C of those; the data are an `Event`
(wall_time = 1, step = 2, file_version = 3, summary = 5) of tensorflow/core/util/event.proto, the scalars in it a
`Summary.Value` (tag = 1, simple_value = 2, tensor = 8, metadata = 9) of summary.proto.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

_HEADER = struct.Struct("<QIBd")  # length, its CRC, and the key and value of wall_time, with which every event begins
_LENGTH = struct.Struct("<QI")
_U32 = struct.Struct("<I")
_FLOAT = struct.Struct("<f")
_DOUBLE = struct.Struct("<d")
_WALL_TIME = 0x09
_STEP = 0x10
#: Nothing that holds a scalar alone is longer; such records (graphs, audio) are passed over without a buffer.
_LONGEST = 1 << 20
#: A record of one scalar: time, summary and a tag of one letter, and a tag of a sane length.
_SHORTEST, _SHORT = 9 + 4 + 3 + 5, 1024
#: Where a record can begin: a length below 16 MiB, any CRC, and the key of wall_time.
_RECORD = re.compile(rb"(?s)(?=...\x00{5}....\t)")
_CACHED = 10_000


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ 0x82F63B78 * (value & 1)
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and shifted as TFRecord stores it.

    >>> hex(masked_crc(b"123456789"))
    '0xc78ab0e5'
    """
    crc = 0xFFFFFFFF
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def looks_like_events(first_bytes: bytes) -> bool:
    """Whether a file that begins like this is an event file: a record's length with the right CRC, then an event."""
    if len(first_bytes) < _HEADER.size:
        return False
    _, crc, key, _ = _HEADER.unpack_from(first_bytes)
    return bool(key == _WALL_TIME and crc == masked_crc(first_bytes[:8]))


@dataclass(eq=False, slots=True)
class Tag:
    """What is done with the scalars of a tag: `take(step, value, wall_time)`, or nothing.

    `check`: whether the CRC of the record is verified before (`always`), `never`, or `later`, by `intact`, because few
    of the values will be used.
    """

    take: Callable[[int, float, float], None] | None = None
    check: Literal["always", "later", "never"] = "always"
    record: bytes = b""

    def intact(self) -> bool:
        """Whether the latest value stood in a record with the right CRC."""
        return not self.record or masked_crc(self.record[:-4]) == _U32.unpack_from(self.record, len(self.record) - 4)[0]


class EventFileReader:
    """Calls `Tag.take` for every scalar. Bytes that are no record are passed over up to the next one and reported.

    The length of every record is verified by its CRC. The data's CRC is verified where a tag asks for it, for values
    that are not finite, and whenever a tag is met for the first time; a broken record is reported and left out.
    Long records without a scalar are not verified.
    """

    def __init__(
        self, tag: Callable[[str], Tag], new_file: Callable[[float], None], damaged: Callable[[str], None]
    ) -> None:
        """Nothing is read yet.

        Args:
            tag: what to do with a tag that has not been met before.
            new_file: called with the wall time of the record that opens a file.
            damaged: called with a sentence for every place that could not be read.
        """
        self._tag = tag
        self._new_file = new_file
        self._damaged = damaged
        self._rest = bytearray()
        self._need = _HEADER.size
        self._skip = 0
        self._lost = False
        self._read = 0  # bytes of the file before `_rest`
        self._known: dict[bytes, Tag] = {}
        self._crc_of_short: dict[int, int] = {}

    def feed(self, data: bytes) -> None:
        """Take the next bytes, of any number."""
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            self._read += passed
            data = data[passed:]
        if not data:
            return
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return
            data = bytes(self._rest)
        done = self._records(data)
        self._read += min(done, len(data))
        self._skip = max(0, done - len(data))
        self._rest = bytearray(data[done:])

    def finish(self) -> bool:
        """The file is over; whether it ended in the middle of a record. The next file can be fed then."""
        torn = bool(self._skip) or (bool(self._rest) and not self._lost)
        self._rest.clear()
        self._need, self._skip, self._lost, self._read = _HEADER.size, 0, False, 0
        return torn

    def _records(self, data: bytes) -> int:
        """Read the whole records in `data`; how many bytes of it are done with, more than it has to skip on."""
        position = self._resynchronised(data, 0) if self._lost else 0
        size = len(data)
        last = size - _HEADER.size
        header, floating = _HEADER.unpack_from, _FLOAT.unpack_from
        known, crcs = self._known, self._crc_of_short
        step_bytes, step_length, step = b"\x10\x00", 2, 0
        while position <= last:
            length, crc, first, wall = header(data, position)
            start = position + 12
            end = start + length
            if crcs.get(length) != crc or end + 4 > size or first != _WALL_TIME:
                if not self._length_is_right(data, position, length, crc):
                    self._damaged(f"the record at byte {self._read + position} has a damaged length")
                    position = self._resynchronised(data, position + 1)
                    continue
                if end + 4 > size:
                    if length > _LONGEST:
                        return int(end + 4)
                    self._need = end + 4 - position
                    return position
                if first != _WALL_TIME or length not in crcs:
                    position = end + 4
                    self._event(data, start, end)
                    continue
            position = end + 4
            # The fast path: but for time, step and the four bytes of its value a scalar's record is the same every
            # time. Not in a function of its own, for a call costs as much as all of this.
            at = start + 9
            now = 0
            if data[at] == _STEP:
                if data.startswith(step_bytes, at):
                    at += step_length
                else:
                    try:
                        step, after = _varint(data, at + 1, end)
                    except ValueError:
                        self._event(data, start, end)
                        continue
                    step = _signed(step)
                    step_bytes = data[at:after]
                    step_length = after - at
                    at = after
                now = step
            tag = known.get(data[at : end - 4])
            if tag is None:
                self._event(data, start, end, at)
                continue
            take = tag.take
            if take is None:
                continue
            value = floating(data, end - 4)[0]
            check = tag.check
            if check == "later":
                tag.record = data[start:position]
            if (check == "always" or value - value != 0) and not self._intact(data, start, end):
                continue
            take(now, value, wall)
        self._need = _HEADER.size
        return position

    def _length_is_right(self, data: bytes, position: int, length: int, crc: int) -> bool:
        right = masked_crc(data[position : position + 8]) == crc
        if right and _SHORTEST <= length <= _SHORT:
            self._crc_of_short[length] = crc
        return right

    def _resynchronised(self, data: bytes, position: int) -> int:
        """Where the next record begins, or where to go on looking when more has come."""
        for found in _RECORD.finditer(data, position):
            length, crc = _LENGTH.unpack_from(data, found.start())
            if self._length_is_right(data, found.start(), length, crc):
                self._lost = False
                return found.start()
        self._lost = True
        return max(position, len(data) - _HEADER.size + 1)

    def _intact(self, data: bytes, start: int, end: int) -> bool:
        if masked_crc(data[start:end]) == _U32.unpack_from(data, end)[0]:
            return True
        self._damaged(f"the record at byte {self._read + start - 12} does not match its checksum")
        return False

    def _event(self, data: bytes, start: int, end: int, summary_at: int = -1) -> None:
        """Read any event. `summary_at`: where the fast path stopped, so that it knows the tag from then on."""
        try:
            event = _Event(data, start, end)
        except ValueError:
            self._damaged(f"the record at byte {self._read + start - 12} is no event")
            return
        if not event.scalars and end - start > _SHORT:
            return  # a graph, a histogram, audio: what they hold is not looked at
        if not self._intact(data, start, end):
            return
        if event.file_version:
            self._new_file(event.wall_time)
        for name, value, at in event.scalars:
            tag = self._tag(name)
            if at == end - 4 and event.summary_at == summary_at and len(event.scalars) == 1:
                if len(self._known) >= _CACHED:
                    self._known.clear()
                self._known[data[summary_at : end - 4]] = tag
            if tag.take is not None:
                tag.record = b""
                tag.take(event.step, value, event.wall_time)


def _signed(value: int) -> int:
    """An int64 out of its varint."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
    raise ValueError("no varint")


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, wire type, and where the value begins and ends (a varint: its value, and 0)."""
    while position < end:
        key, position = _varint(data, position, end)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position, end)
            yield number, wire, value, 0
            continue
        if wire == 2:
            length, position = _varint(data, position, end)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > end:
            raise ValueError("a field beyond its message")
        yield number, wire, position, position + length
        position += length


class _Event:
    """One decoded `Event`; `scalars` are name, value and where the value lies (-1 for a tensor's)."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self.wall_time = 0.0
        self.step = 0
        self.file_version = False
        self.summary_at = -1
        self.scalars: list[tuple[str, float, int]] = []
        before = start
        for number, wire, begin, stop in _fields(data, start, end):
            if (number, wire) == (1, 1):
                self.wall_time = _DOUBLE.unpack_from(data, begin)[0]
                before = stop
            elif (number, wire) == (2, 0):
                self.step = _signed(begin)
                # The varint may be written in more bytes than it needs.
                before = _varint(data, before + 1, end)[1]
            elif (number, wire) == (3, 2):
                self.file_version = data.startswith(b"brain.Event:", begin)
            elif (number, wire) == (5, 2):
                self.summary_at = before
                for inner, inner_wire, value_begin, value_stop in _fields(data, begin, stop):
                    if (inner, inner_wire) == (1, 2):
                        self._value(data, value_begin, value_stop)

    def _value(self, data: bytes, start: int, end: int) -> None:
        name = ""
        plugin = b"scalars"
        found: tuple[float, int] | None = None
        for number, wire, begin, stop in _fields(data, start, end):
            if (number, wire) == (1, 2):
                name = data[begin:stop].decode(errors="replace")
            elif (number, wire) == (2, 5):
                found = _FLOAT.unpack_from(data, begin)[0], begin
            elif (number, wire) == (8, 2):
                value = _tensor_scalar(data, begin, stop)
                found = None if value is None else (value, -1)
            elif (number, wire) == (9, 2):
                plugin = _plugin(data, begin, stop) or plugin
        if found is not None and name and plugin == b"scalars":
            self.scalars.append((name, *found))


def _plugin(data: bytes, start: int, end: int) -> bytes:
    """`SummaryMetadata.plugin_data.plugin_name`."""
    for number, wire, begin, stop in _fields(data, start, end):
        if (number, wire) == (1, 2):
            for inner, inner_wire, name, name_end in _fields(data, begin, stop):
                if (inner, inner_wire) == (1, 2):
                    return data[name:name_end]
    return b""


def _tensor_scalar(data: bytes, start: int, end: int) -> float | None:
    """The value of a `TensorProto` of one float (dtype 1) or double (dtype 2), None for any other."""
    dtype = 0
    sizes: list[int] = []
    content: dict[int, tuple[int, int]] = {}
    for number, wire, begin, stop in _fields(data, start, end):
        if (number, wire) == (1, 0):
            dtype = begin
        elif (number, wire) == (2, 2):
            sizes = [
                value
                for dim, dim_wire, dim_begin, dim_end in _fields(data, begin, stop)
                if (dim, dim_wire) == (2, 2)
                for inner, inner_wire, value, _ in _fields(data, dim_begin, dim_end)
                if (inner, inner_wire) == (1, 0)
            ]
        elif number in (4, 5, 6) and wire:
            content[number] = (begin, stop)
    kind = {1: (_FLOAT, 5), 2: (_DOUBLE, 6)}.get(dtype)
    if kind is None or any(size != 1 for size in sizes):
        return None
    layout, typed = kind
    begin, stop = content.get(4) or content.get(typed) or (0, 0)
    return float(layout.unpack_from(data, begin)[0]) if stop - begin == layout.size else None

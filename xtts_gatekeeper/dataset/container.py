"""Whether an audio file is as long as it says, by what its format promises. Pure Python, no decoding."""

from __future__ import annotations

from pathlib import Path

# Programs that write WAV into a pipe cannot know its length, and put the largest number they dare into the header.
_UNKNOWN_LENGTH_BYTES = 0x7FFF_0000
_HEAD_BYTES = 1 << 16
_OGG_PAGE = b"OggS"
_OGG_HEADER_BYTES = 27
_OGG_LAST = 0x04
#: A page of Ogg has at most 65,307 bytes (RFC 3533).
_OGG_MOST_BYTES = 65_307


def cut_off(path: Path) -> str:
    """Return what shows that the file is not whole, as the rest of a sentence that begins with "the file"; else "".

    RIFF (WAV) and FORM (AIFF) say in their header how long they are, MP3 mostly in its first frame, and the last page
    of an Ogg stream says that it is the last. FLAC is found by decoding, see `measure`.

    Raises:
        OSError: it cannot be read.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if head[:4] in (b"RIFF", b"RIFX", b"FORM"):
            promised = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big") + 8
            # One byte of padding after an odd number of samples is often counted and not written.
            if size_bytes + 1 < promised < _UNKNOWN_LENGTH_BYTES:
                return f"ends after {size_bytes} of the {promised} bytes that its header promises"
        elif head[:4] == _OGG_PAGE:
            file.seek(max(0, size_bytes - _OGG_MOST_BYTES))
            end = file.read()
            at = end.rfind(_OGG_PAGE)
            page = end[at:] if at >= 0 else b""
            if len(page) < _OGG_HEADER_BYTES or not page[5] & _OGG_LAST or len(page) < _page_bytes(page):
                return "ends before the last page of its Ogg stream"
        elif size_bytes < (promised := _mp3_bytes(head)):
            return f"ends after {size_bytes} of the {promised} bytes that its first frame promises"
    return ""


def _mp3_bytes(head: bytes) -> int:
    """How long an MP3 file is by the tag "Xing" or "Info" that encoders put into a first, silent frame; 0 without."""
    start = 0
    if head[:3] == b"ID3":
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
    frame = head[start : start + 64]
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] != b"\xff" or at < 0 or len(frame) < at + 16:
        return 0
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    if not flags & 0x2:
        return 0
    where = at + 8 + (4 if flags & 0x1 else 0)
    return start + int.from_bytes(frame[where : where + 4], "big")


def _page_bytes(page: bytes) -> int:
    """Length of a page of Ogg by its header (RFC 3533, section 6)."""
    segments = page[26]
    return _OGG_HEADER_BYTES + segments + sum(page[_OGG_HEADER_BYTES : _OGG_HEADER_BYTES + segments])

"""How fast a checkpoint is read and checked: `scan` with one and two threads, beside `zipfile.testzip`.

    python benchmarks/verify_speed.py [--gigabytes 1] [--repeats 7] [--folder DIR]

The file is laid out as torch lays out an XTTS checkpoint with its optimizer: per layer of the GPT a few matrices of 4
to 16 MB and many vectors of 4 to 16 kB. It is read once before anything is timed, so that the page cache has it where
the memory suffices; the ways take turns. Prints medians with their range, and ratios to `testzip` of the same turn.
Then how long `peek` takes on the same file. Measures, asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from xtts_gatekeeper.checkpoints.contents import peek
from xtts_gatekeeper.checkpoints.integrity import scan

WIDTH = 1024  # of XTTS's GPT
#: Floats of the tensors of one of its layers: attention, its projection, the two of the MLP, biases and norms.
LAYER = (3 * WIDTH**2, WIDTH**2, 4 * WIDTH**2, 4 * WIDTH**2, 3 * WIDTH, 4 * WIDTH, *(WIDTH,) * 6)
ALIGN = 64


def tensors(size: int) -> Iterator[bytes]:
    """Contents of records, `size` bytes in all; random, for they are what training leaves."""
    rng = random.Random(0)
    noise = rng.randbytes(32 << 20)
    done = 0
    while done < size:
        for floats in LAYER:
            begin = rng.randrange(len(noise) - 4 * floats)
            yield noise[begin : begin + 4 * floats]
            done += 4 * floats


def description(count: int) -> bytes:
    """A pickle that torch would have written for so many float vectors, in its protocol 2."""
    parts = [b"\x80\x02}X\x05\0\0\0model}("]
    for index in range(count):
        name, key = f"gpt.layer.{index}.weight".encode(), str(index).encode()
        parts.append(
            b"X" + struct.pack("<L", len(name)) + name + b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storage"
        )
        parts.append(
            b"ctorch\nFloatStorage\nX" + struct.pack("<L", len(key)) + key + b"X\3\0\0\0cpuK\1tQK\0K\1\x85K\1\x85"
        )
        parts.append(b"\x89ccollections\nOrderedDict\n)RtR")
    return b"".join([*parts, b"us."])


def write(path: Path, size: int) -> int:
    """A file with torch's layout: padded local headers, data descriptors. Returns the number of records."""
    contents = list(tensors(size))
    records = [("a/data.pkl", description(len(contents))), *((f"a/data/{i}", data) for i, data in enumerate(contents))]
    directory = []
    with path.open("wb") as file:
        for name, data in records:
            offset, crc, length = file.tell(), zlib.crc32(data), len(data)
            padding = -(offset + 30 + len(name) + 4) % ALIGN
            extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            file.write(struct.pack("<4s5H3L2H", b"PK\3\4", 0, 8, 0, 0, 0, 0, 0, 0, len(name), len(extra)))
            file.write(name.encode() + extra + data + struct.pack("<4sLLL", b"PK\7\x08", crc, length, length))
            far = struct.pack("<HHQ", 1, 8, offset) if offset >> 32 else b""
            near = min(offset, 0xFFFFFFFF)
            rest = (crc, length, length, len(name), len(far), 0, 0, 0, 0, near)
            directory.append(struct.pack("<4s6H3L5H2L", b"PK\1\2", 0, 0, 8, 0, 0, 0, *rest) + name.encode() + far)
        begin = file.tell()
        entries, length = len(records), sum(map(len, directory))
        file.write(b"".join(directory))
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, length, begin))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, begin + length, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, entries, entries, length, min(begin, 0xFFFFFFFF), 0))
    return entries


def testzip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise SystemExit("the generated file is damaged")


def whole(path: Path, threads: int) -> None:
    problem = scan(path, threads).problem
    if problem is not None:
        raise SystemExit(f"the generated file is damaged: {problem}")


WAYS: dict[str, Callable[[Path], None]] = {
    "testzip": testzip,
    "scan, 1 thread": lambda path: whole(path, 1),
    "scan, 2 threads": lambda path: whole(path, 2),
}


def seconds(what: Callable[[Path], object], path: Path) -> float:
    began = time.perf_counter()
    what(path)
    return time.perf_counter() - began


def told(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):6.2f} {unit} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="Where the file is made; by default the system's temporary folder.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "checkpoint_1.pth"
        records = write(path, int(options.gigabytes * 1e9))
        size = path.stat().st_size
        os.sync() if hasattr(os, "sync") else None
        whole(path, 1)
        print(f"{size / 1e9:.2f} GB in {records} records, {os.cpu_count()} cores")
        turns = [{way: seconds(run, path) for way, run in WAYS.items()} for _ in range(options.repeats)]
        for way in WAYS:
            speed = told([size / 1e9 / turn[way] for turn in turns], "GB/s")
            ratio = told([turn["testzip"] / turn[way] for turn in turns], "x testzip")
            print(f"{way:16} {speed:28}  {ratio}")
        print(f"{'peek':16} {told([1000 * seconds(peek, path) for _ in range(20)], 'ms')}, {records - 1} tensors")


if __name__ == "__main__":
    main()

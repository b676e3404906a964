"""The cache of measures, and the processes that fill it."""

import os
import sqlite3
import sys
from pathlib import Path

import pytest
from waves import speak, write

from xtts_gatekeeper.dataset.clip import Audio
from xtts_gatekeeper.dataset.scan import Pool, scan
from xtts_gatekeeper.dataset.store import MISSING, Store
from xtts_gatekeeper.dataset.worker import decode, encode


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "cache.sqlite") as found:
        yield found


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [write(folder / f"{n}.wav", speak("bada gida" * (n + 1), n)) for n in range(4)]


def counted(store, paths, **options):
    told = []
    scan(store, paths, progress=lambda done, of: told.append((done, of)), **options)
    return told


def test_every_file_is_known_afterwards(store, clips, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    paths = [*clips, str(broken), str(tmp_path / "none.wav")]
    told = counted(store, paths, workers=2)
    assert told[-1] == (6, 6)
    known = store.audio(paths)
    assert set(known) == set(paths)
    assert [bool(known[path].error) for path in paths] == [False] * 4 + [True] * 2
    assert known[paths[-1]].digest == MISSING
    frames = store.frames([known[path].digest for path in clips])
    assert all(frames[known[path].digest] for path in clips)


def test_second_scan_opens_no_file(store, clips, monkeypatch):
    scan(store, clips, workers=1)
    monkeypatch.setattr(
        "xtts_gatekeeper.dataset.scan.Pool.measure", lambda _self, paths: iter([1 / 0] if paths else [])
    )
    monkeypatch.setattr("xtts_gatekeeper.dataset.store.digest_of", lambda _path: 1 / 0)
    scan(store, clips, workers=1)


def test_changed_file_is_measured_again_and_a_copy_is_not(store, tmp_path, monkeypatch):
    path = tmp_path / "clip.wav"
    write(path, speak("bada"))
    scan(store, [str(path)], workers=1)
    before = store.audio([str(path)])[str(path)]
    copy = tmp_path / "copy.wav"
    copy.write_bytes(path.read_bytes())
    write(path, speak("bada gida maku"))
    assert str(path) not in store.audio([str(path)])
    scan(store, [str(path), str(copy)], workers=1)
    known = store.audio([str(path), str(copy)])
    assert known[str(copy)] == before
    assert known[str(path)].seconds > before.seconds


def test_content_that_changed_behind_the_same_time_is_found_by_verify(store, tmp_path):
    path = tmp_path / "clip.wav"
    write(path, speak("bada gida"))
    scan(store, [str(path)], workers=1)
    before = store.audio([str(path)])[str(path)]
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[1000:2000] = bytes(1000)
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    scan(store, [str(path)], workers=1)
    assert store.audio([str(path)])[str(path)] == before
    scan(store, [str(path)], workers=1, verify=True)
    assert store.audio([str(path)])[str(path)].digest != before.digest


DYING = """
import json, os, sys
from xtts_gatekeeper.dataset.worker import encode
from xtts_gatekeeper.dataset.clip import Audio
for line in sys.stdin.buffer:
    path = json.loads(line)
    if "bad" in path:
        os.abort()
    if "slow" in path:
        sys.stdin.buffer.read()
    sys.stdout.buffer.write(encode(Audio(digest=path, seconds=1.0), b""))
    sys.stdout.buffer.flush()
"""


def test_file_that_kills_or_stops_a_worker_costs_itself_alone(tmp_path):
    paths = [str(tmp_path / name) for name in ("a", "bad1", "b", "slow", "c", "bad2", "d")]
    for path in paths:
        Path(path).write_bytes(path.encode())
    with Pool(2, (sys.executable, "-c", DYING), patience=3.0) as pool:
        found = list(pool.measure(paths))
    assert sorted(audio.digest for audio, _ in found if not audio.error) == [p for p in paths if p[-1] in "abcd"]
    assert sum("crash or hang" in audio.error for audio, _ in found) == 3


def test_worker_that_cannot_start_is_an_error():
    with Pool(1, ("/nonexistent/python",)) as pool, pytest.raises(OSError):
        list(pool.measure(["a"]))


def test_workers_are_gone_with_the_pool(clips):
    with Pool(2) as pool:
        list(pool.measure(clips))
        processes = list(pool._processes.values())
        assert processes
    assert all(process.poll() is not None for process in processes)


def test_cache_that_takes_nothing_is_replaced_by_memory_of_this_process(store, clips, tmp_path):
    other = sqlite3.connect(tmp_path / "cache.sqlite")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO kept VALUES ('x', 0, x'00')")
    store.connection.execute("PRAGMA busy_timeout = 10")
    scan(store, clips[:2], workers=1)
    store.keep("key", b"value")
    assert store.kept("key") == b"value"
    assert len(store.audio(clips[:2])) == 2
    other.rollback()
    other.close()


def test_line_of_a_worker_comes_back_as_it_was():
    audio = Audio(digest="d", seconds=1.5, spectrum=bytes(range(28)), print=b"\xff" * 32)
    assert decode(encode(audio, b"\x00\x80")) == (audio, b"\x00\x80")


def test_worker_imports_neither_torch_nor_the_recipe(python, clips):
    code = (
        "import sys, io, json\n"
        "from xtts_gatekeeper.dataset.measure import measure\n"
        f"measure({clips[0]!r})\n"
        "assert not {'torch', 'TTS', 'librosa', 'scipy'} & set(sys.modules), 'heavy'\n"
    )
    outcome = python("-c", code)
    assert outcome.returncode == 0, outcome.stderr

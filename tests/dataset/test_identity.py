"""Clips and sets of clips, named by what they hold."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_gatekeeper.dataset.identity import audio_digests, clip_id, fingerprint
from xtts_gatekeeper.dataset.store import MISSING, VARIABLE, Store, cache_file, digest_of


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(12):
        (folder / f"{number}.wav").write_bytes(f"clip {number}".encode())
    return [{"audio_file": str(folder / f"{n}.wav"), "text": f"Clip {n}.", "language": "en"} for n in range(12)]


def identity(sample):
    return clip_id(sample, audio_digests([sample["audio_file"]])[sample["audio_file"]])


@settings(deadline=None)
@given(st.data())
def test_fingerprint_is_that_of_the_set(clips, data):
    chosen = data.draw(st.lists(st.sampled_from(clips), min_size=1, max_size=6))
    shuffled = data.draw(st.permutations(chosen))
    assert fingerprint(shuffled) == fingerprint(chosen)
    assert fingerprint([*chosen, chosen[0]]) == fingerprint(chosen)
    without = [sample for sample in chosen if sample != chosen[0]]
    assert fingerprint(without) != fingerprint(chosen)


def test_fingerprint_is_the_same_in_another_folder_and_ignores_other_keys(clips, tmp_path):
    shutil.copytree(Path(clips[0]["audio_file"]).parent, tmp_path / "elsewhere")
    moved = [
        {**sample, "speaker_name": "other", "audio_file": str(tmp_path / "elsewhere" / Path(sample["audio_file"]).name)}
        for sample in clips
    ]
    assert fingerprint(moved) == fingerprint(clips)
    assert len(fingerprint(clips)) == 16
    assert int(fingerprint(clips), 16) >= 0


def test_text_language_and_each_byte_of_audio_change_the_id(clips, tmp_path):
    sample = clips[0]
    audio = bytearray(Path(sample["audio_file"]).read_bytes())
    audio[-1] ^= 1
    (tmp_path / "changed.wav").write_bytes(audio)
    variants = [
        sample,
        {**sample, "text": sample["text"] + "!"},
        {**sample, "language": "ru"},
        {**sample, "audio_file": str(tmp_path / "changed.wav")},
        {**sample, "audio_file": str(tmp_path / "missing.wav")},
    ]
    assert len({identity(variant) for variant in variants}) == len(variants)


def test_missing_audio_counts_as_missing_wherever_it_was(clips):
    gone = [{**sample, "audio_file": f"/nowhere/{number}.wav"} for number, sample in enumerate(clips)]
    elsewhere = [{**sample, "audio_file": "/also/nowhere.wav"} for sample in clips]
    assert fingerprint(gone) == fingerprint(elsewhere) != fingerprint(clips)


def test_audio_of_many_blocks_is_read_to_its_end(clips, tmp_path):
    sample = {**clips[0], "audio_file": str(tmp_path / "long.raw")}
    ids = set()
    for end in (b"a", b"b"):
        (tmp_path / "long.raw").write_bytes(bytes(3 * (1 << 20)) + end)
        ids.add(identity(sample))
    assert len(ids) == 2


def test_fingerprint_survives_a_journey_through_json(clips):
    assert fingerprint(json.loads(json.dumps(clips))) == fingerprint(clips)


# The cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    path = tmp_path / "cache" / "audio.sqlite"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


@pytest.fixture
def reads(monkeypatch):
    """The files whose bytes are read."""
    from xtts_gatekeeper.dataset import store

    seen = []

    def counted(path):
        seen.append(Path(path).name)
        return digest_of(path)

    monkeypatch.setattr(store, "digest_of", counted)
    return seen


def test_a_file_that_has_not_changed_is_read_once(cache, reads, clips):
    paths = [clip["audio_file"] for clip in clips]
    first = audio_digests(paths)
    assert audio_digests(paths) == first and len(reads) == 12
    assert cache.is_file()


@pytest.mark.parametrize("change", ["content", "size", "time"])
def test_a_file_that_has_changed_is_read_again(cache, reads, tmp_path, change):
    path = tmp_path / "a.wav"
    path.write_bytes(b"before")
    before = audio_digests([path])
    path.write_bytes({"content": b"behind", "size": b"before and after", "time": b"before"}[change])
    later = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(later, later))
    assert (audio_digests([path]) == before) == (change == "time")
    assert reads == ["a.wav", "a.wav"]


def test_what_was_changed_behind_its_back_is_found_where_the_bytes_are_asked_for(cache, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"before")
    stat = path.stat()
    before = audio_digests([path])
    path.write_bytes(b"behind")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert audio_digests([path]) == before
    with Store.open() as store:
        assert store.digests([str(path)], verify=True) != before
    assert audio_digests([path]) != before


def test_a_file_that_is_gone_or_a_folder_is_missing(cache, tmp_path):
    assert set(audio_digests([tmp_path / "none", tmp_path]).values()) == {MISSING}


@pytest.mark.parametrize("damage", ["a folder", "no database", "another one", "no permission"])
def test_a_cache_that_cannot_be_used_costs_nothing_but_time(cache, clips, damage):
    cache.parent.mkdir()
    if damage == "a folder":
        cache.mkdir()
    elif damage == "no database":
        cache.write_bytes(b"this is no database, whatever its name says" * 100)
    elif damage == "another one":
        connection = sqlite3.connect(cache)
        connection.execute("CREATE TABLE audio (name TEXT)")
        connection.close()
    else:
        cache.touch()
        cache.chmod(0o400)
    found = audio_digests(clip["audio_file"] for clip in clips)
    assert found == {clip["audio_file"]: digest_of(clip["audio_file"]) for clip in clips}


def test_another_process_that_writes_is_not_waited_for_without_end(cache, clips):
    audio_digests([clips[0]["audio_file"]])
    other = sqlite3.connect(cache, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        found = audio_digests([clips[1]["audio_file"]])
    finally:
        other.close()
    assert found == {clips[1]["audio_file"]: digest_of(clips[1]["audio_file"])}


def test_the_cache_lies_where_caches_lie(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_file() == tmp_path / "xtts_gatekeeper" / "audio-1.sqlite"

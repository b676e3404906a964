"""A second audit of what has not changed is that of the first, without a look into a file."""

import json
import os
import shutil

import pytest
from waves import speak, texts, write

from xtts_gatekeeper.data import write_metadata
from xtts_gatekeeper.dataset import scan as scanning
from xtts_gatekeeper.dataset.audit import audit
from xtts_gatekeeper.dataset.store import VARIABLE


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache" / "audio.sqlite"))
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path):
    """Six clips, the last of which is not there."""
    folder = tmp_path / "data"
    spoken = {f"c{number}": text for number, text in enumerate(texts(6))}
    for name, text in list(spoken.items())[:5]:
        write(folder / f"wavs/{name}.wav", speak(text))
    write_metadata(folder, spoken)
    return folder


@pytest.fixture
def looks(monkeypatch):
    """How often clips were measured."""
    seen = []
    stock = scanning.scan

    def counted(*args, **kwargs):
        seen.append(1)
        return stock(*args, **kwargs)

    monkeypatch.setattr(scanning, "scan", counted)
    return seen


def found(folder, **options):
    with audit(folder, language="en", **options) as result:
        return json.dumps([result.to_dict(), sorted(map(str, result.faults()))], sort_keys=True)


def test_the_second_is_that_of_the_first_and_measures_nothing(cache, data, looks):
    first = found(data)
    assert "no_file" in first and len(looks) == 1
    assert found(data) == first and len(looks) == 1
    assert [path.suffix for path in (cache / "audits").iterdir()] == [".sqlite"]


@pytest.mark.parametrize("change", ["audio", "gone", "come", "text", "limit", "verify", "time"])
def test_whatever_changes_it_is_made_anew(cache, data, looks, change):
    first = found(data)
    options = {}
    if change == "audio":
        write(data / "wavs/c1.wav", speak(texts(9)[8]))
    elif change == "gone":
        (data / "wavs/c1.wav").unlink()
    elif change == "come":
        shutil.copy(data / "wavs/c1.wav", data / "wavs/c5.wav")
    elif change == "text":
        (data / "metadata.csv").write_text((data / "metadata.csv").read_text().replace("\nc1|", "\nc1|ba be |ba be "))
    elif change == "limit":
        options = {"limits": {"max_wav_length": 9000}}
    elif change == "verify":
        options = {"verify": True}
    else:
        os.utime(data / "wavs/c1.wav", ns=(10**18, 10**18))
    assert (found(data, **options) == first) == (change in ("verify", "time"))
    assert len(looks) == 2
    options.pop("verify", None)
    found(data, **options)
    assert len(looks) == 2  # and that is kept, too


@pytest.mark.parametrize("damage", [b"", b"no database", None])
def test_one_that_is_damaged_is_made_anew(cache, data, looks, damage):
    first = found(data)
    (kept,) = (cache / "audits").iterdir()
    if damage is None:
        kept.unlink()
        kept.mkdir()
    else:
        kept.write_bytes(damage)
    assert found(data) == first and len(looks) == 2


def test_where_nothing_can_be_kept_it_is_made_anew(tmp_path, data, looks, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "audio.sqlite"))
    assert found(data) == found(data) and len(looks) == 2


def test_only_the_latest_are_kept(cache, data, monkeypatch):
    from xtts_gatekeeper.dataset import kept

    monkeypatch.setattr(kept, "_KEPT", 2)
    for longest in (9000, 9001, 9002, 9003):
        found(data, limits={"max_wav_length": longest})
    assert len(list((cache / "audits").iterdir())) == 2

"""One recording under two names."""

import pytest
from waves import RATE, np, soundfile, speak, texts, write

from xtts_gatekeeper.dataset.clip import Clip
from xtts_gatekeeper.dataset.examine import examine
from xtts_gatekeeper.dataset.measure import measure
from xtts_gatekeeper.dataset.near import duplicates
from xtts_gatekeeper.dataset.scan import scan
from xtts_gatekeeper.dataset.store import Store


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voices")
    return [(write(folder / f"{n}.wav", speak(text)), text) for n, text in enumerate(texts(30))]


def found(files):
    """{later: (code, first)} for (file, text) pairs, the files measured here."""
    measured = [measure(file) for file, _ in files]
    clips = [(Clip(file, file, text, "en"), one.audio) for (file, text), one in zip(files, measured, strict=True)]
    frames = {one.audio.digest: one.frames for one in measured}
    faults = list(duplicates(lambda: clips, lambda digests: {digest: frames[digest] for digest in digests}))
    assert all(fault.severity == "hard" for fault in faults)
    return {fault.clip: (fault.code, fault.other) for fault in faults}


def test_different_clips_are_not_alike(voices):
    assert found(voices) == {}


def test_two_readings_of_one_text_are_not_one_recording(voices, tmp_path):
    again = [(write(tmp_path / f"{n}.wav", speak(text, seed=1)), text) for n, (_, text) in enumerate(voices[:10])]
    assert found([*voices, *again]) == {}


@pytest.mark.parametrize("kind", ["bytes", "8000", "22050", "48000", "softer", "stereo", "flac", "ogg", "mp3"])
def test_copy_names_the_first_and_only_the_later_is_accused(voices, tmp_path, kind):
    soxr = pytest.importorskip("soxr", reason="soxr comes with the train extra")
    copies = []
    for number, (file, text) in enumerate(voices[:10]):
        samples, rate = soundfile.read(file)
        path = tmp_path / f"{number}.{kind if kind in ('flac', 'ogg', 'mp3') else 'wav'}"
        if kind == "bytes":
            path.write_bytes(open(file, "rb").read())  # noqa: PTH123, SIM115
        elif kind.isdigit():
            write(path, soxr.resample(samples, rate, int(kind)), int(kind))
        else:
            changed = {"softer": 0.3 * samples, "stereo": np.stack((samples, samples), axis=1)}
            write(path, changed.get(kind, samples), RATE)
        copies.append((str(path), text))
    code = "duplicate" if kind == "bytes" else "near_duplicate"
    expected = {copy: (code, file) for (copy, _), (file, _) in zip(copies, voices, strict=False)}
    assert found([*voices, *copies]) == expected


def test_one_file_listed_twice_is_told_by_others(voices):
    assert found([*voices, voices[0]]) == {}


def test_outcome_is_kept_until_anything_changes(voices, tmp_path, monkeypatch):
    files = [*voices, (voices[0][0], "another text")]
    with Store.open(tmp_path / "cache.sqlite") as store:
        scan(store, [file for file, _ in files], workers=1)
        known = store.audio([file for file, _ in files])

        def clips(last="another text"):
            names = [*(text for _, text in voices), last]
            return [
                (Clip(f"{n}", f, t, "en"), known[f]) for n, ((f, _), t) in enumerate(zip(files, names, strict=True))
            ]

        first = list(examine(store, clips))
        monkeypatch.setattr("xtts_gatekeeper.dataset.examine._look", lambda *_: iter(()))
        assert list(examine(store, clips)) == first
        assert list(examine(store, lambda: clips("a third text"))) == []

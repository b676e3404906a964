"""The clips are looked at before the training, on the real Trainer, with the toy's own tokenizer."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from xtts_gatekeeper import read_run
from xtts_gatekeeper.config import DatasetConfig, GatekeeperConfig
from xtts_gatekeeper.data import load_ljspeech
from xtts_gatekeeper.record.events import DataCheck

soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def sets(speech, tmp_path_factory):
    """(train, eval) with a clip of every kind that XTTS passes over, and copies on the other side."""
    folder = tmp_path_factory.mktemp("damaged")
    clips = load_ljspeech(speech)
    train, held_out = clips[:10], clips[10:14]

    def variant(name, sample, **changes):
        return {**sample, "audio_file": str(folder / name), **changes}

    rate = 22050
    audio, _ = soundfile.read(clips[14]["audio_file"])
    soundfile.write(folder / "short.wav", audio[: int(0.3 * rate)], rate)
    soundfile.write(folder / "long.wav", np.tile(audio, 12)[: 13 * rate], rate)
    (folder / "broken.wav").write_bytes(b"no audio at all")
    shutil.copy(clips[15]["audio_file"], folder / "fine.wav")
    train = [
        *train,
        variant("short.wav", clips[14]),
        variant("long.wav", clips[14]),
        variant("broken.wav", clips[14]),
        variant("gone.wav", clips[14]),
        variant("fine.wav", clips[15], text="   "),
    ]
    # The eval side has a training clip with other bytes, half as loud.
    heard, _ = soundfile.read(train[0]["audio_file"])
    soundfile.write(folder / "again.flac", 0.5 * heard, rate)
    return train, [*held_out, variant("again.flac", train[0])]


@pytest.fixture(scope="module")
def started(make_trainer, sets, tmp_path_factory):
    return read_run(make_trainer(tmp_path_factory.mktemp("out"), GatekeeperConfig(), samples=sets).output_path)


def test_the_clips_that_xtts_will_not_use_are_named_with_the_reason(started):
    (check,) = (event for event in started.events if isinstance(event, DataCheck))
    assert {Path(name).name for name in check.unusable} == {
        "short.wav",
        "long.wav",
        "broken.wav",
        "gone.wav",
        "fine.wav",
    }
    assert check.clips == 20 and check.seconds > 10
    counts = {code: check.faults[code] for code in ("too_short", "too_long", "unreadable", "no_file", "empty_text")}
    assert counts == dict.fromkeys(counts, 1)
    said = [warning for warning in started.start.warnings if warning.startswith("XTTS will not use 5 of 20 clips")]
    assert len(said) == 1 and "--exclude" in said[0]
    assert any(warning.startswith("too_short, 1 clip: short.wav: ") for warning in started.start.warnings)


def test_a_copy_with_other_bytes_on_the_other_side_is_told(started, sets):
    (check,) = (event for event in started.events if isinstance(event, DataCheck))
    assert check.near == [[sets[1][-1]["audio_file"], sets[0][0]["audio_file"]]]
    assert started.start.eval_clips_trained_on == 0  # it is no leak by its bytes, so it is for the user to judge
    assert any(
        "1 recordings are trained on and evaluated on, in copies" in warning for warning in started.start.warnings
    )


def test_it_can_be_left_out(make_trainer, sets, tmp_path):
    section = GatekeeperConfig(dataset=DatasetConfig(audit=False))
    record = read_run(make_trainer(tmp_path, section, samples=sets).output_path)
    assert not [event for event in record.events if isinstance(event, DataCheck)]
    assert not any("XTTS will not use" in warning for warning in record.start.warnings)


def test_of_a_large_set_that_is_not_known_only_the_headers_are_read(make_trainer, sets, tmp_path, monkeypatch):
    from xtts_gatekeeper.dataset import start
    from xtts_gatekeeper.dataset.store import VARIABLE

    monkeypatch.setenv(VARIABLE, str(tmp_path / "empty" / "audio.sqlite"))
    monkeypatch.setattr(start, "_MOST_NEW", 10)
    record = read_run(make_trainer(tmp_path, GatekeeperConfig(), samples=sets).output_path)
    (check,) = (event for event in record.events if isinstance(event, DataCheck))
    named = {Path(name).name for name in check.unusable}
    assert named == {"short.wav", "long.wav", "broken.wav", "gone.wav", "fine.wav"}
    assert check.seconds is None and check.near == []
    assert any("19 clips were not listened to" in warning for warning in record.start.warnings)


def test_a_set_without_a_fault_is_said_nothing_of(make_trainer, clips, tmp_path):
    record = read_run(make_trainer(tmp_path, GatekeeperConfig(), samples=clips).output_path)
    (check,) = (event for event in record.events if isinstance(event, DataCheck))
    assert check.unusable == [] and check.near == []
    assert not any("clips" in warning and "XTTS" in warning for warning in record.start.warnings)

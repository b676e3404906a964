"""What is played is as loud as everything else, never clipped, and tells nothing but its sound."""

import io
import math
import threading

import numpy as np
import pyloudnorm
import pytest
import soundfile
from made_sets import RATE, tone, write_tone

from xtts_gatekeeper.listening.session import Stimulus
from xtts_gatekeeper.listening.stimuli import Changed, Rendered, loudness_of, probe, render, target_of
from xtts_gatekeeper.samples.audio import NoSpeech


def stimulus(path):
    found = probe(path)
    return Stimulus(source="100", file=path.name, sha256=found.sha256, loudness=found.loudness, peak=found.peak)


def write(path, wave, rate=RATE):
    soundfile.write(path, wave, rate, subtype="FLOAT")
    return path


def played(paths):
    """Each file as it would be played among all of them."""
    stimuli = [stimulus(path) for path in paths]
    target = target_of(stimuli)
    return [decoded(render(path, one, target)) for path, one in zip(paths, stimuli, strict=True)]


def decoded(content):
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        assert (file.format, file.subtype, file.samplerate, file.channels) == ("FLAC", "PCM_16", 24000, 1)
        return file.read(dtype="float64")


def lufs(wave):
    return pyloudnorm.Meter(RATE).integrated_loudness(wave)


def noise(seconds, level, seed=0):
    return level * np.random.default_rng(seed).standard_normal(int(seconds * RATE))


def test_quiet_and_loud_samples_are_played_equally_loud(tmp_path):
    paths = [write_tone(tmp_path / f"{level}.wav", 440, 1.5, level) for level in (0.003, 0.1, 0.99)]
    paths += [write(tmp_path / "noise.wav", noise(2.0, 0.05)), write_tone(tmp_path / "low.wav", 90, 1.5, 0.3)]
    for wave in played(paths):
        assert lufs(wave) == pytest.approx(-23.0, abs=0.05)


def test_where_one_would_clip_all_are_played_more_softly(tmp_path):
    """Clicks have a high peak and hardly any loudness."""
    clicks = np.zeros(2 * RATE)
    clicks[::4000] = 0.9
    paths = [write(tmp_path / "clicks.wav", clicks), write_tone(tmp_path / "tone.wav", 440, 1.5)]
    waves = played(paths)
    assert 20 * math.log10(np.abs(waves[0]).max()) == pytest.approx(-1.0, abs=0.1)
    assert lufs(waves[0]) == pytest.approx(lufs(waves[1]), abs=0.1)
    assert lufs(waves[1]) < -25


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_ever_clipped(tmp_path, seed):
    random = np.random.default_rng(seed)
    paths = []
    for number in range(6):
        wave = 10 ** random.uniform(-2.5, 0.5) * noise(random.uniform(0.15, 2.0), 1.0, seed) ** random.choice([1, 3])
        paths.append(write(tmp_path / f"{number}.wav", wave))
    assert max(np.abs(wave).max() for wave in played(paths)) <= 10 ** (-1 / 20) + 1e-3


def test_what_is_shorter_than_a_block_of_loudness_is_matched_by_its_level(tmp_path):
    paths = [write_tone(tmp_path / f"{level}.wav", 440, 0.3, level) for level in (0.01, 0.5)]
    one, other = played(paths)
    assert np.sqrt(np.mean(one**2)) == pytest.approx(np.sqrt(np.mean(other**2)), rel=0.01)
    assert loudness_of(tone(440, 0.3, 0.5)) == pytest.approx(-9.3, abs=0.5)


def test_what_is_too_soft_for_the_meter_has_a_loudness_all_the_same(tmp_path):
    (wave,) = played([write_tone(tmp_path / "soft.wav", 30, 1.0, 0.0012)])
    assert np.isfinite(wave).all()
    assert np.abs(wave).max() > 0.01


def test_other_rates_channels_and_an_offset_are_no_difference_to_the_ear(tmp_path):
    plain = write_tone(tmp_path / "plain.wav", 440, 1.5)
    stereo = write(tmp_path / "stereo.wav", np.stack([tone(440, 1.5, rate=44100)] * 2, axis=1) + 0.1, 44100)
    one, other = played([plain, stereo])
    assert len(one) == pytest.approx(len(other), abs=2)
    assert abs(other.mean()) < 1e-4
    assert lufs(one) == pytest.approx(lufs(other), abs=0.1)


def test_channels_that_cancel_each_other_are_nothing_to_hear(tmp_path):
    wave = tone(440, 1.0)
    with pytest.raises(NoSpeech, match="silent"):
        probe(write(tmp_path / "a.wav", np.stack([wave, -wave], axis=1)))


def test_no_metadata_comes_along(tmp_path):
    path = tmp_path / "a.wav"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        file.title, file.comment = "step 100", "the bad one"
        file.write(tone(440))
    sound = render(path, stimulus(path), -23.0)
    assert b"step 100" not in sound
    assert b"bad one" not in sound


def test_a_file_that_has_changed_or_gone_is_not_played(tmp_path):
    path = write_tone(tmp_path / "a.wav", 440)
    known = stimulus(path)
    write_tone(path, 550)
    with pytest.raises(Changed, match="has changed"):
        render(path, known, -23.0)
    path.unlink()
    with pytest.raises(Changed, match="no such file"):
        render(path, known, -23.0)


def test_what_is_kept_is_bounded_and_the_latest_asked_for_stays():
    made = []

    def make(key):
        made.append(key)
        return bytes(40)

    kept = Rendered(most_bytes=100)
    for key in "abacab":
        assert kept.get(key, lambda key=key: make(key)) == bytes(40)
    assert made == ["a", "b", "c", "b"]


def test_threads_that_ask_at_once_get_the_same():
    kept = Rendered()
    together = threading.Barrier(8)
    found = []

    def ask():
        together.wait()
        found.append(kept.get("a", lambda: b"sound"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"sound"] * 8

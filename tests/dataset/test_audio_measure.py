"""What is measured of one file, and what is said of one that is not whole."""

import math

import pytest
from waves import RATE, np, soundfile, speak, write

from xtts_gatekeeper.dataset.measure import MELS, measure

TEXT = "mano rita bela kuro sinta"


@pytest.fixture(scope="module")
def voice():
    return speak(TEXT)


def measured(folder, samples, rate=RATE, name="clip.wav", **options):
    return measure(write(folder / name, samples, rate, **options)).audio


def test_numbers_of_a_whole_clip(tmp_path, voice):
    audio, frames = measure(write(tmp_path / "clip.wav", voice))
    assert not audio.error
    assert (audio.sample_rate, audio.channels) == (RATE, 1)
    assert audio.seconds == pytest.approx(len(voice) / RATE)
    assert audio.peak == pytest.approx(np.abs(voice).max(), abs=1e-3)
    assert audio.clipped_share == 0
    assert abs(audio.dc) < 1e-3
    assert -24 < audio.level_dbfs < -16
    assert audio.snr_db > 30
    assert 0.7 * audio.seconds < audio.active_seconds < audio.seconds
    assert len(frames) % MELS == 0
    assert len(audio.print) == 32
    assert all(math.isfinite(v) for v in (audio.dc, audio.level_dbfs, audio.bandwidth_hz, audio.noise_dbfs))


@pytest.mark.parametrize("where", ["leading_seconds", "trailing_seconds", "pause_seconds"])
def test_silence_is_found_where_it_is(tmp_path, voice, where):
    silence = np.zeros(2 * RATE)
    half = speak("mano rita")
    parts = {
        "leading_seconds": (silence, half),
        "trailing_seconds": (half, silence),
        "pause_seconds": (half, silence, half),
    }
    audio = measured(tmp_path, np.concatenate(parts[where]))
    assert getattr(audio, where) == pytest.approx(2, abs=0.3)
    others = {"leading_seconds", "trailing_seconds", "pause_seconds"} - {where}
    assert all(getattr(audio, other) < 0.3 for other in others)


@pytest.mark.parametrize(("below_db", "colour"), [(10, 0), (30, 0), (20, 1)])
def test_noise_at_the_end_is_no_speech(tmp_path, voice, below_db, colour):
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(RATE))
    noise = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** (colour / 2), RATE)
    noise *= voice.std() / noise.std() * 10 ** (-below_db / 20)
    clean, noisy = measured(tmp_path, voice), measured(tmp_path, np.concatenate((voice, noise)), name="noisy.wav")
    assert clean.tail_seconds == 0
    assert noisy.tail_seconds == pytest.approx(1, abs=0.3)
    assert noisy.tail_db == pytest.approx(-below_db, abs=4)
    assert noisy.active_seconds == pytest.approx(clean.active_seconds, rel=0.1)


def test_clipping_is_found_at_any_level(tmp_path, voice):
    cut = np.clip(voice / np.abs(voice).max() * 4, -1, 1)
    assert measured(tmp_path, cut).clipped_share > 0.01
    assert measured(tmp_path, cut * 0.3, name="softer.wav").clipped_share > 0.01
    assert measured(tmp_path, voice, name="whole.wav").clipped_share == 0


def test_dc_does_not_change_the_rest(tmp_path, voice):
    plain, off = measured(tmp_path, voice), measured(tmp_path, voice + 0.05, name="off.wav")
    assert off.dc == pytest.approx(0.05, abs=1e-3)
    assert off.level_dbfs == pytest.approx(plain.level_dbfs, abs=0.1)


@pytest.mark.parametrize("pitch", [90.0, 150.0, 240.0])
def test_pitch(tmp_path, pitch):
    time = np.arange(2 * RATE) / RATE
    swell = 0.2 * (1 + np.sin(2 * np.pi * 3 * time))
    assert measured(tmp_path, swell * (time * pitch % 1 - 0.5)).pitch_hz == pytest.approx(pitch, rel=0.03)


def test_bandwidth_of_what_was_resampled_from_less(tmp_path, voice):
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(len(voice)) * 0.01 + voice)
    narrow = spectrum.copy()
    narrow[len(narrow) // 2 :] = 0
    wide, less = (np.fft.irfft(one, len(voice)) for one in (spectrum, narrow))
    assert measured(tmp_path, wide).bandwidth_hz > 7500
    assert measured(tmp_path, less, name="less.wav").bandwidth_hz == pytest.approx(4000, rel=0.1)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_file_that_was_cut_is_never_whole(tmp_path, voice, kind, share):
    if kind.upper() not in soundfile.available_formats():
        pytest.skip(f"this libsndfile has no {kind}")
    path = tmp_path / f"clip.{kind}"
    write(path, np.tile(voice, 3))
    assert not measure(str(path)).audio.error
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert measure(str(path)).audio.error


@pytest.mark.parametrize("content", [b"", b"<html>", b"RIFF" + bytes(40), bytes(range(256)) * 40])
def test_what_is_no_audio_is_said_so(tmp_path, content):
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    audio = measure(str(path)).audio
    assert audio.error
    assert audio.seconds is None


def test_missing_file(tmp_path):
    audio = measure(str(tmp_path / "none.wav")).audio
    assert (audio.digest, audio.seconds) == ("missing", None)
    assert "does not exist" in audio.error


def test_wav_written_into_a_pipe_is_whole(tmp_path, voice):
    path = tmp_path / "clip.wav"
    write(path, voice)
    data = bytearray(path.read_bytes())
    data[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert not measure(str(path)).audio.error


def test_samples_that_are_not_finite(tmp_path, voice):
    voice = voice.copy()
    voice[100] = np.nan
    audio = measured(tmp_path, voice, subtype="FLOAT")
    assert "not finite" in audio.error
    assert audio.peak is None
    assert audio.seconds is not None


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.zeros(3), 1e-4 * np.ones(RATE), np.full(RATE, 0.5)])
def test_clip_without_speech_has_none(tmp_path, samples):
    audio = measured(tmp_path, samples)
    assert audio.active_seconds == 0
    assert audio.print == b""


def test_both_channels_count(tmp_path, voice):
    audio = measured(tmp_path, np.stack((voice, 0 * voice), axis=1))
    assert audio.channels == 2
    assert audio.peak == pytest.approx(np.abs(voice).max(), abs=1e-3)

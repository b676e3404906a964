"""What is no speech to measure is told apart, each in its own words; everything else is read."""

import pytest

from xtts_gatekeeper.samples.audio import RATE, NoSpeech, read_sound

np = pytest.importorskip("numpy", reason="numpy comes with the measures extra")
soundfile = pytest.importorskip("soundfile", reason="soundfile comes with the measures extra")

TIME = np.arange(RATE) / RATE
TONE = 0.3 * np.sin(2 * np.pi * 220 * TIME)


def written(path, samples, rate=RATE, **options):
    soundfile.write(path, samples, rate, **options)
    return path


BAD = {
    "missing": (lambda path: path, "there is no such file"),
    "empty file": (lambda path: (path.write_bytes(b""), path)[1], "the file is empty"),
    "no audio": (lambda path: written(path, np.zeros(0)), "there is no audio in it"),
    "text": (lambda path: (path.write_text("a text"), path)[1], "it cannot be read as audio (Format not recognised)"),
    "silent": (lambda path: written(path, np.zeros(RATE)), "it is silent"),
    "constant": (lambda path: written(path, np.full(RATE, 0.5)), "it is silent"),
    "NaN": (
        lambda path: written(path, np.where(TIME < 0.25, np.nan, TONE), subtype="FLOAT"),
        "25.0% of its samples are NaN or infinite",
    ),
    "one sample": (
        lambda path: written(path, np.ones(1) / 2),
        "it has one sample of audio, and the shortest syllable 0.1 s",
    ),
    "short": (lambda path: written(path, TONE[:400]), "it has 0.025 s of audio, and the shortest syllable 0.1 s"),
    "three hours": (
        lambda path: written(path, np.zeros(3 * 3600 * 8000, dtype=np.int16), 8000, subtype="PCM_U8"),
        "it lasts 10800 s, and a sample at most 120: cut it",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_speech_has_a_sentence_of_its_own(kind, tmp_path):
    make, sentence = BAD[kind]
    with pytest.raises(NoSpeech) as caught:
        read_sound(make(tmp_path / "clip.wav"))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [(192_000, 1, "PCM_24"), (48_000, 2, "PCM_16"), (8_000, 1, "PCM_U8"), (RATE, 1, "DOUBLE"), (44_100, 6, "PCM_16")],
)
def test_every_rate_width_and_number_of_channels_is_heard_alike(rate, channels, subtype, tmp_path):
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(rate) / rate)
    path = written(tmp_path / "clip.wav", np.stack([tone] * channels, axis=1), rate, subtype=subtype)
    sound = read_sound(path)
    assert sound.native.shape == (channels, rate)
    assert sound.seconds == 1.0
    assert len(sound.mono) == pytest.approx(RATE, abs=2)
    middle = slice(RATE // 4, RATE // 2)
    assert np.abs(sound.mono[middle] - TONE[middle]).max() < 0.02

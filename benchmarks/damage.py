"""Faults planted into real speech, each as a synthesiser makes them; used by `measures.py` and `comparison.py`.

Every plant is a function (audio, words, other, rng) -> audio: float32 arrays of shape (samples,) at 16 kHz, `words` the
places (begin, end) of the words in seconds, `other` another clip of the speaker. What it should be called stands in
`PLANTS`. A plant that changes the text instead is `wrong_text`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

RATE = 16000

Audio = NDArray[np.float32]
Words = Sequence[tuple[float, float]]
Plant = Callable[[Audio, Words, Audio, np.random.Generator], Audio]


def early_stop(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Ends somewhere between 45 and 80 % of the speech, in a word or between two."""
    begin, end = words[0][0], words[-1][1]
    return _faded(audio[: int((begin + (end - begin) * rng.uniform(0.45, 0.8)) * RATE)])


def early_stop_word(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Ends before one of the last words, with a little silence behind."""
    kept = max(1, len(words) - int(rng.integers(1, max(2, len(words) // 2))))
    return np.concatenate([_faded(audio[: int(words[kept][0] * RATE)]), _hiss(0.15, rng, 1e-4)])


def skipped(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """One or two words in the middle are left out."""
    first, last = _middle(words, rng)
    return _joined(audio[: int(words[first][0] * RATE)], audio[int(words[last][1] * RATE) :])


def repeated(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """One or two words come twice."""
    first, last = _middle(words, rng, at_end=True)
    to = int(words[last][1] * RATE)
    return _joined(audio[:to], audio[int(words[first][0] * RATE) : to], audio[to:])


def stuttered(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """A piece of 0.25 to 0.5 s comes three times."""
    at = int(rng.uniform(words[0][0], max(words[0][0] + 0.1, words[-1][1] - 0.6)) * RATE)
    to = at + int(rng.uniform(0.25, 0.5) * RATE)
    return _joined(audio[:to], audio[at:to], audio[at:to], audio[to:])


def late_stop(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Goes on with words that are not in the text."""
    length = int(rng.uniform(1.0, 2.5) * RATE)
    return _joined(audio[: int((words[-1][1] + 0.05) * RATE)], other[:length])


def babble(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Goes on with speech that is no language."""
    backwards = other[::-1][: int(rng.uniform(1.0, 2.0) * RATE)]
    return _joined(audio[: int((words[-1][1] + 0.05) * RATE)], np.ascontiguousarray(backwards))


def trailing_silence(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """1 to 4 s of nothing, or of what a quiet room sounds like."""
    return np.concatenate([audio, _hiss(rng.uniform(1.0, 4.0), rng, rng.choice([0.0, 1e-4]))])


def trailing_noise(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Hiss, hum or buzz of 0.7 to 2 s at 12 to 28 dB below the speech."""
    noise = _noise(int(rng.uniform(0.7, 2.0) * RATE), rng)
    return np.concatenate([audio, _at(noise, _level(audio) - rng.uniform(12, 28))])


def noisy(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Hiss or rumble all over, 5 to 15 dB below the speech."""
    return audio + _at(_noise(len(audio), rng), _level(audio) - rng.uniform(5, 15))


def humming(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Mains hum with its harmonics, 5 to 12 dB below the speech."""
    return audio + _at(_hum(len(audio), rng), _level(audio) - rng.uniform(5, 12))


def metallic(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """A comb: the echo of a tube of 2 to 6 ms."""
    from scipy.signal import lfilter

    delay = int(rng.uniform(0.002, 0.006) * RATE)
    feedback = np.zeros(delay + 1)
    feedback[0], feedback[delay] = 1.0, -rng.uniform(0.7, 0.85)
    return _like(lfilter([1.0], feedback, audio), audio)


def robotic(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Phases thrown away, as a bad vocoder does."""
    import librosa

    spectrum = np.abs(librosa.stft(audio, n_fft=512, hop_length=128))
    return _like(librosa.istft(spectrum.astype(np.complex64), hop_length=128, length=len(audio)), audio)


def crushed(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Four or five bits."""
    steps = 2 ** int(rng.integers(3, 5))
    peak = float(np.abs(audio).max())
    return (np.round(audio / peak * steps) / steps * peak).astype(np.float32)


def dropouts(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Holes of 20 to 60 ms, five a second."""
    damaged = audio.copy()
    for _ in range(max(3, int(5 * len(audio) / RATE))):
        at = int(rng.integers(0, len(audio)))
        damaged[at : at + int(rng.uniform(0.02, 0.06) * RATE)] = 0
    return damaged


def clipped(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Too loud by 8 to 20 dB over its peak."""
    return np.clip(audio / np.abs(audio).max() * 10 ** (rng.uniform(8, 20) / 20), -1, 1) * np.float32(0.9)


def other_voice(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Another throat: formants and pitch moved by 15 to 25 %, at the same pace."""
    factor = rng.uniform(1.18, 1.3)
    return _shifted(audio, 12 * np.log2(rng.choice([1 / factor, factor])), formants=True)


def pitch_moved(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """Five to seven semitones up or down, with the same throat."""
    return _shifted(audio, rng.choice([-1, 1]) * rng.uniform(5, 7), formants=False)


def mispronounced(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """One word in four, and at least one long one, comes as sounds from elsewhere."""
    damaged = audio.copy()
    order = sorted(range(len(words)), key=lambda i: words[i][0] - words[i][1])
    for index in order[: max(1, len(words) // 4)]:
        begin, end = (int(edge * RATE) for edge in words[index])
        end = min(end, len(audio))
        start = int(rng.integers(0, max(1, len(other) - (end - begin))))
        piece = np.resize(other[start : start + end - begin], end - begin)
        damaged[begin:end] = _at(piece, _level(audio[begin:end])) * _edges(end - begin)
    return damaged


def backwards_words(audio: Audio, words: Words, other: Audio, rng: np.random.Generator) -> Audio:
    """One word in three, the longest ones, is spoken backwards."""
    damaged = audio.copy()
    order = sorted(range(len(words)), key=lambda i: words[i][0] - words[i][1])
    for index in order[: max(1, len(words) // 3)]:
        begin, end = (int(edge * RATE) for edge in words[index])
        damaged[begin:end] = damaged[begin:end][::-1] * _edges(len(damaged[begin:end]))
    return damaged


#: Plant -> what it may rightly be called.
PLANTS: dict[Plant, tuple[str, ...]] = {
    early_stop: ("early_stop",),
    early_stop_word: ("early_stop",),
    skipped: ("skipped",),
    repeated: ("repeated",),
    stuttered: ("repeated",),
    late_stop: ("late_stop",),
    babble: ("late_stop",),
    trailing_silence: ("trailing_silence",),
    trailing_noise: ("trailing_noise",),
    noisy: ("noisy",),
    humming: ("noisy",),
    metallic: ("distorted",),
    robotic: ("distorted",),
    crushed: ("distorted", "noisy"),
    dropouts: ("distorted",),
    clipped: ("clipped",),
    other_voice: ("wrong_voice",),
    pitch_moved: ("pitch",),
    mispronounced: ("mispronounced",),
    backwards_words: ("mispronounced",),
}


def _middle(words: Words, rng: np.random.Generator, *, at_end: bool = False) -> tuple[int, int]:
    """First and last of one or two neighbouring words of at least 0.25 s together, not at the edge of the text."""
    spans = [(i, j) for i in range(1, len(words)) for j in (i, i + 1) if j < len(words) - (not at_end)]
    long = [(i, j) for i, j in spans if words[j][1] - words[i][0] >= 0.25]
    if not (long or spans):
        return len(words) // 2, len(words) // 2
    return (long or spans)[int(rng.integers(0, len(long or spans)))]


def _joined(*pieces: Audio) -> Audio:
    """Pieces one after the other, faded over 5 ms where they meet."""
    return np.concatenate([_faded(piece) for piece in pieces])


def _faded(audio: Audio) -> Audio:
    return (audio * _edges(len(audio))).astype(np.float32)


def _edges(length: int) -> Audio:
    fade = min(80, length // 2)
    window = np.ones(length, dtype=np.float32)
    if fade:
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        window[:fade], window[-fade:] = ramp, ramp[::-1]
    return window


def _level(audio: Audio) -> float:
    """Level of the loud half, in dBFS."""
    power = np.sort(audio.astype(np.float64) ** 2)
    return float(10 * np.log10(power[len(power) // 2 :].mean() + 1e-12))


def _at(noise: NDArray[np.floating], level_db: float) -> Audio:
    """Noise at an RMS level in dBFS."""
    return (noise / (np.sqrt((noise.astype(np.float64) ** 2).mean()) + 1e-12) * 10 ** (level_db / 20)).astype(
        np.float32
    )


def _like(audio: NDArray[np.floating], model: Audio) -> Audio:
    return (audio / (np.abs(audio).max() + 1e-9) * np.abs(model).max()).astype(np.float32)


def _hiss(seconds: float, rng: np.random.Generator, level: float) -> Audio:
    return (level * rng.standard_normal(int(seconds * RATE))).astype(np.float32)


def _hum(length: int, rng: np.random.Generator) -> NDArray[np.floating]:
    time = np.arange(length) / RATE
    mains = rng.choice([50.0, 60.0, 100.0, 120.0])
    return sum(np.sin(2 * np.pi * mains * k * time + rng.uniform(0, 6)) / k for k in range(1, 12))  # type: ignore[return-value]


def _noise(length: int, rng: np.random.Generator) -> NDArray[np.floating]:
    """White or pink noise, hum, or a buzz of clicks."""
    kind = rng.choice(["white", "pink", "hum", "buzz"])
    if kind == "hum":
        return _hum(length, rng)
    if kind == "buzz":
        buzz = 0.05 * rng.standard_normal(length)
        buzz[:: int(RATE / rng.uniform(60, 150))] += 1
        return buzz
    white = rng.standard_normal(length)
    if kind == "white":
        return white
    spectrum = np.fft.rfft(white)
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(1.0, np.arange(len(spectrum)))), length)


def _shifted(audio: Audio, semitones: float, *, formants: bool) -> Audio:
    """Pitch moved at the same pace by Rubber Band; the formants move with it or stay."""
    mode = "shifted" if formants else "preserved"
    # Rubber Band keeps the audio's length to a few milliseconds only.
    filters = f"rubberband=pitch={2 ** (semitones / 12):.5f}:formant={mode}:pitchq=quality"
    raw = ["-f", "f32le", "-ar", str(RATE), "-ac", "1"]
    command = ["ffmpeg", "-v", "error", *raw, "-i", "-", "-af", filters, *raw, "-"]
    done = subprocess.run(command, input=audio.astype("<f4").tobytes(), capture_output=True, check=True)
    return _like(np.frombuffer(done.stdout, dtype="<f4"), audio)

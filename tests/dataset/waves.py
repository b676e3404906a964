"""Synthetic audio: syllables of a made-up voice, one sound a letter, so that texts can be told apart by ear."""

import random

import pytest

np = pytest.importorskip("numpy", reason="numpy comes with the train extra")
soundfile = pytest.importorskip("soundfile", reason="soundfile comes with the train extra")

RATE = 16000
LETTERS = "abdegiklmnoprstu"


def sound(letter, rng, pitch=120.0, rate=RATE):
    """A fifth of a second or less of one letter: a buzz with two resonances, or noise in a band."""
    size = int(rate * rng.uniform(0.06, 0.1))
    number = LETTERS.index(letter)
    low, high = 300 + 150 * (number % 4), 900 + 550 * (number // 4)
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    shape = np.exp(-(((frequencies - low) / 120) ** 2)) + 0.7 * np.exp(-(((frequencies - high) / 200) ** 2)) + 0.003
    time = np.arange(size) / rate
    source = np.sign(np.sin(2 * np.pi * pitch * time)) + 0.3 * np.random.default_rng(
        rng.randrange(2**32)
    ).standard_normal(size)
    wave = np.fft.irfft(np.fft.rfft(source) * shape, size)
    return wave / wave.std() * np.hanning(size) ** 0.3


def speak(text, seed=0, pitch=120.0, rate=RATE):
    """The samples of a text, at about -20 dB of full scale, in a room that is nearly still."""
    rng = random.Random(f"{seed} {text}")
    parts = [np.zeros(rate // 20)]
    for letter in text:
        parts.append(np.zeros(int(rate * 0.05)) if letter == " " else sound(letter, rng, pitch, rate))
    parts.append(np.zeros(rate // 10))
    wave = 0.1 * np.concatenate(parts)
    return wave + 1e-4 * np.random.default_rng(rng.randrange(2**32)).standard_normal(len(wave))


def texts(count, seed=0):
    """Made-up sentences of three to seven words."""
    rng = random.Random(seed)

    def word():
        return "".join(rng.choice("bdgklmnprst") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))

    return [" ".join(word() for _ in range(rng.randint(3, 7))) for _ in range(count)]


def write(path, samples, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return str(path)

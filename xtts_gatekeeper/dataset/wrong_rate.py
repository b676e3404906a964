"""A clip that plays at the wrong speed: its header names a rate that it was not recorded at, or somebody believed one.

Pitch, the resonances of the mouth and the rate of speaking all move by the same factor. One of them may be unusual in a
clip that is well; all three, by the ratio of two rates that are in use, are not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xtts_gatekeeper.dataset.clip import Audio, Clip

if TYPE_CHECKING:
    from xtts_gatekeeper.dataset.quality import Sample

RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)
#: Ratios nearer to 1 than this change a voice less than its moods do.
_LEAST_RATIO = 1.25
_RATIOS = sorted(
    {
        round(a / b, 4)
        for a, b in itertools.permutations(RATES, 2)
        if max(a / b, b / a) >= _LEAST_RATIO and max(a / b, b / a) < 3.1
    }
)
#: Bands of the spectrum are a sixth of an octave wide.
_BANDS_AN_OCTAVE = 6
_LEAST_BANDS = 12
_WHOLE_SECONDS = 1.5
#: Log likelihood ratios: for the one ratio that the header suggests, and for the best of all. Half a squared deviation.
_SUGGESTED, _ANY = 3.0, 9.0
#: And played at that ratio, the clip must be a usual one.
_FITS = 9.0
#: No single witness counts for more: a pitch may be taken for its octave, a text be wrong.
_MOST, _MOST_SPECTRUM = 6.0, 12.0
#: Natural logarithm: a voice that is read out of a list hardly moves, and then it does.
_PITCH_SPREAD = 0.08
_BYTES_SIGNED = 128


@dataclass
class Voice:
    """What is usual of one speaker: level, pitch and rate of speaking (both as natural logarithms), mean spectrum."""

    level: Sample
    pitch: Sample
    rate: Sample
    total: list[float] = field(default_factory=list)
    squares: float = 0.0
    spectra: int = 0

    def add(self, clip: Clip, audio: Audio) -> None:
        """Take what a clip says of its speaker."""
        self.level.add(audio.level_dbfs)
        self.pitch.add(math.log(audio.pitch_hz) if audio.pitch_hz else None)
        self.rate.add(letter_rate(clip, audio))
        spectrum = signed(audio.spectrum)
        if spectrum:
            self.total = [a + b for a, b in zip(self.total or [0.0] * len(spectrum), spectrum, strict=True)]
            self.squares += sum(value * value for value in spectrum)
            self.spectra += 1

    def mean(self) -> list[float]:
        """The mean spectrum, in dB by band."""
        return [value / self.spectra for value in self.total]

    def variance(self) -> float:
        """Of a clip's spectrum about the mean one, in dB squared, by band."""
        mean = self.mean()
        return max(self.squares / self.spectra / len(mean) - sum(value * value for value in mean) / len(mean), 1.0)


def letter_rate(clip: Clip, audio: Audio) -> float | None:
    """Logarithm of the letters and digits a second of speech."""
    letters = sum(map(str.isalnum, clip.text))
    return math.log(letters / audio.active_seconds) if letters and audio.active_seconds else None


def signed(data: bytes) -> list[float]:
    """The bytes of `Audio.spectrum` as numbers."""
    return [float(byte - 256 if byte >= _BYTES_SIGNED else byte) for byte in data]


def wrong_rate(clip: Clip, audio: Audio, voice: Voice, common: int | None) -> tuple[str, float] | None:
    """Return a sentence and how sure it is, or None.

    Args:
        clip: for its text.
        audio: its measures.
        voice: what is usual of its speaker; nothing is told of one with few clips.
        common: the set's sample rate, where the clip's header names another one.
    """
    if voice.pitch.usual(_PITCH_SPREAD) is None or not audio.spectrum or not voice.spectra or audio.sample_rate is None:
        return None
    as_it_is = _misfit(clip, audio, voice, 1.0)
    if common is not None:
        ratio = audio.sample_rate / common
        if max(ratio, 1 / ratio) >= _LEAST_RATIO:
            gain = as_it_is - _misfit(clip, audio, voice, ratio)
            if gain > _SUGGESTED:
                said = f"it says {audio.sample_rate} Hz and sounds like {common} Hz: it plays {_speed(ratio)}"
                return said, gain
        return None
    if as_it_is <= _ANY:  # no ratio can gain more
        return None
    gain, ratio = max((as_it_is - _misfit(clip, audio, voice, ratio), ratio) for ratio in _RATIOS)
    if gain > _ANY and as_it_is - gain < _FITS:
        return f"it plays about {_speed(ratio)}: its rate was taken for another one", gain
    return None


def _speed(ratio: float) -> str:
    return f"{ratio:.2f} times too fast" if ratio > 1 else f"{1 / ratio:.2f} times too slow"


def _misfit(clip: Clip, audio: Audio, voice: Voice, ratio: float) -> float:
    """How ill pitch, rate of speaking and spectrum fit the voice when the clip is slowed down by `ratio`."""
    shift = math.log(ratio)
    found = 0.0
    pitch, rate = voice.pitch.usual(_PITCH_SPREAD), voice.rate.usual(0.1)
    if audio.pitch_hz and pitch:
        found += _half_square((math.log(audio.pitch_hz) - shift - pitch[0]) / pitch[1])
    clips_rate = letter_rate(clip, audio)
    if clips_rate is not None and rate:
        found += _half_square((clips_rate - shift - rate[0]) / rate[1])
    # The mean spectrum of a word or two is that of its few sounds.
    share = min(1.0, (audio.active_seconds or 0.0) / _WHOLE_SECONDS)
    return found + share * _spectral(signed(audio.spectrum), voice.mean(), voice.variance(), ratio)


def _half_square(deviation: float) -> float:
    return min(deviation * deviation / 2, _MOST)


def _spectral(spectrum: Sequence[float], mean: Sequence[float], variance: float, ratio: float) -> float:
    bands = math.log2(ratio) * _BANDS_AN_OCTAVE
    pairs = []
    for band, usual in enumerate(mean):
        at = band + bands
        low = math.floor(at)
        if low >= 0 and low + 1 < len(spectrum):
            pairs.append((spectrum[low] + (at - low) * (spectrum[low + 1] - spectrum[low]), usual))
    if len(pairs) < _LEAST_BANDS:
        return _MOST_SPECTRUM / 2
    off = sum(a - b for a, b in pairs) / len(pairs)
    apart = sum((a - b - off) ** 2 for a, b in pairs) / len(pairs)
    # The bands of one clip vary together: they count as a few.
    return min(apart / variance, _MOST_SPECTRUM)

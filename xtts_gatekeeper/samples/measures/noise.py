"""Noise under the speech, and the colour of a tube over it."""

from __future__ import annotations

from collections.abc import Mapping

from xtts_gatekeeper.samples.audio import RATE
from xtts_gatekeeper.samples.measures.base import Speech, Value
from xtts_gatekeeper.samples.measures.models import imported

_FFT, _HOP = 512, 128
#: Echoes looked for, in seconds: a shorter one is timbre, a longer one is heard as a room.
_SHORTEST_ECHO, _LONGEST_ECHO = 0.0015, 0.009


class Noise:
    """What stays in each band when the speech leaves it.

    Speech is never in all bands at once, so that the quietest tenth of a band's frames tells its noise even where there
    is no pause. `noise_db`: its mean over the bands against the mean of their loud frames. `hum_db`: the worst band's,
    against the loudest band.
    `echo`: the highest peak of the cepstrum of the mean spectrum between 1.5 and 9 ms, in its standard deviations: a
    comb stands still, where a voice's pitch moves.
    """

    name = "noise"
    values = (Value("noise_db", "dB", "lower"), Value("hum_db", "dB", "lower"), Value("echo", "", "lower"))
    needs = "librosa"
    cost = 0.01

    def __call__(self, speech: Speech) -> Mapping[str, float]:
        """Measure."""
        import numpy as np

        librosa = imported("librosa")
        activity = speech.activity
        mono = speech.sound.mono
        if activity.speech.any():
            mono = mono[
                int(activity.begin * RATE) : max(int(activity.end * RATE), int(activity.begin * RATE) + 2 * _FFT)
            ]
        power = np.abs(librosa.stft(mono, n_fft=_FFT, hop_length=_HOP)) ** 2
        bands = librosa.filters.mel(sr=RATE, n_fft=_FFT, n_mels=24, fmin=40, fmax=7600) @ power
        level = 10 * np.log10(bands + 1e-10)
        floor, loud = np.percentile(level, 10, axis=1), np.percentile(level, 90, axis=1)
        mean = np.log(power + 1e-3 * power.mean(axis=0, keepdims=True) + 1e-12).mean(axis=1)
        slow = np.convolve(np.pad(mean, 8, mode="edge"), np.ones(17) / 17, "valid")  # the timbre, which is no echo
        cepstrum = np.abs(np.fft.irfft(mean - slow))[: _FFT // 2]
        first, last = int(_SHORTEST_ECHO * RATE), int(_LONGEST_ECHO * RATE)
        region = cepstrum[first:last]
        return {
            "noise_db": float((floor - loud).mean()),
            "hum_db": float((floor - loud.max()).max()),
            "echo": float((region.max() - region.mean()) / (region.std() + 1e-9)),
        }

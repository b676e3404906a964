"""Audio that comes twice, in any language."""

from __future__ import annotations

from collections.abc import Mapping

from xtts_gatekeeper.samples.audio import RATE
from xtts_gatekeeper.samples.measures.base import Speech, Value
from xtts_gatekeeper.samples.measures.models import imported

_HOP = 160
#: Frames of 10 ms that a repetition has at least, and at most.
_SHORTEST, _LONGEST = 20, 300


class Repetition:
    """How alike the most similar two stretches are, of which one follows the other: mean cosine of mel spectra.

    Stretches are as long as the distance between them, from 0.2 to 3 s: that is what a stutter and a phrase said twice
    look like. Each band's mean is taken away first, so that the colour of the voice is not similarity.
    """

    name = "repetition"
    values = (Value("repetition", "cosine", "lower"), Value("repetition_seconds", "s", "lower"))
    needs = "librosa"
    cost = 0.02

    def __call__(self, speech: Speech) -> Mapping[str, float]:
        """Measure."""
        import numpy as np

        librosa = imported("librosa")
        activity = speech.activity
        mono = speech.sound.mono[int(activity.begin * RATE) : int(activity.end * RATE)]
        if len(mono) < 2 * _SHORTEST * _HOP:
            return {"repetition": 0.0, "repetition_seconds": 0.0}
        power = librosa.feature.melspectrogram(
            y=mono, sr=RATE, n_fft=512, hop_length=_HOP, n_mels=40, fmin=80, fmax=7000
        )
        level = np.log(power + 1e-3 * power.mean())
        level -= level.mean(axis=1, keepdims=True)
        size = np.linalg.norm(level, axis=0) + 1e-6
        unit = level / size
        weight = size / size.mean()  # what stands out of the voice's mean counts, pauses and steady noise do not
        best, best_lag = 0.0, 0
        for lag in range(_SHORTEST, min(_LONGEST, unit.shape[1] // 2) + 1):
            alike = (unit[:, :-lag] * unit[:, lag:]).sum(axis=0)
            shared = np.minimum(weight[:-lag], weight[lag:])
            kernel = np.ones(lag)
            score = np.convolve(alike * shared, kernel, "valid") / (np.convolve(shared, kernel, "valid") + 1e-6)
            top = float(score.max())
            if top > best:
                best, best_lag = top, lag
        return {"repetition": best, "repetition_seconds": best_lag * _HOP / RATE}

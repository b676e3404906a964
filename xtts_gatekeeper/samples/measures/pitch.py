"""How high the voice is, and how much it moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xtts_gatekeeper.samples.audio import RATE
from xtts_gatekeeper.samples.measures.base import Speech, Unmeasured, Value
from xtts_gatekeeper.samples.measures.models import imported

#: Voices lie between these, in Hz: a low man's and a child's.
_LOWEST, _HIGHEST = 60.0, 600.0
_VOICED = 0.5
#: Fewer voiced frames (16 ms each) tell nothing.
_FEWEST = 10


class Pitch:
    """Median in semitones over 55 Hz, and the distance between its tenth and its ninetieth percentile."""

    name = "pitch"
    values = (
        Value("pitch_semitones", "semitones over 55 Hz", "fit"),
        Value("pitch_spread_semitones", "semitones", "fit"),
        Value("pitch_jump_share", "", "lower"),
        Value("voiced_share", "", "fit"),
    )
    needs = "swift-f0"
    cost = 0.01

    def __init__(self) -> None:
        self._detector: Any = None

    def __call__(self, speech: Speech) -> Mapping[str, float]:
        """Measure."""
        import numpy as np

        if self._detector is None:
            self._detector = imported("swift_f0").SwiftF0(threads=speech.models.threads)
        found = self._detector.detect(speech.sound.mono, RATE, fmin=_LOWEST, fmax=_HIGHEST)
        inside = (found.timestamps >= speech.activity.begin) & (found.timestamps <= speech.activity.end)
        voiced = (found.confidence >= _VOICED) & inside  # a hum behind the speech has a pitch, too
        if int(voiced.sum()) < _FEWEST:
            raise Unmeasured("there is hardly any voiced sound in it")
        semitones = 12 * np.log2(found.pitch_hz[voiced] / 55.0)
        low, middle, high = np.percentile(semitones, [10, 50, 90])
        # Between neighbouring frames: a voice glides, and only a broken one leaps by more than two semitones in 16 ms.
        both = voiced[1:] & voiced[:-1]
        steps = np.abs(12 * np.diff(np.log2(np.maximum(found.pitch_hz, 1.0))))[both]
        speaking = max(1.0, speech.activity.seconds / (256 / RATE))
        return {
            "pitch_semitones": float(middle),
            "pitch_spread_semitones": float(high - low),
            "pitch_jump_share": float((steps > 2).mean()) if len(steps) else 0.0,
            "voiced_share": min(1.0, float(voiced.sum()) / speaking),
        }

"""Silence and noise before, in and behind the speech, and whether it ends as speech does."""

from __future__ import annotations

from collections.abc import Mapping

from xtts_gatekeeper.samples.audio import RATE
from xtts_gatekeeper.samples.measures.activity import FRAME
from xtts_gatekeeper.samples.measures.base import Speech, Unmeasured, Value

#: Frames behind the last speech that still belong to it: the decay of a vowel, and a closure before a plosive.
_DECAY_FRAMES = 4
#: What is looked at of the very end, in seconds, leaving out the last 2 ms, where editors fade.
_LAST_SECONDS, _FADE_SECONDS = 0.04, 0.002


class Ends:
    """Levels are in dB against the speech's own."""

    name = "ends"
    values = (
        Value("seconds", "s", "fit"),
        Value("speech_seconds", "s", "fit"),
        Value("leading_silence_seconds", "s", "lower"),
        Value("trailing_silence_seconds", "s", "lower"),
        Value("inner_silence_seconds", "s", "lower"),
        Value("tail_db", "dB", "lower"),
        Value("tail_seconds", "s", "lower"),
        Value("last_db", "dB", "lower"),
        Value("floor_db", "dB", "lower"),
    )
    needs = "Silero VAD"
    cost = 0.01

    def __call__(self, speech: Speech) -> Mapping[str, float]:
        """Measure."""
        import numpy as np

        activity, seconds = speech.activity, speech.sound.seconds
        if not activity.speech.any():
            raise Unmeasured("there is no speech in it")
        level = activity.level_db - activity.speech_db
        last = int(np.flatnonzero(activity.speech)[-1])
        tail = level[last + 1 + _DECAY_FRAMES :]
        mono = speech.sound.mono.astype(np.float64)
        end = mono[
            max(0, len(mono) - int((_LAST_SECONDS + _FADE_SECONDS) * RATE)) : len(mono) - int(_FADE_SECONDS * RATE)
        ]
        last_db = 10 * np.log10(end.var() + 1e-12) - activity.speech_db if len(end) else -120.0
        return {
            "seconds": seconds,
            "speech_seconds": activity.end - activity.begin,
            "leading_silence_seconds": activity.begin,
            "trailing_silence_seconds": max(0.0, seconds - activity.end),
            "inner_silence_seconds": activity.longest_pause(),
            # Its loudest tenth: clicks and bursts count as much as a hum.
            "tail_db": float(np.percentile(tail, 90)) if len(tail) else -120.0,
            "tail_seconds": len(tail) * FRAME / RATE,
            "last_db": float(last_db),
            "floor_db": float(np.percentile(level, 5)),
        }

"""Fingerprints of audio: alike for one recording whatever its rate, level or codec, unlike for two recordings."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Stretches of the clip, and bits of each: what the bands do, and the level.
_STRETCHES = 32
_BITS = 8
BYTES = _STRETCHES * _BITS // 8
#: Shorter speech has too little to tell one clip from another.
_LEAST_FRAMES = 24
#: In steps of a frame: what lies 35 dB below the speech is background, and that changes with rate and codec.
_FLOOR = -70.0
#: Steps of half a dB.
_STEPS_PER_BEL = 20.0
#: The clip goes from the first frame that is within 20 dB of the loudest to the last: how far its faint ends go on
#: depends on rate and codec.
_EDGE = 0.01


def fingerprint_of(frames: np.ndarray[Any, Any], bands: int) -> bytes:
    """Return `BYTES` bytes, or none for a clip that is too short.

    The clip, from first to last speech, is cut into stretches of equal length; of each, it is told which bands are
    stronger than they mostly are, against the others, and whether the stretch is louder than most.

    Args:
        frames: shape (frames, bands), in equal steps of dB about the level of the speech, from first to last speech.
        bands: even.
    """
    if len(frames) < _LEAST_FRAMES:
        return b""
    power = np.convolve((10 ** (frames / _STEPS_PER_BEL)).sum(axis=1), np.ones(3), mode="same")
    loud = np.flatnonzero(power > power.max() * _EDGE)
    frames = frames[loud[0] : loud[-1] + 1]
    level = np.maximum(frames, _FLOOR).reshape(len(frames), _BITS, bands // _BITS).mean(axis=2)
    # Means over stretches with fractions of frames at their ends, so that a shift by half a frame changes little.
    total = np.concatenate((np.zeros((1, _BITS)), np.cumsum(level, axis=0)))
    at = np.linspace(0, len(frames), _STRETCHES + 1)
    sums = np.stack([np.interp(at, np.arange(len(total)), total[:, band]) for band in range(_BITS)], axis=1)
    means = np.diff(sums, axis=0)
    overall = means.mean(axis=1, keepdims=True)
    told = np.concatenate(((means - overall)[:, :-1], overall), axis=1)
    return bytes(np.packbits(told > np.median(told, axis=0)).tobytes())

"""Clipping, loudness, and stretches of digital nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from xtts_gatekeeper.samples.measures.base import Speech, Unmeasured, Value
from xtts_gatekeeper.samples.measures.models import imported

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: A run of so many samples at the peak is a clipped wave; two at most are by chance. The share is what rounding to 16
#: bits and a resampler's ripple leave of a flat top.
_CLIPPED_RUN, _AT_PEAK = 3, 0.998
#: BS.1770 measures blocks of 0.4 s.
_LOUDNESS_SECONDS = 0.4
#: A hole: exactly nothing for so long, between sounds louder than this.
_HOLE_SECONDS, _SOUND = 0.01, 1e-3


class Levels:
    """Counted on the samples as they lie in the file, of the worst channel."""

    name = "levels"
    values = (
        Value("clipped_runs", "runs", "lower"),
        Value("clipped_share", "", "lower"),
        Value("peak_dbfs", "dBFS", "fit"),
        Value("holes", "holes", "lower"),
    )
    needs = "nothing"
    cost = 0.005

    def __call__(self, speech: Speech) -> Mapping[str, float]:
        """Measure."""
        import numpy as np

        sound = speech.sound
        clipped = [_clipped(channel) for channel in sound.native]
        runs, share = max(clipped)
        return {
            "clipped_runs": float(runs),
            "clipped_share": share,
            "peak_dbfs": 20 * float(np.log10(np.abs(sound.native).max() + 1e-9)),
            "holes": float(max(_holes(channel, sound.rate) for channel in sound.native)),
        }


class Loudness:
    """Integrated loudness by ITU-R BS.1770."""

    name = "loudness"
    values = (Value("loudness_lufs", "LUFS", "fit"),)
    needs = "pyloudnorm"
    cost = 0.005

    def __call__(self, speech: Speech) -> Mapping[str, float]:
        """Measure."""
        import numpy as np

        sound = speech.sound
        if sound.seconds < _LOUDNESS_SECONDS:
            raise Unmeasured(f"it is shorter than a block of loudness, {_LOUDNESS_SECONDS} s")
        meter = imported("pyloudnorm").Meter(sound.rate)
        return {"loudness_lufs": float(meter.integrated_loudness(sound.native.T.astype(np.float64)))}


def _clipped(channel: NDArray[np.float32]) -> tuple[int, float]:
    """Runs at the positive or the negative peak, and the share of samples in them."""

    runs = samples = 0
    for side in (channel, -channel):
        peak = float(side.max(initial=0.0))
        if peak <= 0:
            continue
        lengths = _run_lengths(side >= _AT_PEAK * peak)
        long = lengths[lengths >= _CLIPPED_RUN]
        runs += len(long)
        samples += int(long.sum())
    return runs, samples / max(1, len(channel))


def _holes(channel: NDArray[np.float32], rate: int) -> int:
    """Stretches of exact zeros inside the sound."""
    import numpy as np

    loud = np.flatnonzero(np.abs(channel) > _SOUND)
    if not len(loud):
        return 0
    lengths = _run_lengths(channel[loud[0] : loud[-1]] == 0)
    return int((lengths >= _HOLE_SECONDS * rate).sum())


def _run_lengths(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    import numpy as np

    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return edges[1::2] - edges[::2]

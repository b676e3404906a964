"""Where in the audio there is speech, and how loud it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xtts_gatekeeper.samples.audio import RATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xtts_gatekeeper.samples.measures.models import Models

#: Samples that Silero VAD judges at a time: 32 ms.
FRAME = 512
#: Probability from which a frame is speech, and the one below which speech ends; Silero's own defaults.
_BEGIN, _END = 0.5, 0.35
#: Islands of speech shorter than this, in frames, are clicks.
_SHORTEST_ISLAND = 3


@dataclass(frozen=True, eq=False)
class Activity:
    """Frames of 32 ms: `speech` (frames,) tells which of them are speech, `level_db` (frames,) their level in dBFS.

    `begin` and `end` are seconds, of the first and behind the last speech; both 0 where there is none.
    """

    speech: NDArray[np.bool_]
    level_db: NDArray[np.float64]
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long there is speech."""
        return float(self.speech.sum()) * FRAME / RATE

    @property
    def speech_db(self) -> float:
        """Level of the speech: the 75th percentile of its frames, which pauses and breaths do not move."""
        import numpy as np

        return float(np.percentile(self.level_db[self.speech], 75)) if self.speech.any() else -120.0

    def longest_pause(self) -> float:
        """Seconds of the longest stretch without speech between the first and the last."""
        import numpy as np

        found = np.flatnonzero(self.speech)
        return float((np.diff(found) - 1).max()) * FRAME / RATE if len(found) > 1 else 0.0


def find_activity(mono: NDArray[np.float32], models: Models) -> Activity:
    """Find speech with Silero VAD.

    Args:
        mono: (samples,) at 16 kHz.
        models: has the detector.
    """
    import numpy as np

    padded = np.pad(mono, (0, -len(mono) % FRAME))
    # The detector is trained on speech at usual levels: a whisper of a recording is brought up to one.
    peak = float(np.abs(padded).max())
    probability = models.detector(padded * np.float32(0.5 / peak) if 0 < peak < 0.25 else padded).reshape(-1)
    speech = _hysteresis(probability)
    frames = padded.reshape(-1, FRAME).astype(np.float64)
    level = 10 * np.log10((frames - frames.mean(axis=1, keepdims=True)).var(axis=1) + 1e-12)
    found = np.flatnonzero(speech)
    begin, end = (float(found[0]), float(found[-1] + 1)) if len(found) else (0.0, 0.0)
    length = len(mono) / RATE
    return Activity(speech, level, begin * FRAME / RATE, min(end * FRAME / RATE, length))


def _hysteresis(probability: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Frames that are speech: from one of at least `_BEGIN` on until one below `_END`, islands left out."""
    import numpy as np

    speech: NDArray[np.bool_] = np.zeros(len(probability), dtype=np.bool_)
    inside = False
    for index, value in enumerate(probability):
        inside = bool(value >= (_END if inside else _BEGIN))
        speech[index] = inside
    edges = np.flatnonzero(np.diff(np.concatenate([[0], speech.astype(np.int8), [0]])))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if last - first < _SHORTEST_ISLAND:
            speech[first:last] = False
    return speech

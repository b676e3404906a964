"""Measures of speech: one small class each behind one Protocol (`base.Measure`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_gatekeeper.samples.measures.base import Measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xtts_gatekeeper.samples.measures.likeness import Voice


def default_measures(voice: Voice | None = None, speaker: NDArray[np.float32] | None = None) -> tuple[Measure, ...]:
    """The measures of the default set.

    Args:
        voice: embeds voices; made where none is given.
        speaker: mean embedding of the speaker's clips, where there are any.
    """
    from xtts_gatekeeper.samples.measures.ends import Ends
    from xtts_gatekeeper.samples.measures.levels import Levels, Loudness
    from xtts_gatekeeper.samples.measures.likeness import Likeness
    from xtts_gatekeeper.samples.measures.likeness import Voice as Embedder
    from xtts_gatekeeper.samples.measures.noise import Noise
    from xtts_gatekeeper.samples.measures.opinion import Dnsmos, Naturalness
    from xtts_gatekeeper.samples.measures.pitch import Pitch
    from xtts_gatekeeper.samples.measures.repetition import Repetition
    from xtts_gatekeeper.samples.measures.words import Words

    likeness = Likeness(voice or Embedder(), speaker)
    return (Ends(), Levels(), Loudness(), Noise(), Words(), Pitch(), Repetition(), Dnsmos(), Naturalness(), likeness)

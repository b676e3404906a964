"""Robust statistics of short, noisy loss curves. Pure Python: the offline verbs must start at once.

How well the rules that use them decide is measured by `benchmarks/decisions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

#: No rule looks further back than this for the noise or a plateau: older evaluations say little about now.
MEMORY = 60

#: Longest stretch over which every pair is looked at; a longer one is thinned to so many points.
_PAIRWISE = 200


def median_slope(values: Sequence[float], steps: Sequence[float] | None = None) -> float:
    """Theil-Sen slope: the median over all pairs, per unit of `steps` (by default per interval).

    Robust: one wild point among many does not move it (Sen 1968). Points of equal step are no pair; without any pair
    the slope is 0.
    """
    at = range(len(values)) if steps is None else steps
    points = list(zip(at, values, strict=True))
    if len(points) > _PAIRWISE:
        points = [points[round(i * (len(points) - 1) / (_PAIRWISE - 1))] for i in range(_PAIRWISE)]
    slopes = [(v2 - v1) / (s2 - s1) for (s1, v1), (s2, v2) in combinations(points, 2) if s1 != s2]
    return median(slopes) if slopes else 0.0


def scatter(values: Sequence[float]) -> float:
    """The standard deviation of the noise in a smooth series: robust, and 0 below seven points.

    From second differences, in which a trend cancels and independent noise of variance s^2 becomes 6 s^2 (Gasser,
    Sroka and Jennen-Steinmetz 1986); their median, scaled for normal noise, ignores the few large ones where a curve
    bends.
    """
    if len(values) < 7:
        return 0.0
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return 1.4826 * median(bends) / math.sqrt(6)


def noise(values: Sequence[float]) -> float:
    """As `scatter`, from second differences at distance 1 and 2, the larger, over the last `MEMORY` values.

    Autocorrelated noise hides from neighbours, less so from the next but one. With fewer than seven values there is no
    median to speak of, and the largest difference stands in for it; with fewer than three it is 0.
    """
    recent = values[-MEMORY:]

    def at(distance: int) -> float:
        triples = zip(recent, recent[distance:], recent[2 * distance :], strict=False)
        bends = [abs(a - 2 * b + c) for a, b, c in triples]
        if not bends:
            return 0.0
        return (max(bends) if len(bends) < 5 else 1.4826 * median(bends)) / math.sqrt(6)

    return max(at(1), at(2) if len(recent) >= 10 else 0.0)


def level(values: Sequence[float]) -> float:
    """What a share is a share of: the size of the values, or how far they range where they change their sign.

    A likelihood crosses zero on its way, and a share of nearly nothing would be nothing.
    """
    size = abs(median(values))
    return size if min(values) > 0 or max(values) < 0 else max(size, max(values) - min(values))


def noise_allowance(values: Sequence[float], share: float, recent: Sequence[float] | None = None) -> float:
    """How large a change of a metric may be and mean nothing: a share of its level, or twice its own scatter.

    Args:
        values: all comparable ones; the scatter is theirs.
        share: 0.01 is one percent.
        recent: those whose level counts; by default all.
    """
    finite = [value for value in values if math.isfinite(value)]
    near = [value for value in recent or finite if math.isfinite(value)]
    return max(share * level(near), 2 * scatter(finite)) if near else 0.0


@dataclass(frozen=True)
class Outlook:
    """What one more evaluation promises at the optimistic end, and over how many of the latest that was judged."""

    promise: float
    window: int
    noise: float


def outlook(values: Sequence[float], asked: float, window: int, share: float = 0.0) -> Outlook | int:
    """How much further one more evaluation may fall, by the slope of the latest ones plus its standard error.

    The error of a slope over w evaluations is noise * sqrt(12 / w^3) (that of least squares; Theil-Sen is nearly as
    good). w is so large that the error is no more than half of what is asked for: the noisier a curve is, the longer
    it takes to tell.

    Args:
        values: finite, lower is better.
        asked: the fall per evaluation that would be worth it, above 0.
        window: the fewest evaluations to judge by.
        share: of all evaluations that are looked at in any case: a long run may rest longer.

    Returns:
        The outlook, or how many evaluations it would take; more than `MEMORY` where the noise hides it for good.
    """
    sigma = noise(values)
    need = max(
        window,
        min(MEMORY, math.ceil(share * len(values))),
        math.ceil(math.pow(12 * min(1e4, 2 * sigma / asked) ** 2, 1 / 3)),
    )
    if need > min(len(values), MEMORY):
        return need
    return Outlook(sigma * math.sqrt(12 / need**3) - median_slope(values[-need:]), need, sigma)

"""Paired differences over a handful of prompts: how likely chance makes them, and how large they may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from xtts_gatekeeper.data import import_extra

#: Up to so many pairs every way of swapping is tried (4096 ways); of more pairs as many ways, drawn.
EXACT = 12


def chance(differences: Sequence[float], seed: int = 0) -> float:
    """How often two sets from the same weights differ as much in the sum, in either direction.

    A sign-flip permutation test: all it takes for granted is that the two could as well be swapped at any pair. Ways
    that give exactly the same sum count by half (Lancaster's mid-p, 1961): marks of good samples are the same at most
    prompts, and of the few ways that are left the plain p counts the one that was seen in full.

    Args:
        differences: one a prompt.
        seed: of the ways drawn where there are more than `EXACT` pairs.
    """
    np = import_extra("numpy", "measures")
    found = np.asarray(differences, dtype=np.float64)
    if not found.any():
        return 1.0
    sums = np.abs(_flips(len(found), seed) @ found)
    seen = abs(found.sum())
    slack = 1e-9 * np.abs(found).sum()  # sums of the same numbers in another order differ in their last digits
    return float(np.mean(sums > seen + slack) + np.mean(np.abs(sums - seen) <= slack) / 2)


def _flips(pairs: int, seed: int) -> Any:
    """Signs, one row for each way of swapping some of the pairs; the first swaps none."""
    np = import_extra("numpy", "measures")
    if pairs <= EXACT:
        return 1.0 - 2.0 * ((np.arange(2**pairs)[:, None] >> np.arange(pairs)[None, :]) & 1)
    drawn = np.random.default_rng(seed).integers(0, 2, size=(2**EXACT, pairs))
    drawn[0] = 0
    return 1.0 - 2.0 * drawn


def interval(differences: Sequence[float], seed: int = 0, resamples: int = 4000) -> tuple[float, float] | None:
    """A 95 % bootstrap interval of the mean difference; None below three pairs.

    Percentiles, further out where there are few pairs: the expanded percentile interval of Hesterberg (2015, "What
    teachers should know about the bootstrap", 3.3). The plain one is too narrow by the root of (n - 1) / n, and knows
    nothing of Student's tails.
    """
    count = len(differences)
    if count < 3:
        return None
    np, special = import_extra("numpy", "measures"), import_extra("scipy.special", "measures")
    tail = float(special.ndtr(math.sqrt(count / (count - 1)) * special.stdtrit(count - 1, 0.025)))
    drawn = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    means = np.asarray(differences, dtype=np.float64)[drawn].mean(axis=1)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)

"""How sure a mean over listeners and prompts is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.samples.paired import interval

#: Below so many prompts no interval is given.
_FEWEST = 3


def crossed_interval(
    values: Sequence[Sequence[float]], seed: int = 0, resamples: int = 4000
) -> tuple[float, float] | None:
    """A 95 % bootstrap interval of a mean; None below three prompts.

    Of one listener over the prompts alone (`paired.interval`): what this listener would say of other sentences. Of
    several, listeners and prompts are both drawn anew, each by themselves, and every draw takes the marks where they
    cross: what other people would say of other sentences (the pigeonhole bootstrap: Owen, 2007, Annals of Applied
    Statistics 1, 386). The percentiles lie further out, as in `paired.interval`, by the smaller of the two numbers. In
    simulations with 8 prompts it held the truth in 96 to 99 of 100, in 87 with two listeners of very different
    strictness: two people tell little of all others.

    Args:
        values: a row a listener, each with the same prompts in the same order.
        seed: of the draws.
        resamples: so many draws.
    """
    listeners, prompts = len(values), len(values[0])
    if prompts < _FEWEST:
        return None
    if listeners == 1:
        return interval(values[0], seed, resamples)
    np, special = import_extra("numpy", "listen"), import_extra("scipy.special", "listen")
    random = np.random.default_rng(seed)
    # How often each listener and each prompt is drawn.
    people = random.multinomial(listeners, [1 / listeners] * listeners, resamples)
    sentences = random.multinomial(prompts, [1 / prompts] * prompts, resamples)
    means = ((people @ np.asarray(values, dtype=np.float64)) * sentences).sum(axis=1) / (listeners * prompts)
    count = min(listeners, prompts)
    tail = float(special.ndtr(math.sqrt(count / (count - 1)) * special.stdtrit(count - 1, 0.025)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)

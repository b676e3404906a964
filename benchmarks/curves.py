"""Seeded validation-loss curves of known kinds, to measure what a stop decision saves and what it costs.

A curve is a shape in units of its own fall (1 at the first evaluation, 0 at the floor), put on a level and given
noise. The ranges come from published logs of XTTS and GlowTTS fine-tuning:

- fall: 4 % of the first value (XTTS, 7 evaluations of a new language), 6 %, 16 %, 20 % (XTTS, small data sets) and
  95 % (GlowTTS from scratch, 217 evaluations);
- noise: standard deviation 0.2 % of the level (XTTS, 100 h), 0.5 % (XTTS, 40 min) and 0.3 to 4 % (GlowTTS);
- overfitting: best at the second of 6, the first of 10 and the fourth of 7 evaluations, then up by 18 to 150 %, while
  the train loss went on falling in every one of them;
- GlowTTS' loss is a negative log likelihood: it crosses zero in longer runs than the one published.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

Shape = tuple[list[float], list[float]]  #: of the eval and of the train loss


@dataclass(frozen=True)
class Curve:
    """One run: the loss at each evaluation, and the train loss of the epoch before it."""

    kind: str
    seed: int
    values: list[float]
    train: list[float]


def _log_uniform(rng: Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _power(rng: Random, length: int) -> list[float]:
    """A power law that may be nearly flat after a hundredth of the run, or still on the way at its end."""
    knee, exponent = length * _log_uniform(rng, 0.01, 0.3), rng.uniform(0.4, 1.5)
    return [(1 + t / knee) ** -exponent for t in range(length)]


def _exponential(rng: Random, length: int) -> list[float]:
    scale = length * _log_uniform(rng, 0.03, 0.25)
    return [math.exp(-t / scale) for t in range(length)]


def _fall(rng: Random, length: int) -> list[float]:
    return rng.choice((_power, _exponential))(rng, length)


def power_law(rng: Random, length: int) -> Shape:
    """Falls as a power of the time, without end; train runs a little ahead."""
    shape = _power(rng, length)
    return shape, [value - 0.1 * t / length for t, value in enumerate(shape)]


def plateau(rng: Random, length: int) -> Shape:
    """Falls exponentially to a floor, of eval and of train."""
    shape = _exponential(rng, length)
    return shape, list(shape)


def u_curve(rng: Random, length: int) -> Shape:
    """Overfits: falls, turns somewhere in the first 70 % of the run, and climbs by 0.3 to 5 falls; train falls on."""
    shape = _fall(rng, length)
    turn, height, power = rng.uniform(0, 0.7) * length, _log_uniform(rng, 0.3, 5), rng.uniform(0.7, 2)
    climb = [height * max(0.0, (t - turn) / (length - turn)) ** power for t in range(length)]
    train = [value - t / length for t, value in enumerate(shape)]
    return [value + up for value, up in zip(shape, climb, strict=True)], train


def spikes(rng: Random, length: int) -> Shape:
    """Falls, with one to four upward jumps of 0.1 to 3 falls that decay within about 1 to 8 evaluations."""
    shape = _fall(rng, length)
    for _ in range(rng.randint(1, 4)):
        start, height, scale = rng.randrange(1, length), _log_uniform(rng, 0.1, 3), rng.uniform(0.3, 2.5)
        for t in range(start, length):
            shape[t] += height * math.exp(-(t - start) / scale)
    return shape, list(shape)


def divergence(rng: Random, length: int) -> Shape:
    """Falls, then grows by 20 to 150 % an evaluation, or straight to NaN; train goes with it."""
    shape = _fall(rng, length)
    start, growth = rng.randint(1, length - 1), rng.uniform(1.2, 2.5)
    if rng.random() < 0.25:
        shape = shape[:start] + [math.nan] * (length - start)
    else:
        for t in range(start, length):
            shape[t] += 0.1 * growth ** min(t - start, 40)
    return shape, list(shape)


def late(rng: Random, length: int) -> Shape:
    """Falls by 20 to 80 %, rests (flat or at a tenth of its pace) for 5 to 40 % of the run, then falls again."""
    first = rng.uniform(0.2, 0.8)
    rest = length * rng.uniform(0.15, 0.5)
    again = rest + length * rng.uniform(0.05, 0.4)
    scale, scale_again = rest * rng.uniform(0.15, 0.4), length * rng.uniform(0.05, 0.2)
    creep = rng.choice((0.0, 0.1)) / length
    shape = []
    for t in range(length):
        second = 1 - math.exp(-max(0.0, t - again) / scale_again)
        shape.append(1 - first * (1 - math.exp(-t / scale)) - (1 - first) * second - creep * min(t, again))
    return shape, list(shape)


Kind = Callable[[Random, int], Shape]

#: All kinds, each as likely as the others.
KINDS: tuple[Kind, ...] = (power_law, plateau, u_curve, spikes, divergence, late)


def noise(rng: Random, length: int) -> list[float]:
    """Of standard deviation about 1: normal, autocorrelated (0.6 from one evaluation to the next) or heavy-tailed."""
    which = rng.choice(("normal", "autocorrelated", "heavy"))
    draws = [rng.gauss(0, 1) for _ in range(length)]
    if which == "heavy":  # Student's t with 4 degrees of freedom, brought to variance 1
        return [draw / math.sqrt(rng.gammavariate(2, 2) / 2) for draw in draws]
    if which == "autocorrelated":
        for t in range(1, length):
            draws[t] = 0.6 * draws[t - 1] + 0.8 * draws[t]
    return draws


def curve(
    seed: int,
    kinds: Sequence[Kind] = KINDS,
    lengths: Sequence[int] = (20, 30, 50, 100, 200),
    noises: tuple[float, float] = (0.001, 0.02),
    below_zero: float = 0.15,
) -> Curve:
    """The curve of `seed`: noise in the range `noises` (shares of the level), a share `below_zero` shifted down."""
    rng = Random(seed)
    kind, length = rng.choice(kinds), rng.choice(lengths)
    first, share = rng.uniform(1, 5), _log_uniform(rng, 0.04, 0.9)
    fall, deviation = first * share, first * (1 - share / 2) * _log_uniform(rng, *noises)
    shift = first * rng.uniform(0.3, 1.3) if rng.random() < below_zero else 0.0
    shape, train = kind(rng, length)
    lines = [
        [first - shift - fall * (1 - value) + deviation * scale * draw for value, draw in zip(line, draws, strict=True)]
        for line, scale, draws in ((shape, 1, noise(rng, length)), (train, 0.5, noise(rng, length)))
    ]
    return Curve(kind.__name__, seed, lines[0], lines[1])


def curves(seeds: Iterable[int], **settings: object) -> Iterator[Curve]:
    """A curve for each seed; `settings` as for `curve`."""
    return (curve(seed, **settings) for seed in seeds)  # type: ignore[arg-type]

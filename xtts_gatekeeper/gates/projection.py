"""When the objective reaches its target, with an interval, or that it does not at this trend."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, mean, median
from typing import Literal

from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.record.run import Series
from xtts_gatekeeper.series import median_slope

#: Evaluations that are looked at: the latest ones, since an early phase of training says little about a late one.
_RECENT = 30
_FEWEST = 6
#: No further than so many times the stretch that was seen.
_REACH = 5.0
#: Of the region of shapes that fit. `benchmarks/projection.py` measures what comes of it: the interval holds the truth
#: in nine of ten simulated runs; the shapes of real curves are only nearly of the kinds tried here.
_REGION = 0.95
#: The fit's error is at least this share of the values' range: a grid of shapes misses any curve by about so much, and
#: without it a curve with little noise would get an interval around the wrong shape.
_GRID_ERROR = 0.005

Status = Literal["reached", "expected", "not_at_this_trend", "too_few_points"]


@dataclass(frozen=True)
class Projection:
    """The way to the target.

    `steps` and `seconds` are counted from the latest evaluation; `steps_interval` held the truth in nine of ten
    simulated runs (`benchmarks/projection.py`); its second end is None where the target may never be reached. `error`
    is the standard deviation of the fit's residuals in units of the metric, that of the grid of shapes included, over
    `points` evaluations.
    """

    metric: str
    target: float
    status: Status
    message: str
    latest: float | None = None
    steps: int | None = None
    steps_interval: tuple[int, int | None] | None = None
    seconds: float | None = None
    seconds_interval: tuple[float, float | None] | None = None
    floor: float | None = None
    error: float | None = None
    points: int = 0


@dataclass(frozen=True)
class _Fit:
    """`y = floor + rise * shape(x)`, with `shape` falling from 1 and `x` from 0 to 1 over the points seen."""

    shape: Callable[[float], float]
    inverse: Callable[[float], float]  # x for a value of shape; inf where it has none
    floor: float
    rise: float
    squares: float
    middle: float
    spread: float


def project(record: RunRecord, objective: str, target: float) -> Projection:
    """Project the comparable evaluations of `objective` to `target`.

    The curve is fitted by least squares with a floor plus a falling shape, exponential or power law, over a grid of
    their time constants; the shapes that fit about as well as the best (an F ratio) all count. For each, the steps at
    which the fitted line meets the target, within its own uncertainty, come from inverse regression (Fieller 1954). The
    interval spans them. When the latest evaluations do not fall, or no shape gets there within five times the stretch
    that was seen, it is "not at this trend": what is further away than that nobody can see from here.
    """
    points = record.series(objective)
    steps, values = _finite(points)
    if not values:
        return Projection(points.metric, target, "too_few_points", f"{points.metric} has no evaluation yet")
    latest = values[-1]
    if latest <= target:
        message = f"{points.metric} {latest:.4g} is at the target {target:g}"
        return Projection(points.metric, target, "reached", message, latest, steps=0, points=len(values))
    if len(values) < _FEWEST:
        message = f"{len(values)} comparable evaluations, a projection needs {_FEWEST}"
        return Projection(points.metric, target, "too_few_points", message, latest, points=len(values))
    steps, values = steps[-_RECENT:], values[-_RECENT:]
    span = steps[-1] - steps[0]
    tail = values[-max(4, len(values) // 4) :]
    if span <= 0 or median_slope(tail) >= 0 or values[-1] > values[-2] > values[-3]:
        message = (
            f"{points.metric} will not reach {target:g} at this trend: the last {len(tail)} evaluations do not fall "
            f"({tail[0]:.4g} to {tail[-1]:.4g})"
        )
        return Projection(points.metric, target, "not_at_this_trend", message, latest, points=len(values))
    fits = _fits([(step - steps[0]) / span for step in steps], values)
    best = min(fits, key=lambda fit: fit.squares)
    freedom = max(1, len(values) - 4)
    least = best.squares + len(values) * (_GRID_ERROR * (max(values) - min(values))) ** 2
    error = math.sqrt(least / freedom)
    # All shapes within the joint confidence region of the two shape parameters: 1 + 2 F(2, v) / v in closed form.
    likely = [fit for fit in fits if fit.squares <= least * (1 - _REGION) ** (-2 / freedom)]
    middle = _middle(fits, freedom, target)
    quantile = _student((1 + _REGION) / 2, freedom)
    ends = [_interval(fit, target, error * quantile, len(values)) for fit in likely]
    low = min((end[0] for end in ends), default=math.inf)
    high = max((end[1] for end in ends), default=math.inf)
    said = {"latest": latest, "floor": best.floor, "error": error, "points": len(values)}
    if not 1 < middle <= 1 + _REACH:
        floor_above = math.isinf(middle) and best.floor > target
        away = f"its floor is about {best.floor:.4g}" if floor_above else "it is too far away to be seen"
        message = f"{points.metric} will not reach {target:g} at this trend: {away} (now {latest:.4g})"
        return Projection(points.metric, target, "not_at_this_trend", message, **said)  # type: ignore[arg-type]
    ahead = [max(1, round((x - 1) * span)) for x in (middle, max(1.0, low))]
    last = round((high - 1) * span) if high <= 1 + 4 * _REACH else None
    pace = _seconds_per_step(record)
    until = f"{ahead[1]} to {last}" if last is not None else f"{ahead[1]} or more"
    message = f"{points.metric} reaches {target:g} in about {ahead[0]} steps ({until}), if it goes on like this"
    return Projection(
        points.metric,
        target,
        "expected",
        message,
        steps=ahead[0],
        steps_interval=(ahead[1], last),
        seconds=None if pace is None else ahead[0] * pace,
        seconds_interval=None if pace is None else (ahead[1] * pace, None if last is None else last * pace),
        **said,  # type: ignore[arg-type]
    )


def _finite(points: Series) -> tuple[list[int], list[float]]:
    found = [(s, v) for s, v in zip(points.steps, points.losses, strict=True) if math.isfinite(v)]
    return [s for s, _ in found], [v for _, v in found]


def _seconds_per_step(record: RunRecord) -> float | None:
    """Median over the training epochs, evaluations not counted; None where the record has no times."""
    paces, before = [], 0
    for epoch in record.train_epochs:
        if epoch.seconds is not None and epoch.step > before:
            paces.append(epoch.seconds / (epoch.step - before))
        before = epoch.step
    return median(paces) if paces else None


def _spaced(first: float, last: float, count: int) -> list[float]:
    """`count` numbers from `first` to `last`, each by the same factor above the one before."""
    return [first * (last / first) ** (i / (count - 1)) for i in range(count)]


@cache
def _shapes() -> list[tuple[Callable[[float], float], Callable[[float], float]]]:
    shapes: list[tuple[Callable[[float], float], Callable[[float], float]]] = []
    for rate in _spaced(0.1, 16.0, 32):

        def exponential(x: float, k: float = rate) -> float:
            return math.exp(-k * x)

        def logarithm(y: float, k: float = rate) -> float:
            return -math.log(y) / k if y > 0 else math.inf

        shapes.append((exponential, logarithm))
    for power in _spaced(0.1, 2.0, 7):
        for origin in _spaced(0.02, 3.0, 10):

            def law(x: float, b: float = power, o: float = origin) -> float:
                return float((1 + x / o) ** -b)

            def root(y: float, b: float = power, o: float = origin) -> float:
                return o * (math.exp(min(500.0, -math.log(y) / b)) - 1) if y > 0 else math.inf

            shapes.append((law, root))
    return shapes


def _fits(xs: Sequence[float], ys: Sequence[float]) -> list[_Fit]:
    fits = []
    y_mean = mean(ys)
    for shape, inverse in _shapes():
        fs = [shape(x) for x in xs]
        f_mean = mean(fs)
        spread = sum((f - f_mean) ** 2 for f in fs)
        if spread < 1e-12:
            continue
        rise = sum((f - f_mean) * (y - y_mean) for f, y in zip(fs, ys, strict=True)) / spread
        floor = y_mean - rise * f_mean
        squares = sum((y - floor - rise * f) ** 2 for f, y in zip(fs, ys, strict=True))
        fits.append(_Fit(shape, inverse, floor, rise, squares, f_mean, spread))
    return fits


def _reaches(fit: _Fit, target: float) -> float:
    """The x at which the fitted curve meets the target; inf where it never does."""
    return fit.inverse((target - fit.floor) / fit.rise) if fit.rise > 0 else math.inf


def _middle(fits: Sequence[_Fit], freedom: int, target: float) -> float:
    """The median, by likelihood, of the x at which the fits meet the target; inf where most of them never do."""
    least = max(min(fit.squares for fit in fits), 1e-30)
    weighed = sorted((_reaches(fit, target), (max(fit.squares, 1e-30) / least) ** (-freedom / 2)) for fit in fits)
    half, total = sum(weight for _, weight in weighed) / 2, 0.0
    for x, weight in weighed:
        total += weight
        if total >= half:
            return x
    return math.inf


def _interval(fit: _Fit, target: float, error: float, n: int) -> tuple[float, float]:
    """The x between which the curve meets the target: where |curve - target| is within its uncertainty (Fieller)."""
    # (floor + rise f - target)^2 <= error^2 (1/n + (f - middle)^2 / spread), a quadratic in g = f - middle
    offset = fit.floor + fit.rise * fit.middle - target
    a = fit.rise**2 - error**2 / fit.spread
    b = 2 * fit.rise * offset
    c = offset**2 - error**2 / n
    root = b * b - 4 * a * c
    if a <= 0 or root < 0:  # the slope itself is not certain: it may be soon, it may be never
        return (_reaches(fit, target), math.inf)
    near, far = ((-b + sign * math.sqrt(root)) / (2 * a) + fit.middle for sign in (1, -1))
    return (fit.inverse(near), fit.inverse(far))


def _student(p: float, freedom: int) -> float:
    """Quantile of Student's t, by the expansion in Abramowitz and Stegun 26.7.5; within 3 % from two degrees on."""
    z, v = NormalDist().inv_cdf(p), freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3

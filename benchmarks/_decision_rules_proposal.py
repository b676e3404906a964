"""Stop decisions that use what early stopping throws away: the noise, the slope and the whole fall so far.

    python benchmarks/_decision_rules_proposal.py [--curves 1200] [--first-seed 100000]

Pure functions on the values of one validation loss (lower is better, any sign, any scale) up to now. None of them
divides by the level: every threshold is in units of the curve's own noise or of its own fall, so that a curve that is
stretched gets the same decisions, and so does one that is shifted, unless it explodes or falls by more than a quarter
of its best value.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from curves import KINDS, Curve, curves

Finding = tuple[bool, dict[str, Any]]

#: No rule looks further back than this for the noise or for a slope: older evaluations say little about now.
MEMORY = 60


def noise_of(values: Sequence[float]) -> float:
    """Standard deviation of the noise of a smooth series, from second differences at distance 1 and 2, the larger.

    A trend cancels in y[i] - 2 y[i+d] + y[i+2d], and independent noise of variance s^2 becomes 6 s^2 (Gasser, Sroka
    and Jennen-Steinmetz 1986), so s is 1.4826 times the median of its absolute value over sqrt(6): outliers do not
    count. Autocorrelated noise hides from neighbours (at 0.6 they show 57 % of it) and less so at distance 2, for
    which ten values are needed; with fewer than seven there is no median to speak of, and the largest stands in.
    """
    recent = values[-MEMORY:]

    def at(distance: int) -> float:
        triples = zip(recent, recent[distance:], recent[2 * distance :], strict=False)
        bends = [abs(a - 2 * b + c) for a, b, c in triples]
        if not bends:
            return 0.0
        return (max(bends) if len(bends) < 5 else 1.4826 * median(bends)) / math.sqrt(6)

    return max(at(1), at(2) if len(recent) >= 10 else 0.0)


def slope_of(values: Sequence[float]) -> float:
    """Theil-Sen slope per evaluation: the median over all pairs, which a few wild values do not move (Sen 1968)."""
    count = len(values)
    return median((values[j] - values[i]) / (j - i) for i in range(count) for j in range(i + 1, count))


def diverging(values: Sequence[float], factor: float = 3.0) -> Finding:
    """The latest value is NaN or Inf, or the last two have exploded: a single wild evaluation may recover.

    Exploded: above the first value by more than `factor` times the larger of its size and the fall since, and not
    coming back. At least three values are needed; NaN and Inf count from the first.
    """
    if not values:
        return False, {}
    if not math.isfinite(values[-1]):
        return True, {"latest": values[-1]}
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 3:
        return False, {}
    first, limit = finite[0], factor * max(abs(finite[0]), finite[0] - min(finite))
    exploded = finite[-1] >= finite[-2] > first + limit > first
    return exploded, {"first": first, "latest": finite[-1], "limit": first + limit}


def worsening(values: Sequence[float], z: float = 2.5, checks: int = 3) -> Finding:
    """The last `checks` evaluations are all above the best, their median is `z` noises above the best stretch, and
    the loss is (within one noise) as high as it has ever been since the best.

    The checklist's "consistently worsens for 3+ checks", with noise taken seriously. The best stretch is the lowest
    running median of `checks` values: the single best value is low by luck, and the more so the longer the run.
    "As high as ever since the best" is what tells a rise from a spike, which is at its highest first and then decays.
    """
    count = len(values)
    if count <= checks:
        return False, {"have": count, "need": checks + 1}
    last, best = values[-checks:], min(values)
    since = max(values[values.index(best) :])
    noise = noise_of(values)
    stretch = min(median(values[i : i + checks]) for i in range(count - checks))
    rise = median(last) - stretch
    found = min(last) > best and values[-1] + noise >= since and rise > z * noise
    return found, {"best": best, "rise": rise, "noise": noise, "allowed": z * noise}


def plateau(
    values: Sequence[float],
    worth: float = 0.003,
    of_level: float = 0.25,
    z: float = 1.0,
    window: int = 10,
    share: float = 1 / 3,
) -> Finding:
    """Even at the optimistic end, one more evaluation promises less than `worth` of what was gained so far.

    What was gained is the fall since the first value, but no more than `of_level` of the size of the best: near its
    floor, a loss that fell far is judged by what is left of it (and one at zero is never flat enough: it waits).

    The promise is the Theil-Sen slope over the latest evaluations plus `z` of its standard errors, which over w
    evaluations are noise * sqrt(12 / w^3) (least squares; Theil-Sen is nearly as good). w is at least `window`, at
    least `share` of the run (a long run is allowed longer rests), and so large that the error is no more than half
    the threshold: the noisier a curve is against its fall, the longer the rule waits. Beyond MEMORY evaluations it
    says nothing. A fall of nothing or less is no plateau but a failure to learn, which is not this rule's business.
    """
    count, best = len(values), min(values, default=0.0)
    gained = min(values[0] - best, of_level * abs(best)) if values else 0.0
    if count < window or gained <= 0:
        return False, {"have": count, "need": window, "gained": gained}
    noise, threshold = noise_of(values), worth * gained
    if threshold <= 0:
        return False, {"have": count, "need": window, "gained": gained}
    need = max(
        window,
        min(MEMORY, math.ceil(share * count)),
        math.ceil((12 * (2 * z * noise / threshold) ** 2) ** (1 / 3)),
    )
    if need > min(count, MEMORY):
        return False, {"have": count, "need": need, "noise": noise, "gained": gained}
    promise = z * noise * math.sqrt(12 / need**3) - slope_of(values[-need:])
    return promise < threshold, {"promise": promise, "threshold": threshold, "noise": noise, "window": need}


def fading(values: Sequence[float]) -> Finding:
    """A plateau by a laxer measure, for `tune`: from five evaluations on, 2 % of the fall, whatever the level."""
    return plateau(values, worth=0.02, of_level=math.inf, window=5)


def decide(values: Sequence[float], train: Sequence[float] | None = None, worth: float = 0.003) -> str | None:
    """The reason to stop after the last of `values`, or None. `train` is accepted and not used."""
    if diverging(values)[0]:
        return "diverging"
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 3:
        return None
    if worsening(finite)[0]:
        return "worsening"
    return "plateau" if plateau(finite, worth)[0] else None


# The benchmark.

PATIENCES = (3, 5, 10)
WORTHS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.04, 0.08)
LOGS = Path(__file__).parent.parent.parent / "shared" / "logs"


def early_stopping(values: Sequence[float], patience: int) -> int:
    """After how many evaluations the best is `patience` old, or all of them."""
    best, age = math.inf, 0
    for done, value in enumerate(values, 1):
        best, age = (value, 0) if value < best else (best, age + 1)
        if age >= patience:
            return done
    return len(values)


def ours(values: Sequence[float], worths: Sequence[float]) -> list[int]:
    """After how many evaluations `decide` stops, for each of `worths` (which only `plateau` depends on)."""
    counts = range(1, len(values) + 1)
    hard = next((n for n in counts if decide(values[:n], worth=0.0)), len(values))
    return [next((n for n in range(3, hard) if plateau(values[:n], worth)[0]), hard) for worth in worths]


def regret(values: Sequence[float], stopped: int) -> tuple[float, float]:
    """What stopping cost, as a share of the whole fall and of the size of the best value."""
    best = min(value for value in values if math.isfinite(value))
    lost = min(value for value in values[:stopped] if math.isfinite(value)) - best
    return (lost / (values[0] - best) if lost else 0.0), lost / abs(best)


Point = tuple[float, float, float]  #: mean epochs saved, mean regret by fall, mean regret by best


def point(some: Sequence[Curve], stops: Iterable[int]) -> Point:
    pairs = [(len(c.values) - stop, *regret(c.values, stop)) for c, stop in zip(some, stops, strict=True)]
    positive = [by_best for c, (_, _, by_best) in zip(some, pairs, strict=True) if min(c.values) > 0]
    return fmean(p[0] for p in pairs), fmean(p[1] for p in pairs), fmean(positive or [math.nan])


def at(points: Iterable[Point], saved: float, which: int) -> float:
    """Regret of a traced method at `saved` epochs, between its two nearest points."""
    ordered = sorted(points)
    for low, high in pairwise(ordered):
        if low[0] <= saved <= high[0]:
            part = (saved - low[0]) / (high[0] - low[0]) if high[0] > low[0] else 0.0
            return low[which] + part * (high[which] - low[which])
    return ordered[0][which] if saved < ordered[0][0] else math.nan


def trace(some: Sequence[Curve]) -> list[list[int]]:
    """Our stops: for each of WORTHS those of all curves."""
    return [list(stops) for stops in zip(*(ours(c.values, WORTHS) for c in some), strict=True)]


def compare(name: str, some: Sequence[Curve], traced: Sequence[Sequence[int]]) -> None:
    points = [point(some, stops) for stops in traced]
    for patience in PATIENCES:
        saved, by_fall, by_best = point(some, (early_stopping(c.values, patience) for c in some))
        mine = at(points, saved, 1), at(points, saved, 2)
        print(
            f"{name:24} {patience:3} {saved:7.1f}   {by_fall:7.4f} {mine[0]:7.4f} {mine[0] / (by_fall or 1e-9):5.2f}"
            f"   {by_best:7.4f} {mine[1]:7.4f} {mine[1] / (by_best or 1e-9):5.2f}",
            flush=True,
        )


def real_curves() -> dict[str, list[float]]:
    text = re.sub(r"\x1b\[[0-9;]*m", "", (LOGS / "16_glowtts_antigoni_01.txt").read_text(errors="replace"))
    return {
        "02 XTTS Malta": [4.114, 4.065, 4.017, 4.000, 3.973, 3.953, 3.949],
        "11 XTTS slinger": [3.453, 3.344, 3.282, 3.272, 3.252, 3.265],
        "16 GlowTTS": [float(number) for number in re.findall(r"> avg_loss:\s*(\S+)", text)],
        "19 A": [3.415, 4.717, 5.678, 6.419, 6.64, 6.974, 7.790, 8.108, 8.350, 8.591],
        "19 B": [4.473, 4.460, 4.618, 4.903, 5.275, 5.674],
        "20 R1": [5.380, 4.850, 4.520, 4.280, 4.343, 4.862, 5.069],
        "20 R2": [4.178, 3.762, 3.669, 3.623, 3.576, 3.519, 3.548, 3.514, 3.519, 3.507, 3.511],
    }


HEADER = f"{'':24} {'P':>3} {'saved':>7}   {'ES':>7} {'ours':>7} {'ratio':>5}   {'ES':>7} {'ours':>7} {'ratio':>5}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--curves", type=int, default=1200)
    parser.add_argument("--first-seed", type=int, default=100_000)
    parser.add_argument("--robust", action="store_true", help="other mixes, lengths, noises and signs as well")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.curves)
    some = list(curves(seeds))
    traced = trace(some)

    print(f"{len(some)} curves. Regret at equal epochs saved: as a share of the fall | of the best (positive curves)")
    print(HEADER)
    compare("all", some, traced)
    default = traced[WORTHS.index(0.003)]
    print("\nThe default (worth 0.003), and early stopping, by kind: epochs saved / regret by fall / by best")
    rows = [("ours", default), *((f"ES {p}", [early_stopping(c.values, p) for c in some]) for p in PATIENCES)]
    for kind in ("all", *(k.__name__ for k in KINDS)):
        chosen = [i for i, c in enumerate(some) if kind in ("all", c.kind)]
        cells = [point([some[i] for i in chosen], [stops[i] for i in chosen]) for _, stops in rows]
        text = "   ".join(
            f"{label} {p[0]:5.1f}/{p[1]:.4f}/{p[2]:.4f}" for (label, _), p in zip(rows, cells, strict=True)
        )
        print(f"  {kind:11} {text}")
    early = sum(stop < 3 and math.isfinite(c.values[stop - 1]) for c, stop in zip(some, default, strict=True))
    print(f"  stops before the third evaluation without NaN: {early}")

    print("\nReal curves")
    for name, values in real_curves().items():
        counts = range(1, len(values) + 1)
        stop = next((n for n in counts if decide(values[:n])), None)
        stopped = stop or len(values)
        fades = next((n for n in counts if fading(values[:n])[0]), None)
        print(
            f"  {name:16} {len(values):3} evaluations: stop after {stop} ({decide(values[:stopped])}), saves "
            f"{len(values) - stopped}, regret {regret(values, stopped)[0]:.4f}/{regret(values, stopped)[1]:.4f}; "
            f"fading first after {fades}, at the end {fading(values)[0]}; ES 3/5/10 after "
            f"{'/'.join(str(early_stopping(values, p)) for p in PATIENCES)}"
        )

    print("\nPart of the same curves")
    print(HEADER)
    parts: dict[str, Callable[[Curve], bool]] = {
        f"{n} evaluations": lambda c, n=n: len(c.values) == n  # type: ignore[misc]
        for n in (20, 30, 50, 100, 200)
    } | {f"no {k.__name__}": lambda c, k=k: c.kind != k.__name__ for k in KINDS}  # type: ignore[misc]
    for name, keep in parts.items():
        chosen = [i for i, c in enumerate(some) if keep(c)]
        compare(name, [some[i] for i in chosen], [[stops[i] for i in chosen] for stops in traced])

    if options.robust:
        print("\nOther curves")
        print(HEADER)
        others: dict[str, dict[str, Any]] = {
            "noise 0.1 to 0.3 %": {"noises": (0.001, 0.003)},
            "noise 1 to 2 %": {"noises": (0.01, 0.02)},
            "all positive": {"below_zero": 0.0},
            "all get below zero": {"below_zero": 1.0},
        }
        for name, settings in others.items():
            more = list(curves(seeds[: len(seeds) // 2], **settings))
            compare(name, more, trace(more))

    longest = [random.Random(0).gauss(5 - t / 100, 0.05) for t in range(200)]
    started = time.perf_counter()
    for _ in range(20):
        decide(longest)
    print(f"\ndecide() on 200 values: {(time.perf_counter() - started) * 50:.2f} ms")


if __name__ == "__main__":
    main()

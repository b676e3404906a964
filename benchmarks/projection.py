"""How often the projection's interval holds the truth, on seeded curves whose way to the target is known.

    python benchmarks/projection.py [--curves 1000] [--first-seed 300000]

A curve falls to a floor as an exponential or a power law, with noise of 0.2 to 1 % of the floor, and was seen for 6 to
25 evaluations. Its target is met 0.1 to 2 times that stretch ahead, or lies below the floor. It prints and asserts
nothing.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from random import Random
from statistics import median

from xtts_gatekeeper.gates.projection import project
from xtts_gatekeeper.record import Evaluation, RunRecord

STEPS = 100  # of an epoch


def case(seed: int) -> tuple[RunRecord, float, float]:
    """A run, its target, and after how many more steps the noiseless curve meets it (inf: never)."""
    rng = Random(seed)
    floor, rise, scale, power = rng.uniform(2, 3), rng.uniform(0.5, 2), rng.uniform(3, 15), rng.uniform(0.3, 1)
    noise, count = rng.choice((0.002, 0.005, 0.01)) * floor, rng.randint(6, 25)
    exponential = rng.random() < 0.5

    def curve(epoch: float) -> float:
        return floor + rise * (math.exp(-epoch / scale) if exponential else (1 + epoch / scale) ** -power)

    events = tuple(
        Evaluation(step=STEPS * (i + 1), epoch=i, time="", metrics={"eval.mel_ce": curve(i) + rng.gauss(0, noise)})
        for i in range(count)
    )
    if rng.random() < 0.4:
        return RunRecord(events), floor - rng.uniform(0.05, 0.3), math.inf
    ahead = rng.uniform(0.1, 2) * count
    return RunRecord(events), curve(count - 1 + ahead), ahead * STEPS


def main() -> None:
    """Print what was projected, beside the truth."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--curves", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=300_000)
    options = parser.parse_args()
    said: dict[str, Counter[str]] = {"reached later": Counter(), "never reached": Counter()}
    inside = opened = 0
    ratios = []
    for seed in range(options.first_seed, options.first_seed + options.curves):
        record, target, truth = case(seed)
        found = project(record, "eval.mel_ce", target)
        said["never reached" if math.isinf(truth) else "reached later"][found.status] += 1
        if found.status != "expected" or found.steps_interval is None or found.steps is None or math.isinf(truth):
            continue
        low, high = found.steps_interval
        inside += low <= truth <= (math.inf if high is None else high)
        opened += high is None
        ratios.append(found.steps / truth)
    for truth_said, counts in said.items():
        print(f"{truth_said:14}", ", ".join(f"{status} {count}" for status, count in sorted(counts.items())))
    print(f"intervals that hold the truth: {inside / len(ratios):.2f} of {len(ratios)}, without an upper end {opened}")
    print(f"projected over true steps, median {median(ratios):.2f}")


if __name__ == "__main__":
    main()

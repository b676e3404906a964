"""What the shipped policy's `stop` saves and costs, beside early stopping with patience: seeded curves, real logs.

    python benchmarks/decisions.py [--curves 1200] [--first-seed 200000] [--logs ../shared/logs]

Every curve goes through `evaluate` with the policy `checklist`, evaluation by evaluation, as a live run would. To
compare at equal epochs saved, the policy is traced over the `worth` of its rule `plateau`, and early stopping over its
patience. Regret is how much lower the whole curve's best is than the best up to the stop: as a share of the best
(positive curves), and of the curve's whole fall (any sign). The seeds are not those that the rules were tuned on (0 to
999). It prints and asserts nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parent))
from curves import KINDS, Curve, curves, late

from xtts_gatekeeper.gates import Policy, evaluate, load_policy
from xtts_gatekeeper.gates.rules.plateau import Plateau
from xtts_gatekeeper.offline import open_run
from xtts_gatekeeper.record import Evaluation, RunRecord, TrainEpoch
from xtts_gatekeeper.record.run import best_of

PATIENCES = (3, 5, 10)
WORTHS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.04, 0.08)
SHIPPED = WORTHS.index(0.003)

#: A mix nearer to the published fine-tuning logs than equal shares: a second fall is rare, the noise half a percent.
PUBLISHED = {"kinds": (*(KINDS[:-1] * 3), late), "noises": (0.001, 0.005), "below_zero": 0.0}


def record_of(curve: Curve) -> RunRecord:
    """The curve as a run of one evaluation an epoch."""
    events: list[TrainEpoch | Evaluation] = []
    for epoch, (value, train) in enumerate(zip(curve.values, curve.train, strict=True)):
        step = 100 * (epoch + 1)
        events.append(TrainEpoch(step=step, epoch=epoch, time="", metrics={"train.mel_ce": train}))
        events.append(Evaluation(step=step, epoch=epoch, time="", metrics={"eval.mel_ce": value}, eval_set="one"))
    return RunRecord(tuple(events))


def without_plateau(policy: Policy) -> Policy:
    """The policy without the rule whose parameter is traced."""
    return replace(policy, health=tuple(rule for rule in policy.health if not isinstance(rule.rule, Plateau)))


def stops(curve: Curve, policy: Policy) -> list[int]:
    """After how many evaluations the policy says stop, for each of WORTHS."""
    record = record_of(curve)
    views = [record.upto(evaluation) for evaluation in record.evaluations]
    rest = without_plateau(policy)
    hard = next((n for n, view in enumerate(views, 1) if evaluate(view, rest).verdict == "stop"), len(views))
    found = []
    for worth in WORTHS:
        rule = Plateau("eval.mel_ce", worth=worth)  # type: ignore[arg-type]
        found.append(next((n for n, view in enumerate(views[:hard], 1) if rule.check(view).status == "failed"), hard))
    return found


def early_stopping(values: Sequence[float], patience: int) -> int:
    """After how many evaluations the best is `patience` old, or all of them."""
    best, age = math.inf, 0
    for done, value in enumerate(values, 1):
        best, age = (value, 0) if value < best else (best, age + 1)
        if age >= patience:
            return done
    return len(values)


def regrets(values: Sequence[float], stopped: int) -> tuple[float, float]:
    """What stopping cost, as a share of the size of the best value and of the whole fall."""
    best = min(value for value in values if math.isfinite(value))
    lost = min((value for value in values[:stopped] if math.isfinite(value)), default=values[0]) - best
    return lost / abs(best), (lost / (values[0] - best) if lost else 0.0)


Point = tuple[float, float, float]  #: mean epochs saved, mean regret of the best, of the fall


def point(some: Sequence[Curve], stopped: Iterable[int]) -> Point:
    """Epochs saved and regrets, averaged over curves."""
    rows = [(c, len(c.values) - n, *regrets(c.values, n)) for c, n in zip(some, stopped, strict=True)]
    positive = [of_best for c, _, of_best, _ in rows if min(c.values) > 0]
    return fmean(row[1] for row in rows), fmean(positive or [math.nan]), fmean(row[3] for row in rows)


def at(points: Iterable[Point], saved: float, which: int) -> float:
    """Regret of a traced method at `saved` epochs, between its two nearest points; NaN out of its reach."""
    ordered = sorted(points)
    for low, high in pairwise(ordered):
        if low[0] <= saved <= high[0]:
            part = (saved - low[0]) / (high[0] - low[0]) if high[0] > low[0] else 0.0
            return low[which] + part * (high[which] - low[which])
    return ordered[0][which] if saved < ordered[0][0] else math.nan


def compare(title: str, some: Sequence[Curve], traced: Sequence[Sequence[int]]) -> None:
    """Rows for each patience, and the shipped policy beside the patience that saves as much."""
    print(f"\n{title}: {len(some)} curves")
    print("                       saved | regret/best: ES   ours  ratio | regret/fall: ES   ours  ratio")
    ours = [point(some, stopped) for stopped in traced]
    early = {p: point(some, (early_stopping(c.values, p) for c in some)) for p in (*range(1, 21), 25, 30, 40)}
    rows = [(f"early stopping, p {p}", early[p], [at(ours, early[p][0], i) for i in (1, 2)]) for p in PATIENCES]
    shipped = ours[SHIPPED]
    same = (shipped[0], *(at(early.values(), shipped[0], i) for i in (1, 2)))
    rows.append(("the shipped policy", same, list(shipped[1:])))
    for name, (saved, best, fall), (our_best, our_fall) in rows:
        print(
            f"{name:21} {saved:6.1f} | {best:15.4f} {our_best:6.4f} {our_best / (best or math.nan):6.2f} |"
            f" {fall:15.4f} {our_fall:6.4f} {our_fall / (fall or math.nan):6.2f}"
        )


def by_kind(some: Sequence[Curve], traced: Sequence[Sequence[int]]) -> None:
    """Epochs saved and regret of the shipped policy and of early stopping, for each kind."""
    print("\nby kind: epochs saved / regret of the best / of the fall")
    methods = {"shipped": list(traced[SHIPPED])}
    methods |= {f"patience {p}": [early_stopping(c.values, p) for c in some] for p in PATIENCES}
    for kind in (k.__name__ for k in KINDS):
        chosen = [i for i, c in enumerate(some) if c.kind == kind]
        cells = []
        for name, stopped in methods.items():
            saved, best, fall = point([some[i] for i in chosen], [stopped[i] for i in chosen])
            cells.append(f"{name} {saved:5.1f} / {best:.4f} / {fall:.4f}")
        print(f"  {kind:11} " + "   ".join(cells))


def real(logs: Path, policy: Policy) -> None:
    """Where the policy would have stopped the published runs."""
    print("\nreal runs: evaluations, verdict at the end, best step; first stop, what it saves, regret; patience 3/5/10")
    for path in sorted(logs.glob("[0-9]*.txt")):
        for run in open_run(path).runs:
            segment = run.segments[-1].evaluations if run.segments else ()
            verdict = evaluate(run, policy)
            values = [e.metrics[verdict.objective] for e in segment if verdict.objective in e.metrics]
            name = f"{path.name[:2]} {run.name}"[:34]
            if not values:
                print(f"  {name:34} no evaluation: {verdict.verdict}")
                continue
            said = [evaluate(run, policy, e).verdict for e in segment]
            stop = said.index("stop") + 1 if "stop" in said else None
            best = best_of(segment, verdict.objective)
            first = f"stop after {stop}, saves {len(values) - stop}" if stop else "no stop"
            lost = f", regret {regrets(values, stop)[0]:.4f}" if stop else ""
            beside = "/".join(str(early_stopping(values, p)) for p in PATIENCES)
            print(
                f"  {name:34} {len(values):3}, {verdict.verdict:9}, best step {best.step if best else None}; "
                f"{first}{lost}; ES after {beside}"
            )


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--curves", type=int, default=1200)
    parser.add_argument("--first-seed", type=int, default=200_000)
    parser.add_argument("--logs", type=Path, default=Path("../shared/logs"))
    options = parser.parse_args()
    policy = load_policy()
    seeds = range(options.first_seed, options.first_seed + options.curves)
    mixes: list[tuple[str, Callable[[], list[Curve]]]] = [
        ("mix of the published runs (late 1 in 16, noise 0.1 to 0.5 %)", lambda: list(curves(seeds, **PUBLISHED))),
        ("all kinds alike (late 1 in 6, noise 0.1 to 2 %, some below zero)", lambda: list(curves(seeds))),
    ]
    for title, make in mixes:
        some = make()
        traced = list(zip(*(stops(c, policy) for c in some), strict=True))
        compare(title, some, traced)
        by_kind(some, traced)
        early = sum(n < 3 and math.isfinite(c.values[n - 1]) for c, n in zip(some, traced[SHIPPED], strict=True))
        print(f"  stops before evaluation 3 without NaN: {early}")
    if options.logs.is_dir():
        real(options.logs, policy)


if __name__ == "__main__":
    main()

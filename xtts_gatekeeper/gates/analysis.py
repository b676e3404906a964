"""The analysis table of a run: what each phase gained, how fast, and how far it still is to the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xtts_gatekeeper.record import Evaluation, RunRecord, Start
from xtts_gatekeeper.record.run import best_of


def analysis(record: RunRecord, objective: str, target: float | None = None) -> dict[str, Any]:
    """The change of `objective` against the baseline, per phase and overall.

    A phase is a learning-rate phase of ours, or, where there are none, the stretch from one start of the process to the
    next. It begins at the last value before it, ends at its best, and its rate is the change per step between the two.
    What crosses a change of the eval set is not compared: its change is None and `comparable` false.

    Returns:
        A dict with `objective`, `phases` (a list), `overall`, `target`, `distance` (None without a target).
    """
    metric = record.resolve(objective) or objective
    measured = [e for e in record.evaluations if metric in e.metrics]
    stretches = _stretches(record, measured)
    phases = [
        _change(record, metric, name, [measured[begin - 1], *inside] if begin else inside)
        for name, begin, inside in stretches
        if inside
    ]
    overall = _change(record, metric, "overall", measured) if measured else None
    best = best_of(record.believed, metric)
    distance = best.metrics[metric] - target if best is not None and target is not None else None
    return {"objective": metric, "phases": phases, "overall": overall, "target": target, "distance": distance}


def _stretches(record: RunRecord, measured: Sequence[Evaluation]) -> list[tuple[str, int, list[Evaluation]]]:
    """Name, index of the first evaluation, and the evaluations of each phase."""
    marks: list[tuple[str, int]] = [(phase.name, phase.step) for phase in record.phases]
    if not marks:
        starts = [event.step for event in record.events if isinstance(event, Start)]
        marks = [(f"process {i}", step) for i, step in enumerate(starts, 1)]
        if len(marks) < 2:
            marks = [("run", marks[0][1] if marks else 0)]
    # A resume repeats the start of the phase it is in, and goes back to an earlier step.
    kept: list[tuple[str, int]] = []
    for name, step in marks:
        while kept and kept[-1][1] > step:
            kept.pop()
        if not kept or kept[-1][0] != name:
            kept.append((name, step))
    found = []
    for i, (name, step) in enumerate(kept):
        begin = 0 if i == 0 else sum(e.step <= step for e in measured)
        end = sum(e.step <= kept[i + 1][1] for e in measured) if i + 1 < len(kept) else len(measured)
        found.append((name, begin, list(measured[begin:end])))
    return found


def _change(record: RunRecord, metric: str, name: str, points: Sequence[Evaluation]) -> dict[str, Any]:
    first, last = points[0], points[-1]
    segment = next(s for s in record.segments if any(e is last for e in s.evaluations))
    comparable = any(e is first for e in segment.evaluations)
    inside = points if comparable else [e for e in points if any(e is other for other in segment.evaluations)]
    best = best_of(inside, metric) or last
    was, now = first.metrics[metric], best.metrics[metric]
    steps = best.step - first.step
    return {
        "name": name,
        "from": was,
        "from_step": first.step,
        "to": now,
        "to_step": best.step,
        "latest": last.metrics[metric],
        "latest_step": last.step,
        "comparable": comparable,
        "change": now - was if comparable else None,
        "change_share": (now - was) / abs(was) if comparable and was else None,
        "rate_per_step": (now - was) / steps if comparable and steps > 0 else None,
    }

"""The verdict at every evaluation, as the live gate would have given it then, and what it would have saved."""

from __future__ import annotations

from typing import Any

from xtts_gatekeeper.gates.evaluate import evaluate
from xtts_gatekeeper.gates.policy import Policy
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.record.run import best_of


def replay(record: RunRecord, policy: Policy) -> dict[str, Any]:
    """Judge every evaluation of `record`.

    Returns:
        A dict with `rows`, one an evaluation (`step`, `epoch`, `epochs_done`, `value`, `verdict`, `gates`, `reason`:
        the sentence that decided), `stopped_at`, the row of the first `stop` or None, and what a stop there would have
        meant: `evaluations_saved`, `epochs_saved`, and `regret`, by how much the best value of the last segment is
        below the best one up to the stop (0: nothing lost; None where the two cannot be compared).
    """
    record = record.naming(policy.names)
    rows = []
    stop: int | None = None
    for i, evaluation in enumerate(record.evaluations):
        verdict = evaluate(record, policy, evaluation)
        rows.append(
            {
                "step": evaluation.step,
                "epoch": evaluation.epoch,
                "epochs_done": record.epochs_done(evaluation),
                "value": evaluation.metrics.get(verdict.objective),
                "verdict": verdict.verdict,
                "gates": verdict.gates,
                "reason": verdict.reasons[0].message if verdict.reasons else "",
            }
        )
        if stop is None and verdict.verdict == "stop":
            stop = i
    return {"rows": rows, "stopped_at": None if stop is None else rows[stop], **_saved(record, policy, stop)}


def _saved(record: RunRecord, policy: Policy, stop: int | None) -> dict[str, Any]:
    if stop is None:
        return {"evaluations_saved": 0, "epochs_saved": 0, "regret": None}
    at, last = record.evaluations[stop], record.evaluations[-1]
    objective = record.resolve(policy.objective) or policy.objective
    segment = record.segments[-1].evaluations
    best = best_of(segment, objective)
    before = best_of((e for e in segment if e.step <= at.step), objective)
    regret = before.metrics[objective] - best.metrics[objective] if best is not None and before is not None else None
    return {
        "evaluations_saved": len(record.evaluations) - 1 - stop,
        "epochs_saved": record.epochs_done(last) - record.epochs_done(at),
        "regret": regret,
    }

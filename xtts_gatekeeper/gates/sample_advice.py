"""What to listen to: the samples that tell most about a verdict, named by folder and by fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xtts_gatekeeper.record import RunRecord, SampleScore

#: So many kinds of faults are named in a sentence.
_NAMED = 3


def what_to_hear(record: RunRecord) -> tuple[str, dict[str, Any]]:
    """A sentence and its numbers: the latest samples against the best before them, and the faults that have come in."""
    scores = record.sample_scores
    if len(scores) < 2:
        return "compare the samples with those of the checkpoint before: which fault came in, and when", {}
    latest = scores[-1]
    best = max(scores[:-1], key=lambda score: score.metrics.get("sample.score", 0.0))
    come = _more(latest.faults, best.faults)
    values: dict[str, Any] = {"step": latest.step, "against_step": best.step, "faults": come}
    if latest.folder and best.folder:
        values |= {"folder": latest.folder, "against": best.folder}
    where = f"{_place(latest)} and {_place(best)}, the best before it"
    if not come:
        return f"listen to the samples of {where}: which fault came in", values
    said = [f"{kind} in {now} (before: {was})" for kind, (was, now) in list(come.items())[:_NAMED]]
    return f"listen to the samples of {where}: more faults of the kind {', '.join(said)}", values


def where_best_is_heard(record: RunRecord, step: int, checkpoint: str) -> tuple[str, dict[str, Any]]:
    """A sentence and its numbers: where the samples of the best checkpoint lie, or how they are made."""
    score = next((score for score in record.sample_scores if score.step == step and score.folder), None)
    if score is not None:
        said = f"listen to the best one's samples in {score.folder}"
        return said, {"folder": score.folder, "step": step, "checkpoint": checkpoint}
    said = f"hear what {checkpoint} says: xtts-gatekeeper sample RUN --checkpoint best"
    return said, {"step": step, "checkpoint": checkpoint}


def _more(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Kind of fault -> samples that had it before and have it now, where there are more; the largest rise first."""
    risen = {kind: (before.get(kind, 0), count) for kind, count in now.items() if count > before.get(kind, 0)}
    return dict(sorted(risen.items(), key=lambda item: item[1][0] - item[1][1]))


def _place(score: SampleScore) -> str:
    return score.folder or f"step {score.step}"

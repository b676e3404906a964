"""Which checkpoint files may go. Pure: the keeper does the deleting."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from xtts_gatekeeper.record import Checkpoint


@dataclass(frozen=True)
class Retention:
    """Files to keep and files to drop, each with the reason it was put there."""

    keep: dict[str, str]
    drop: dict[str, str]


def retain(files: Iterable[Checkpoint], *, all_best: bool = False) -> Retention:
    """Keep the latest checkpoint and the best one; drop the run's other files.

    Every file given can be resumed from (model, optimizer, scheduler), so a best file that is the newest serves as the
    latest too. The latest is the last written one, not the one of the highest step: after a resume from an earlier
    checkpoint the higher steps are those of an abandoned stretch. Values are only compared over one eval set and one
    metric: where these have changed, the best of each stays.

    Args:
        files: the run's files that are there now and were read back intact, in the order they were written.
        all_best: keep every best file.
    """
    files = list(files)
    if not files:
        return Retention({}, {})
    best = [file for file in files if file.kind == "best"] if all_best else best_files(files)
    keep = {file.path: "best" for file in best}
    latest = files[-1].path
    keep[latest] = "latest and best" if latest in keep else "latest"
    drop = {file.path: f"{latest} is newer" for file in files if file.path not in keep}
    return Retention(keep, drop)


def best_files(files: Iterable[Checkpoint]) -> list[Checkpoint]:
    """The best file of each metric and eval set; last the one whose metric and eval set were used last."""
    best: dict[tuple[str | None, str | None], Checkpoint] = {}
    for file in files:
        if file.kind == "best":
            other = best.pop((file.metric, file.eval_set), None)
            better = other if other is not None and _value(other) <= _value(file) else file
            best[file.metric, file.eval_set] = better
    return list(best.values())


def _value(file: Checkpoint) -> float:
    return math.inf if file.value is None else file.value

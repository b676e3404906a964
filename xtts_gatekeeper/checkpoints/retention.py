"""Which checkpoint files may go. Pure: the keeper does the deleting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from xtts_gatekeeper.record import Checkpoint


@dataclass(frozen=True)
class Retention:
    """Files to keep and files to drop, each with the reason it was put there."""

    keep: dict[str, str]
    drop: dict[str, str]


def retain(files: Iterable[Checkpoint], best: str | None) -> Retention:
    """Keep the latest checkpoint and the best one; drop the run's other files.

    Every file given can be resumed from (model, optimizer, scheduler), so a best file that is the newest serves as the
    latest too. The latest is the last written one, not the one of the highest step: after a resume from an earlier
    checkpoint the higher steps are those of an abandoned stretch.

    Args:
        files: the run's files that are there now and were read back intact, in the order they were written.
        best: the name of the file that holds the best weights, if any.
    """
    files = list(files)
    if not files:
        return Retention({}, {})
    latest = files[-1]
    keep = {latest.path: "latest"}
    if best is not None:
        keep[best] = "latest and best" if best == latest.path else "best"
    drop = {file.path: f"{latest.path} is newer" for file in files if file.path not in keep}
    return Retention(keep, drop)

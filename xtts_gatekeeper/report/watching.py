"""When a report is to be written anew: whenever a growing run has something that the last one did not show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from xtts_gatekeeper.offline import Opened, open_run
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.record.events import Crash
from xtts_gatekeeper.record.sources import Follower, choose_run


def follow(
    path: Path,
    policy: str | None = None,
    which: str | None = None,
    interval: float = 5.0,
    wait: Callable[[float], None] | None = None,
) -> Iterator[Opened]:
    """The run as it is now, and then each time it has new events, until it ends.

    Of the last one `over` is true, unless whoever watches gives up before.

    Args:
        path: see `offline.open_run`; the file may still be growing.
        policy: see there.
        which: see there.
        interval: seconds between two looks.
        wait: waits so long; by default as `record.sources.Follower` does.

    Raises:
        UserError: see `offline.open_run`.
    """
    opened = open_run(path, policy, which)
    follower = Follower(path, opened.policy.metrics)
    seen: RunRecord | None = None
    while True:
        runs = follower.poll()
        record = choose_run(runs, which, path, opened.source.folder)
        if seen is None or record.events != seen.events or record.notes != seen.notes:
            seen = record
            yield replace(opened, runs=runs, record=record)
        if over(record):
            return
        (wait or follower.wait)(interval)


def over(record: RunRecord) -> bool:
    """Whether nothing more is to be expected of a run: it has ended, and no supervisor is about to start it again."""
    latest = record.events[-1] if record.events else None
    if isinstance(latest, Crash):
        return latest.decision != "restart"
    return record.end is not None

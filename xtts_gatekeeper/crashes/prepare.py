"""What the next process is to do otherwise than the one that crashed."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

from xtts_gatekeeper.checkpoints.lock import held
from xtts_gatekeeper.crashes.decide import Decision
from xtts_gatekeeper.crashes.flight import read_flight
from xtts_gatekeeper.crashes.judge import Attempt, record_in
from xtts_gatekeeper.crashes.restart import EXCLUDED, Restart
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import Journal, journal_path
from xtts_gatekeeper.record.events import BatchParts
from xtts_gatekeeper.record.journal import FOLDER

_CANNOT_SHRINK = Decision(
    "stop",
    "The device runs out of memory with a single clip: use shorter ones (max_wav_length), fewer bits "
    "(mixed_precision), or a larger device.",
    1,
)


def prepare(
    decision: Decision, attempt: Attempt, run: Path | None, restart: Restart, *, goes_on: bool
) -> tuple[Decision, Restart, list[str]]:
    """Change what the next process is to do otherwise.

    Args:
        decision: what was decided about the crash.
        attempt: the process that crashed.
        run: its run, if it had one.
        restart: how it was begun.
        goes_on: whether the next process can go on with that run.

    Returns:
        The decision, which is to stop where the change cannot be made; how the next process begins; what to say.
    """
    if decision.act == "stop":
        return decision, restart, []
    if decision.spare_memory:
        restart = replace(restart, spare_memory=True)
    if decision.exclude and not (goes_on and run is not None):
        restart = replace(restart, exclude=tuple(dict.fromkeys((*restart.exclude, *decision.exclude))))
    elif decision.exclude and run is not None:
        try:
            with (run / FOLDER / EXCLUDED).open("a", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in decision.exclude)
        except OSError as error:
            why = f"The clips cannot be written to gatekeeper/{EXCLUDED}: {error.strerror}."
            return Decision("stop", why, 1), restart, []
    flight = read_flight(run, attempt.report.pid) if run is not None and attempt.report else None
    if not (decision.smaller and goes_on and run is not None and flight is not None):
        return decision, restart, []  # a run that had not begun to train: another process has the memory
    if flight.doing != "evaluating":
        smaller, said = _smaller_parts(run)
        return (decision if smaller else _CANNOT_SHRINK), restart, said
    size = restart.eval_batch_size or _eval_batch_size(run)
    if size < 2:
        return _CANNOT_SHRINK, restart, []
    return decision, replace(restart, eval_batch_size=size // 2), [f"evaluations go on in batches of {size // 2}"]


def _smaller_parts(run: Path) -> tuple[bool, list[str]]:
    """Let batches be trained in parts of half the size from now on; False where they are of one clip already."""
    record = record_in(run)
    start = record.start
    if start is None or not start.batch_size or not _takes_parts(run):
        return True, []
    parts = [event for event in record.events if isinstance(event, BatchParts)]
    size = parts[-1].batch_size if parts else start.batch_size
    if size < 2:
        return False, []
    smaller = -(-size // 2)
    accumulation = start.grad_accum_steps or 1
    event = BatchParts(
        step=start.step,
        epoch=start.epoch,
        batch_size=smaller,
        grad_accum_steps=-(-start.batch_size // smaller) * accumulation,
        whole=start.batch_size * accumulation,
    )
    with contextlib.suppress(OSError, UserError), held(run):
        Journal(journal_path(run)).append(event)
    return True, [f"batches are trained in parts of at most {smaller} clips; an update still sees {event.whole}"]


def _takes_parts(run: Path) -> bool:
    """Whether the run trains batches in parts where memory is short (`out_of_memory.retry`)."""
    try:
        settings = json.loads((run / FOLDER / "config.json").read_text(encoding="utf-8"))
        return bool(settings["out_of_memory"]["retry"])
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _eval_batch_size(run: Path) -> int:
    try:
        return int(json.loads((run / "config.json").read_text(encoding="utf-8"))["eval_batch_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1

"""What a process died of: its exit code, its record, its evidence and what it printed, made into one `Crash`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from xtts_gatekeeper import host_memory
from xtts_gatekeeper.checkpoints.resume import newest_state
from xtts_gatekeeper.crashes.child import Output
from xtts_gatekeeper.crashes.evidence import (
    error_in,
    evidence_of,
    evidence_path,
    read_evidence,
    stamp,
    write_evidence,
)
from xtts_gatekeeper.crashes.flight import Flight, read_flight
from xtts_gatekeeper.crashes.hang import hung
from xtts_gatekeeper.crashes.kinds import Facts, describe, kind_of, last_traceback
from xtts_gatekeeper.crashes.restart import Report, Restart
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import Journal, RunRecord, Start, journal_path
from xtts_gatekeeper.record.events import Crash, End

#: Ends that are no crash: they are not put on record as one.
PEACEFUL = ("finished", "stopped", "refused", "interrupted", "terminated")
#: Lines of output that the evidence holds.
_OUTPUT_LINES = 200


@dataclass
class Attempt:
    """One process: how it was begun, what has been seen of it, and how it ended.

    `pid` is the number of the command, which a launcher's child that trains does not share. `kills` are those of the
    system for want of memory before it began, `hung` says that it had to be killed because it stood still.
    """

    number: int
    output: Output
    restart: Restart
    kills: int = field(default_factory=host_memory.kills)
    began: str = field(default_factory=stamp)
    pid: int = 0
    code: int = 0
    reports: list[Report] = field(default_factory=list)
    flight_time: float = 0.0
    changed: float = 0.0
    hung: bool = False

    @property
    def report(self) -> Report | None:
        """What the training that runs, or ran last, has said."""
        return self.reports[-1] if self.reports else None


def judge(attempt: Attempt, run: Path | None, command: list[str], asked: int | None) -> Crash:
    """What it died of; the evidence of a crash is written.

    Args:
        attempt: the process, which has ended.
        run: the run that it trained, or that one before it has trained.
        command: for the evidence.
        asked: the signal that we were sent meanwhile.

    Returns:
        A crash whose decision is still open.
    """
    pid = attempt.report.pid if attempt.report else None
    record = record_in(run)
    seen = run is not None and attempt.report is not None
    flight = read_flight(run, pid) if run is not None and pid is not None else None
    evidence = evidence_of(run, pid, attempt.began) if run is not None and pid is not None else None
    tail = attempt.output.tail
    own = error_in(read_evidence(evidence))
    error = own or last_traceback(attempt.output.errors) or last_traceback(tail)
    hangs = run is not None and pid is not None and attempt.code == 1 and hung(run, pid, attempt.began)
    facts = Facts(
        # One that crashed and then hung while it ended is what it crashed of.
        returncode=1 if attempt.hung and own is not None else attempt.code,
        end=record.end if seen and isinstance(record.end, End) else None,
        error=error if attempt.code != 0 else None,
        output=tail,
        oom_killed=host_memory.kills() > attempt.kills,
        hung=own is None and (attempt.hung or hangs),
        asked=asked,
    )
    kind = kind_of(facts)
    newest = newest_in(run)
    step, epoch = _place(flight, record, newest)
    in_hand = flight is not None and flight.doing == "training"
    crash = Crash(
        step=step,
        epoch=epoch,
        kind=kind,
        message=describe(kind, facts),
        decision="",
        files=list(flight.files) if flight is not None and in_hand else [],
        signature=error.signature if kind == "exception" and error is not None else "",
        trained=flight.trained if flight is not None else 0,
        progress=attempt.report is not None and newest is not None and newest > (attempt.report.newest or -1),
        returncode=attempt.code,
    )
    if run is None or kind in PEACEFUL:
        return crash
    path = evidence or evidence_path(run, pid or attempt.pid)
    write_evidence(
        path,
        {
            "kind": kind,
            "message": crash.message,
            "returncode": attempt.code,
            "step": step,
            "epoch": epoch,
            "doing": flight.doing if flight is not None else "",
            "files": crash.files,
            "trained": crash.trained,
            **({"error": asdict(error)} if error is not None else {}),
            "output": tail.splitlines()[-_OUTPUT_LINES:],
            "command": command,
        },
    )
    return replace(crash, evidence=path.relative_to(run).as_posix())


def record_in(run: Path | None) -> RunRecord:
    """The record of a run; an empty one where there is none that can be read."""
    path = journal_path(run) if run is not None else None
    if path is None or not path.is_file():
        return RunRecord(())
    try:
        return RunRecord(tuple(Journal(path).events))
    except (OSError, UserError):
        return RunRecord(())


def newest_in(run: Path | None) -> int | None:
    """How many micro-batches the newest resumable file of the run holds; None where there is none."""
    return newest_state(run, record_in(run)) if run is not None else None


def _place(flight: Flight | None, record: RunRecord, newest: int | None) -> tuple[int, int]:
    """The step and epoch at which the process was."""
    if flight is not None:
        return flight.step, flight.epoch
    last = next((event for event in reversed(record.events) if isinstance(event, Start | End)), None)
    return (last.step, last.epoch) if last is not None else (newest or 0, 0)

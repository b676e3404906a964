"""`run`: a recipe in a child process that is started anew after a crash, from the newest whole state.

The child resumes by itself: the plug-in takes the newest whole checkpoint, with phase, rate, patience and random
numbers. What is here only starts it, watches over it, and makes of its end a class (`crashes.kinds`), a decision
(`crashes.decide`) and evidence.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType

from xtts_gatekeeper import host_memory
from xtts_gatekeeper.checkpoints.disk import RESERVE_BYTES, free_bytes
from xtts_gatekeeper.checkpoints.lock import held
from xtts_gatekeeper.checkpoints.resume import newest_state
from xtts_gatekeeper.crashes.child import Child, Output
from xtts_gatekeeper.crashes.decide import Decision, Limits, decide
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
from xtts_gatekeeper.crashes.restart import EXCLUDED, Report, Restart, forget_reports, reports
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import Journal, RunRecord, Start, journal_path
from xtts_gatekeeper.record.events import BatchParts, Crash, End
from xtts_gatekeeper.record.journal import FOLDER

#: Ends that are no crash: they are not put on record as one.
_PEACEFUL = ("finished", "stopped", "refused", "interrupted", "terminated")
_LOOK_SECONDS = 0.5
#: A process that hangs ends itself, its stacks written; one that cannot even do that is ended so much later.
_GRACE_SECONDS = 60.0
#: Lines of output that the evidence holds.
_OUTPUT_LINES = 200


@dataclass
class _Attempt:
    """One process: how it was begun and what has been seen of it."""

    number: int
    output: Output
    kills: int
    restart: Restart
    began: str = field(default_factory=stamp)
    reports: list[Report] = field(default_factory=list)
    flight_time: float = 0.0
    changed: float = 0.0
    hung: bool = False

    @property
    def report(self) -> Report | None:
        """What the training that runs, or ran last, has said."""
        return self.reports[-1] if self.reports else None


class Supervisor:
    """Runs a command until it has done its work, or until starting it once more is of no use.

    Args:
        command: program and arguments.
        limits: how often, and how long to wait.
        disk_wait: seconds to wait for room on a full disk.
    """

    def __init__(self, command: Sequence[str], limits: Limits, disk_wait: float) -> None:
        self.command = list(command)
        self.limits = limits
        self.disk_wait = disk_wait
        #: The ends so far, oldest first.
        self.crashes: list[Crash] = []
        self._asked: int | None = None
        #: How many signals have come, how many have been handed on, and to which process the last one was.
        self._asks = self._handed_on = 0
        self._told: int | None = None
        self._said = None if sys.stderr is None else getattr(sys.stderr, "buffer", None)
        self._output: Output | None = None

    def run(self) -> int:
        """Run it; the exit code.

        Raises:
            UserError: the command cannot be started.
        """
        scratch = Path(tempfile.mkdtemp(prefix="xtts-gatekeeper-run-"))
        restart = Restart(scratch=str(scratch))
        number = 0
        with self._signals():
            while True:
                number += 1
                attempt = self._attempt(number, restart)
                run = attempt.report.run if attempt.report else Path(restart.runs[-1]) if restart.runs else None
                crash, facts = self._judge(attempt, run)
                decision = decide([*self.crashes, crash], self.limits)
                restart = replace(restart, runs=self._runs(attempt, restart))
                goes_on = run is not None and str(run) in restart.runs
                if decision.exclude and not goes_on:  # a run that begins anew reads no list
                    decision = decide([*self.crashes, crash], replace(self.limits, exclude=False))
                if run is not None and goes_on:
                    decision, restart = self._prepare(decision, attempt, run, restart)
                crash = replace(crash, decision=decision.act, why=decision.why)
                self.crashes.append(crash)
                self._tell(crash, facts, attempt, run)
                if decision.act == "stop":
                    return self._stop(decision, attempt, scratch)
                if decision.disk and run is not None and not self._room(run) and self._asked is None:
                    self._say(_NO_ROOM)
                    return self._stop(Decision("stop", _NO_ROOM, 1), attempt, scratch)
                if self._asked_within(decision.wait):
                    return self._stop(self._asked_to_leave(), attempt, scratch)
                forget_reports(scratch)
                what = f"going on with {run}" if goes_on else "nothing to go on with yet: beginning anew"
                self._say(f"{what}, process {number + 1}")

    # One process

    def _attempt(self, number: int, restart: Restart) -> _Attempt:
        """Start the command and wait for its end."""
        scratch = Path(restart.scratch)
        with contextlib.suppress(OSError):  # in the course of a week somebody tidies up
            scratch.mkdir(parents=True, exist_ok=True)
        attempt = _Attempt(number, Output(scratch / f"output-{number}.txt"), host_memory.kills(), restart)
        self._output = attempt.output
        environment = {
            **os.environ,
            **restart.environment(),
            "PYTHONUNBUFFERED": "1",  # what a process prints before it is killed is not to be lost
            "PYTHONFAULTHANDLER": "1",
        }
        try:
            child = Child(self.command, environment, attempt.output)
        except UserError:
            attempt.output.close()
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        while (code := child.wait(_LOOK_SECONDS)) is None:
            self._look(attempt, scratch, child)
            self._hand_on(child, _who_trains(attempt, child))
        self._look(attempt, scratch, None)
        if self._asked is not None and attempt.report is not None and attempt.report.pid != child.pid:
            self._let_it_save(child, attempt.report.pid)
        if code != 0:
            child.kill()  # workers that have outlived it
        child.drain()
        self._code = code
        return attempt

    def _look(self, attempt: _Attempt, scratch: Path, child: Child | None) -> None:
        """See where its run is, and whether it hangs too hard to end itself."""
        told = reports(scratch)
        if len(told) > len(attempt.reports):  # a command may train several runs, one after the other
            if not attempt.reports and told[0].run.is_dir():  # and not refused meanwhile
                attempt.output.move(told[0].run / FOLDER / "output" / f"{stamp()}-{told[0].pid}.txt")
            attempt.reports, attempt.flight_time = told, 0.0
        if attempt.report is None or child is None:
            return
        flight = read_flight(attempt.report.run, attempt.report.pid)
        now = time.monotonic()
        if flight is None or flight.time != attempt.flight_time or flight.limit is None:
            attempt.flight_time, attempt.changed = flight.time if flight else 0.0, now
        elif now - attempt.changed > 1.1 * flight.limit + _GRACE_SECONDS:
            if _is_paused(attempt.report.pid):
                attempt.changed = now
                return
            attempt.hung = True
            child.kill()

    # Its end

    def _judge(self, attempt: _Attempt, run: Path | None) -> tuple[Crash, Facts]:
        """What it died of."""
        pid = attempt.report.pid if attempt.report else None
        record = _record(run)
        seen = run is not None and attempt.report is not None
        flight = read_flight(run, pid) if run is not None and pid is not None else None
        evidence = evidence_of(run, pid, attempt.began) if run is not None and pid is not None else None
        tail = attempt.output.tail
        own = error_in(read_evidence(evidence))
        error = own or last_traceback(attempt.output.errors) or last_traceback(tail)
        hangs = run is not None and pid is not None and self._code == 1 and hung(run, pid, attempt.began)
        facts = Facts(
            # One that crashed and then hung while it ended is what it crashed of.
            returncode=1 if attempt.hung and own is not None else self._code,
            end=record.end if seen and isinstance(record.end, End) else None,
            error=error if self._code != 0 else None,
            output=tail,
            oom_killed=host_memory.kills() > attempt.kills,
            hung=own is None and (attempt.hung or hangs),
            asked=self._asked,
        )
        kind = kind_of(facts)
        newest = _newest(run)
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
            returncode=self._code,
        )
        if run is not None and kind not in _PEACEFUL:
            path = evidence or evidence_path(run, pid or 0)
            doing = flight.doing if flight is not None else ""
            write_evidence(
                path,
                {
                    "kind": kind,
                    "message": crash.message,
                    "returncode": self._code,
                    "step": step,
                    "epoch": epoch,
                    "doing": doing,
                    "files": crash.files,
                    "trained": crash.trained,
                    **({"error": asdict(error)} if error is not None else {}),
                    "output": tail.splitlines()[-_OUTPUT_LINES:],
                    "command": self.command,
                },
            )
            crash = replace(crash, evidence=path.relative_to(run).as_posix())
        return crash, facts

    def _runs(self, attempt: _Attempt, restart: Restart) -> tuple[str, ...]:
        """All runs that the command has trained and that can be gone on with, the latest last."""
        runs = dict.fromkeys((*restart.runs, *(str(report.run) for report in attempt.reports)))
        return tuple(run for run in runs if _newest(Path(run)) is not None)

    def _prepare(self, decision: Decision, attempt: _Attempt, run: Path, restart: Restart) -> tuple[Decision, Restart]:
        """Change what the next process is to do otherwise; a stop, where that cannot be."""
        if decision.act == "stop":
            return decision, restart
        if decision.spare_memory:
            restart = replace(restart, spare_memory=True)
        if decision.exclude:
            try:
                with (run / FOLDER / EXCLUDED).open("a", encoding="utf-8") as file:
                    file.writelines(f"{name}\n" for name in decision.exclude)
            except OSError as error:
                said = f"The clips cannot be written to gatekeeper/{EXCLUDED}: {error.strerror}."
                return Decision("stop", said, 1), restart
        flight = read_flight(run, attempt.report.pid) if attempt.report else None
        if decision.smaller and flight is not None:  # else it had not begun to train: another process has the memory
            if flight.doing == "evaluating":
                size = restart.eval_batch_size or _eval_batch_size(run)
                if size < 2:
                    return _CANNOT_SHRINK, restart
                restart = replace(restart, eval_batch_size=size // 2)
                self._say(f"evaluations go on in batches of {size // 2}")
            elif not self._smaller_parts(run):
                return _CANNOT_SHRINK, restart
        return decision, restart

    def _smaller_parts(self, run: Path) -> bool:
        """Let batches be trained in parts of half the size from now on; False where they are of one clip already."""
        record = _record(run)
        start = record.start
        if start is None or not start.batch_size or not _takes_parts(run):
            return True
        parts = [event for event in record.events if isinstance(event, BatchParts)]
        size = parts[-1].batch_size if parts else start.batch_size
        if size < 2:
            return False
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
        self._say(f"batches are trained in parts of at most {smaller} clips; an update still sees {event.whole}")
        return True

    def _tell(self, crash: Crash, facts: Facts, attempt: _Attempt, run: Path | None) -> None:
        """Put a crash on record, and say it."""
        if crash.kind in _PEACEFUL:
            return
        if run is not None and journal_path(run).is_file():
            with contextlib.suppress(OSError, UserError), held(run):
                Journal(journal_path(run)).append(crash)
        self._say(f"{crash.message} At step {crash.step}, epoch {crash.epoch}.")
        if crash.evidence and run is not None:
            self._say(f"evidence: {run / crash.evidence}")
        self._say(crash.why)

    def _stop(self, decision: Decision, attempt: _Attempt, scratch: Path) -> int:
        last = self.crashes[-1]
        if last.kind in _PEACEFUL and last.kind != "finished":
            self._say(f"{last.message} {decision.why}".strip())
        attempt.output.close()
        code = decision.exit_code
        if last.kind in ("finished", "stopped") and self._code:  # what came after the training has failed
            code = self._code if 0 < self._code < 256 else 1
            self._say(f"The command then ended with exit code {self._code}.")
        if code and attempt.output.path.is_relative_to(scratch):
            self._say(f"its output is kept in {attempt.output.path}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
        return code

    # The disk

    def _room(self, run: Path) -> bool:
        """Prune, and wait for room for one more checkpoint; False when it did not come in time."""
        from xtts_gatekeeper.checkpoints.pruner import prune_document

        with contextlib.suppress(UserError, OSError):
            freed = prune_document(run, (), None, dry_run=False)["freed"]
            if freed:
                self._say(f"pruned: {freed / 1e9:.2f} GB freed")
        needed = max((file.bytes or 0 for file in _record(run).files), default=0) + RESERVE_BYTES
        told = False
        deadline = time.monotonic() + self.disk_wait
        while _free(run) < needed:
            if time.monotonic() >= deadline or self._asked is not None:
                return False
            if not told:
                self._say(
                    f"waiting up to {self.disk_wait / 60:.0f} minutes for room on the disk: {needed / 1e9:.2f} GB are "
                    f"needed, {_free(run) / 1e9:.2f} GB are free"
                )
                told = True
            self._asked_within(_LOOK_SECONDS)
        return True

    # Signals and words

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Hand on what asks us to leave; what was ignored when we were started, as by nohup, stays ignored."""
        names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, self._take)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        # A terminal that goes away is no Ctrl-C of the user's: the training saves and can be gone on with.
        self._asked = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        self._asks += 1

    def _hand_on(self, child: Child, pid: int) -> None:
        """Ask the process to leave, as often as we were asked."""
        while self._asked is not None and self._handed_on < self._asks:
            self._handed_on += 1
            self._told = pid
            child.ask(self._asked, pid)

    def _let_it_save(self, child: Child, pid: int) -> None:
        """A launcher in between has left at once: ask the recipe itself, and wait for it."""
        import psutil

        if self._told == child.pid:
            self._handed_on = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            while True:
                self._hand_on(child, pid)
                with contextlib.suppress(psutil.TimeoutExpired):
                    process.wait(_LOOK_SECONDS)
                    return

    def _asked_within(self, seconds: float) -> bool:
        """Wait so long; True as soon as we are asked to leave."""
        deadline = time.monotonic() + seconds
        while self._asked is None and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
        return self._asked is not None

    def _asked_to_leave(self) -> Decision:
        return Decision("stop", "", 130 if self._asked == signal.SIGINT else 143)

    def _say(self, text: str) -> None:
        line = f" > gatekeeper run: {text}\n".encode(errors="backslashreplace")
        if self._output is not None:
            self._output.keep(line)
        if self._said is not None:
            with contextlib.suppress(OSError, ValueError):
                self._said.write(line)
                self._said.flush()


_NO_ROOM = "The disk is still full: free some, then go on with the same command and --continue_path RUN."
_CANNOT_SHRINK = Decision(
    "stop",
    "The device runs out of memory with a single clip: use shorter ones (max_wav_length), fewer bits "
    "(mixed_precision), or a larger device.",
    1,
)


def _record(run: Path | None) -> RunRecord:
    path = journal_path(run) if run is not None else None
    if path is None or not path.is_file():
        return RunRecord(())
    try:
        return RunRecord(tuple(Journal(path).events))
    except (OSError, UserError):
        return RunRecord(())


def _newest(run: Path | None) -> int | None:
    """How many micro-batches the newest resumable file of the run holds; None where there is none."""
    return newest_state(run, _record(run)) if run is not None else None


def _place(flight: Flight | None, record: RunRecord, newest: int | None) -> tuple[int, int]:
    """The step and epoch at which the process was."""
    if flight is not None:
        return flight.step, flight.epoch
    last = next((event for event in reversed(record.events) if isinstance(event, Start | End)), None)
    return (last.step, last.epoch) if last is not None else (newest or 0, 0)


def _free(run: Path) -> int:
    """Bytes free for the run; plenty, where nothing tells: the next process will see."""
    try:
        return free_bytes(run)
    except OSError:
        return sys.maxsize


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


def _is_paused(pid: int) -> bool:
    """Whether somebody has halted the process (SIGSTOP): then it does not hang."""
    import psutil

    try:
        return str(psutil.Process(pid).status()) == str(psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def _who_trains(attempt: _Attempt, child: Child) -> int:
    """The process to ask to leave: a shell around the recipe keeps Ctrl-C to itself, and leaves at SIGTERM alone.

    One that has put the recipe into a session of its own hands on what it is sent.
    """
    if sys.platform != "win32" and attempt.report is not None:
        with contextlib.suppress(OSError):
            if os.getsid(attempt.report.pid) == child.pid:
                return attempt.report.pid
    return child.pid

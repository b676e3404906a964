"""`run`: a recipe in a child process that is started anew after a crash, from the newest whole state.

The child resumes by itself: the plug-in takes the newest whole checkpoint, with phase, rate, patience and random
numbers. What is here only starts it, watches over it, and makes of its end a class (`crashes.kinds`), a decision
(`crashes.decide`) and evidence.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from xtts_gatekeeper.checkpoints.disk import RESERVE_BYTES, free_bytes
from xtts_gatekeeper.checkpoints.lock import held
from xtts_gatekeeper.crashes.child import Child, Output
from xtts_gatekeeper.crashes.decide import Decision, Limits, decide
from xtts_gatekeeper.crashes.evidence import stamp
from xtts_gatekeeper.crashes.flight import read_flight
from xtts_gatekeeper.crashes.judge import PEACEFUL, Attempt, judge, newest_in, record_in
from xtts_gatekeeper.crashes.kinds import Facts, Kind, describe
from xtts_gatekeeper.crashes.prepare import prepare
from xtts_gatekeeper.crashes.restart import Restart, forget_reports, reports
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import Journal, RunRecord, Start, journal_path
from xtts_gatekeeper.record.events import Crash, End
from xtts_gatekeeper.record.journal import FOLDER

_LOOK_SECONDS = 0.5
#: A process that hangs ends itself, its stacks written; one that cannot even do that is ended so much later.
_GRACE_SECONDS = 60.0


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
                crash = judge(attempt, run, self.command, self._asked)
                decision = decide([*self.crashes, crash], self.limits)
                restart = replace(restart, runs=self._runs(attempt, restart))
                goes_on = run is not None and str(run) in restart.runs
                decision, restart, changes = prepare(decision, attempt, run, restart, goes_on=goes_on)
                crash = replace(crash, decision=decision.act, why=decision.why)
                self.crashes.append(crash)
                self._tell(crash, run)
                for change in changes:
                    self._say(change)
                if decision.act == "stop":
                    return self._stop(decision, attempt, run)
                if decision.disk and run is not None and not self._room(run) and self._asked is None:
                    self._say(_NO_ROOM)
                    return self._stop(Decision("stop", _NO_ROOM, 1), attempt, run)
                if self._asked_within(decision.wait):
                    return self._stop(self._asked_to_leave(), attempt, run)
                forget_reports(scratch)
                what = f"going on with {run}" if goes_on else "nothing to go on with yet: beginning anew"
                self._say(f"{what}, process {number + 1}")

    # One process

    def _attempt(self, number: int, restart: Restart) -> Attempt:
        """Start the command and wait for its end."""
        scratch = Path(restart.scratch)
        with contextlib.suppress(OSError):  # in the course of a week somebody tidies up
            scratch.mkdir(parents=True, exist_ok=True)
        attempt = Attempt(number, Output(scratch / f"output-{number}.txt"), restart)
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
        attempt.pid = child.pid
        while (code := child.wait(_LOOK_SECONDS)) is None:
            self._look(attempt, scratch, child)
            self._hand_on(child, _who_trains(attempt, child))
        self._look(attempt, scratch, None)
        if self._asked is not None and attempt.report is not None and attempt.report.pid != child.pid:
            self._let_it_save(child, attempt.report.pid)
        if code != 0:
            child.kill()  # workers that have outlived it
        child.drain()
        attempt.code = code
        return attempt

    def _look(self, attempt: Attempt, scratch: Path, child: Child | None) -> None:
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

    def _runs(self, attempt: Attempt, restart: Restart) -> tuple[str, ...]:
        """All runs that the command has trained and that can be gone on with, the latest last."""
        runs = dict.fromkeys((*restart.runs, *(str(report.run) for report in attempt.reports)))
        return tuple(run for run in runs if newest_in(Path(run)) is not None)

    def _tell(self, crash: Crash, run: Path | None) -> None:
        """Put a crash on record, and say it."""
        if crash.kind in PEACEFUL:
            return
        _put_on_record(crash, run)
        self._say(f"{crash.message} At step {crash.step}, epoch {crash.epoch}.")
        if crash.evidence and run is not None:
            self._say(f"evidence: {run / crash.evidence}")
        self._say(crash.why)

    def _stop(self, decision: Decision, attempt: Attempt, run: Path | None) -> int:
        last = self.crashes[-1]
        if last.kind in PEACEFUL and last.kind != "finished":
            self._say(f"{last.message} {decision.why}".strip())
        if _waits(record_in(run)):  # the record says that it is started again: no more
            if self._asked is not None and last.kind not in PEACEFUL:  # asked while it waited to start it again
                kind: Kind = "interrupted" if self._asked == signal.SIGINT else "terminated"
                message = describe(kind, Facts(returncode=0, asked=self._asked))
                last = replace(last, kind=kind, message=message)
            _put_on_record(replace(last, decision="stop", why=decision.why), run)
        attempt.output.close()
        code = decision.exit_code
        if last.kind in ("finished", "stopped") and attempt.code:  # what came after the training has failed
            code = attempt.code if 0 < attempt.code < 256 else 1
            self._say(f"The command then ended with exit code {attempt.code}.")
        scratch = Path(attempt.restart.scratch)
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
        needed = max((file.bytes or 0 for file in record_in(run).files), default=0) + RESERVE_BYTES
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


def _put_on_record(crash: Crash, run: Path | None) -> None:
    if run is not None and journal_path(run).is_file():
        with contextlib.suppress(OSError, UserError), held(run):
            Journal(journal_path(run)).append(crash)


def _waits(record: RunRecord) -> bool:
    """Whether the last that is known of the run is that it is to be started again."""
    last = next((event for event in reversed(record.events) if isinstance(event, Start | End | Crash)), None)
    return isinstance(last, Crash) and last.decision == "restart"


def _free(run: Path) -> int:
    """Bytes free for the run; plenty, where nothing tells: the next process will see."""
    try:
        return free_bytes(run)
    except OSError:
        return sys.maxsize


def _is_paused(pid: int) -> bool:
    """Whether somebody has halted the process (SIGSTOP): then it does not hang."""
    import psutil

    try:
        return str(psutil.Process(pid).status()) == str(psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def _who_trains(attempt: Attempt, child: Child) -> int:
    """The process to ask to leave: a shell around the recipe keeps Ctrl-C to itself, and leaves at SIGTERM alone.

    One that has put the recipe into a session of its own hands on what it is sent.
    """
    if sys.platform != "win32" and attempt.report is not None:
        with contextlib.suppress(OSError):
            if os.getsid(attempt.report.pid) == child.pid:
                return attempt.report.pid
    return child.pid

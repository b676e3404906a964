"""What the marks of a console log mean, one after the other.

A `Process` is one start of the Trainer. Several of them, in one log, are resumes of one run or runs of their own; which
of the two is often told only by lines further on. So the events of a process stay open to correction, and `records`
puts the runs together anew each time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from xtts_gatekeeper.record.console_epoch import Epoch, Step, accumulated, learning_rates, logs_rates_first, singles
from xtts_gatekeeper.record.console_grammar import Logged, incident_code
from xtts_gatekeeper.record.console_process import Process
from xtts_gatekeeper.record.console_runs import runs_of
from xtts_gatekeeper.record.events import Checkpoint, Incident
from xtts_gatekeeper.record.run import RunRecord

_FILE = re.compile(r"(?:best_model|checkpoint)_(\d{1,18})\.pth")


class ConsoleStory:
    """Takes the marks of a log in their order, and tells the runs. Every method but `records` is one kind of line.

    Lines count once something was seen that only a Trainer prints: other programs have EVALUATIONs, too.
    """

    def __init__(self, weights: Mapping[str, tuple[str, float]]) -> None:
        self._weights = weights
        self._processes: list[Process] = []

    @property
    def begun(self) -> bool:
        """Whether any mark of a Trainer was seen."""
        return bool(self._processes)

    @property
    def _process(self) -> Process | None:
        return self._processes[-1] if self._processes else None

    def _begin(self) -> Process:
        process = Process(self._weights)
        self._processes.append(process)
        return process

    def _split(self, process: Process) -> Process:
        """What is open turns out to belong to another process."""
        epoch, process.epoch = process.epoch, None
        new = self._begin()
        if epoch is not None and not epoch.over:
            process.hand_over(epoch, new)
        return new

    def _current(self) -> Process:
        return self._process or self._begin()

    # -- start of a process

    def environment(self) -> None:
        """`Training Environment:`, the first thing that a process prints."""
        process = self._begin()
        process.environment = True
        process.device = "cpu"  # a GPU is named further down in the block

    def setting(self, key: str, value: str) -> None:
        """A line of that block."""
        process = self._current()
        if key == "Precision":
            process.precision = value
        elif key == "Current device":
            process.device = f"cuda:{value}" if value.isdecimal() else value

    def folder(self, path: str) -> None:
        """`Start Tensorboard:` names the run's folder."""
        process = self._process
        if process is not None and process.path is None and process.epoch is None:
            process.path = path

    def restoring(self, file: str) -> None:
        """The process goes on from a checkpoint, or takes its weights."""
        process = self._process
        if process is not None and process.epoch is None:
            process.resumed_from = file

    def restored(self, step: int) -> None:
        """The step that is stored in the checkpoint."""
        process = self._process
        if process is not None and process.epoch is None:
            process.restored_step = step

    # -- epochs

    def epoch(self, number: int, last: int, path: str | None) -> None:
        """`EPOCH: number/last` and the folder below it."""
        process = self._process
        if process is None or self._other_process(process, number, last, path):
            process = self._begin()
        if process.epoch is None and len(self._processes) > 1:
            self._inherit(process, self._processes[-2], number, path or process.path)
        before = process.epoch
        if before is not None:
            if before.number == number and before.headed and before.empty:
                process.path = process.path or path
                return  # two loggers print the same line twice
            process.finish(before)
            if before.guessed and process.last_epoch is None:
                process.renumber(number - 1 - before.number)
        process.path = process.path or path
        process.last_epoch = last
        process.end = None
        process.open_epoch(number, headed=True)

    @staticmethod
    def _inherit(process: Process, before: Process, number: int, path: str | None) -> None:
        """A resume most likely has the versions and the data of the process before it."""
        if path is not None and path == before.path:
            process.rates_first = before.rates_first
            process.steps_per_epoch = before.steps_per_epoch
            if number > 0:
                process.done = before.position

    def _other_process(self, process: Process, number: int, last: int, path: str | None) -> bool:
        if path is not None and process.path is not None and path != process.path:
            return True
        before = process.epoch
        if before is None:
            return process.first_epoch is not None
        if process.last_epoch is not None and process.last_epoch != last:
            return True
        if before.guessed and process.last_epoch is None:
            return number == 0
        return number < before.number or (number == before.number and not before.empty)

    def training(self, started_at: str) -> None:
        """`TRAINING (time)`."""
        process = self._current()
        epoch = process.epoch
        if epoch is not None and epoch.started_at == started_at and epoch.empty:
            return  # two loggers
        if epoch is None or epoch.over or epoch.trained:
            epoch = self._next(process)
        epoch.headed = epoch.trained = True
        epoch.started_at = epoch.started_at or started_at
        self._at(process, started_at)

    def _next(self, process: Process) -> Epoch:
        """An epoch whose EPOCH line is missing."""
        epoch = process.epoch
        if epoch is not None:
            process.finish(epoch)
        elif process.first_epoch is None and process.start_step and process.steps_per_epoch:
            return process.open_epoch(process.start_step // process.steps_per_epoch)
        return process.open_epoch(0 if epoch is None else epoch.number + 1)

    def _at(self, process: Process, time: str) -> None:
        process.time = time or process.time
        process.started_at = process.started_at or process.time
        process.end = None

    def step(self, step: Step) -> None:
        """A logged training step."""
        process = self._current()
        if process.last is not None and step[:3] == process.last[:3]:
            return  # two loggers
        if step.g < process.at_least:
            epoch = process.epoch
            moves = epoch is not None and epoch.empty and (epoch.number == 0 or step.g > step.s)
            if not moves:
                process.epoch = None
            process = self._split(process)
        epoch = process.epoch
        if epoch is None or epoch.over or (epoch.last is not None and step.s <= epoch.last.s):
            epoch = self._next(process)
        if epoch.evaluating:
            process.without_values(epoch)
        rates_first = logs_rates_first(step.values)
        process.rates_first = process.rates_first if rates_first is None else rates_first
        first = epoch.first is None
        unreadable = epoch.add(step)
        if unreadable:
            process.unreadable(unreadable)
        process.last = step
        process.at_least = step.g + 1
        self._at(process, step.time)
        epoch.trained = True
        process.lr = process.lr or learning_rates(step.values)
        if first:
            self._first_step(process, epoch)

    def _first_step(self, process: Process, epoch: Epoch) -> None:
        """The first logged step of an epoch tells what was done before it."""
        base, last = epoch.base or 0, process.last
        batches = process.batches(epoch)
        if last is not None and process.grad_accum_steps is None:
            process.grad_accum_steps = accumulated(singles(last.values))
        process.steps_per_epoch = batches
        if process.start_step is None and not process.guesses and epoch.number == process.first_epoch:
            process.start_step = base
            if epoch.guessed and not process.events and batches:
                epoch.number = process.first_epoch = base // batches
        if process.guesses:
            process.anchor(base)
        elif process.done_guessed:
            process.done, process.done_guessed = base, False

    def add_many(self, columns: Mapping[str, Sequence[bytes]]) -> bool:
        """Losses, by key, of steps between two that come one by one; False when these must come so, too."""
        epoch = self._current().epoch
        return epoch is not None and not epoch.over and epoch.add_many(columns)

    def train_performance(self, values: Sequence[Logged], seconds: float | None, done: int | None) -> None:
        """`TRAIN PERFORMACE`, by which old Trainers ended the training part."""
        process = self._current()
        epoch = process.epoch
        if epoch is None or epoch.over or epoch.performance is not None:
            epoch = self._next(process)
        epoch.trained = True
        epoch.performance = process.losses(values)
        epoch.performance_seconds = seconds
        epoch.done = done
        process.end = None
        process.trained(epoch)

    # -- evaluations

    def eval_clips(self, count: int) -> None:
        """`Total eval samples after filtering`: the set of the evaluations from here on."""
        process = self._process
        if process is not None:
            process.eval_clips = count

    def evaluation(self) -> None:
        """`EVALUATION`: it begins; its values come at the end of the epoch, or never."""
        process = self._process
        if process is None:
            return
        epoch = process.epoch
        if epoch is None or epoch.over:
            epoch = self._next(process)
        if epoch.evaluating:
            process.without_values(epoch)
        epoch.evaluating = True
        process.end = None

    def performance(self, values: Sequence[Logged]) -> None:
        """An `EVAL PERFORMANCE` block: an evaluation, or without one the averages of the training."""
        process = self._current()
        read = process.losses(values)
        every = {logged.key: value for logged in values if (value := logged.value) is not None}
        diffs = {logged.key.removeprefix("avg_"): diff for logged in values if (diff := logged.bracket) is not None}
        # The Trainer compares within a process: nothing but zeros is its first block, or a model that is frozen.
        begins = bool(diffs) and not any(diffs.values())
        epoch = process.epoch
        if process.values is not None and every == process.values and (epoch is None or epoch.over):
            return  # two loggers
        if process.values is not None and begins and every != process.values:
            process = self._split(process)
            epoch = process.epoch
        process.end = None
        if epoch is None or epoch.over:
            epoch = self._next(process)
        if self._holds_training(epoch, {logged.key for logged in values}):
            if read:
                process.note("performance_of_training", "without evaluations, EVAL PERFORMANCE holds training averages")
                epoch.performance = read
        elif read:
            first = process.values is None and begins
            previous = {} if first else {key: read[key] - diff for key, diff in diffs.items() if key in read}
            process.evaluated(epoch, read, {k: v for k, v in previous.items() if math.isfinite(v)})
            process.values = every
        elif epoch.evaluating:
            process.without_values(epoch)
        process.finish(epoch)
        epoch.over = True
        if process.last_epoch is not None and process.rates_first is not None:
            planned = process.epochs_planned
            if planned is not None and epoch.number + 1 >= planned and not epoch.guessed:
                process.end = ("finished", "")

    def _holds_training(self, epoch: Epoch, keys: set[str]) -> bool:
        if epoch.evaluating:
            return False
        if epoch.headed and epoch.trained:
            return True
        # A piece of a log: only a training averages the time of its steps.
        return "avg_step_time" in keys and (epoch.headed or epoch.trained)

    # -- files

    def checkpoint(self, kind: str, path: str) -> None:
        """`BEST MODEL :` or `CHECKPOINT :`; the first comes right after the evaluation that found it."""
        process = self._process
        if process is None:
            return
        folder, _, name = path.rpartition("\\" if "\\" in path else "/")
        process.path = process.path or folder or None
        found = _FILE.search(name)
        epoch = process.epoch
        if kind == "best" and found is not None and epoch is not None:
            process.best(epoch, int(found[1]))
        # A file that is saved inside a step is called by its number and holds the update of that step, too.
        step = int(found[1]) + (kind == "latest") if found else process.position
        process.events.append(
            Checkpoint(
                step=step,
                epoch=process.number,
                time=process.time,
                kind=kind,
                path=name,
                eval_set=process.eval_set if kind == "best" else None,
            )
        )

    # -- trouble and the end

    def interrupted(self) -> None:
        """`Keyboard interrupt detected.`"""
        if self._process is not None:
            self._process.end = ("interrupted", "")

    def left(self) -> None:
        """`Run is kept in` or `removed from`: the Trainer's last words when it is interrupted or fails."""
        process = self._process
        if process is not None and (process.end is None or process.end[0] == "finished"):
            process.end = ("crashed", "")

    def failure(self, chain: Sequence[str], in_training: bool, again: bool) -> None:
        """An exception was printed; `chain` are it and those that led to it, `again` when part of them was told before.

        Without a frame in the Trainer's loop it is the user's own once all planned epochs are done: the training did
        not fail. Before that the training cannot go on, unless lines further down show that it does.
        """
        process = self._process
        if process is None:
            return
        message = chain[0] if len(chain) == 1 or chain[0] == chain[-1] else f"{chain[0]}; then: {chain[-1]}"
        codes = [code for code in map(incident_code, chain) if code != "error"]
        incident = Incident(
            step=process.position,
            epoch=process.number,
            time=process.time,
            code=codes[0] if codes else "error",
            message=message,
        )
        process.add_incident(incident, again)
        if process.end is not None and (process.end[0] != "finished" or not in_training):
            if process.end[0] == "crashed":
                process.end = ("crashed", message)
            return
        epoch = process.epoch
        running = epoch is not None and not epoch.over
        if in_training or running or (process.last_epoch is not None and process.rates_first is not None):
            process.end = ("interrupted" if message.startswith("KeyboardInterrupt") else "crashed", message)

    def trouble(self, message: str) -> None:
        """A line tells of a failure without an exception's form."""
        process = self._process
        if process is not None:
            code = incident_code(message)
            incident = Incident(
                step=process.position, epoch=process.number, time=process.time, code=code, message=message
            )
            process.add_incident(incident, again=False)

    # -- runs

    def records(self) -> list[RunRecord]:
        """The runs so far."""
        return runs_of(self._processes)

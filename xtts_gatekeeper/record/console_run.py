"""The runs that a console log tells of: what its marks mean, one after the other.

A `Process` is one start of the Trainer. Several of them, in one log, are resumes of one run or runs of their own; which
of the two is often told only by lines further on. So the events of a process stay open to correction, and `records`
puts the runs together anew each time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from xtts_gatekeeper.record.build import RunBuilder
from xtts_gatekeeper.record.console_epoch import (
    Epoch,
    Step,
    accumulated,
    learning_rates,
    logs_rates_first,
    singles,
)
from xtts_gatekeeper.record.console_grammar import Logged, incident_code
from xtts_gatekeeper.record.events import Checkpoint, End, Evaluation, Event, Incident, Start, TrainEpoch
from xtts_gatekeeper.record.names import is_loss, named_metrics
from xtts_gatekeeper.record.run import RunRecord

_FILE = re.compile(r"(?:best_model|checkpoint)_(\d{1,18})\.pth")
#: A log that repeats an error with every step is no reason to keep a million of them.
_MOST_INCIDENTS = 100


@dataclass
class Process:
    """One start of the Trainer. Numbers of epochs are those printed; steps are micro-batches done."""

    path: str | None = None
    device: str | None = None
    precision: str | None = None
    lr: list[float] = field(default_factory=list)
    grad_accum_steps: int | None = None
    last_epoch: int | None = None  # M of `EPOCH: e/M`
    rates_first: bool | None = None  # Trainer 0.3.0 or later
    eval_clips: int | None = None
    resumed_from: str | None = None
    restored_step: int | None = None
    environment: bool = False  # its Training Environment block was seen
    started_at: str = ""
    time: str = ""  # the last one that was printed
    first_epoch: int | None = None
    start_step: int | None = None  # None: nothing tells
    done: int = 0  # after the last finished epoch, as far as known
    done_guessed: bool = True
    at_least: int = 0  # steps that are done, by a printed number
    steps_per_epoch: int | None = None
    exact: tuple[int, int] | None = None  # epoch, and the steps that were done at its end
    epoch: Epoch | None = None
    last: Step | None = None
    values: dict[str, float] | None = None  # of its last EVAL PERFORMANCE block
    events: list[Event] = field(default_factory=list)
    guesses: list[tuple[int, ...]] = field(default_factory=list)  # events whose step is counted in epochs, by epoch
    notes: dict[str, list[str]] = field(default_factory=dict)
    note_counts: dict[str, int] = field(default_factory=dict)
    incidents: int = 0
    incident: int | None = None  # index of the last one
    end: tuple[str, str] | None = None

    def note(self, code: str, message: str, count: int = 1) -> None:
        """As `RunBuilder.note`, for a run that is not known yet."""
        self.notes.setdefault(code, [message])
        self.note_counts[code] = self.note_counts.get(code, 0) + count

    @property
    def position(self) -> int:
        """Steps done, as far as known."""
        return max(self.done, self.last.g) if self.last else self.done

    @property
    def number(self) -> int:
        """The epoch it is in."""
        return self.epoch.number if self.epoch else self.first_epoch or 0

    @property
    def epochs_planned(self) -> int | None:
        """How many epochs the Trainer was told to train. Without a logged step it may be one more."""
        return None if self.last_epoch is None else self.last_epoch + bool(self.rates_first)

    @property
    def eval_set(self) -> str | None:
        """A name for the eval set: the log tells its size only."""
        return None if self.eval_clips is None else f"{self.eval_clips} samples"

    def open_epoch(self, number: int, headed: bool = False) -> Epoch:
        """A new epoch; what was there stays as it is."""
        self.epoch = Epoch(number, headed, guessed=not headed)
        if self.first_epoch is None:
            self.first_epoch = number
        return self.epoch

    def renumber(self, by: int) -> None:
        """Correct the numbers of epochs that were only counted."""
        self.events = [replace(event, epoch=max(event.epoch + by, 0)) for event in self.events]
        self.first_epoch = max((self.first_epoch or 0) + by, 0)

    def move(self, indices: Sequence[int | None], step: int) -> None:
        """Correct the step of events."""
        for index in indices:
            if index is not None:
                self.events[index] = replace(self.events[index], step=max(step, 0))

    def anchor(self, step: int) -> None:
        """The last finished epoch ended at `step`, which is certain: correct what was counted before it."""
        self.done, self.done_guessed = step, False
        finished = (i for i, event in enumerate(self.events) if isinstance(event, TrainEpoch | Evaluation))
        from_start = bool(self.guesses) and next(finished, None) in self.guesses[0]
        for indices in reversed(self.guesses):
            self.move(indices, step)
            if any(isinstance(self.events[index], TrainEpoch) for index in indices):
                if self.steps_per_epoch is None:
                    break
                step -= self.steps_per_epoch
        else:
            if from_start and self.start_step is None:
                self.start_step = max(step, 0)
        self.guesses.clear()

    def certain(self, number: int, step: int) -> None:
        """Epoch `number` ended at `step`; two such tell how many steps an epoch has."""
        if self.exact is not None and self.steps_per_epoch is None:
            epochs, steps = number - self.exact[0], step - self.exact[1]
            if epochs > 0 and steps > 0 and steps % epochs == 0:
                self.steps_per_epoch = steps // epochs
        self.exact = (number, step)


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
        process = Process()
        self._processes.append(process)
        return process

    def _split(self, process: Process) -> Process:
        """What is open turns out to belong to another process."""
        epoch, process.epoch = process.epoch, None
        new = self._begin()
        if epoch is not None and not epoch.over:
            new.epoch = epoch
            new.first_epoch = epoch.number
            new.start_step = epoch.base
            new.path, new.last_epoch = process.path, process.last_epoch
            new.rates_first, new.steps_per_epoch = process.rates_first, process.steps_per_epoch
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
            self._finish(process, before)
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
            self._finish(process, epoch)
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
            self._without_values(process, epoch)
        rates_first = logs_rates_first(step.values)
        process.rates_first = process.rates_first if rates_first is None else rates_first
        first = epoch.first is None
        unreadable = epoch.add(step)
        if unreadable:
            self._unreadable(process, unreadable)
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
        batches = _batches(process, epoch)
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
        epoch.performance = self._losses(process, values)
        epoch.performance_seconds = seconds
        epoch.done = done
        process.end = None
        self._trained(process, epoch)

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
            self._without_values(process, epoch)
        epoch.evaluating = True
        process.end = None

    def _without_values(self, process: Process, epoch: Epoch) -> None:
        epoch.evaluating = False
        process.note(
            "evaluation_without_values",
            f"an evaluation in epoch {epoch.number} printed no values; the Trainer prints none in the middle of an "
            "epoch, and mixes them into those at its end",
        )

    def performance(self, values: Sequence[Logged]) -> None:
        """An `EVAL PERFORMANCE` block: an evaluation, or without one the averages of the training."""
        process = self._current()
        read = self._losses(process, values)
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
            self._evaluated(process, epoch, read, {k: v for k, v in previous.items() if math.isfinite(v)})
            process.values = every
        elif epoch.evaluating:
            self._without_values(process, epoch)
        self._finish(process, epoch)
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

    def _evaluated(self, process: Process, epoch: Epoch, read: dict[str, float], previous: dict[str, float]) -> None:
        self._trained(process, epoch)
        epoch.evaluating, epoch.evaluated = False, True
        epoch.eval_event = self._add(
            process,
            Evaluation(
                step=process.done,
                epoch=epoch.number,
                time=process.time,
                metrics=named_metrics("eval", read, self._weights),
                eval_set=process.eval_set,
                previous=named_metrics("eval", previous, self._weights),
            ),
        )
        if process.guesses and process.done_guessed:
            process.guesses[-1] = (*process.guesses[-1], epoch.eval_event)

    def _losses(self, process: Process, values: Sequence[Logged]) -> dict[str, float]:
        read: dict[str, float] = {}
        for logged in values:
            if is_loss(logged.key):
                if (value := logged.value) is None:
                    self._unreadable(process, 1)
                else:
                    read[logged.key.removeprefix("avg_")] = value
        return read

    def _unreadable(self, process: Process, count: int) -> None:
        process.note("unreadable_value", "a line looks like a logged value, but holds no number", count)

    # -- end of a training part

    def _trained(self, process: Process, epoch: Epoch) -> None:
        """The training part is over, once; settles how many steps are done."""
        if epoch.train_event is not None or epoch.evaluated:
            return
        # The first epoch of a process with `start_with_eval` only evaluates. A piece of a log may show no training.
        if not epoch.trained and epoch.headed and epoch.number == process.first_epoch:
            if process.done_guessed:
                process.guesses.append(())
            return
        batches = self._count_steps(process, epoch)
        if process.grad_accum_steps is None and epoch.last is not None:
            process.grad_accum_steps = accumulated(singles(epoch.last.values))
        logged, poisoned = epoch.metrics()
        if poisoned:
            process.note(
                "train_average_poisoned",
                f"NaN or Inf in single batches spoiled the Trainer's average of epoch {epoch.number}; "
                "used instead: the mean of the finite values that were logged",
            )
        if process.grad_accum_steps is None:
            process.grad_accum_steps = accumulated(logged)
        if "loss" in logged:
            logged["loss"] *= process.grad_accum_steps or 1
        epoch.train_event = self._add(
            process,
            TrainEpoch(
                step=process.done,
                epoch=epoch.number,
                time=process.time,
                metrics=named_metrics("train", logged, self._weights),
                batches=batches,
                nonfinite_batches=epoch.nonfinite,
                longest_nonfinite_run=epoch.longest_nonfinite_run,
                lr_end=epoch.learning_rates(),
                seconds=epoch.seconds(batches),
            ),
        )
        if process.done_guessed:
            process.guesses.append((epoch.train_event,))

    def _count_steps(self, process: Process, epoch: Epoch) -> int | None:
        """Sets what is done after the epoch; returns its number of batches."""
        batches = _batches(process, epoch)
        if epoch.done is not None:
            done, certain = epoch.done, True
            process.at_least = max(process.at_least, done)
        elif epoch.last is not None and batches is not None:
            done, certain = max(epoch.last.g - epoch.last.s + batches, epoch.last.g + 1), True
        else:
            batches = process.steps_per_epoch
            done, certain = process.done + (batches or 1), not process.done_guessed and batches is not None
        if certain:
            process.certain(epoch.number, done)
            if process.guesses and process.steps_per_epoch is not None:
                process.anchor(done - process.steps_per_epoch)
            process.guesses.clear()
        process.done, process.done_guessed = done, not certain
        return batches

    def _finish(self, process: Process, epoch: Epoch) -> None:
        """Another epoch begins, or the block that ends this one was read."""
        if epoch.over:
            return
        if epoch.trained:
            self._trained(process, epoch)
        if epoch.evaluating:
            self._without_values(process, epoch)

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
            self._best(process, epoch, int(found[1]))
        process.events.append(
            Checkpoint(
                step=int(found[1]) if found else process.position,
                epoch=process.number,
                time=process.time,
                kind=kind,
                path=name,
                eval_set=process.eval_set if kind == "best" else None,
            )
        )

    def _best(self, process: Process, epoch: Epoch, step: int) -> None:
        """`best_model_N` holds N steps: certain, where counting may have missed batches that were skipped."""
        if not epoch.over or (epoch.base is not None and step <= epoch.base):
            return
        process.certain(epoch.number, step)
        process.at_least = max(process.at_least, step)
        if process.done_guessed:
            process.anchor(step)
        process.done = step
        process.move((epoch.train_event, epoch.eval_event), step)

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
        self._incident(process, incident, again)
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
            self._incident(process, incident, again=False)

    def _incident(self, process: Process, incident: Incident, again: bool) -> None:
        if again and process.incident is not None:
            process.events[process.incident] = incident
            return
        process.incidents += 1
        if process.incidents > _MOST_INCIDENTS:
            process.incident = None
            process.note("more_incidents", f"{incident.message} (incidents beyond the first {_MOST_INCIDENTS})")
            return
        process.incident = self._add(process, incident)

    def _add(self, process: Process, event: Event) -> int:
        process.events.append(event)
        return len(process.events) - 1

    # -- runs

    def records(self) -> list[RunRecord]:
        """The runs so far."""
        builder = RunBuilder("console")
        before: Process | None = None
        earlier: list[Event] = []
        eval_set: str | None = None
        for process in self._processes:
            relation = "new" if before is None else _relation(before, process)
            if relation != "resume":
                builder.new_run(_last_part(process.path), continues=relation == "goes on")
            if relation == "new":
                earlier, eval_set = [], None
            _tell(builder, process, relation, earlier, before, eval_set)
            eval_set = process.eval_set or eval_set
            before = process
        return builder.records()


def _batches(process: Process, epoch: Epoch) -> int | None:
    """How many batches the epoch has, by its last logged step."""
    if epoch.last is None:
        return None
    # An old Trainer never prints s/N with s = N, a newer one ends every epoch so.
    return max(epoch.last.n + (process.rates_first is True or epoch.last.s == epoch.last.n), 1)


def _last_part(path: str | None) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] if path else ""


def _relation(before: Process, process: Process) -> str:
    """`resume` of the run before, a `new` run, or one that `goes on` where that ended, in a folder of its own."""
    step = process.start_step
    if before.path and process.path and before.path != process.path:
        return "goes on" if step and _leads_to(before, step) else "new"
    if before.path and before.path == process.path:
        return "resume"
    if before.values and process.values and before.values.keys() != process.values.keys():
        return "new"  # another model
    if step is not None:
        return "resume" if step > 0 else "new"
    told = process.resumed_from is not None or process.restored_step is not None or process.first_epoch is None
    plans = process.last_epoch == before.last_epoch and process.last_epoch is not None
    return "resume" if told or (plans and process.first_epoch != 0) else "new"


def _leads_to(before: Process, step: int) -> bool:
    """Whether a process that begins at `step` goes on from the end or from a checkpoint of `before`."""
    ends = {before.position, before.done}
    ends.update(event.step for event in before.events if isinstance(event, Checkpoint))
    return step in ends or step - 1 in ends  # what is saved within a step, is one step ahead of its name


def _tell(
    builder: RunBuilder,
    process: Process,
    relation: str,
    earlier: list[Event],
    before: Process | None,
    eval_set: str | None,
) -> None:
    """Add a process to the current run; `earlier` are the events of that run, and get those of the process."""
    step = process.start_step
    if step is None and process.restored_step is not None and relation == "resume":
        step = process.restored_step + 1
    if step is None:
        step = before.position if before is not None and relation == "resume" else 0
    offset = 0 if relation == "new" else _epoch_offset(process, step, earlier)
    mode = "restore" if process.resumed_from else "new"
    start = Start(
        step=step,
        epoch=(process.first_epoch or 0) + offset,
        time=process.started_at,
        device=process.device,
        precision=process.precision,
        lr=process.lr,
        grad_accum_steps=process.grad_accum_steps,
        epochs_planned=process.epochs_planned,
        eval_clips=process.eval_clips,
        eval_set=process.eval_set,
        resumed_from=process.resumed_from,
        resume_mode=mode if relation == "new" else "continue",
    )
    events: list[Event] = [start]
    for event in process.events:
        moved = replace(event, epoch=event.epoch + offset) if offset else event
        if isinstance(moved, Evaluation) and moved.eval_set is None and eval_set is not None and relation == "resume":
            moved = replace(moved, eval_set=eval_set)
        events.append(moved)
    if process.end is not None:
        how, message = process.end
        number = process.number + offset
        events.append(End(step=process.position, epoch=number, time=process.time, how=how, message=message))
    for event in events:
        builder.add(event)
    earlier.extend(events)
    for code, (message,) in process.notes.items():
        for _ in range(process.note_counts[code]):
            builder.note(code, message)


def _epoch_offset(process: Process, step: int, earlier: Sequence[Event]) -> int:
    """What to add to the printed numbers of a resume, so that an epoch is not taken for one that was done before.

    Trainers before 0.3.0 count from 0 again. Later ones repeat the number of the epoch in which the checkpoint was
    saved, and are right to: it was not finished, or its number counts once (`RunRecord.epochs_done`).
    """
    done = [event.epoch for event in earlier if isinstance(event, TrainEpoch) and event.step <= step]
    first = process.first_epoch or 0
    if not done or first > max(done) or (first == max(done) and process.rates_first is not False):
        return 0
    return max(done) + 1 - first

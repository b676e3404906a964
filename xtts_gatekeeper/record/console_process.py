"""One start of the Trainer as a console log tells it: its epochs, its events, and what is certain about its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from xtts_gatekeeper.record.console_epoch import Epoch, Step, accumulated, singles
from xtts_gatekeeper.record.console_grammar import Logged
from xtts_gatekeeper.record.events import Evaluation, Event, Incident, TrainEpoch
from xtts_gatekeeper.record.names import is_loss, named_metrics

#: A log that repeats an error with every step is no reason to keep a million of them.
_MOST_INCIDENTS = 100


@dataclass
class Process:
    """One start of the Trainer. Numbers of epochs are those printed; steps are micro-batches done."""

    weights: Mapping[str, tuple[str, float]]
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
    last_incident: int | None = None
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

    def hand_over(self, epoch: Epoch, other: Process) -> None:
        """An epoch that was taken for one of this process is the first of another in the same run."""
        other.epoch, other.first_epoch, other.start_step = epoch, epoch.number, epoch.base
        other.path, other.last_epoch = self.path, self.last_epoch
        other.rates_first, other.steps_per_epoch = self.rates_first, self.steps_per_epoch
        other.time = self.time
        other.started_at = epoch.started_at or self.time
        if epoch.last is not None:
            other.last, other.at_least = epoch.last, epoch.last.g + 1
            other.lr, other.grad_accum_steps = self.lr, self.grad_accum_steps
        if epoch.train_event is not None:
            first = epoch.train_event
            other.events, self.events = self.events[first:], self.events[:first]
            other.done, other.done_guessed = self.done, self.done_guessed
            epoch.train_event = 0
            if self.guesses and first in self.guesses[-1]:
                self.guesses.pop()
                other.guesses.append((0,))
            self.last_incident = None

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

    def batches(self, epoch: Epoch) -> int | None:
        """How many batches the epoch has, by its last logged step."""
        if epoch.last is None:
            return None
        # An old Trainer never prints s/N with s = N, a newer one ends every epoch so.
        return max(epoch.last.n + (self.rates_first is True or epoch.last.s == epoch.last.n), 1)

    def without_values(self, epoch: Epoch) -> None:
        """An evaluation is over that printed no values."""
        epoch.evaluating = False
        self.note(
            "evaluation_without_values",
            f"an evaluation in epoch {epoch.number} printed no values; the Trainer prints none in the middle of an "
            "epoch, and mixes them into those at its end",
        )

    def evaluated(self, epoch: Epoch, read: dict[str, float], previous: dict[str, float]) -> None:
        """An evaluation: losses as logged, and those that it was compared with."""
        self.trained(epoch)
        epoch.evaluating, epoch.evaluated = False, True
        epoch.eval_event = self.add(
            Evaluation(
                step=self.done,
                epoch=epoch.number,
                time=self.time,
                metrics=named_metrics("eval", read, self.weights),
                eval_set=self.eval_set,
                previous=named_metrics("eval", previous, self.weights),
            ),
        )
        if self.guesses and self.done_guessed:
            self.guesses[-1] = (*self.guesses[-1], epoch.eval_event)

    def losses(self, values: Sequence[Logged]) -> dict[str, float]:
        """The losses of a block, without their `avg_`."""
        read: dict[str, float] = {}
        for logged in values:
            if is_loss(logged.key):
                if (value := logged.value) is None:
                    self.unreadable(1)
                else:
                    read[logged.key.removeprefix("avg_")] = value
        return read

    def unreadable(self, count: int) -> None:
        """Values could not be read."""
        self.note("unreadable_value", "a line looks like a logged value, but holds no number", count)

    def trained(self, epoch: Epoch) -> None:
        """The training part is over, once; settles how many steps are done."""
        if epoch.train_event is not None or epoch.evaluated:
            return
        # The first epoch of a process with `start_with_eval` only evaluates. A piece of a log may show no training.
        if not epoch.trained and epoch.headed and epoch.number == self.first_epoch:
            if self.done_guessed:
                self.guesses.append(())
            return
        batches = self._count_steps(epoch)
        if self.grad_accum_steps is None and epoch.last is not None:
            self.grad_accum_steps = accumulated(singles(epoch.last.values))
        logged, poisoned = epoch.metrics()
        if poisoned:
            self.note(
                "train_average_poisoned",
                f"NaN or Inf in single batches spoiled the Trainer's average of epoch {epoch.number}; "
                "used instead: the mean of the finite values that were logged",
            )
        if self.grad_accum_steps is None:
            self.grad_accum_steps = accumulated(logged)
        if "loss" in logged:
            logged["loss"] *= self.grad_accum_steps or 1
        epoch.train_event = self.add(
            TrainEpoch(
                step=self.done,
                epoch=epoch.number,
                time=self.time,
                metrics=named_metrics("train", logged, self.weights),
                batches=batches,
                nonfinite_batches=epoch.nonfinite,
                longest_nonfinite_run=epoch.longest_nonfinite_run,
                lr_end=epoch.learning_rates(),
                seconds=epoch.seconds(batches),
            ),
        )
        if self.done_guessed:
            self.guesses.append((epoch.train_event,))

    def _count_steps(self, epoch: Epoch) -> int | None:
        """Sets what is done after the epoch; returns its number of batches."""
        batches = self.batches(epoch)
        if epoch.done is not None:
            done, certain = epoch.done, True
            self.at_least = max(self.at_least, done)
        elif epoch.last is not None and batches is not None:
            done, certain = max(epoch.last.g - epoch.last.s + batches, epoch.last.g + 1), True
        else:
            batches = self.steps_per_epoch
            done, certain = self.done + (batches or 1), not self.done_guessed and batches is not None
        if certain:
            self.certain(epoch.number, done)
            if self.guesses and self.steps_per_epoch is not None:
                self.anchor(done - self.steps_per_epoch)
            self.guesses.clear()
        self.done, self.done_guessed = done, not certain
        return batches

    def finish(self, epoch: Epoch) -> None:
        """Another epoch begins, or the block that ends this one was read."""
        if epoch.over:
            return
        if epoch.trained:
            self.trained(epoch)
        if epoch.evaluating:
            self.without_values(epoch)

    def best(self, epoch: Epoch, step: int) -> None:
        """`best_model_N` holds N steps: certain, where counting may have missed batches that were skipped."""
        if not epoch.over or (epoch.base is not None and step <= epoch.base):
            return
        self.certain(epoch.number, step)
        self.at_least = max(self.at_least, step)
        if self.done_guessed:
            self.anchor(step)
        self.done = step
        self.move((epoch.train_event, epoch.eval_event), step)

    def add_incident(self, incident: Incident, again: bool) -> None:
        """Something went wrong; `again` when more is known now of the last one."""
        if again and self.last_incident is not None:
            self.events[self.last_incident] = incident
            return
        self.incidents += 1
        if self.incidents > _MOST_INCIDENTS:
            self.last_incident = None
            self.note("more_incidents", f"{incident.message} (incidents beyond the first {_MOST_INCIDENTS})")
            return
        self.last_incident = self.add(incident)

    def add(self, event: Event) -> int:
        """An event; returns where it stands, to correct it."""
        self.events.append(event)
        return len(self.events) - 1

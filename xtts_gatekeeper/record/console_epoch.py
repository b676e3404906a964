"""What a console log tells of one epoch, and what of it can be believed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from operator import add
from typing import NamedTuple

from xtts_gatekeeper.record.console_grammar import Logged, finite, to_float
from xtts_gatekeeper.record.names import XTTS_WEIGHTS, is_loss


class Step(NamedTuple):
    """A logged training step: `STEP: s/n -- GLOBAL_STEP: g` and the lines below it."""

    s: int
    n: int
    g: int
    time: str
    values: Sequence[Logged]


@dataclass
class Epoch:
    """One epoch as far as its lines were read. `number` is printed, or counted where `guessed`."""

    number: int
    headed: bool = False  # an EPOCH or TRAINING line was seen
    guessed: bool = False
    trained: bool = False  # something of its training was seen
    evaluating: bool = False  # an EVALUATION line was seen, and no training since
    evaluated: bool = False  # an evaluation's values were read
    over: bool = False  # its EVAL PERFORMANCE block was read
    started_at: str = ""
    first: Step | None = None
    last: Step | None = None
    performance: dict[str, float] | None = None  # what the Trainer printed for the whole of the training part
    performance_seconds: float | None = None
    done: int | None = None  # GLOBAL_STEP after the training part, where it was printed
    train_event: int | None = None
    eval_event: int | None = None
    nonfinite: int = 0
    longest_nonfinite_run: int = 0
    _run: int = 0
    _sums: dict[str, float] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Nothing but its header was seen."""
        return not (self.first or self.evaluating or self.over or self.performance is not None)

    @property
    def base(self) -> int | None:
        """Steps done before the epoch."""
        return None if self.first is None else max(self.first.g - self.first.s, 0)

    def add(self, step: Step) -> int:
        """A logged step; returns how many of its losses could not be read."""
        self.first = self.first or step
        self.last = step
        unreadable = 0
        bad = False
        for logged in step.values:
            if is_loss(logged.key):
                value = logged.value
                if value is None:
                    unreadable += 1
                elif math.isfinite(value):
                    self._sums[logged.key] = self._sums.get(logged.key, 0.0) + value
                    self._counts[logged.key] = self._counts.get(logged.key, 0) + 1
                else:
                    bad = True
        self._count(bad)
        return unreadable

    def add_many(self, columns: Mapping[str, Sequence[bytes]]) -> bool:
        """Losses of many steps, by key, that lie between two added one by one; False when they must be, too.

        Sums grow one by one, as in `add`: the same log gives the same mean to the last digit, however it is cut.
        `sum` would not do, it rounds better in newer Pythons.
        """
        try:
            values = {key: list(map(float, column)) for key, column in columns.items()}
        except ValueError:
            return False
        totals = {key: reduce(add, column, self._sums.get(key, 0.0)) for key, column in values.items()}
        if all(map(math.isfinite, totals.values())):
            self._sums.update(totals)
            self._counts.update({key: self._counts.get(key, 0) + len(column) for key, column in values.items()})
            self._run = 0
            return True
        for key, column in values.items():
            numbers = list(filter(math.isfinite, column))
            if numbers:
                self._sums[key] = reduce(add, numbers, self._sums.get(key, 0.0))
                self._counts[key] = self._counts.get(key, 0) + len(numbers)
        for row in zip(*values.values(), strict=True):
            self._count(not all(map(math.isfinite, row)))
        return True

    def _count(self, bad: bool) -> None:
        """A batch, and whether one of its losses was NaN or Inf."""
        self._run = self._run + 1 if bad else 0
        self.nonfinite += bad
        self.longest_nonfinite_run = max(self.longest_nonfinite_run, self._run)

    def metrics(self) -> tuple[dict[str, float], bool]:
        """Training metrics as logged, and whether a stock average was poisoned and had to be replaced."""
        if self.performance is not None:
            logged = dict(self.performance)
        elif self.last is not None:
            logged = {}
            for line in self.last.values:
                if is_loss(line.key):
                    told = (line.bracket, self._mean(line.key), line.value)
                    value = next((number for number in told if number is not None), None)
                    if value is not None:
                        logged[line.key] = value
        else:
            return {}, False
        poisoned = False
        for key, value in logged.items():
            mean = self._mean(key)
            if not math.isfinite(value):
                self.nonfinite = max(self.nonfinite, 1)
                self.longest_nonfinite_run = max(self.longest_nonfinite_run, 1)
                if mean is not None:
                    logged[key] = mean
                    poisoned = True
        return logged, poisoned

    def _mean(self, key: str) -> float | None:
        count = self._counts.get(key)
        return self._sums[key] / count if count else None

    def learning_rates(self) -> list[float]:
        """The learning rate of every optimizer at the last logged step."""
        return learning_rates(self.last.values) if self.last else []

    def seconds(self, batches: int | None) -> float | None:
        """Wall time of the training part.

        Printed by old Trainers; else from its start to its last logged step, and from there to its end at the pace of
        the logged steps.
        """
        if self.performance_seconds is not None:
            return self.performance_seconds
        if self.last is None or self.first is None or batches is None:
            return None
        start, first, last = _moment(self.started_at), _moment(self.first.time), _moment(self.last.time)
        if start is None or first is None or last is None:
            return None
        left = max(batches - 1 - self.last.s, 0)
        steps, elapsed = self.last.s - self.first.s, (last - first).total_seconds()
        if steps <= 0:
            # One step alone: its start is that of the epoch, and that takes loading the data, too.
            steps, elapsed = self.last.s + 1, (last - start).total_seconds()
            if left and self.last.s == 0:
                return None
        seconds = (last - start).total_seconds() + left * elapsed / steps
        return seconds if seconds >= 0 and elapsed >= 0 else None


def learning_rates(values: Iterable[Logged]) -> list[float]:
    """The learning rates among the values of a step, one an optimizer."""
    rates = (logged.value for logged in values if logged.key.startswith("current_lr"))
    return [rate for rate in rates if rate is not None and math.isfinite(rate)]


def logs_rates_first(values: Sequence[Logged]) -> bool | None:
    """Whether a step is logged as Trainer 0.3.0 and later do, the learning rate first or averaged.

    They print the last number of an epoch's steps and of the epochs, older ones how many there are. None: no telling.
    """
    rates = [logged for logged in values if logged.key.startswith("current_lr")]
    if not rates:
        return None
    return values[0] is rates[0] or b"(" in rates[0].text


def accumulated(values: Mapping[str, float]) -> int | None:
    """How many batches make an update, as XTTS' losses tell; None where they do not.

    The Trainer divides the `loss` that it logs in training by that number, and the losses it is made of not.
    """
    parts = [values[key] for key in XTTS_WEIGHTS if key in values]
    loss = values.get("loss")
    if len(parts) < len(XTTS_WEIGHTS) or loss is None or not finite(loss) or not all(map(finite, parts)):
        return None
    if loss <= 0:
        return None
    ratio = sum(parts) / loss
    if not 0.9 < ratio < 10_000:
        return None
    nearest = round(ratio)
    # From 100 on, half a percent would let every number be a whole one.
    return nearest if abs(ratio - nearest) <= min(0.005 * nearest, 0.05) else None


def singles(values: Iterable[Logged]) -> dict[str, float]:
    """The losses of one step that can be read."""
    return {logged.key: value for logged in values if is_loss(logged.key) and (value := logged.value) is not None}


def iso(stamp: bytes | None) -> str:
    """`2024-03-01T12:00:00` for the log's `2024-03-01 12:00:00`, which is local time of an unknown zone."""
    return stamp.decode().replace(" ", "T") if stamp else ""


def _moment(time: str) -> datetime | None:
    try:
        return datetime.fromisoformat(time) if time else None
    except ValueError:
        return None


def seconds_of(text: bytes | None) -> float | None:
    """`EPOCH TIME: 8.43 sec` as a number."""
    return to_float(text) if text else None

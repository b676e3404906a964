"""What a reader of scalars keeps between two events: the scalars of one step, and sums over the steps of training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from xtts_gatekeeper.record.event_file import Tag
from xtts_gatekeeper.record.names import Side, is_loss, named_metrics

#: More train values between two evaluations are no averages of epochs.
MOST_EPOCHS = 10


@dataclass
class Meaning:
    """What a tag measures, and where it was last seen.

    `coqui`: it comes in the Coqui Trainer's order; `epoch`: it is certainly a mean over an epoch; `given`: the user
    named it.
    """

    side: Side
    key: str
    coqui: bool = False
    epoch: bool = False
    given: bool = False
    step: int | None = None
    file: int = 0


@dataclass
class Group:
    """The scalars of one step and side; `first` and `last` are the wall times of the first and the last of them."""

    step: int
    first: float
    last: float
    coqui: bool = False
    epoch: bool = False
    logged: dict[str, float] = field(default_factory=dict)
    given: dict[str, float] = field(default_factory=dict)

    def metrics(self, side: Side) -> dict[str, float]:
        """By our names; what the user named wins."""
        losses = {key: value for key, value in self.logged.items() if is_loss(key)}
        return {**named_metrics(side, losses), **{f"{side}.{key}": value for key, value in self.given.items()}}


@dataclass
class Mean:
    """The mean of the finite values."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Add a value; one that is not finite is passed over."""
        if math.isfinite(value):
            self.total += value
            self.count += 1

    @property
    def value(self) -> float:
        """NaN without a finite value."""
        return self.total / self.count if self.count else math.nan


@dataclass
class LoggedSteps:
    """The logged steps since the last epoch: counts and sums, whatever their number."""

    step: int | None = None
    seen: int = 0
    means: dict[str, Mean] = field(default_factory=dict)
    lr: dict[Tag, float] = field(default_factory=dict)
    nonfinite: int = 0
    longest: int = 0
    _run: int = 0
    _last: int = 0

    def add_nonfinite(self) -> None:
        """A loss of the current step is not finite; several of one step count once."""
        if self._last == self.seen:
            return
        self._run = self._run + 1 if self._last == self.seen - 1 else 1
        self._last = self.seen
        self.nonfinite += 1
        self.longest = max(self.longest, self._run)

    def forget(self) -> None:
        """An epoch is over."""
        self.step, self.seen, self.nonfinite, self.longest, self._run, self._last = None, 0, 0, 0, 0, 0
        self.lr.clear()
        for mean in self.means.values():  # not thrown away, for the tags hold them
            mean.total, mean.count = 0.0, 0


@dataclass
class TrainValues:
    """Train values between two evaluations, of which only their number tells whether they are means over epochs.

    Once there were more than `MOST_EPOCHS` they are not, and those between two evaluations are `merged` into one.
    """

    merged: bool = False
    _groups: list[Group] = field(default_factory=list)
    _logged: dict[str, Mean] = field(default_factory=dict)
    _given: dict[str, Mean] = field(default_factory=dict)

    def add(self, group: Group) -> None:
        """The values of one step."""
        self._groups.append(group)
        self.merged = self.merged or len(self._groups) > MOST_EPOCHS
        if self.merged:
            self._merge()

    def _merge(self) -> None:
        first, *others = self._groups
        for group in others if self._logged or self._given else self._groups:
            for means, values in ((self._logged, group.logged), (self._given, group.given)):
                for key, value in values.items():
                    means.setdefault(key, Mean()).add(value)
            first.step, first.last = group.step, group.last
        self._groups = [first]

    def take(self) -> list[Group]:
        """The epochs since the last time: each of them, or all in one."""
        groups, self._groups = self._groups, []
        if self.merged and groups:
            groups[0].logged = {key: mean.value for key, mean in self._logged.items()}
            groups[0].given = {key: mean.value for key, mean in self._given.items()}
        self._logged, self._given = {}, {}
        return groups

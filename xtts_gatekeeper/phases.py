"""Learning-rate phases: which one is in effect, and proof that the optimizer uses it.

The plan is a pure function of step and epoch, so a resumed run finds its phase by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.events import Event, Incident, LearningRateCheck, PhaseStart
from xtts_gatekeeper.trainer_port import TrainerPort

if TYPE_CHECKING:
    from xtts_gatekeeper.config import PhaseConfig


class LearningRateError(UserError):
    """The optimizer is about to make its first update with a learning rate that nobody planned."""


@dataclass(frozen=True)
class Phase:
    """One learning-rate phase; see `config.PhaseConfig`."""

    name: str
    lr: float
    until_epoch: int | None = None
    until_step: int | None = None

    def over(self, step: int, epoch: int) -> bool:
        """Whether the phase has ended when training is at `step` of `epoch`."""
        return (self.until_step is not None and step >= self.until_step) or (
            self.until_epoch is not None and epoch >= self.until_epoch
        )


@dataclass(frozen=True)
class PhasePlan:
    """Phases in order."""

    phases: tuple[Phase, ...]

    @classmethod
    def of(cls, phases: Sequence[PhaseConfig]) -> PhasePlan:
        """The plan of a config's `phases`, which must have passed `config.check_phases`."""
        return cls(
            tuple(
                Phase(phase.name or f"phase {number}", phase.lr, phase.until_epoch, phase.until_step)
                for number, phase in enumerate(phases, 1)
            )
        )

    @property
    def counts_steps(self) -> bool:
        """Whether no phase ends by an epoch."""
        return all(phase.until_epoch is None for phase in self.phases)

    def at(self, step: int, epoch: int) -> int:
        """The index of the phase in effect at `step` of `epoch`."""
        return next(
            (index for index, phase in enumerate(self.phases[:-1]) if not phase.over(step, epoch)), len(self.phases) - 1
        )

    def never_reached(self, epochs: int) -> list[str]:
        """A sentence for each phase that cannot begin because the run's `epochs` end before it."""
        return [
            f"{after.name} never begins: {phase.name} lasts until epoch {phase.until_epoch} and the run has {epochs}"
            for phase, after in zip(self.phases, self.phases[1:], strict=False)
            if phase.until_epoch is not None and phase.until_epoch >= epochs
        ]

    def check_start(self, step: int, epoch: int, reached: int) -> None:
        """Refuse a plan with a switch that lies before the point where this process begins.

        Args:
            step: GLOBAL_STEP at the start, 0 for a new run.
            epoch: the Trainer's epoch at the start.
            reached: the highest phase index that the run's journal shows was in effect before; 0 when there is none.

        Raises:
            UserError: the run would silently begin in a later phase than it ever reached.
        """
        for phase in self.phases[reached : self.at(step, epoch)]:
            # A resume begins one step behind the step its checkpoint is named for, hence `step - 1`.
            if phase.until_step is not None and phase.until_step < step - 1:
                end = f"step {phase.until_step}"
            elif phase.until_epoch is not None and phase.until_epoch < epoch:
                end = f"epoch {phase.until_epoch}"
            else:
                continue
            raise UserError(
                f"the end of {phase.name} at {end} lies before the start of this run at step {step}, epoch {epoch}; "
                "move it behind the start or leave the phase out."
            )


class PhaseActor:
    """Sets the planned learning rate before each step and checks every parameter group at each optimizer update.

    The check is a hook of the optimizer itself, so it sees what the update will use, whatever scheduler, resume or
    callback touched it before. A mismatch at the first update after a start, resume or switch is an error; a later
    one is recorded, and corrected before the update.
    """

    def __init__(self, plan: PhasePlan, port: TrainerPort, record: Callable[[Event], None]) -> None:
        self.plan = plan
        self.port = port
        self.record = record
        self.index = -1
        self._proven: set[int] = set()
        self._last_wrong: list[float] | None = None

    @property
    def lr(self) -> float:
        """The learning rate in force."""
        return self.plan.phases[self.index].lr

    def lr_at_start(self) -> float:
        """Put the learning rate of the current step in effect and return it."""
        lr = self.plan.phases[self.plan.at(self.port.step, self.port.epoch)].lr
        self.port.set_learning_rate(lr)
        return lr

    def install(self) -> None:
        """Put the phase of the current step in effect and hook every optimizer."""
        self.apply()
        for number, optimizer in enumerate(self.port.optimizers):
            optimizer.register_step_pre_hook(lambda opt, args, kwargs, number=number: self.check(number))

    def apply(self) -> None:
        """Set the learning rate of the phase in effect; announce a new phase."""
        index = self.plan.at(self.port.step, self.port.epoch)
        if index != self.index:
            self.index = index
            self._proven.clear()
            phase = self.plan.phases[index]
            self.record(
                PhaseStart(step=self.port.step, epoch=self.port.epoch, name=phase.name, index=index, lr=phase.lr)
            )
            self.port.log(f"phase {index + 1} of {len(self.plan.phases)}, {phase.name}: LR {phase.lr:g}")
        self.port.set_learning_rate(self.lr)

    def check(self, number: int) -> None:
        """Compare every group of optimizer `number` with the plan; called right before its update."""
        groups = self.port.optimizers[number].param_groups
        in_effect = [float(group["lr"]) for group in groups]
        ok = matches(in_effect, self.lr)
        first = number not in self._proven
        step, epoch, name = self.port.step, self.port.epoch, self.plan.phases[self.index].name
        if first:
            self._proven.add(number)
            self.record(
                LearningRateCheck(step=step, epoch=epoch, phase=name, planned=self.lr, in_effect=in_effect, ok=ok)
            )
        if ok:
            return
        message = f"step {step}: LR {', '.join(f'{lr:g}' for lr in in_effect)} in effect where {name} plans {self.lr:g}"
        if first:
            raise LearningRateError(f"{message}; something else sets the learning rate, find it or drop the phases.")
        for group in groups:
            group["lr"] = self.lr
        if in_effect != self._last_wrong:  # once for each new wrong value, not at every update
            self._last_wrong = in_effect
            self.record(Incident(step=step, epoch=epoch, code="lr_not_as_planned", message=f"{message}; corrected"))
            self.port.log(f"WARNING: {message}; corrected")


def matches(in_effect: Sequence[float], planned: float) -> bool:
    """Whether every group has the planned learning rate, to float accuracy."""
    return all(math.isclose(lr, planned, rel_tol=1e-9) for lr in in_effect)

"""The plan of a run's phases: what each sets, and when it ends. Pure: no torch, no Trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xtts_gatekeeper.errors import UserError

if TYPE_CHECKING:
    from xtts_gatekeeper.config import PhaseConfig

#: How the learning rate moves within a phase.
SCHEDULES = ("constant", "cosine", "one_cycle")

#: The shape of `one_cycle`: defaults of torch's OneCycleLR (Smith and Topin 2018), which the checklist's run used.
RISING_SHARE = 0.3
FIRST_DIVISOR = 25.0
LAST_DIVISOR = 1e4


@dataclass(frozen=True)
class Phase:
    """One phase; `config.PhaseConfig` says what each field means."""

    name: str
    lr: float
    schedule: str = "constant"
    warmup_steps: int = 0
    lr_end: float | None = None
    until_epoch: int | None = None
    until_step: int | None = None
    until_plateau: int | None = None
    until_target: float | None = None
    until_tune: bool = False
    grad_clip: float | None = None
    grad_accum_steps: int | None = None
    freeze: tuple[str, ...] = ()
    reset_optimizer: bool = False

    @property
    def counted(self) -> bool:
        """Whether step or epoch alone tell when it ends at the latest."""
        return self.until_epoch is not None or self.until_step is not None

    def over(self, step: int, epoch: int) -> bool:
        """Whether the phase has ended when training is at `step` of `epoch`, whatever the evaluations say."""
        return (self.until_step is not None and step >= self.until_step) or (
            self.until_epoch is not None and epoch >= self.until_epoch
        )

    def lr_at(self, done: float, length: float) -> float:
        """The learning rate of the step before which the phase has seen `done` of its `length` steps.

        Constant and cosine rise linearly over the first `warmup_steps`, the first step taking its share of them.
        `cosine` then falls from `lr` to `lr_end` (Loshchilov and Hutter 2017, without restarts). `one_cycle` rises
        from a 25th of `lr` over 30 % of the phase and falls to a 250,000th of it, or to `lr_end`, as torch's
        OneCycleLR does; its momentum stays as it is.
        """
        done = min(max(done, 0.0), max(length, 0.0))
        if self.schedule == "one_cycle":
            return self._one_cycle(done, length)
        if done < self.warmup_steps:
            return self.lr * min(1.0, (done + 1) / self.warmup_steps)
        if self.schedule == "constant":
            return self.lr
        span = length - self.warmup_steps
        return _between(self.lr, self.lr_end or 0.0, (done - self.warmup_steps) / span if span > 0 else 1.0)

    def _one_cycle(self, done: float, length: float) -> float:
        first = self.lr / FIRST_DIVISOR
        last = first / LAST_DIVISOR if self.lr_end is None else self.lr_end
        top, end = RISING_SHARE * length - 1, length - 1
        if done <= top:
            return _between(first, self.lr, done / top if top > 0 else 1.0)
        return _between(self.lr, last, min(1.0, (done - top) / (end - top)) if end > top else 1.0)


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class PhasePlan:
    """Phases in order."""

    phases: tuple[Phase, ...]

    @classmethod
    def of(cls, phases: Sequence[PhaseConfig]) -> PhasePlan:
        """The plan of a config's `phases`, which must have passed `config.check_phases`."""
        return cls(
            tuple(
                Phase(
                    name=phase.name or f"phase {number}",
                    lr=phase.lr,
                    schedule=phase.schedule,
                    warmup_steps=phase.warmup_steps,
                    lr_end=phase.lr_end,
                    until_epoch=phase.until_epoch,
                    until_step=phase.until_step,
                    until_plateau=phase.until_plateau,
                    until_target=phase.until_target,
                    until_tune=phase.until_tune,
                    grad_clip=phase.grad_clip,
                    grad_accum_steps=phase.grad_accum_steps,
                    freeze=tuple(phase.freeze or ()),
                    reset_optimizer=phase.reset_optimizer,
                )
                for number, phase in enumerate(phases, 1)
            )
        )

    @property
    def counts_steps(self) -> bool:
        """Whether no phase ends by an epoch."""
        return all(phase.until_epoch is None for phase in self.phases)

    def at(self, step: int, epoch: int, reached: int = 0) -> int:
        """The index of the phase in effect at `step` of `epoch`, as far as these tell; never one before `reached`."""
        index = reached
        while index < len(self.phases) - 1 and self.phases[index].over(step, epoch):
            index += 1
        return index

    def never_reached(self, epochs: int) -> list[str]:
        """A sentence for each phase that cannot begin because the run's `epochs` end before it."""
        return [
            f"{after.name} never begins: {phase.name} lasts until epoch {phase.until_epoch} and the run has {epochs}"
            for phase, after in zip(self.phases, self.phases[1:], strict=False)
            if phase.until_epoch is not None and phase.until_epoch >= epochs and not _may_end_before(phase)
        ]

    def check_start(self, step: int, epoch: int, reached: int) -> None:
        """Refuse a plan with a switch that lies before the point where this process begins.

        Args:
            step: GLOBAL_STEP at the start, 0 for a new run.
            epoch: the Trainer's epoch at the start.
            reached: the highest phase index that the run is known to have been in before; 0 when there is none.

        Raises:
            UserError: the run would silently begin in a later phase than it ever reached.
        """
        for phase in self.phases[reached : self.at(step, epoch, reached)]:
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


def _may_end_before(phase: Phase) -> bool:
    """Whether something else than its epoch may end the phase."""
    return (
        phase.until_step is not None
        or phase.until_plateau is not None
        or phase.until_target is not None
        or phase.until_tune
    )


def matches(in_effect: Sequence[float], planned: Sequence[float]) -> bool:
    """Whether every parameter group has its planned learning rate, to float accuracy."""
    return len(in_effect) == len(planned) and all(
        math.isclose(lr, want, rel_tol=1e-9) for lr, want in zip(in_effect, planned, strict=True)
    )

"""The actor that puts the phases in effect and proves the learning rate at every update."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.contents import Unreadable, UnsafePickle, peek
from xtts_gatekeeper.checkpoints.resume import record_of
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.phases.check import RateCheck
from xtts_gatekeeper.phases.plan import Phase, PhasePlan
from xtts_gatekeeper.phases.progress import Progress, loss_of, progress_at
from xtts_gatekeeper.record import PhaseStart, RunRecord, Start
from xtts_gatekeeper.recorder import Recorder
from xtts_gatekeeper.trainer_port import TrainerPort

_REMEDY = "something else sets the learning rate, find it or drop the phases"


class PhaseActor:
    """Sets what the phase in effect plans before each step, and checks every update.

    The phases own the learning rate: the config's schedulers are taken off the Trainer, for OneCycleLR would move the
    momentum, too, and end the process after its last step.

    Args:
        plan: the phases.
        port: the Trainer, ready to train.
        recorder: the live record.
        objective: name or role of the metric that plateaus and targets are about.
        progress: where the run stands; None for one that begins, or of which nothing is known.
    """

    def __init__(
        self,
        plan: PhasePlan,
        port: TrainerPort,
        recorder: Recorder,
        objective: str,
        progress: Progress | None,
    ) -> None:
        self.plan = plan
        self.port = port
        self.recorder = recorder
        self.objective = objective
        self.progress = progress or Progress()
        self._known = progress is not None
        self._stock = (port.grad_clip, port.grad_accum_steps)
        self.check = RateCheck(port, recorder.record, refuse=True, correct=True)

    @property
    def phase(self) -> Phase:
        """The phase in effect."""
        return self.plan.phases[self.progress.index]

    @property
    def step(self) -> int:
        """The plan's step."""
        return self.port.step + self.progress.step_offset

    @property
    def epoch(self) -> int:
        """The plan's epoch."""
        return self.port.epoch + self.progress.epoch_offset

    @property
    def lr(self) -> float:
        """The planned learning rate of this step."""
        phase, progress = self.phase, self.progress
        if phase.until_step is not None:
            done, length = self.step - progress.began_step, phase.until_step - progress.began_step
            return progress.lr_factor * phase.lr_at(done, length)
        last = self.port.config.epochs + progress.epoch_offset
        end = last if phase.until_epoch is None else min(phase.until_epoch, last)
        an_epoch = self.port.steps_per_epoch
        length_steps = (end - progress.began_epoch) * an_epoch
        done_steps = (self.epoch - progress.began_epoch) * an_epoch + self.port.step_in_epoch
        if phase.schedule == "constant":  # a warm-up counts steps, whatever an epoch has
            done_steps = self.step - progress.began_step
        return progress.lr_factor * phase.lr_at(done_steps, max(length_steps, done_steps))

    def carried(self, epoch: int) -> dict[str, Any]:
        """What a checkpoint written now carries, for a run that is restored from it and begins with `epoch`."""
        return self.progress.to_dict(self.port.steps_trained, epoch)

    # Start

    def lr_at_start(self) -> float:
        """Put the rate of the phase to begin in in effect, and return it."""
        index = self._first
        going_on = self._known and index == self.progress.index
        lr = self.lr if going_on else self.plan.phases[index].lr_at(0.0, math.inf)
        self.port.set_learning_rate(lr)
        return lr

    @property
    def _first(self) -> int:
        """The index of the phase to begin in: evaluations may have ended the one it was in at the last moment."""
        ended = bool(self._known and self.progress.ended(self.phase)) and self.has_next
        return self.plan.at(self.step, self.epoch, self.progress.index + ended)

    @property
    def has_next(self) -> bool:
        """Whether another phase comes after this one."""
        return self.progress.index + 1 < len(self.plan.phases)

    def begin(self) -> None:
        """Find the phase to begin in, put it in effect, and hook every optimizer."""
        self.port.detach_schedulers()
        index = self._first
        if not self._known or index != self.progress.index:
            self._enter(index, "" if index == 0 else "the plan says so at this point")
        else:
            self._set_up()
            self._announce("goes on")
        self._apply()
        self.port.around_updates(self._before_update, lambda number: None)

    # Training

    def step_begins(self) -> None:
        """Put the phase of this step in effect."""
        phase, index = self.phase, self.plan.at(self.step, self.epoch, self.progress.index)
        if index != self.progress.index:
            by_step = phase.until_step is not None and self.step >= phase.until_step
            at = f"step {phase.until_step}" if by_step else f"epoch {phase.until_epoch}"
            self._enter(index, f"{phase.name} ended at {at}")
        self._apply()

    def judged(self, verdict: str | None) -> str:
        """Take in the evaluation just made; begin the next phase where it ends this one.

        Args:
            verdict: what the gates say, when that is about learning; else None.

        Returns:
            Why the phase has ended, or an empty text.
        """
        record = self.recorder.seen()
        evaluation = record.evaluations[-1]
        loss = loss_of(record, self.objective, evaluation)
        if loss is not None:
            self.progress = replace(self.progress, patience=self.progress.patience.after(loss[1], evaluation.eval_set))
        latest = None if loss is None else loss[1]
        why = self.progress.ended(self.phase, verdict, latest, believed=not evaluation.leaked)
        return why if why and self.next_phase(why) else ""

    def next_phase(self, why: str) -> bool:
        """Begin the next phase, for a reason; False when there is none."""
        if not self.has_next:
            return False
        ended = self.phase.name
        self._enter(self.plan.at(self.step, self.epoch, self.progress.index + 1), f"{ended} ended: {why}")
        return True

    def scale(self, factor: float) -> float:
        """Multiply every planned rate from now on; returns the product of all such factors, which is to be recorded."""
        self.progress = replace(self.progress, lr_factor=self.progress.lr_factor * factor)
        self.check.begin()
        return self.progress.lr_factor

    def be_patient(self) -> None:
        """The evaluations waited for belong to weights that were given up."""
        self.progress = replace(self.progress, patience=replace(self.progress.patience, waited=0))

    # In effect

    def _enter(self, index: int, why: str) -> None:
        skipped = [phase.name for phase in self.plan.phases[self.progress.index + 1 : index] if self._known]
        fraction = self.port.step_in_epoch / self.port.steps_per_epoch if self.port.step_in_epoch else 0.0
        # A rate that was found too high is not exceeded by a later phase.
        found_good = self.progress.lr_factor * self.phase.lr
        phase = self.plan.phases[index]
        self.progress = Progress(
            index=index,
            name=phase.name,
            began_step=self.step,
            began_epoch=self.epoch + fraction,
            lr_factor=1.0 if self.progress.lr_factor >= 1 else min(1.0, found_good / phase.lr),
            step_offset=self.progress.step_offset,
            epoch_offset=self.progress.epoch_offset,
        )
        self._known = True
        if skipped:
            why += f"; {', '.join(skipped)} would have ended before this point"
        if self.phase.reset_optimizer:
            self.port.forget_optimizer_state()
            why += f"{'; ' if why else ''}the optimizer begins anew"
        self._set_up()
        self._announce(why)

    def _set_up(self) -> None:
        clip, accumulation = self._stock
        self.port.grad_clip = clip if self.phase.grad_clip is None else _for_each(self.port, self.phase.grad_clip)
        self._accumulation = accumulation if self.phase.grad_accum_steps is None else self.phase.grad_accum_steps
        self.port.freeze(self.phase.freeze)
        self.check.begin()

    def _announce(self, why: str) -> None:
        progress = self.progress
        lr = progress.lr_factor * self.phase.lr
        self.recorder.record(
            PhaseStart(
                step=self.port.step,
                epoch=self.port.epoch,
                name=progress.name,
                index=progress.index,
                lr=lr,
                why=why,
                lr_factor=progress.lr_factor,
                step_offset=progress.step_offset,
                epoch_offset=progress.epoch_offset,
                began_step=progress.began_step,
                began_epoch=progress.began_epoch,
                best=progress.patience.best,
                waited=progress.patience.waited,
                eval_set=progress.patience.eval_set,
            )
        )
        said = f" ({why})" if why else ""
        self.port.log(f"phase {progress.index + 1} of {len(self.plan.phases)}, {progress.name}: LR {lr:g}{said}")

    def _apply(self) -> None:
        # Gradients that wait for their update were divided by the old number.
        if self.port.grad_accum_steps != self._accumulation and not self.port.has_gradients:
            self.port.grad_accum_steps = self._accumulation
        self.port.set_learning_rate(self.lr)

    def _before_update(self, number: int) -> None:
        planned = [self.lr] * len(self.port.optimizers[number].param_groups)
        self.check.check(number, planned, self.phase.name, _REMEDY)


def check_plan(plan: PhasePlan, port: TrainerPort) -> None:
    """Refuse what this model cannot do.

    Raises:
        UserError: a pattern of `freeze` that matches nothing, or accumulation with several optimizers.
    """
    for phase in plan.phases:
        if (phase.grad_accum_steps or 1) > 1 and len(port.optimizers) > 1:
            raise UserError(
                f"{phase.name} accumulates gradients: the Trainer cannot with {len(port.optimizers)} optimizers."
            )
        port.freeze(phase.freeze)
        clip = port.grad_clip if phase.grad_clip is None else phase.grad_clip
        if phase.freeze and not clip and port.updates.scaler_at_work:
            raise UserError(f"{phase.name} freezes with a gradient scaler: without a grad_clip the Trainer fails then.")
    port.freeze(())


def _for_each(port: TrainerPort, clip: float) -> float | list[float]:
    """The largest norm as the Trainer wants it: with several optimizers one for each, or it takes none."""
    several = len(port.optimizers)
    return [clip] * several if several > 1 else clip


def plan_position(port: TrainerPort, progress: Progress | None) -> tuple[int, int]:
    """The plan's step and epoch at which the Trainer stands."""
    if progress is None:
        return port.step, port.epoch
    return port.step + progress.step_offset, port.epoch + progress.epoch_offset


def find_progress(
    plan: PhasePlan, port: TrainerPort, record: RunRecord, objective: str, told: int | None = None
) -> Progress | None:
    """Where a resumed run stands in its phases; None for a new one, or where nothing tells.

    With `continue_path` the run's own journal tells. With `restore_path` it is what the checkpoint carries, else the
    journal of the run that the file lies in, as long as the plan has that phase at the same place: a plan of other
    phases begins with its first.
    """
    if port.resumed_from is None:
        return None
    if port.continued:
        start = Start(step=port.step, epoch=port.epoch, told=told)
        found = progress_at(record, start, objective)
    else:
        found = _carried_progress(port, objective)
    return found if found is not None and found.fits(plan) else None


def _carried_progress(port: TrainerPort, objective: str) -> Progress | None:
    """Where in its phases the run stood whose checkpoint was restored, as the file or the run around it tells."""
    file = Path(port.resumed_from or "")
    try:
        contents = peek(file)
    except (Unreadable, UnsafePickle):  # a base of another format, or one that stock code loads all the same
        return None
    if contents.carried is not None:
        return Progress.restored(contents.carried)
    step = contents.step
    found = (
        None
        if step is None
        else progress_at(record_of(file.parent), Start(step=step + 1, epoch=contents.epoch or 0), objective)
    )
    if found is None or step is None:
        return None
    return Progress.restored(found.to_dict(step, contents.epoch or 0))

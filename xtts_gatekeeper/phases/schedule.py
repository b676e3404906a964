"""The learning rates that config and scheduler ask for, followed beside the real scheduler.

In Trainer 0.4 a scheduler that is to step after each epoch never does with one optimizer, `continue_path` brings the
old rates back, `restore_path` overwrites the first rate of a warm-up, and a scheduler that is copied for a second
optimizer drives a copy of it. A second scheduler of the same kind, stepped as it should be, tells what the rate ought
to be.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

from xtts_gatekeeper.phases.check import RateCheck
from xtts_gatekeeper.trainer_port import TrainerPort


class ConfigSchedule:
    """The plan of a run without phases: the config's rate and its scheduler.

    To be made before the Trainer restores anything (`on_init_start`): then optimizers and schedulers are as the config
    asks for them.
    """

    def __init__(self, port: TrainerPort) -> None:
        self.port = port
        self.shadows = [
            _Shadow(optimizer, scheduler)
            for optimizer, scheduler in zip(port.optimizers, port.schedulers, strict=False)
        ]
        self.per_epoch = bool(port.config.scheduler_after_epoch)
        self._updated: set[int] = set()

    def install(self, check: RateCheck) -> None:
        """Bring the plan to where the Trainer was restored, and check every update against it."""
        if self.port.continued:
            for shadow, scheduler in zip(self.shadows, self.port.schedulers, strict=False):
                done = self.port.epoch if self.per_epoch else getattr(scheduler, "last_epoch", 0)
                shadow.advance(int(done or 0))
        self._check = check
        self.port.around_updates(self._before, self._after)

    @property
    def unknown(self) -> list[str]:
        """Sentences about what cannot be followed."""
        if self.port.updates.scaler_at_work and len(self.shadows) > 1:
            for shadow in self.shadows[
                :-1
            ]:  # the Trainer steps their schedulers also when the scaler left the update out
                shadow.problem = shadow.problem or "a gradient scaler works for several optimizers"
        return [
            f"{shadow.name} of optimizer {number} cannot be followed ({shadow.problem}): its rates are not checked"
            for number, shadow in enumerate(self.shadows)
            if shadow.problem
        ]

    def epoch_ends(self) -> None:
        """The training part of an epoch is over: schedulers that step by epoch are due, where there was an update."""
        if self.per_epoch:
            for number in self._updated:
                self.shadows[number].advance(1)
        self._updated.clear()

    def _before(self, number: int) -> None:
        shadow = self.shadows[number]
        if not shadow.problem:
            self._check.check(
                number,
                shadow.rates,
                shadow.name,
                "give the rate that is to be as a phase (gatekeeper.phases), or accept this one with "
                "gatekeeper.lr_mismatch warn",
            )

    def _after(self, number: int) -> None:
        self._updated.add(number)
        if not self.per_epoch:
            self.shadows[number].advance(1)


class _Shadow:
    """A copy of one scheduler that drives a stand-in for its optimizer: the same groups, without their parameters."""

    def __init__(self, optimizer: Any, scheduler: Any) -> None:
        import torch

        self.problem = ""
        self.name = "the config" if scheduler is None else type(scheduler).__name__
        groups = [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups]
        self._optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": group["lr"]} for group in groups])
        for group, real in zip(self._optimizer.param_groups, groups, strict=True):
            group.update(copy.deepcopy(real))
        self._scheduler = None
        if scheduler is None:
            return
        if getattr(scheduler, "optimizer", None) is not optimizer:
            self.problem = "it does not drive this optimizer"
            return
        try:
            self._scheduler = copy.deepcopy(scheduler, {id(optimizer): self._optimizer})
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"

    @property
    def rates(self) -> list[float]:
        """The rate that each group should have."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def advance(self, times: int) -> None:
        """Step so many times; a scheduler that cannot go on is not followed any more."""
        if self._scheduler is None:
            return
        try:
            with warnings.catch_warnings():  # that the stand-in's step() is not the one it was made with
                warnings.simplefilter("ignore")
                for _ in range(times):
                    self._scheduler.step()
        except Exception as error:  # past its last step, or it wants a metric
            self.problem = f"{type(error).__name__}: {error}"
            self._scheduler = None

"""What decides how a Trainer learns: rates, schedulers, clipping, accumulation, what is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.trainer_port.base import BasePort


class LearningPort(BasePort):
    """The part of the port that phases and actions work with."""

    # Learning rate

    @property
    def learning_rates_by_optimizer(self) -> list[list[float]]:
        """The LR of every parameter group, optimizer by optimizer."""
        return [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in self.optimizers]

    @property
    def learning_rates(self) -> list[float]:
        """The LR of every parameter group of every optimizer."""
        return [lr for rates in self.learning_rates_by_optimizer for lr in rates]

    @property
    def learning_rates_requested(self) -> list[float]:
        """The LR that model or config ask for, one for each optimizer."""
        return [float(lr) for lr in self.trainer.get_lr()]

    def set_learning_rate(self, lr: float) -> None:
        """Set the LR of every parameter group."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr

    @property
    def schedulers(self) -> list[Any]:
        """The schedulers, one for each optimizer, None where there is none."""
        return list(self.trainer.scheduler)

    def detach_schedulers(self) -> None:
        """Take the schedulers off the Trainer: nothing but the phases moves the learning rate then.

        OneCycleLR and CyclicLR have put a momentum of their own into the groups; that of the optimizer is put back.
        """
        for optimizer, scheduler in zip(self.optimizers, self.trainer.scheduler, strict=False):
            if scheduler is None:
                continue
            for group in optimizer.param_groups:
                for key in ("betas", "momentum"):
                    if "max_momentum" in group and key in optimizer.defaults:
                        group[key] = optimizer.defaults[key]
        self.trainer.scheduler = [None] * len(self.trainer.scheduler)

    @property
    def scheduler(self) -> str:
        """The schedulers in effect and when they step."""
        names = [type(s).__name__ for s in self.trainer.scheduler if s is not None]
        if not names:
            return "none"
        return f"{', '.join(names)}, stepped per {'epoch' if self.config.scheduler_after_epoch else 'step'}"

    # What a phase may change

    @property
    def grad_clip(self) -> Any:
        """The largest gradient norm, 0 or None for none; a list with several optimizers."""
        return self.config.grad_clip

    @grad_clip.setter
    def grad_clip(self, norm: Any) -> None:
        self.config.grad_clip = norm

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches an update; the logged train `loss` is divided by it."""
        return int(self.trainer.grad_accum_steps)

    @grad_accum_steps.setter
    def grad_accum_steps(self, steps: int) -> None:
        self.trainer.grad_accum_steps = steps

    def freeze(self, patterns: Sequence[str]) -> None:
        """Let the parameters whose names match train no more, and those again that the call before has frozen.

        Raises:
            UserError: a pattern that matches no trained parameter, or nothing is left to train.
        """
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []
        if not patterns:
            return
        trained = {id(p) for o in self.optimizers for group in o.param_groups for p in group["params"]}
        named = {name: p for name, p in self.trainer._get_model().named_parameters() if id(p) in trained}
        for pattern in patterns:
            matching = [p for name, p in named.items() if fnmatchcase(name, pattern)]
            if not matching:
                raise UserError(f"freeze {pattern!r} matches no trained parameter; they are called like {min(named)}.")
            self._frozen += [p for p in matching if p.requires_grad]
            for parameter in matching:
                parameter.requires_grad_(False)
                parameter.grad = None
        if not any(p.requires_grad for p in named.values()):
            raise UserError(f"freeze {', '.join(patterns)} leaves nothing to train.")

    @property
    def has_gradients(self) -> bool:
        """Whether gradients wait for their update."""
        return any(self.updates.gradients(number) for number in range(len(self.optimizers)))

    def clear_gradients(self) -> None:
        """Forget every gradient that waits for its update."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def forget_optimizer_state(self) -> None:
        """Let every optimizer begin anew, with its groups and their settings as they are."""
        for optimizer in self.optimizers:
            optimizer.state.clear()

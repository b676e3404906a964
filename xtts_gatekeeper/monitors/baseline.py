"""The checklist's baseline: what is really in effect when a process begins, next to what was asked for."""

from __future__ import annotations

import math
from typing import Any

from xtts_gatekeeper import privacy
from xtts_gatekeeper.dataset.guard import Data
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.gates import Policy
from xtts_gatekeeper.record import Start
from xtts_gatekeeper.trainer_port import TrainerPort


def baseline(
    port: TrainerPort,
    policy: Policy,
    data: Data,
    phase_lr: float | None,
    warnings: list[str],
) -> Start:
    """Read the baseline off a Trainer that is ready to train.

    Args:
        port: the Trainer.
        policy: the rules in force.
        data: what is trained on and evaluated on.
        phase_lr: the learning rate of the phase in effect; None without phases.
        warnings: sentences to begin with; more are added where something is not as it was asked for.
    """
    config = port.config
    in_effect = port.learning_rates
    requested = port.learning_rates_requested if phase_lr is None else [phase_lr] * len(port.optimizers)
    if not all(
        math.isclose(lr, want, rel_tol=1e-9)
        for rates, want in zip(port.learning_rates_by_optimizer, requested, strict=False)
        for lr in rates
    ):
        warnings.append(
            f"LR {_join(in_effect)} is in effect where the config asks for {_join(requested)}; continue_path restores "
            "the optimizer's own, phases set it"
        )
    if late := privacy.too_late():
        warnings.append(f"set too late to count: {', '.join(late)}; import xtts_gatekeeper before trainer and TTS")
    if config.run_eval and data.eval_set is None:
        warnings.append("the model does not say which clips it evaluates on: a changed eval set would go unnoticed")
    if not config.run_eval:
        warnings.append("run_eval is false: no evaluations, so no verdict and no best model")
    return Start(
        step=port.step,
        epoch=port.epoch,
        device=port.device,
        precision=port.precision,
        precision_requested=port.precision_requested,
        scheduler=port.scheduler if phase_lr is None else "overridden by the phases",
        lr=in_effect,
        lr_requested=requested,
        batch_size=config.batch_size,
        grad_accum_steps=port.grad_accum_steps,
        epochs_planned=config.epochs,
        train_clips=data.train_clips,
        train_set=data.train_set,
        eval_clips=data.eval_clips,
        eval_set=data.eval_set,
        eval_clips_trained_on=None if data.leaks is None else len(data.leaks),
        leaked=list(data.leaks or ()),
        resumed_from=port.resumed_from,
        resume_mode="new" if not port.resumed_from else "continue" if port.continued else "restore",
        versions=port.versions,
        telemetry=privacy.state(),
        objective=policy.objective,
        policy_hash=policy.hash,
        warnings=warnings,
    )


def usable_eval_samples(port: TrainerPort) -> list[Any] | None:
    """The clips that the evaluations will use; None without evaluations, or when the model does not say.

    Raises:
        UserError: there are none: every evaluation would be empty, which the Trainer takes for the best ever.
    """
    if not port.config.run_eval:
        return None
    empty = UserError(
        "the eval set is empty: give eval samples that the model can use (XTTS drops clips that it cannot read, that "
        "are shorter than 0.5 s or longer than max_wav_length), or set run_eval to false."
    )
    try:
        samples = port.build_eval_loader()
    except AssertionError:  # the Trainer's own check of the loader's length
        raise empty from None
    except Exception as error:
        raise UserError(f"the eval set cannot be used: {type(error).__name__}: {error}.") from error
    if samples is not None and not samples:
        raise empty
    return samples


def _join(rates: list[float]) -> str:
    return ", ".join(f"{lr:g}" for lr in rates)

"""All knowledge of the Coqui Trainer's internals (`coqui-tts-trainer` 0.4) and the models' private corners.

Nothing outside this folder reaches into `trainer` or `TTS` objects. Instance methods are wrapped, never replaced in the
class; `process.py` has the few module functions that are wrapped because they work before there is an instance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from xtts_gatekeeper.trainer_port.device import DevicePort
from xtts_gatekeeper.trainer_port.position import PositionPort
from xtts_gatekeeper.trainer_port.process import unchanged_rng
from xtts_gatekeeper.trainer_port.state import StatePort

# `trainer` and torch are imported inside functions: gatekeep() may run before the recipe imports them.

#: Flags that the Trainer itself reads from the command line (the fields of its `TrainerArgs`).
TRAINER_FLAGS = (
    "--continue_path",
    "--restore_path",
    "--best_path",
    "--use_ddp",
    "--use_accelerate",
    "--grad_accum_steps",
    "--overfit_batch",
    "--skip_train_epoch",
    "--start_with_eval",
    "--small_run",
    "--gpu",
    "--rank",
    "--group_id",
)


class StopTraining(BaseException):
    """Leaves the Trainer's loops; its text says why, and `cause` is that of the `End` on record.

    A BaseException, so that no `except Exception` on the way takes it for a failure.
    """

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class TrainerPort(StatePort, DevicePort, PositionPort):
    """One Trainer, seen through what the gatekeeper needs of it."""

    # Data

    @property
    def train_samples(self) -> list[Any] | None:
        """The training clips as given to the Trainer; None when a loader was given instead."""
        samples: list[Any] | None = self.trainer.train_samples
        return samples

    @train_samples.setter
    def train_samples(self, samples: list[Any]) -> None:
        self.trainer.train_samples = samples

    @property
    def eval_samples(self) -> list[Any] | None:
        """The clips to evaluate with as given to the Trainer; None when a loader was given instead."""
        samples: list[Any] | None = self.trainer.eval_samples
        return samples

    @eval_samples.setter
    def eval_samples(self, samples: list[Any]) -> None:
        self.trainer.eval_samples = samples

    @property
    def xtts(self) -> Any:
        """The `Xtts` inside of the model, which speaks; None for another model."""
        return getattr(self.trainer._get_model(), "xtts", None)

    @property
    def tokenizer(self) -> Any:
        """XTTS's tokenizer; None for another model."""
        return getattr(self.xtts, "tokenizer", None)

    def build_eval_loader(self) -> list[Any] | None:
        """Build the Trainer's eval loader now and return the clips it will really use (None when it does not say).

        XTTS drops every eval clip it cannot load, which stock code notices after the first epoch at the earliest.
        The Trainer uses this loader later, so the work is not done twice.
        """
        trainer = self.trainer
        with unchanged_rng():
            if trainer.eval_loader is None:
                trainer.eval_loader = trainer.get_eval_dataloader(trainer.eval_samples)
        samples = getattr(trainer.eval_loader.dataset, "samples", None)
        return list(samples) if isinstance(samples, list) else None

    @property
    def loss_weights(self) -> dict[str, tuple[str, float]]:
        """Logged key -> (our name, weight that the logged value carries); a loss of weight 0 has lost its value."""
        args = getattr(self.config, "model_args", None)
        weights = {name: float(getattr(args, f"gpt_loss_{name}_weight", 1.0)) for name in ("mel_ce", "text_ce")}
        return {f"loss_{name}": (name, weight) for name, weight in weights.items() if weight}

    def target_loss(self, metrics: Mapping[str, float]) -> float:
        """What the Trainer picks its best by, out of exact `eval.*` metrics; NaN when it is not among them.

        That is `target_loss` of the config, or `loss`, or with several optimizers the mean of `loss_0`, `loss_1`, ...
        """
        if target := getattr(self.config, "target_loss", None):
            return metrics.get(f"eval.{target}", math.nan)
        several = [metrics.get(f"eval.loss_{number}", math.nan) for number in range(len(self.trainer.optimizer))]
        return metrics.get("eval.loss", math.nan) if len(several) == 1 else sum(several) / len(several)

    @property
    def sample_rate(self) -> int | None:
        """The sample rate of the audio in a batch, in Hz; None when the config does not say."""
        rate = getattr(getattr(self.config, "audio", None), "sample_rate", None)
        return int(rate) if rate else None

    @property
    def _batches(self) -> int:
        samples = self.train_samples
        return -(-len(samples) // max(1, int(self.config.batch_size))) if samples is not None else 0

    @property
    def steps_per_epoch(self) -> int:
        """Micro-batches of an epoch; before the Trainer has built its loader, about."""
        loader = self.trainer.train_loader
        return len(loader) if loader is not None else max(1, self._batches)

    def update_due(self, batches: int, index: int, *rest: Any) -> bool:
        """Whether the batch of this `index` in an epoch of so many `batches` is to bring an update."""
        return (index + 1) % self.grad_accum_steps == 0 or index + 1 == batches

    @property
    def planned_steps(self) -> int:
        """Micro-batches of the whole run, about: a model's dataset may leave clips out."""
        return int(self.config.epochs) * self._batches

    def stock_means(self, side: str) -> dict[str, float]:
        """The means that the Trainer prints for the epoch, by the keys it logs; of the `train` or the `eval` side."""
        average = self.trainer.keep_avg_train if side == "train" else self.trainer.keep_avg_eval
        values = average.avg_values if average is not None else {}
        return {name.removeprefix("avg_"): float(value) for name, value in values.items()}

    def loss_alone(self, batch: Mapping[str, Any]) -> float:
        """The loss of a formatted batch by itself: without gradient, without dropout, and leaving no trace."""
        import torch

        modes = [(module, module.training) for module in self.trainer.model.modules()]
        try:
            with unchanged_rng(), torch.no_grad():
                self.trainer.model.eval()
                _, losses = self.trainer._compute_loss(dict(batch), self.trainer.criterion[0], None)
                return float(losses["loss"]) if losses else math.nan
        finally:
            for module, training in modes:
                module.training = training

    # Leaving

    def left_by_exception(self, *, in_training: bool) -> None:
        """Put back what an exception thrown out of the loops leaves behind.

        Args:
            in_training: whether an epoch was being trained. Otherwise an evaluation may have been cut short, and what
                it had averaged is forgotten, so that no file carries it as an evaluation's loss.
        """
        import torch
        from trainer.generic_utils import KeepAverage

        torch.set_grad_enabled(True)
        if not in_training and self.trainer.keep_avg_eval is not None:
            self.trainer.keep_avg_eval = KeepAverage()

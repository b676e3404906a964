"""The state of a training: what a checkpoint holds of it, and putting one back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xtts_gatekeeper.checkpoints.weights import XTTS_DVAE
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.trainer_port.learning import LearningPort


class StatePort(LearningPort):
    """The part of the port that saving and rewinding work with."""

    def state(self, epoch: int) -> dict[str, Any]:
        """Model, optimizer, scheduler and counters, just as the stock `save_checkpoint` would write them now.

        The tensors are the live ones. The stock code builds the state; only the call that would write it is caught.
        """
        from trainer import io

        trainer = self.trainer
        caught: dict[str, Any] = {}
        stock = io.save_fsspec
        io.save_fsspec = lambda state, path, **kwargs: caught.update(state)
        try:
            io.save_model(
                trainer.config,
                trainer._get_model(),
                "",
                current_step=self.step,
                epoch=epoch,
                optimizer=trainer.optimizer,
                scheduler=trainer.scheduler,
                scaler=trainer.scaler if trainer.use_amp_scaler else None,
                model_loss=self.stock_losses(),
            )
        finally:
            io.save_fsspec = stock
        return caught

    def load_state(self, state: Mapping[str, Any]) -> bool:
        """Put a saved state's weights in place, in the middle of a training; counters and learning rates stay.

        With an optimizer's state in it that goes in, too; without one every optimizer begins anew, for the moments of
        other weights would lead astray. A gradient scaler stays as it is where there is no state of one.

        Args:
            state: what was saved; weights that the model reads from a file of their own may be missing.

        Returns:
            Whether the optimizers' states were restored, too.

        Raises:
            UserError: it is the state of another model; nothing has been changed then.
        """
        model = self.trainer._get_model()
        own = model.state_dict()
        missing = [name for name in own if name not in state["model"] and not name.startswith(self.reloaded_weights)]
        other = [n for n, value in state["model"].items() if n not in own or own[n].shape != value.shape]
        if missing or other:
            raise UserError(f"the file is of another model: {(missing + other)[0]} does not fit.")
        model.load_state_dict(state["model"], strict=False)
        self.clear_gradients()
        saved = state.get("optimizer")
        if saved:
            for optimizer, one in zip(self.optimizers, saved if isinstance(saved, list) else [saved], strict=True):
                optimizer.load_state_dict(one)
        else:
            self.forget_optimizer_state()
        if self.trainer.scaler is not None and state.get("scaler"):
            self.trainer.scaler.load_state_dict(state["scaler"])
        return bool(saved)

    @property
    def reloaded_weights(self) -> tuple[str, ...]:
        """Beginnings of the names of weights that the model reads from a file of their own whenever it is built."""
        args = getattr(self.config, "model_args", None)
        if hasattr(self.trainer._get_model(), "xtts") and getattr(args, "dvae_checkpoint", None):
            return XTTS_DVAE
        return ()

    def optimizer_bytes_to_come(self) -> int:
        """Bytes that the optimizers' states will take once they have made an update; 0 when they have.

        For an optimizer that is not known the two moments of Adam are assumed.
        """
        size = 0
        for optimizer in self.optimizers:
            if optimizer.state:
                continue
            for group in optimizer.param_groups:
                slots = _slots(type(optimizer).__name__, group)
                size += slots * sum(p.numel() * p.element_size() for p in group["params"] if p.requires_grad)
        return size

    def save_checkpoint(self) -> None:
        """Save as the Trainer does, or as whatever has been wrapped around that."""
        self.trainer.save_checkpoint()

    def stock_losses(self) -> dict[str, float | None]:
        """The two losses a stock checkpoint carries, for a stock run that continues from it."""

        def pick(average: Any) -> float | None:
            try:
                loss: float | None = self.trainer._pick_target_avg_loss(average)
            except ValueError:  # target_loss has no value yet, as in the middle of a first evaluation
                return None
            return loss

        return {"train_loss": pick(self.trainer.keep_avg_train), "eval_loss": pick(self.trainer.keep_avg_eval)}


def _slots(optimizer: str, options: Mapping[str, Any]) -> int:
    """How many values of a parameter's size an optimizer of this class keeps for each parameter."""
    if optimizer == "SGD":
        return int(bool(options.get("momentum")))
    if optimizer == "RMSprop":
        return 1 + bool(options.get("momentum")) + bool(options.get("centered"))
    if optimizer in ("Adagrad", "Lion"):
        return 1
    return 2 + bool(options.get("amsgrad"))

"""All knowledge of the Coqui Trainer's internals (`coqui-tts-trainer` 0.4) and the models' private corners.

Nothing outside this folder reaches into `trainer` or `TTS` objects. Instance methods are wrapped, never replaced in the
class; `process.py` has the few module functions that are wrapped because they work before there is an instance.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from xtts_gatekeeper import host_memory
from xtts_gatekeeper.checkpoints.weights import XTTS_DVAE
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.phases.progress import Progress, progress_at
from xtts_gatekeeper.trainer_port.process import unchanged_rng
from xtts_gatekeeper.trainer_port.updates import Updates

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
    """Leaves the Trainer's loops; its text says why.

    A BaseException, so that no `except Exception` on the way takes it for a failure.
    """


@dataclass(frozen=True)
class Memory:
    """Bytes of a `device` (`cuda`, `mps`, `cpu`): `used` by any process, `total`, and `own` of this process."""

    device: str
    used: int
    total: int
    own: int

    @property
    def share(self) -> float:
        """The share that is in use, 0 to 1."""
        return self.used / self.total if self.total else 0.0


class TrainerPort:
    """One Trainer, seen through what the gatekeeper needs of it."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.in_step = False
        #: Training steps done in the current epoch; of the last one while it is evaluated.
        self.step_in_epoch = 0
        self.updates = Updates(trainer)
        self._frozen: list[Any] = []

    # Where the run stands

    @property
    def run_folder(self) -> Path:
        """The folder the Trainer really uses: `output_path/run_name-date-commit`."""
        return Path(self.trainer.output_path)

    @property
    def step(self) -> int:
        """GLOBAL_STEP: micro-batches done."""
        return int(self.trainer.total_steps_done)

    @property
    def steps_trained(self) -> int:
        """Micro-batches whose effect the weights hold: inside a step the counter is one behind.

        The Trainer saves inside a step, so its `checkpoint_N` holds N + 1, while its `best_model_N` holds N.
        """
        return self.step + self.in_step

    @property
    def epoch(self) -> int:
        """The epoch as the Trainer prints it, from 0."""
        return int(self.trainer.epochs_done)

    @property
    def steps_per_epoch(self) -> int:
        """Micro-batches of an epoch; before the Trainer has built its loader, about."""
        loader = self.trainer.train_loader
        return len(loader) if loader is not None else max(1, self._batches)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return int(self.trainer.args.rank or 0) == 0

    @property
    def continued(self) -> bool:
        """Whether the run goes on in its own folder (`continue_path`)."""
        return bool(self.trainer.continue_run)

    @property
    def resumed_from(self) -> str | None:
        """The checkpoint that was loaded, if any."""
        return self.trainer.args.restore_path or None

    def resume_from(self, file: Path) -> None:
        """Choose the checkpoint; only before the Trainer has loaded it."""
        self.trainer.args.restore_path = str(file)

    @property
    def starts_with_evaluation(self) -> bool:
        """Whether the first epoch of this process evaluates and does not train."""
        return bool(self.trainer.start_with_eval)

    @property
    def config(self) -> Any:
        """The Coqui config. `load_json` replaces its sections: read them anew, never keep a reference."""
        return self.trainer.config

    def log(self, message: str) -> None:
        """A line in the Trainer's own log and on the console."""
        logging.getLogger("trainer").info(" > gatekeeper: %s", message)

    def dashboard_scalars(self, scope: str, values: Mapping[str, float]) -> None:
        """Log `scope/name` for every value to the Trainer's dashboard, at the current step."""
        self.trainer.dashboard_logger.add_scalars(scope, dict(values), self.step)

    def dashboard_text(self, title: str, text: str) -> None:
        """Log a text to the Trainer's dashboard, at the current step."""
        self.trainer.dashboard_logger.add_text(title, text, self.step)

    # Hooks

    def wrap(self, name: str, around: Callable[..., Any]) -> None:
        """Replace the instance method `name` by `around(original, *args, **kwargs)`."""
        original = getattr(self.trainer, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        setattr(self.trainer, name, wrapped)

    def around_updates(self, before: Callable[[int], None], after: Callable[[int], None]) -> None:
        """Call `before(number)` and `after(number)` around every update of optimizer `number`."""
        self.updates.around(before, after)

    # Learning rate

    @property
    def optimizers(self) -> list[Any]:
        """The torch optimizers, Accelerate's wrappers taken off."""
        return [getattr(optimizer, "optimizer", optimizer) for optimizer in self.trainer.optimizer]

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
        several = len(self.optimizers) > 1 and isinstance(norm, float | int)
        self.config.grad_clip = [norm] * len(self.optimizers) if several else norm

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
        if self.trainer.use_amp_scaler and not self.grad_clip:
            raise UserError(
                "freeze with a gradient scaler needs a grad_clip: the Trainer fails in its norm without one."
            )

    @property
    def has_gradients(self) -> bool:
        """Whether gradients wait for their update."""
        return any(self.updates.gradients(number) for number in range(len(self.optimizers)))

    def forget_optimizer_state(self) -> None:
        """Let every optimizer begin anew, with its groups and their settings as they are."""
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def carried_progress(self, objective: str) -> Progress | None:
        """Where in its phases the run stood whose checkpoint was restored, as the file or the run around it tells."""
        from xtts_gatekeeper.checkpoints.contents import Unreadable, UnsafePickle, peek
        from xtts_gatekeeper.checkpoints.resume import record_of

        file = Path(self.resumed_from or "")
        try:
            contents = peek(file)
        except (Unreadable, UnsafePickle):  # a base of another format, or one that stock code loads all the same
            return None
        if contents.carried is not None:
            return Progress.restored(contents.carried)
        step = contents.step
        found = None if step is None else progress_at(record_of(file.parent), step + 1, objective)
        if found is None or step is None:
            return None
        return Progress.restored(found.to_dict(step, contents.epoch or 0))

    # Device, precision, versions

    @property
    def device(self) -> str:
        """Where the model's parameters are."""
        import torch

        device = next(self.trainer.model.parameters()).device
        return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)

    @property
    def precision(self) -> str:
        """The type in which the forward pass really computes: on a CPU mixed precision is bfloat16, asked or not."""
        import torch

        if self.config.mixed_precision:
            _, dtype = self.trainer._get_autocast_args(mixed_precision=True, precision=self.config.precision)
            return f"{dtype} autocast".removeprefix("torch.")
        tf32 = self.trainer.use_cuda and torch.backends.cuda.matmul.allow_tf32
        return str(next(self.trainer.model.parameters()).dtype).removeprefix("torch.") + (
            " (TF32 matmul)" if tf32 else ""
        )

    @property
    def precision_requested(self) -> str:
        """What the config asks for."""
        return f"{self.config.precision} mixed precision" if self.config.mixed_precision else "float32"

    @property
    def versions(self) -> dict[str, str]:
        """Versions of everything a result may depend on."""
        found = {"python": platform.python_version(), "platform": platform.platform()}
        for package in ("xtts-gatekeeper", "coqui-tts", "coqui-tts-trainer", "torch", "torchaudio", "transformers"):
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = "not installed"
        return found

    def memory(self) -> Memory:
        """The memory of the device at this moment."""
        import torch

        device = next(self.trainer.model.parameters()).device.type
        if device == "cuda":
            free, total = torch.cuda.mem_get_info()
            return Memory("cuda", total - free, total, torch.cuda.memory_allocated())
        if device == "mps":
            total = torch.mps.recommended_max_memory()
            return Memory("mps", torch.mps.driver_allocated_memory(), total, torch.mps.current_allocated_memory())
        total = host_memory.total_bytes()
        return Memory("cpu", total - host_memory.available_bytes(), total, host_memory.process_bytes())

    def peak_device_bytes(self) -> int | None:
        """The most that tensors took on a CUDA device since the last call; None on others, which do not count it."""
        import torch

        if not self.on_gpu:
            return None
        peak = int(torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        return peak

    # Data

    @property
    def train_samples(self) -> list[Any] | None:
        """The training clips as given to the Trainer; None when a loader was given instead."""
        samples: list[Any] | None = self.trainer.train_samples
        return samples

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

    # Files

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

    @property
    def accelerated(self) -> bool:
        """Whether Hugging Face Accelerate does the updates."""
        return bool(self.trainer.use_accelerate)

    @property
    def loss_scale(self) -> float | None:
        """The scale of the gradient scaler that looks after the updates (fp16); None without one. Waits for a GPU."""
        return float(self.trainer.scaler.get_scale()) if self.updates.scaler_at_work else None

    @property
    def sample_rate(self) -> int | None:
        """The sample rate of the audio in a batch, in Hz; None when the config does not say."""
        rate = getattr(getattr(self.config, "audio", None), "sample_rate", None)
        return int(rate) if rate else None

    @property
    def on_gpu(self) -> bool:
        """Whether the model is on a CUDA device."""
        return bool(self.trainer.use_cuda)

    @property
    def _batches(self) -> int:
        samples = self.train_samples
        return -(-len(samples) // max(1, int(self.config.batch_size))) if samples is not None else 0

    @property
    def planned_steps(self) -> int:
        """Micro-batches of the whole run, about: a model's dataset may leave clips out."""
        return int(self.config.epochs) * self._batches

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

    def clear_gradients(self) -> None:
        """Forget every gradient that waits for its update."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

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


def _slots(optimizer: str, options: Mapping[str, Any]) -> int:
    """How many values of a parameter's size an optimizer of this class keeps for each parameter."""
    if optimizer == "SGD":
        return int(bool(options.get("momentum")))
    if optimizer == "RMSprop":
        return 1 + bool(options.get("momentum")) + bool(options.get("centered"))
    if optimizer in ("Adagrad", "Lion"):
        return 1
    return 2 + bool(options.get("amsgrad"))

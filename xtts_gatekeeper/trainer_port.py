"""All knowledge of the Coqui Trainer's internals (`coqui-tts-trainer` 0.4) and the models' private corners.

Nothing else in the package reaches into `trainer` or `TTS` objects. Instance methods are wrapped, never replaced in
the class; the one module function that is wrapped (`unique_run_folders`) works before there is an instance.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import platform
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.weights import XTTS_DVAE
from xtts_gatekeeper.checkpoints.writer import sync_file
from xtts_gatekeeper.errors import UserError

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

_claimed: set[Path] = set()


class StopTraining(BaseException):
    """Leaves the Trainer's loops; its text says why.

    A BaseException, so that no `except Exception` on the way takes it for a failure.
    """


class TrainerPort:
    """One Trainer, seen through what the gatekeeper needs of it."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.in_step = False

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
    def scheduler(self) -> str:
        """The schedulers in effect and when they step."""
        names = [type(s).__name__ for s in self.trainer.scheduler if s is not None]
        if not names:
            return "none"
        return f"{', '.join(names)}, stepped per {'epoch' if self.config.scheduler_after_epoch else 'step'}"

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

    def memory(self) -> tuple[str, float]:
        """The kind of device (`cuda`, `mps`, `cpu`) and the share of its memory that is in use, by any process."""
        import torch

        device = next(self.trainer.model.parameters()).device.type
        if device == "cuda":
            free, total = torch.cuda.mem_get_info()
            return "cuda", 1 - free / total
        if device == "mps":
            return "mps", torch.mps.driver_allocated_memory() / torch.mps.recommended_max_memory()
        import psutil

        return "cpu", float(psutil.virtual_memory().percent) / 100

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
    def grad_accum_steps(self) -> int:
        """Micro-batches an update; the logged train `loss` is divided by it."""
        return int(self.trainer.grad_accum_steps)

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
    def on_gpu(self) -> bool:
        """Whether the model is on a CUDA device."""
        return bool(self.trainer.use_cuda)

    @property
    def planned_steps(self) -> int:
        """Micro-batches of the whole run, about: a model's dataset may leave clips out."""
        samples = self.train_samples
        batches = -(-len(samples) // max(1, int(self.config.batch_size))) if samples is not None else 0
        return int(self.config.epochs) * batches

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


@contextmanager
def unchanged_rng() -> Iterator[None]:
    """Put the state of every random number generator back at the end of the block."""
    import numpy
    import torch

    python, arrays, cpu = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(arrays)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def unique_run_folders() -> None:
    """Give every new run of this process a folder of its own.

    The Trainer names a folder by the minute, and two runs of one minute share it; the crash of one deletes the
    other's. The name is made inside `Trainer.__init__`, before any callback, hence the wrap of the function that
    makes it. `mkdir` is what decides, so two processes cannot get the same folder either.
    """
    import trainer.trainer as module

    stock = module.get_experiment_folder_path
    if getattr(stock, "claims_folder", False) or is_distributed():
        return

    def claim(*args: Any, **kwargs: Any) -> Path:
        path = first = Path(stock(*args, **kwargs))
        first.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
                path = first.with_name(f"{first.name}-{number}")
            else:
                _claimed.add(path)
                return path

    claim.claims_folder = True  # type: ignore[attr-defined]
    module.get_experiment_folder_path = claim


def config_in_one_step() -> None:
    """Let the Trainer replace a run's config.json in one step.

    It writes it anew at every start, and a kill meanwhile leaves an empty one: the run cannot be continued then.
    """
    import trainer.trainer as module

    stock = module.copy_model_files
    if getattr(stock, "in_one_step", False):
        return

    def copy(config: Any, out_path: Any, new_fields: Any) -> None:
        old = Path(out_path) / "config.json"
        if "://" in str(out_path) or not old.is_file():
            stock(config, out_path, new_fields)
            return
        with tempfile.TemporaryDirectory(prefix=".starting-", dir=out_path) as folder:
            stock(config, folder, new_fields)
            sync_file(Path(folder) / old.name)
            (Path(folder) / old.name).replace(old)

    copy.in_one_step = True  # type: ignore[attr-defined]
    module.copy_model_files = copy


def is_distributed(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether several processes share this run: then they must agree on the stock name."""
    return int(environ.get("WORLD_SIZE") or 1) > 1 or any(a.startswith("--use_ddp") for a in sys.argv)


def check_rank(environ: Mapping[str, str] = os.environ) -> None:
    """Refuse a leftover rank variable: the Trainer takes a lone process of rank 3 for a helper and saves nothing.

    Raises:
        UserError: naming the variable.
    """
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # in the Trainer's order
    name = next((name for name in names if environ.get(name)), None)
    if name is not None and environ[name] != "0" and not is_distributed(environ):
        raise UserError(
            f"{name}={environ[name]} is set and this process trains alone: the Trainer would save nothing; unset it."
        )


def discard_run_folder(port: TrainerPort) -> None:
    """Remove the folder of a run that was refused before it began, if this process made it for this run alone."""
    if port.run_folder not in _claimed or port.continued:
        return
    logger = logging.getLogger("trainer")
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == port.run_folder.resolve():
            logger.removeHandler(handler)
            handler.close()
    port.trainer.dashboard_logger.finish()
    shutil.rmtree(port.run_folder, ignore_errors=True)

"""The trainings of `survival.py`, and what befalls them: kills, errors and full disks inside of the process."""

# ruff: noqa: D102  (the methods of Tiny are those that the Trainer asks for)

import contextlib
import errno
import io
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import trainer.trainer as module
from trainer import Trainer, TrainerArgs, TrainerConfig, TrainerModel
from trainer.logging.dummy_logger import DummyLogger

from xtts_gatekeeper import gatekeep
from xtts_gatekeeper.checkpoints import disk, room
from xtts_gatekeeper.config import CheckpointsConfig, GatekeeperConfig


@dataclass(frozen=True)
class Case:
    """One training, or one chain of them, and what happens to it.

    `how` is `before`, `during` or `after` for a kill at operation `at` on a checkpoint or the journal; the name of an
    error for one injected there, with a `+` when every later operation fails, too; the kind of file for a flip.
    """

    part: str
    seed: int = 0
    base: str = ""
    at: int = -1
    how: str = ""
    asynchronous: bool = True
    model: str = "tiny"


# The training


class Tiny(TrainerModel):
    """Learns a noisy function of 16 numbers; with `width` 768 a checkpoint has 7 MB, with 128 0.2 MB."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(16, width), torch.nn.Tanh(), torch.nn.Linear(width, width))
        self.out = torch.nn.Linear(width, 1)

    def forward(self, x):
        return self.out(torch.tanh(self.net(x)))

    def inference(self, x, aux_input=None):
        return {}

    @staticmethod
    def init_from_config(config, **kwargs):
        return Tiny(128)

    def get_criterion(self):
        return torch.nn.MSELoss()

    def get_data_loader(self, config, *, is_eval=False, samples=None, verbose=True):
        generator = torch.Generator().manual_seed(1 + is_eval)
        x = torch.randn(24 if is_eval else 48, 16, generator=generator)
        y = x[:, :4].sum(1, keepdim=True) + torch.randn(len(x), 1, generator=generator)
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16 if is_eval else 4)

    def format_batch(self, batch):
        return {"x": batch[0], "y": batch[1]}

    def train_step(self, batch, criterion, optimizer_idx=None):
        return {"y": None}, {"loss": criterion(self(batch["x"]), batch["y"])}

    def eval_step(self, batch, criterion, optimizer_idx=None):
        return self.train_step(batch, criterion, optimizer_idx)

    def evaluate(self) -> float:
        """The eval loss, by samples."""
        with torch.no_grad():
            batches = [(self(x) - y).square().sum().item() for x, y in self.get_data_loader(None, is_eval=True)]
        return sum(batches) / 24


def train(case: Case, folder: Path, run: Path | None, callbacks=None, epochs: int = 1) -> None:
    """Train in this process, from the start or on from `run`."""
    flags = ["--continue_path", str(run), f"--coqpit.epochs={epochs}"] if run is not None else []
    sys.argv = ["recipe.py", *flags]
    keep = "latest:2,best:1" if case.base == "broken" or case.part == "flip" else "latest:1,best:1"
    settings = CheckpointsConfig(keep=keep, asynchronous=case.asynchronous, full_disk_pause_minutes=0.0)
    section = GatekeeperConfig(checkpoints=settings)
    common = {"output_path": str(folder), "run_name": "run", "epochs": epochs, "print_step": 1000}
    if case.model == "xtts":
        config, samples = xtts_config(common)
        from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

        model = GPTTrainer(config)
    else:
        config = TrainerConfig(
            **common, optimizer="Adam", lr=0.01, save_step=4, run_eval_steps=6 if case.part == "random" else 5
        )
        model, samples = Tiny(768 if case.part == "random" else 128), {}
    trainer = Trainer(
        TrainerArgs(),
        config,
        model=model,
        dashboard_logger=DummyLogger(),
        callbacks=gatekeep(config, callbacks, gatekeeper=section),
        **samples,
    )
    trainer.fit()


def xtts_config(common: dict) -> tuple[TrainerConfig, dict]:
    """The toy XTTS as the recipes train it; its files are in `assets()`."""
    from TTS.tts.configs.xtts_config import XttsAudioConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainerConfig

    from xtts_gatekeeper.base import read_base
    from xtts_gatekeeper.data import load_ljspeech
    from xtts_gatekeeper.dataset.split import stable_split

    train_samples, eval_samples = stable_split(load_ljspeech(assets() / "speech"), eval_fraction=0.35)
    config = GPTTrainerConfig(
        **common,
        model_args=GPTArgs(**read_base(assets() / "base").model_args()),
        audio=XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000),
        batch_size=3,
        eval_batch_size=3,
        save_step=3,
        run_eval_steps=4,
        optimizer="AdamW",
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
        lr=1e-3,
    )
    return config, {"train_samples": train_samples, "eval_samples": eval_samples}


def assets() -> Path:
    """Where toy base and speech of this process and its forks lie."""
    return Path(os.environ["SURVIVAL_ASSETS"])


# Blows


class Operations:
    """Counts what this process does to checkpoints, journal and config, and strikes at the chosen operation."""

    def __init__(self, root: Path, at: int, how: str) -> None:
        self.root, self.at, self.how = str(root), at, how
        self.done: list[str] = []
        self._lock = threading.Lock()

    def install(self) -> None:
        """Put ourselves around the functions through which files are changed."""
        for name in ("replace", "rename", "unlink", "link"):
            setattr(os, name, self._around(name, getattr(os, name)))
        sync, save, opened, watch = os.fsync, torch.save, io.open, self

        def fsync(descriptor):
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            return watch.strike("fsync", path, lambda: sync(descriptor))

        def torch_save(state, path, *args, **kwargs):
            return watch.strike("save", path, lambda: save(state, path), lambda: half_saved(path, state, save))

        class Watched(io.FileIO):
            def write(self, data):
                write = super().write
                return watch.strike("write", self.name, lambda: write(data), lambda: write(data[: len(data) // 2]))

        def open_file(path, mode="r", buffering=-1, *args, **kwargs):
            if buffering == 0 and "a" in mode and watch.concerns(path):
                return watch.strike("open", path, lambda: Watched(path, mode.replace("b", "")))
            return opened(path, mode, buffering, *args, **kwargs)

        copy = module.copy_model_files

        def copy_files(config, folder, new_fields):
            path = Path(folder) / "config.json"
            half = lambda: path.write_text("{")  # noqa: E731  (it is written in place)
            return watch.strike("config", path, lambda: copy(config, folder, new_fields), half)

        os.fsync, torch.save, io.open, module.copy_model_files = fsync, torch_save, open_file, copy_files

    def concerns(self, path) -> bool:
        """Whether it is a checkpoint, the journal, the config, or their folder."""
        text = os.fspath(path)
        named = text.endswith((".pth", ".partial", ".jsonl", "config.json"))
        return isinstance(text, str) and text.startswith(self.root) and (named or os.path.isdir(text))  # noqa: PTH112

    def strike(self, name: str, path, act: Callable, half: Callable | None = None):
        """Do `act`, unless it is the one that fails or at which this process dies."""
        if not self.concerns(path):
            return act()
        with self._lock:
            number = len(self.done)
            self.done.append(f"{name} {os.path.basename(path)}")  # noqa: PTH119
        error = self.how.rstrip("+")
        if hasattr(errno, error) and (number == self.at or (self.how.endswith("+") and number >= self.at >= 0)):
            if half is not None:
                half()
            raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)), str(path))
        if number != self.at:
            return act()
        if self.how == "after":
            act()
        elif self.how == "during" and half is not None:
            half()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")

    def _around(self, name: str, stock: Callable) -> Callable:
        def run(path, *args, **kwargs):
            return self.strike(name, path, lambda: stock(path, *args, **kwargs))

        return run


def half_saved(path: Path, state, save: Callable) -> None:
    """The first half of what `torch.save` writes."""
    whole = io.BytesIO()
    save(state, whole)
    Path(path).write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])


def fill(descriptor: int, folder: Path, kept: int) -> None:
    """Leave about `kept` bytes free; a save in flight may take some of the rest while they are counted."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            os.posix_fallocate(descriptor, 0, max(1, shutil.disk_usage(folder).free - kept))
            return


def shortage(case: Case, folder: Path) -> dict[str, Callable]:
    """Callbacks that take away the room for files at one step and, half of the time, give it back at a later one."""
    draw = random.Random(case.seed)
    begin = draw.randint(2, 12)
    end = begin + draw.randint(2, 8) if draw.random() < 0.5 else math.inf
    left = draw.randint(0, 900_000)
    filler = folder.parent / "filler"

    def at_step(trainer) -> None:
        if trainer.total_steps_done == begin:
            if case.part == "limit":
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 + left, resource.RLIM_INFINITY))
            else:
                kept = left + (disk.RESERVE_BYTES if case.how == "guarded" else 0)
                with filler.open("wb") as file:
                    fill(file.fileno(), folder, kept)
        elif trainer.total_steps_done == end:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            filler.unlink(missing_ok=True)

    if case.how != "guarded":  # a disk that does not tell how full it is, as with a quota: writing itself fails
        disk.RESERVE_BYTES = room.RESERVE_BYTES = -(1 << 60)
    return {"on_train_step_start": at_step}


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes at `folder`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "survival", folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def can_mount() -> bool:
    """Whether this user may mount a file system."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder), 1 << 20):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False

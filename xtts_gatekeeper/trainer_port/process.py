"""What is about the process rather than one Trainer: random numbers, run folders, ranks, and module functions."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.checkpoints.writer import sync_file
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.trainer_port.position import random_states, set_random_states

if TYPE_CHECKING:
    from xtts_gatekeeper.trainer_port.port import TrainerPort

# `trainer` and torch are imported inside functions: gatekeep() may run before the recipe imports them.

_claimed: set[Path] = set()


@contextmanager
def unchanged_rng() -> Iterator[None]:
    """Put the state of every random number generator back at the end of the block."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def release_memory() -> None:
    """Give a CUDA device the memory back that the allocator keeps and nobody uses."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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


def keep_run_folders(keep: Callable[[Path], bool]) -> None:
    """Let the Trainer keep the folder of a crashed run without a checkpoint where `keep` says so.

    It removes it with all that could tell why, and on Windows fails in that, for the log is open, and its own error is
    what the user then sees (WinError 32).
    """
    import trainer.trainer as module

    stock = module.remove_experiment_folder
    if getattr(stock, "keeps_evidence", False):
        return

    def remove(path: Any) -> None:
        if "://" not in str(path) and keep(Path(path)):
            logging.getLogger("trainer").info(" ! Run is kept in %s", path)
        else:
            stock(path)

    remove.keeps_evidence = True  # type: ignore[attr-defined]
    module.remove_experiment_folder = remove


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

"""Whose samples are asked for: checkpoints of a run, its base, or sets that were spoken before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.export_check import first_line
from xtts_gatekeeper.checkpoints.lock import writer_of
from xtts_gatekeeper.checkpoints.resume import record_of, resume_file
from xtts_gatekeeper.checkpoints.source import Source, build_xtts, model_of, read_source, vocab_of
from xtts_gatekeeper.errors import UserError, nearest
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.record.sources import find_run
from xtts_gatekeeper.trainer_port import release_memory

#: What `--checkpoint` takes beside the name of a file.
WORDS = ("best", "latest", "previous", "base")


@dataclass(frozen=True)
class Target:
    """Weights to speak with.

    `file` is a checkpoint of the Trainer, or the base's weights where `base`; None means the newest set that was spoken
    before the `best` of the run. `run` is the folder that it belongs to, None for a file that lies alone.
    """

    run: Path | None
    file: Path | None
    base: bool = False


@dataclass(frozen=True)
class Loaded:
    """A model that speaks, and whose weights it has."""

    xtts: Any
    step: int
    epoch: int | None
    weights: str


def find_targets(paths: Sequence[Path], checkpoints: Sequence[str]) -> list[Target]:
    """What to speak with.

    Args:
        paths: run folders and checkpoints.
        checkpoints: which of a run's: `WORDS`, or names of files in it; by default the samples before the best, and
            the best.

    Raises:
        UserError: nothing there, nothing whole, or no such word.
    """
    found = []
    for path in paths:
        if path.is_file():
            if checkpoints and len(paths) == 1:
                raise UserError(f"--checkpoint chooses among a run's, and {path} is one file; give the run's folder.")
            found.append(Target(run_of(path.resolve()), resume_file(path)))
            continue
        run = _run_folder(path)
        found += [_in_run(run, word) for word in checkpoints or ("previous", "best")]
    return found


def run_of(file: Path) -> Path | None:
    """The run that a checkpoint belongs to, where it lies in one of ours or in one that the Trainer has written."""
    folder = file.parent
    return folder if (folder / FOLDER).is_dir() or (folder / "config.json").is_file() else None


def _run_folder(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} does not exist; give the folder of a run or one of its checkpoints.")
    try:
        return find_run(path)
    except UserError:
        return path.resolve()


def _in_run(run: Path, word: str) -> Target:
    if word == "previous":
        return Target(run, None)
    if word == "base":
        return Target(run, _base_of(run), base=True)
    if word in ("best", "latest"):
        return Target(run, resume_file(run, "best" if word == "best" else "latest"))
    for file in (run / word, Path(word)):
        if file.is_file():
            return Target(run, resume_file(file))
    names = [*WORDS, *(file.name for file in run.glob("*.pth"))]
    raise UserError(f"{run} has no checkpoint {word!r}, {nearest(word, names)}")


def _base_of(run: Path) -> Path:
    config = config_of(run)
    named = str((config.get("model_args") or {}).get("xtts_checkpoint") or "")
    if not named:
        raise UserError(f"{run} names no base (model_args.xtts_checkpoint): it began with random weights.")
    if not Path(named).is_file():
        raise UserError(f"the run's base {named} is not there; put it back, or give its file as a checkpoint's.")
    return Path(named)


def config_of(run: Path) -> dict[str, Any]:
    """The run's config.json.

    Raises:
        UserError: it cannot be read.
    """
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{run / 'config.json'} cannot be read ({type(error).__name__}); give a run's folder."
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"{run / 'config.json'} is no config of a run.")
    return config


@contextmanager
def loaded(target: Target, device: str) -> Iterator[Loaded]:
    """The model of a target, on its device, until the block ends.

    Raises:
        UserError: the file is no XTTS, or its run's files are missing.
    """
    assert target.file is not None
    found = _load_base(target) if target.base else _load_checkpoint(target)
    try:
        found.xtts.to(device)
        yield found
    finally:
        found.xtts.to("cpu")
        del found
        release_memory()


def _load_checkpoint(target: Target) -> Loaded:
    assert target.file is not None
    source = read_source(target.file)
    model = model_of(source, vocab_of(source))
    model.train(False)
    return Loaded(model, _step_of(target, source), source.epoch, target.file.name)


def _step_of(target: Target, source: Source) -> int:
    """The micro-batches that the weights hold: one more than a file says that was saved inside of a step."""
    assert target.file is not None
    if target.run is None:
        return source.step
    known = {file.path: file.step for file in record_of(target.run).files}
    return known.get(target.file.name, source.step)


def _load_base(target: Target) -> Loaded:
    assert target.run is not None and target.file is not None
    config = config_of(target.run)
    model = build_xtts(config, vocab_of(Source(target.run / "config.json", config, {}, 0, 0)))
    try:
        state = model.get_compatible_checkpoint_state_dict(str(target.file))
        model.load_state_dict(state, strict=False)  # as the GPTTrainer does
    except Exception as error:  # torch meets a foreign file with a dozen kinds of error
        raise UserError(f"the base {target.file} cannot be read as an XTTS ({first_line(error)}).") from None
    model.train(False)
    return Loaded(model, 0, None, "base")


def choose_device(asked: str | None, runs: Sequence[Path]) -> str:
    """Where to speak: a GPU where there is one and none of the runs is being trained, on it perhaps.

    Raises:
        UserError: a GPU was asked for and there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise UserError("--device cuda: torch finds no CUDA device; use cpu.")
    if asked is not None:
        return asked
    return "cuda" if available and not any(writer_of(run) for run in runs) else "cpu"

"""A folder that `TTS` and `Xtts.load_checkpoint` open, compared with the checkpoint before it gets its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints import export_card
from xtts_gatekeeper.checkpoints.export_check import compare, first_line
from xtts_gatekeeper.checkpoints.resume import resume_file
from xtts_gatekeeper.checkpoints.source import Source, model_of, read_source, stock_stack, vocab_of
from xtts_gatekeeper.checkpoints.writer import PARTIAL, sync_file, sync_folder
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.sources import find_run

#: Fields of `XttsArgs` that hold a path: `Xtts` finds every file it needs in the folder.
_PATHS = ("tokenizer_file", "gpt_checkpoint", "clvp_checkpoint", "decoder_checkpoint")

_ROOM = 64 << 20  # bytes for everything but weights, beside the copied files


@dataclass(frozen=True)
class Exported:
    """A finished export. `bytes` is the size of all `files`, which are names in `folder`; so are `references`.

    `max_difference` is the largest difference of an output between checkpoint and export, as a share of the output's
    root mean square: exactly 0 in full precision.
    """

    folder: Path
    checkpoint: Path
    step: int
    bytes: int
    files: tuple[str, ...]
    half: bool
    safetensors: bool
    max_difference: float
    references: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The export as `export --json` prints it."""
        return {**asdict(self), "folder": str(self.folder), "checkpoint": str(self.checkpoint)}


def export(
    path: Path,
    output: Path,
    *,
    half: bool = False,
    safetensors: bool = False,
    references: Sequence[Path] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write the model of a run or checkpoint to the folder `output`, load it from there and compare.

    Args:
        path: a run folder, of which the best checkpoint is taken, or a checkpoint file.
        output: the new folder; there only when everything in it has been read back and compared.
        half: store the weights with 16 bits. XTTS loads them into its 32-bit modules.
        safetensors: write `model.safetensors` beside `model.pth`.
        references: clips of the voice to put in; by default those that the run names.
        say: told what is being done.

    Raises:
        UserError: the `train` extra is missing, something given cannot be used, or `output` cannot be written.
        ExportFailed: the written model is not the same.
    """
    output = output.resolve()
    _check_free(output)
    file = resume_file(_run_folder(path), "best")
    for reference in references:
        if not reference.is_file():
            raise UserError(f"the reference {reference} is no file; give a clip of the voice.")
    say(f"loading the stock stack (torch, TTS) and {file.name} ...")
    with stock_stack("export"):
        source = read_source(file)
        vocab = vocab_of(source)
        clips = export_card.choose_clips(file.parent, source.config, references)
        beside = _speakers(source, vocab)
        model = model_of(source, vocab)
        weights = _storable(model, half, file)
        with _building(output, _size(weights) * (1 + safetensors), [vocab, *beside, *(clip.path for clip in clips)]):
            partial = _partial(output)
            say(f"writing {output.name}: {_size(weights) / 1e9:.2f} GB of weights ...")
            _write_weights(partial, weights, source, safetensors)
            _write_beside(partial, source, model, vocab, beside, clips)
            say("reading it back and comparing weights and outputs ...")
            difference = compare(partial, weights, model, half, safetensors)
            card = export_card.card(file, source, clips, beside=bool(beside), half=half, difference=difference)
            (partial / "README.md").write_text(card, encoding="utf-8")
    files = sorted(item.relative_to(output).as_posix() for item in output.rglob("*") if item.is_file())
    return Exported(
        folder=output,
        checkpoint=file,
        step=source.step,
        bytes=sum((output / name).stat().st_size for name in files),
        files=tuple(files),
        half=half,
        safetensors=safetensors,
        max_difference=difference,
        references=tuple(clip.name for clip in clips),
    )


# What is exported


def _run_folder(path: Path) -> Path:
    """The run folder meant by `path`, as the offline verbs find it; `path` itself where nothing tells."""
    if not path.is_dir():
        return path
    try:
        return find_run(path)
    except UserError:
        return path


def _speakers(source: Source, vocab: Path) -> list[Path]:
    """The base's file of studio speakers, when there is one."""
    base = str(source.model_args.get("xtts_checkpoint") or "")
    folders = [vocab.parent, *([Path(base).parent] if base else [])]
    return [file for folder in folders if (file := folder / "speakers_xtts.pth").is_file()][:1]


def _storable(model: Any, half: bool, file: Path) -> dict[str, Any]:
    """The tensors to store. `half` rounds parameters; buffers are statistics, small, and stay as they are."""
    import torch

    weights: dict[str, Any] = model.state_dict()
    if not half:
        return weights
    buffers = {name for name, _ in model.named_buffers()}
    rounded = {
        name: tensor if name in buffers or not tensor.is_floating_point() else tensor.half()
        for name, tensor in weights.items()
    }
    for name, tensor in rounded.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{name} of {file} is beyond the range of half precision; export without --half.")
    return rounded


# Writing it


def _write_weights(folder: Path, weights: dict[str, Any], source: Source, safetensors: bool) -> None:
    import torch

    try:
        torch.save({"model": weights, "step": source.step, "epoch": source.epoch}, folder / "model.pth")
        if safetensors:
            from safetensors.torch import save_file

            save_file(_unshared(weights), folder / "model.safetensors", metadata={"format": "pt"})
    except Exception as error:  # torch and safetensors report a full disk with kinds of error of their own
        if isinstance(error, OSError) and error.strerror:
            raise
        raise UserError(f"the weights could not be written to {folder.parent}: {first_line(error)}.") from None


def _unshared(weights: dict[str, Any]) -> dict[str, Any]:
    """`weights` as safetensors takes them: contiguous, and no two in the same memory."""
    seen: set[int] = set()
    unshared = {}
    for name, tensor in weights.items():
        memory = tensor.untyped_storage().data_ptr()
        unshared[name] = tensor.clone() if memory in seen else tensor.contiguous()
        seen.add(memory)
    return unshared


def _write_beside(
    folder: Path, source: Source, model: Any, vocab: Path, beside: list[Path], clips: Sequence[export_card.Clip]
) -> None:
    """Everything but weights and card. The mel statistics are those in the weights, which the run trained with."""
    import torch

    (folder / "config.json").write_text(json.dumps(_export_config(source, model), indent=4), encoding="utf-8")
    torch.save(model.mel_stats.clone(), folder / "mel_stats.pth")
    for origin, name in [(vocab, "vocab.json"), *((file, file.name) for file in beside)]:
        shutil.copyfile(origin, folder / name)
    for clip in clips:
        shutil.copyfile(clip.path, folder / clip.name)


def _export_config(source: Source, model: Any) -> dict[str, Any]:
    """The part of the run's config that an XTTS speaks by, without a path in it; defaults say the rest."""
    from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig

    config = model.config.to_dict()
    keys = [key for key in XttsConfig.__annotations__ if not key.startswith("_")]
    exported = {key: config[key] for key in keys if key in config}
    args = {key: config["model_args"][key] for key in XttsArgs.__annotations__ if key in config["model_args"]}
    exported["model_args"] = {**args, **{key: "" if key == "tokenizer_file" else None for key in _PATHS}}
    return exported


# The folder


def _partial(output: Path) -> Path:
    return output.with_name(output.name + PARTIAL)


def _check_free(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give a new folder.")
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; give a new folder.")
    if _partial(output).exists():
        raise UserError(f"{_partial(output)} is left from an export that was cut short, or one is running; delete it.")


@contextmanager
def _building(output: Path, weights: int, copied: Sequence[Path]) -> Iterator[None]:
    """A folder beside `output` that gets its name when the block ends well and is removed when it does not."""
    partial = _partial(output)
    try:
        partial.mkdir(parents=True)
        needed = weights + _ROOM + sum(file.stat().st_size for file in copied)
        free = shutil.disk_usage(partial).free
        if free < needed:
            raise UserError(f"{output.parent} has {free / 1e9:.2f} GB free and the export takes {needed / 1e9:.2f} GB.")
        yield
        for file in partial.rglob("*"):
            if file.is_file():
                sync_file(file)
        sync_folder(partial)
        if output.is_dir():
            output.rmdir()  # empty; Windows does not rename over it
        partial.rename(output)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{output} could not be written: {error.strerror or error}.") from None
        raise
    sync_folder(output.parent)


def _size(weights: Mapping[str, Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())

"""A checkpoint as it is read by itself: the run's config, an `Xtts` of its size, and the weights in it."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.export_check import first_line
from xtts_gatekeeper.errors import UserError

#: What the Trainer's checkpoint holds beside the model: `Xtts` drops the same.
_TRAINING_ONLY = ("dvae", "torch_mel_spectrogram_style_encoder", "torch_mel_spectrogram_dvae")
#: Second names of GPT weights, there while a model is set up for inference.
_INFERENCE_ONLY = ("gpt.gpt_inference.", "gpt.gpt.wte.")


@dataclass(frozen=True)
class Source:
    """A checkpoint as it was read: the run's config, and the model's weights by the names that `Xtts` has for them."""

    file: Path
    config: dict[str, Any]
    weights: dict[str, Any]
    step: int
    epoch: int

    @property
    def model_args(self) -> dict[str, Any]:
        """The run's `GPTArgs`."""
        args: dict[str, Any] = self.config["model_args"]
        return args


def read_source(file: Path) -> Source:
    """Read a checkpoint of the Trainer, full or weights only. The tensors stay in the file until they are used.

    Raises:
        UserError: it is no checkpoint of an XTTS run, or its weights are no numbers.
    """
    import torch

    try:
        # A file in torch's format before 1.6 cannot be mapped.
        checkpoint = torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True)
    except Exception as error:  # torch meets a foreign file with a dozen kinds of error
        raise UserError(
            f"{file} cannot be read as plain weights ({first_line(error)}); give a checkpoint of the Trainer."
        ) from None
    state = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise UserError(f"{file} holds no model; give a checkpoint of the Trainer.")
    config = _config(checkpoint, file)
    weights = {key.removeprefix("xtts."): tensor for key, tensor in state.items()}
    weights = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in weights.items()
        if key.split(".")[0] not in _TRAINING_ONLY and not key.startswith(_INFERENCE_ONLY)
    }
    if config.get("model") != "xtts" or not any(key.startswith("gpt.") for key in weights):
        raise UserError(f"{file} is of a {config.get('model') or 'nameless'} model; give a checkpoint of XTTS.")
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{file} holds NaN or Inf in {key}; give an earlier checkpoint.")
    return Source(file, config, weights, int(checkpoint.get("step") or 0), int(checkpoint.get("epoch") or 0))


def _config(checkpoint: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The config in force when the checkpoint was written; that of its folder where the file holds none."""
    config = checkpoint.get("config")
    if not isinstance(config, dict) or not config:
        beside = file.parent / "config.json"
        try:
            config = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{file.name} holds no config and {beside} cannot be read ({type(error).__name__}); put the run's "
                "config.json there."
            ) from None
    if not isinstance(config, dict):
        raise UserError(f"the config of {file} is no object but {type(config).__name__}; give a checkpoint of a run.")
    if config.get("model") == "xtts" and not isinstance(config.get("model_args"), dict):
        raise UserError(f"the config of {file} has no model_args; give a checkpoint of the GPTTrainer.")
    return config


def vocab_of(source: Source) -> Path:
    """The tokenizer's file, where the run had it or beside the checkpoint."""
    named = str(source.model_args.get("tokenizer_file") or "")
    for candidate in (Path(named) if named else None, source.file.parent / "vocab.json"):
        if candidate is not None and candidate.is_file():
            return candidate
    raise UserError(
        f"the run's tokenizer_file {named!r} is not there; put the vocab.json that it was trained with into "
        f"{source.file.parent}."
    )


def model_of(source: Source, vocab: Path) -> Any:
    """The run's own model, built from the run's config as the GPTTrainer builds it; its weights stay in the file."""
    model = build_xtts(source.config, vocab)
    try:
        model.load_state_dict(source.weights, strict=True, assign=True)
    except RuntimeError as error:
        details = "; ".join(line.strip() for line in str(error).splitlines()[1:3]) or first_line(error)
        raise UserError(f"{source.file} does not fit its config and {vocab.name}: {details[:300]}.") from None
    return model


def build_xtts(settings: Mapping[str, Any], vocab: Path) -> Any:
    """An `Xtts` of a run's config, with random weights.

    Raises:
        UserError: `vocab` is no tokenizer.
    """
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainerConfig
    from TTS.tts.models.xtts import Xtts

    config = GPTTrainerConfig()
    config.from_dict(dict(settings))
    config.model_args.gpt_number_text_tokens = None  # or Xtts would build the GPT twice
    try:
        tokenizer = VoiceBpeTokenizer(vocab_file=str(vocab))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise UserError(f"{vocab} is no tokenizer ({first_line(error)}); give the base's vocab.json.") from None
    model = Xtts(config)
    model.tokenizer = tokenizer
    model.init_models()
    return model


@contextmanager
def stock_stack(what: str) -> Iterator[None]:
    """The stock stack, imported, with as many threads as before and without its warnings."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import soundfile  # noqa: F401
            import torch

            threads = torch.get_num_threads()
            import TTS.tts.layers.xtts.trainer.gpt_trainer  # noqa: F401
        except ImportError as error:
            raise UserError(
                f'{what} needs the extra: pip install "xtts-gatekeeper[train]" ({first_line(error)}).'
            ) from None
        torch.set_num_threads(threads)  # TTS sets it to one
        yield

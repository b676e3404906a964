"""Weights only: what of a training state is needed to start from it again or to speak with it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.contents import Contents, peek
from xtts_gatekeeper.checkpoints.writer import write_verified

#: Parts of a saved state that only serve to go on with the training.
_TRAINING = ("optimizer", "scheduler", "scaler")
#: XTTS's discrete VAE turns speech into codes during training; it is not trained, and every training loads its own.
XTTS_DVAE = ("dvae.",)


def weights_only(state: Mapping[str, Any], reloaded: Sequence[str] = ()) -> dict[str, Any]:
    """The state without optimizer, scheduler and scaler, sharing its tensors: 1.81 GB of XTTS's 5.45.

    The keys are left out rather than set to None: the Trainer takes a missing optimizer for a new one, and stumbles
    over None.

    Args:
        state: what the Trainer saves.
        reloaded: beginnings of the names of weights that the model reads from another file whenever it is built.
    """
    kept = {key: value for key, value in state.items() if key not in _TRAINING}
    model = copy.copy(state["model"])
    for name in list(model):
        if name.startswith(tuple(reloaded)) and reloaded:
            del model[name]
    kept["model"] = model
    return kept


def weights_bytes(path: Path) -> int:
    """Bytes of the weights in a file, those left out that the model reads from another file."""
    contents = peek(path)
    left_out = _reloaded(contents)
    return sum(t.bytes for name, t in contents.model.items() if not (left_out and name.startswith(left_out)))


def extract_weights(source: Path, target: Path) -> str | None:
    """Write the weights of a full file as a file of their own; needs torch.

    Returns:
        The digest of the new file.

    Raises:
        OSError: it could not be written, or does not read back.
    """
    import torch

    state = torch.load(source, map_location="cpu", mmap=True, weights_only=True)
    content = weights_only(state, _reloaded(peek(source)))
    return write_verified(target, lambda path: torch.save(content, path)).digest


def _reloaded(contents: Contents) -> tuple[str, ...]:
    """See `TrainerPort.reloaded_weights`; here by what the file itself says."""
    args = contents.config.get("model_args")
    is_xtts = any(name.startswith("xtts.") for name in contents.model)
    return XTTS_DVAE if is_xtts and isinstance(args, Mapping) and args.get("dvae_checkpoint") else ()

"""Weights only: what of a training state is needed to start from it again or to speak with it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

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

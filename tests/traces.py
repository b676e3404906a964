"""Everything of a training that something beside it could have disturbed, and whether two trainings are the same."""

import random
from pathlib import Path

import numpy
import torch


def trace(trainer):
    """Train; return everything that watching could have disturbed."""
    losses = []
    stock = trainer.optimize

    def optimize(*args, **kwargs):
        result = stock(*args, **kwargs)
        losses.append(result[1]["loss"])
        return result

    trainer.optimize = optimize
    trainer.fit()
    folder = Path(trainer.output_path)
    files = sorted(path.name for path in folder.glob("*.pth"))
    return {
        "losses": losses,
        "weights": trainer.model.state_dict(),
        "optimizer": trainer.optimizer[0].state_dict()["state"],
        "rng": (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        "printed_averages": {**trainer.keep_avg_train.avg_values, **trainer.keep_avg_eval.avg_values},
        "files": files,
        "checkpoints": {name: torch.load(folder / name, weights_only=True) for name in files},
    }


def same(one, other):
    """Whether two nested structures hold bit-identical tensors and equal values."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other

"""Watching never changes training: the same run, stock and watched, is bit-identical."""

import random
from pathlib import Path

import numpy
import pytest
import torch

from xtts_gatekeeper import read_run
from xtts_gatekeeper.config import GatekeeperConfig, PhaseConfig


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


#: Values that are times, or the settings themselves: they differ between any two runs.
CLOCKS = ("avg_loader_time", "avg_step_time")
RUN = {"epochs": 2, "run_eval_steps": 3, "save_step": 3, "test_delay_epochs": 0}


@pytest.fixture(scope="module")
def stock(make_trainer, tmp_path_factory):
    return trace(make_trainer(tmp_path_factory.mktemp("stock"), args={"grad_accum_steps": 2}, **RUN))


def test_watch_only_is_bit_identical_to_stock(make_trainer, tmp_path, stock):
    phases = [PhaseConfig(lr=5e-4, until_epoch=1), PhaseConfig(lr=1e-4)]
    section = GatekeeperConfig(watch_only=True, phases=phases)
    trainer = make_trainer(tmp_path, section, args={"grad_accum_steps": 2}, **RUN)
    watched = trace(trainer)
    assert len(stock["losses"]) == 8
    for key in ("losses", "weights", "optimizer", "rng", "files"):
        assert same(stock[key], watched[key]), key
    for clock in CLOCKS:
        stock["printed_averages"].pop(clock, None), watched["printed_averages"].pop(clock, None)
    assert same(stock["printed_averages"], watched["printed_averages"])
    for name, state in stock["checkpoints"].items():
        for key in ("model", "optimizer", "scheduler", "scaler", "step", "epoch", "model_loss"):
            assert same(state[key], watched["checkpoints"][name][key]), (name, key)
    # It did watch: the logged loss is divided by the accumulation steps, ours is not.
    epoch = read_run(trainer.output_path).train_epochs[0]
    assert epoch.metrics["train.loss"] == pytest.approx(
        epoch.metrics["train.mel_ce"] + epoch.metrics["train.loss_text_ce"]
    )


def test_the_comparison_can_fail(make_trainer, tmp_path, stock):
    """The same run with its phases in effect differs."""
    phases = [PhaseConfig(lr=5e-4, until_epoch=1), PhaseConfig(lr=1e-4)]
    acting = trace(make_trainer(tmp_path, GatekeeperConfig(phases=phases), args={"grad_accum_steps": 2}, **RUN))
    assert not same(stock["weights"], acting["weights"])
    assert stock["losses"][0] == acting["losses"][0]
    assert stock["losses"] != acting["losses"]

"""The real Trainer and the real GPTTrainer on the toy XTTS."""

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xtts_gatekeeper.data import load_ljspeech
from xtts_gatekeeper.dataset.split import stable_split

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def clips(speech):
    """(train, eval) samples, 11 and 5 clips. Every trainer gets copies, for XTTS shuffles the list it is given."""
    return stable_split(load_ljspeech(speech), eval_fraction=0.35)


@pytest.fixture(scope="session")
def make_trainer(toy_base, clips):
    """A function that builds a Trainer as a recipe does.

    `gatekeeper` is the section, None for a stock run; `flags` are what stands on the command line; `args` are fields
    of TrainerArgs, the rest are fields of the config. Without `report` no run is written as a page, which takes longer
    than some of these trainings.
    """
    import torch
    from trainer import Trainer, TrainerArgs
    from TTS.tts.configs.xtts_config import XttsAudioConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer, GPTTrainerConfig

    from xtts_gatekeeper import gatekeep
    from xtts_gatekeeper.base import read_base
    from xtts_gatekeeper.config import GatekeptGPTTrainerConfig

    def make(output, gatekeeper=None, callbacks=None, flags=(), args=None, samples=None, report=False, **config):
        fields = {
            "output_path": str(output),
            "run_name": "toy",
            "model_args": GPTArgs(**read_base(toy_base).model_args()),
            "audio": XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000),
            "epochs": 2,
            "batch_size": 3,
            "eval_batch_size": 3,
            "print_step": 5,
            "optimizer": "AdamW",
            "optimizer_params": {"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
            "optimizer_wd_only_on_weights": True,
            "lr": 1e-3,
            **config,
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["recipe.py", *flags])
            if gatekeeper is None:
                settings = GPTTrainerConfig(**fields)
                hooks = callbacks or {}
            else:
                gatekeeper.report = report
                settings = GatekeptGPTTrainerConfig(**fields, gatekeeper=gatekeeper)
                hooks = gatekeep(settings, callbacks)
            torch.manual_seed(settings.training_seed)
            train, dev = copy.deepcopy(samples or clips)
            return Trainer(
                TrainerArgs(**(args or {})),
                settings,
                model=GPTTrainer(settings),
                train_samples=train,
                eval_samples=dev,
                callbacks=hooks,
            )

    return make


@pytest.fixture
def started():
    """Start a recipe with both streams in one pipe; what is still running at the end of the test is killed."""
    running = []

    def start(script, *flags):
        process = subprocess.Popen(
            [sys.executable, "-u", ROOT / script, *map(str, flags)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
            # A shell starts background jobs, CI among them, with Ctrl-C switched off, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()

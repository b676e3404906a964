"""The recipe that `recovery.py` crashes: the toy XTTS, its steps told in a file, faults planted.

python recovery_recipe.py BASE DATA OUTPUT EPOCHS SAVE_STEP [flags of the Trainer]
"""

import faulthandler
import json
import os
import sys
import time
from pathlib import Path

BORN = time.time()  # as near to the start of the process as its own code comes

from xtts_gatekeeper import gatekeep  # noqa: E402

base, data, output, epochs, save_step = sys.argv[1:6]
del sys.argv[1:6]

import torch  # noqa: E402
from faults import plant  # noqa: E402
from trainer import Trainer, TrainerArgs  # noqa: E402
from TTS.tts.configs.xtts_config import XttsAudioConfig  # noqa: E402
from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer  # noqa: E402

from xtts_gatekeeper.base import read_base  # noqa: E402
from xtts_gatekeeper.config import (  # noqa: E402
    GatekeeperConfig,
    GatekeptGPTTrainerConfig,
    GradientsConfig,
    HangConfig,
    PhaseConfig,
)
from xtts_gatekeeper.data import load_ljspeech  # noqa: E402
from xtts_gatekeeper.dataset.split import stable_split  # noqa: E402

STOCK = os.environ.get("STOCK") == "1"
TIMES = Path(os.environ["TIMES"])


def tell(event, step):
    with TIMES.open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), "event": event, "step": step, "time": time.time()}) + "\n")


def told(trainer):
    """Say when a step begins, and end at the first where only the start-up is asked for."""
    stock = trainer.train_step

    def train_step(*args, **kwargs):
        tell("step", trainer.total_steps_done)
        if os.environ.get("FIRST_STEP_ONLY") == "1":
            os._exit(0)
        return stock(*args, **kwargs)

    trainer.train_step = train_step
    plant(trainer)


def main():
    faulthandler.enable()
    with TIMES.open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), "event": "born", "step": 0, "time": BORN}) + "\n")
    train, dev = stable_split(load_ljspeech(data), eval_fraction=0.2)
    lr = 5e-4
    section = GatekeeperConfig(
        enabled=not STOCK,
        phases=[PhaseConfig(name="coarse", lr=lr, until_plateau=3), PhaseConfig(name="fine", lr=lr / 5)],
        hang=HangConfig(factor=8, minimum_seconds=4.0),
        gradients=GradientsConfig(nonfinite_limit=3),
    )
    config = GatekeptGPTTrainerConfig(
        output_path=output,
        run_name="recovery",
        model_args=GPTArgs(**read_base(Path(base)).model_args()),
        audio=XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000),
        epochs=int(epochs),
        batch_size=3,
        eval_batch_size=3,
        save_step=int(save_step),
        print_step=10,
        optimizer="AdamW",
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
        optimizer_wd_only_on_weights=True,
        lr=lr,
        gatekeeper=section,
    )
    callbacks = gatekeep(config, {"on_init_end": told})
    torch.manual_seed(config.training_seed)
    trainer = Trainer(
        TrainerArgs(), config, model=GPTTrainer(config), train_samples=train, eval_samples=dev, callbacks=callbacks
    )
    if STOCK:
        told(trainer)
    trainer.fit()


if __name__ == "__main__":
    main()

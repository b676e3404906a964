"""What sampling costs a training: seconds a check, and whether a step between two checks is any slower.

    python benchmarks/sampling.py [--models DIR] [--rounds 3] [--epochs 4]

Three kinds of one training of the toy, in turns: the stock one (gatekept without samples), one that speaks 8 prompts at
every evaluation, and one whose samples are measured, too, by the process beside it, on one core. Steps are timed
between two checks. The toy makes noise of 4 s a prompt at most; what a step of it loses to the process beside it is
processor time, of which a training on a GPU has more to spare. Measures, asserts nothing.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

KINDS = {
    "no samples": {"every": 0},
    "spoken": {"measure": False},
    "measured": {"measure": True, "wait_seconds": 0.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with the models; default: XTTS_GATEKEEPER_MODELS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    if options.models:
        os.environ["XTTS_GATEKEEPER_MODELS"] = str(options.models)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        from conftest import make_speaking_base

        from xtts_gatekeeper.toy.model import build_toy_base
        from xtts_gatekeeper.toy.speech import make_speech_set

        build_toy_base(work / "toy")
        make_speaking_base(work / "toy", work / "base")
        make_speech_set(work / "speech")
        steps, checks = defaultdict(list), defaultdict(list)
        for number in range(options.rounds):
            for kind, settings in KINDS.items():
                took, spoken = train(work, f"{kind} {number}", settings, options.epochs)
                steps[kind] += took
                checks[kind] += spoken
    print(f"{'':12}{'steps':>7}{'median s a step':>17}{'x':>7}{'fastest':>9}{'s a check':>11}")
    base = statistics.median(steps["no samples"])
    for kind, took in steps.items():
        middle = statistics.median(took)
        check = f"{statistics.median(checks[kind]):>11.2f}" if checks[kind] else ""
        print(f"{kind:12}{len(took):>7}{middle:>17.4f}{middle / base:>7.3f}{min(took):>9.4f}{check}")


def train(work: Path, name: str, settings: dict, epochs: int) -> tuple[list[float], list[float]]:
    """Seconds of each step but an epoch's first, and of each check."""
    import torch

    from xtts_gatekeeper import gatekeep

    # isort: split
    from trainer import Trainer, TrainerArgs
    from TTS.tts.configs.xtts_config import XttsAudioConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer

    from xtts_gatekeeper.base import read_base
    from xtts_gatekeeper.config import CheckpointsConfig, GatekeeperConfig, GatekeptGPTTrainerConfig, SamplesConfig
    from xtts_gatekeeper.data import load_ljspeech
    from xtts_gatekeeper.dataset.split import stable_split
    from xtts_gatekeeper.samples.sampling import Sampling

    train_clips, dev = stable_split(load_ljspeech(work / "speech"))
    section = GatekeeperConfig(
        samples=SamplesConfig(other_languages=0, **settings), checkpoints=CheckpointsConfig(prune=False)
    )
    config = GatekeptGPTTrainerConfig(
        output_path=str(work / "runs"),
        run_name=name.replace(" ", "-"),
        model_args=GPTArgs(**read_base(work / "base").model_args()),
        audio=XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000),
        epochs=epochs,
        batch_size=3,
        eval_batch_size=3,
        save_checkpoints=False,
        save_best_after=10**9,
        optimizer="AdamW",
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
        lr=1e-4,
        gatekeeper=section,
    )
    took: list[float] = []
    checks: list[float] = []
    began = {}

    def timed_check(self, stock=Sampling._speak) -> None:
        start = time.perf_counter()
        stock(self)
        checks.append(time.perf_counter() - start)

    stock, Sampling._speak = Sampling._speak, timed_check
    torch.manual_seed(1)
    trainer = Trainer(
        TrainerArgs(),
        config,
        model=GPTTrainer(config),
        train_samples=train_clips,
        eval_samples=dev,
        parse_command_line_args=False,
        callbacks=gatekeep(
            config,
            {
                "on_epoch_start": lambda t: began.clear(),
                "on_train_step_start": lambda t: began.setdefault("step", time.perf_counter()),
                "on_train_step_end": lambda t: (
                    took.append(time.perf_counter() - began["step"]),
                    began.update(step=time.perf_counter()),
                ),
            },
        ),
    )
    try:
        trainer.fit()
    finally:
        Sampling._speak = stock
    return took, checks


if __name__ == "__main__":
    main()

"""The same toy run, stock and gatekept, side by side: time, disk, and the start-up time of the offline verbs.

    python benchmarks/end_to_end.py [--repeats 3] [--epochs 5]

Three kinds of child process take turns: `stock` (no gatekeeper), `watch` (`watch_only: true`) and `full` (phases,
pruning, final checkpoint). Prints medians with their range, and ratios to stock. Measures, asserts nothing.
"""

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
KINDS = ("stock", "watch", "full")


def disk(folder: Path) -> int:
    """Bytes of the checkpoint files below `folder`, each inode once, partial ones included."""
    inodes = {}
    for path in folder.rglob("*.pth*"):
        try:
            stat = path.stat()
        except FileNotFoundError:  # deleted between listing and looking
            continue
        inodes[stat.st_ino] = stat.st_size
    return sum(inodes.values())


def child(kind: str, work: Path, epochs: int) -> None:
    """Train once and print one JSON line."""
    import torch

    from xtts_gatekeeper import gatekeep
    from xtts_gatekeeper.base import read_base
    from xtts_gatekeeper.config import GatekeeperConfig, GatekeptGPTTrainerConfig, PhaseConfig
    from xtts_gatekeeper.data import load_ljspeech
    from xtts_gatekeeper.dataset.split import stable_split

    # isort: split
    from trainer import Trainer, TrainerArgs
    from TTS.tts.configs.xtts_config import XttsAudioConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer

    phases = [PhaseConfig(name="coarse", lr=1e-3, until_epoch=epochs // 2), PhaseConfig(name="fine", lr=3e-4)]
    section = GatekeeperConfig(enabled=kind != "stock", watch_only=kind == "watch", phases=phases)
    train, dev = stable_split(load_ljspeech(work / "speech"))
    config = GatekeptGPTTrainerConfig(
        output_path=str(work / "runs"),
        run_name=f"{kind}-{os.getpid()}",
        model_args=GPTArgs(**read_base(work / "toy-base").model_args()),
        audio=XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000),
        epochs=epochs,
        batch_size=3,
        eval_batch_size=3,
        save_step=20,
        print_step=1000,
        optimizer="AdamW",
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
        lr=1e-3,
        gatekeeper=section,
    )
    spent = {"train": 0.0, "saving": 0.0, "stock step": 0.0, "whole step": 0.0}
    begun = {}

    def epoch_start(trainer):
        begun["at"], begun["saved"] = time.perf_counter(), spent["saving"]

    def epoch_end(trainer):
        spent["train"] += time.perf_counter() - begun["at"] - (spent["saving"] - begun["saved"])

    def timed(what, method, *args):
        begin = time.perf_counter()
        result = method(*args)
        spent[what] += time.perf_counter() - begin
        return result

    def time_stock_step(trainer):
        """Runs before our own hooks are put around the step."""
        trainer.train_step = functools.partial(timed, "stock step", trainer.train_step)

    def time_all(trainer):
        trainer.train_step = functools.partial(timed, "whole step", trainer.train_step)
        for name in ("save_checkpoint", "save_best_model"):
            setattr(trainer, name, functools.partial(timed, "saving", getattr(trainer, name)))

    torch.manual_seed(1)
    own = {"on_init_end": time_stock_step, "on_train_epoch_start": epoch_start, "on_train_epoch_end": epoch_end}
    callbacks = gatekeep(config, own)
    trainer = Trainer(
        TrainerArgs(),
        config,
        model=GPTTrainer(config),
        train_samples=train,
        eval_samples=dev,
        parse_command_line_args=False,
        callbacks=callbacks,
    )
    time_all(trainer)
    peak, done = [0], threading.Event()

    def watch_disk():
        while not done.wait(0.02):
            peak[0] = max(peak[0], disk(work / "runs"))

    watcher = threading.Thread(target=watch_disk)
    watcher.start()
    begin = time.perf_counter()
    trainer.fit()
    seconds = time.perf_counter() - begin
    done.set()
    watcher.join()
    result = {
        "ms per training step": 1000 * spent["train"] / trainer.total_steps_done,
        "us around a step": 1e6 * (spent["whole step"] - spent["stock step"]) / trainer.total_steps_done,
        "s in fit()": seconds,
        "s in the save methods": spent["saving"],
        "MB at the end": disk(work / "runs") / 1e6,
        "MB at the peak": peak[0] / 1e6,
    }
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.work, args.epochs)
        return

    from xtts_gatekeeper.toy.model import build_toy_base
    from xtts_gatekeeper.toy.sentences import SENTENCES
    from xtts_gatekeeper.toy.speech import make_speech_set

    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        build_toy_base(work / "toy-base")
        make_speech_set(work / "speech", SENTENCES[:60])
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for repeat in range(args.repeats):
            for kind in KINDS[repeat % 3 :] + KINDS[: repeat % 3]:
                command = [sys.executable, __file__, "--child", kind, "--work", folder, "--epochs", str(args.epochs)]
                out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
                results[kind].append(json.loads(out.strip().splitlines()[-1]))
                print(f"round {repeat + 1}, {kind} done", file=sys.stderr)
                shutil.rmtree(work / "runs")
                os.sync()  # what one run left to be written must not slow down the next
    print(f"{'':24}{'stock':>22}{'watch':>22}{'ratio':>7}{'full':>22}{'ratio':>7}")
    for measure in results["stock"][0]:
        cells, medians = [], {}
        for kind in KINDS:
            values = sorted(result[measure] for result in results[kind])
            medians[kind] = statistics.median(values)
            cells.append(f"{medians[kind]:.1f} ({values[0]:.1f}-{values[-1]:.1f})")
        watch, full = (medians[kind] / medians["stock"] for kind in ("watch", "full"))
        print(f"{measure:24}{cells[0]:>22}{cells[1]:>22}{watch:7.2f}{cells[2]:>22}{full:7.2f}")
    for verb in (["--help"], ["gate", "no/such/run"]):
        times = []
        for _ in range(10):
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "xtts_gatekeeper", *verb], env=environment, capture_output=True, check=False
            )
            times.append(time.perf_counter() - begin)
        print(f"start-up of `{' '.join(verb)}`: {statistics.median(times):.3f} s (limit of the issue: 0.4 s)")


if __name__ == "__main__":
    main()

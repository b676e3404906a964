"""Disk, peak and stalls of saving: stock Trainer and gatekept one on the same run, each in a process of its own.

    python benchmarks/checkpoints.py [--full] [--kinds "stock save_n=1" ours] [--repeats 1] [--dry-run]

Trains the toy XTTS (0.33 GB a checkpoint) or, with `--full`, one of the public model's size with random weights
(5.4 GB; 12 GB of memory, 18 for ours; minutes a step on few cores). Saves every few steps and evaluates after each
epoch, so that there are several checkpoints and bests. Prints medians with their range, and ratios to each of the
stock kinds. Measures, asserts nothing.

The rows: `steady` are the bytes of the checkpoint files when training has ended, `peak` the most that there were,
partial files included, looked at every 20 ms; a file of several names counts once. `blocked` is the time in the
Trainer's two save methods, waiting for a write in flight included; `until safe` that until the file is written (ours:
synced and read back, too). A step is `beside a write` when one is in flight as it begins.
"""

import argparse
import contextlib
import functools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
KINDS = {"stock save_n=1": 1, "stock default 5": 5, "ours": 5}
#: Bytes of a checkpoint and of its weights without the DVAE.
TOY = (327_000_000, 40_000_000)
FULL = (5_450_000_000, 1_810_000_000)
SAMPLING_SECONDS = 0.02


def disk(folder: Path) -> int:
    """Bytes of the checkpoint files below `folder`, each inode once, partial ones included."""
    inodes = {}
    for path in folder.rglob("*.pth*"):
        with contextlib.suppress(FileNotFoundError):  # deleted between listing and looking
            stat = path.stat()
            inodes[stat.st_ino] = stat.st_size
    return sum(inodes.values())


def needed(kind: str, sizes: tuple[int, int]) -> int:
    """Bytes that a kind needs on the disk at its peak, about."""
    checkpoint, weights = sizes
    # Stock: the checkpoints, the best and its copy; each new file is there before an old one goes.
    return 2 * checkpoint + weights if kind == "ours" else (KINDS[kind] + 3) * checkpoint


def make_config(work: Path, args: argparse.Namespace, kind: str):
    """The config of one training, and its samples."""
    from TTS.tts.configs.xtts_config import XttsAudioConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs

    from xtts_gatekeeper.base import read_base
    from xtts_gatekeeper.config import GatekeeperConfig, GatekeptGPTTrainerConfig
    from xtts_gatekeeper.data import load_ljspeech
    from xtts_gatekeeper.dataset.split import stable_split

    train, dev = stable_split(load_ljspeech(work / "speech"), eval_fraction=0.15)
    lengths = {"min_conditioning_length": 11025, "max_conditioning_length": 22050}  # the clips are short
    config = GatekeptGPTTrainerConfig(
        output_path=str(work / "runs"),
        run_name="run",
        model_args=GPTArgs(**{**read_base(work / "base").model_args(), **lengths}),
        audio=XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000),
        epochs=args.epochs,
        batch_size=args.batch,
        eval_batch_size=args.batch,
        save_step=args.save_step,
        save_n_checkpoints=KINDS[kind],
        print_step=1000,
        optimizer="AdamW",
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
        lr=1e-4 if args.full else 1e-3,
        gatekeeper=GatekeeperConfig(enabled=kind == "ours"),
    )
    return config, train[: args.clips], dev[: max(1, args.clips // 8)]


class Meter:
    """Times what the Trainer's methods take, and samples the disk."""

    def __init__(self, trainer) -> None:
        self.spent = defaultdict(list)
        self.folder = Path(trainer.output_path)
        self.peak = 0
        self._saving = 0.0
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="disk", daemon=True)
        trainer.train_step = functools.partial(self._step, trainer.train_step)
        for name in ("save_checkpoint", "save_best_model"):
            setattr(trainer, name, functools.partial(self._save, name, getattr(trainer, name)))

    def _sample(self) -> None:
        while not self._done.wait(SAMPLING_SECONDS):
            self.peak = max(self.peak, disk(self.folder))

    def _save(self, name: str, save, *args, **kwargs):
        begin = time.perf_counter()
        result = save(*args, **kwargs)
        seconds = time.perf_counter() - begin
        self._saving += seconds
        self.spent[name].append(seconds)
        self.ended = time.perf_counter()
        return result

    def _step(self, step, *args, **kwargs):
        beside = any(thread.name == "gatekeeper-writer" for thread in threading.enumerate())
        begin, saving = time.perf_counter(), self._saving
        result = step(*args, **kwargs)
        seconds = time.perf_counter() - begin - (self._saving - saving)
        self.spent["step beside a write" if beside else "step alone"].append(seconds)
        return result

    def fit(self, trainer) -> None:
        """Train, and note what it took."""
        self._sampler.start()
        begin = time.perf_counter()
        trainer.fit()
        end = time.perf_counter()
        self.spent["fit"], self.spent["leaving"] = [end - begin], [end - self.ended]
        self._done.set()
        self._sampler.join()


def child(kind: str, work: Path, args: argparse.Namespace) -> None:
    """Train once and print one JSON line."""
    import torch

    from xtts_gatekeeper import gatekeep, read_run

    # isort: split
    from trainer import Trainer, TrainerArgs
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

    config, train, dev = make_config(work, args, kind)
    torch.manual_seed(1)
    trainer = Trainer(
        TrainerArgs(),
        config,
        model=GPTTrainer(config),
        train_samples=train,
        eval_samples=dev,
        parse_command_line_args=False,
        callbacks=gatekeep(config),
    )
    meter = Meter(trainer)
    meter.fit(trainer)
    spent = meter.spent
    if kind == "ours":
        files = [file for file in read_run(trainer.output_path).checkpoints if file.intact]
        safe = [file.seconds for file in files if file.kind == "latest"]
        bests = sum(file.kind == "best" for file in files)
    else:
        safe = spent["save_checkpoint"]
        bests = sum("BEST MODEL" in line for line in (meter.folder / "trainer_0_log.txt").read_text().splitlines())
    saves = len(spent["save_checkpoint"]) + bests
    blocked = sorted(spent["save_checkpoint"] + spent["save_best_model"])
    result = {
        "GB steady": disk(meter.folder) / 1e9,
        "GB peak": meter.peak / 1e9,
        "s blocked per save": statistics.median(blocked[-saves:]),  # a look at what is no best saves nothing
        "s blocked, median checkpoint": statistics.median(spent["save_checkpoint"]),
        "s blocked, median best": statistics.median(spent["save_best_model"]),
        "s until safe, median checkpoint": statistics.median(safe),
        "s blocked in all": sum(blocked),
        "s from the last save asked for to the end": spent["leaving"][0],
        "s in fit()": spent["fit"][0],
        "s a step alone": statistics.median(spent["step alone"]),
        "s a step beside a write": statistics.median(spent["step beside a write"] or spent["step alone"]),
        "GB of memory at most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    counts = {"checkpoints": len(spent["save_checkpoint"]), "bests": bests, "steps": trainer.total_steps_done}
    print(json.dumps({"result": result, "counts": {**counts, "beside": len(spent["step beside a write"])}}))


def dry_run(work: Path, args: argparse.Namespace) -> None:
    """Build the model, count its parameters and print what the files will take."""
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

    config, _, _ = make_config(work, args, "ours")
    model = GPTTrainer(config)
    parts = defaultdict(int)
    for name, tensor in model.state_dict().items():
        parts[".".join(name.split(".")[:2]) if name.startswith("xtts.") else name.split(".")[0]] += tensor.numel()
    for part, count in parts.items():
        print(f"{part:40}{count / 1e6:9.1f} M parameters")
    every = sum(parts.values())
    weights = 4 * (every - parts["dvae"])
    checkpoint = 4 * every + 8 * parts["xtts.gpt"]  # AdamW keeps two numbers for each that it trains
    print(f"a checkpoint takes {checkpoint / 1e9:.2f} GB, its weights {weights / 1e9:.2f} GB")
    for kind in args.kinds:
        print(f"{kind:20} needs {needed(kind, (checkpoint, weights)) / 1e9:6.1f} GB on the disk at its peak")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    full = "--full" in sys.argv
    parser.add_argument("--full", action="store_true", help="at the public model's size")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--repeats", type=int, default=1 if full else 3)
    parser.add_argument("--epochs", type=int, default=3 if full else 4, help="each ends with a look for a best")
    parser.add_argument("--clips", type=int, default=2 if full else 80, help="clips to train on")
    parser.add_argument("--batch", type=int, default=1 if full else 2)
    parser.add_argument("--save-step", type=int, default=1 if full else 24)
    parser.add_argument("--dry-run", action="store_true", help="only build the model and count")
    parser.add_argument("--work", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.work, args)
        return 0
    with tempfile.TemporaryDirectory(prefix="checkpoints-", dir=args.work) as folder:
        sizes = FULL if args.full else TOY
        most, free = max(needed(kind, sizes) for kind in args.kinds), shutil.disk_usage(folder).free
        if most + (1 << 30) > free and not args.dry_run:
            print(
                f"the disk has no room: {most / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free in {folder}; "
                "give another --work, or fewer --kinds.",
                file=sys.stderr,
            )
            return 2
        return compare(Path(folder), args)


def compare(work: Path, args: argparse.Namespace) -> int:
    """Make the files of the base, run every kind, print the table; the exit code."""
    from xtts_gatekeeper.toy.model import build_toy_base
    from xtts_gatekeeper.toy.sentences import SENTENCES
    from xtts_gatekeeper.toy.speech import make_speech_set

    build_toy_base(work / "base")
    if args.full:
        (work / "base" / "config.json").unlink()  # what it says of the architecture; without it, the public model's
    make_speech_set(work / "speech", SENTENCES[: max(12, args.clips * 5 // 4)])
    if args.dry_run:
        dry_run(work, args)
        return 0
    results = {kind: [] for kind in args.kinds}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = [
        f"--{name.replace('_', '-')}={getattr(args, name)}" for name in ("epochs", "clips", "batch", "save_step")
    ]
    for repeat in range(args.repeats):
        turn = repeat % len(args.kinds)
        for kind in args.kinds[turn:] + args.kinds[:turn]:
            command = [sys.executable, __file__, "--child", kind, "--work", str(work), *options]
            done = subprocess.run(
                command + ["--full"] * args.full, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                print(f"{kind} ended with exit code {done.returncode}:\n{done.stderr[-3000:]}", file=sys.stderr)
                return 1
            found = json.loads(done.stdout.strip().splitlines()[-1])
            results[kind].append(found["result"])
            print(f"round {repeat + 1}, {kind}: {found['counts']}", file=sys.stderr, flush=True)
            shutil.rmtree(work / "runs")
            os.sync()  # what one run left to be written must not slow down the next
    print_table(results)
    return 0


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """Medians with their range; ours, if it was measured, as a ratio to each other kind."""
    others = [kind for kind in results if kind != "ours"] if "ours" in results else []
    head = "".join(f"{kind:>26}" for kind in results)
    print(f"{'':42}{head}" + "".join(f"{'ours/' + kind.removeprefix('stock '):>18}" for kind in others))
    for measure in next(iter(results.values()))[0]:
        cells, medians = "", {}
        for kind, found in results.items():
            values = sorted(result[measure] for result in found)
            medians[kind] = statistics.median(values)
            cells += f"{f'{medians[kind]:.3f} ({values[0]:.3f}-{values[-1]:.3f})':>26}"
        ratios = "".join(
            f"{medians['ours'] / medians[kind]:18.2f}" if medians[kind] > 0.01 else f"{'-':>18}" for kind in others
        )
        print(f"{measure:42}{cells}{ratios}")


if __name__ == "__main__":
    sys.exit(main())

"""What watching costs a step, and whether it keeps anything: the stock Trainer and a watched one, side by side.

    python benchmarks/overhead.py [--full] [--steps 150]
    python benchmarks/overhead.py --soak 20000

Two Trainers of one process train one model in turns, step by step, on the same batches: a step of the stock one, a step
of the watched one. So each pair meets the same load of the machine, and their difference is what watching adds. The
watched one has everything switched on but the saving of files: the LR check, norms, losses, batches, memory, the step
log. `--full` does it at the public model's size (16 GB of memory; half a minute a step on two cores).

`--soak N` trains N steps of each kind in a process of its own, on single short clips, and fits a line to the memory of
the process after a warm-up. Measures, asserts nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
KINDS = ("stock", "watched")
#: Calls that would wait for a device.
FETCHES = ("item", "cpu", "tolist", "__bool__", "__float__")
WARM_UP = 3


class Batches:
    """A loader of batches that were loaded before: every epoch the same ones, and no time for data."""

    def __init__(self, loader, count: int, epochs_worth: int) -> None:
        self.batches = [batch for batch, _ in zip(loader, range(count), strict=False)]
        self.steps = epochs_worth

    def __len__(self) -> int:
        return self.steps

    def __iter__(self):
        for number in range(self.steps):
            yield dict(self.batches[number % len(self.batches)])  # a step empties the dict, not the tensors


class Turns:
    """Lets two threads do their steps one after the other."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.turn = 0
        self.left = {0, 1}

    def take(self, number: int) -> None:
        """Wait for the turn."""
        with self.condition:
            self.condition.wait_for(lambda: self.turn == number or self.left == {number})

    def give(self, number: int) -> None:
        """It is the other one's turn."""
        with self.condition:
            self.turn = 1 - number
            self.condition.notify_all()

    def leave(self, number: int) -> None:
        """The other one need not wait any more."""
        with self.condition:
            self.left.discard(number)
            self.turn = 1 - number
            self.condition.notify_all()


def make_config(work: Path, steps: int, **values):
    from TTS.tts.configs.xtts_config import XttsAudioConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs

    from xtts_gatekeeper.base import read_base
    from xtts_gatekeeper.config import CheckpointsConfig, GatekeeperConfig, GatekeptGPTTrainerConfig

    return GatekeptGPTTrainerConfig(
        output_path=str(work / "runs"),
        run_name="run",
        model_args=GPTArgs(**read_base(work / "base").model_args()),
        audio=XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000),
        epochs=1,
        save_step=10**9,
        print_step=10**9,
        plot_step=10**9,
        run_eval=False,
        save_checkpoints=False,
        optimizer="AdamW",
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
        optimizer_wd_only_on_weights=True,
        lr=1e-5,
        gatekeeper=GatekeeperConfig(checkpoints=CheckpointsConfig(prune=False)),
        **values,
    )


class Own:
    """The processor time that our own code takes within the steps of a watched Trainer, hook by hook.

    Around the stock methods it is what the outermost wrap takes beyond the innermost; inside of them, hooks are timed.
    """

    def __init__(self) -> None:
        from xtts_gatekeeper.monitors.gradients import GradientMonitor
        from xtts_gatekeeper.phases.schedule import ConfigSchedule

        self.spent: Counter[str] = Counter()
        self.in_stock = {"train_step": 0.0, "optimize": 0.0}
        for owner, name in ((GradientMonitor, "_ready"), (ConfigSchedule, "_before"), (ConfigSchedule, "_after")):
            setattr(owner, name, self._timed(getattr(owner, name), f"{owner.__name__}.{name}"))

    def _timed(self, method, what: str):
        def timed(*a, **k):
            begin = time.thread_time()
            try:
                return method(*a, **k)
            finally:
                self.spent[what] += time.thread_time() - begin

        return timed

    def innermost(self, trainer) -> None:
        """To be called before anything of ours is wrapped around the Trainer's methods."""
        for name in self.in_stock:
            setattr(trainer, name, self._timed(getattr(trainer, name), f"stock {name}"))

    def outermost(self, trainer) -> None:
        """To be called when everything is."""
        for name in self.in_stock:
            setattr(trainer, name, self._timed(getattr(trainer, name), f"whole {name}"))

    def take(self) -> dict[str, float]:
        """Seconds since the last call, by hook."""
        spent, self.spent = self.spent, Counter()
        around = {f"around {name}": spent[f"whole {name}"] - spent[f"stock {name}"] for name in self.in_stock}
        hooks = {name: seconds for name, seconds in spent.items() if not name.startswith(("stock", "whole"))}
        # What is around `optimize` lies within the stock `train_step`, and the hooks within the stock `optimize`.
        return {**around, **hooks}


def pairs(work: Path, args: argparse.Namespace) -> None:
    """Train both in turns and print the table."""
    import torch

    from xtts_gatekeeper import gatekeep

    # isort: split
    from trainer import Trainer, TrainerArgs
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

    from xtts_gatekeeper.data import load_ljspeech

    samples = load_ljspeech(work / "speech")
    steps = args.steps + WARM_UP
    config = make_config(work, steps, batch_size=args.batch, grad_clip=args.clip)
    torch.manual_seed(1)
    model = GPTTrainer(config)
    loader = model.get_data_loader(config, samples=list(samples), verbose=False)
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    fetched: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    active: list[str] = []
    for name in FETCHES:
        stock = getattr(torch.Tensor, name)

        def count(tensor, *a, stock=stock, name=name, **k):
            if active:
                fetched[active[0]][name] += 1
            return stock(tensor, *a, **k)

        setattr(torch.Tensor, name, count)
    turns, own, ours = Turns(), Own(), []
    trainers = []
    batches = Batches(loader, 8, steps)
    for number, kind in enumerate(KINDS):
        trainer = Trainer(
            TrainerArgs(),
            config,
            model=model,
            train_samples=list(samples),
            train_loader=batches,
            parse_command_line_args=False,
            callbacks=gatekeep(config, {"on_init_end": own.innermost}) if kind == "watched" else {},
        )
        if kind == "watched":
            own.outermost(trainer)
        step = trainer.train_step

        def timed(*a, step=step, number=number, kind=kind, **k):
            turns.take(number)
            active.append(kind)
            begin, cpu = time.perf_counter(), time.thread_time()
            try:
                return step(*a, **k)
            finally:
                times[kind].append((time.thread_time() - cpu, time.perf_counter() - begin))
                active.clear()
                if kind == "watched":
                    ours.append(own.take())
                turns.give(number)

        trainer.train_step = timed
        trainers.append(trainer)

    def train(number: int) -> None:
        try:
            trainers[number].fit()
        finally:
            turns.leave(number)

    threads = [threading.Thread(target=train, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(
        f"{args.steps} pairs of steps, batch {args.batch}, grad_clip {args.clip:g}; processor time, or wall where said"
    )
    print_pairs(times, ours[WARM_UP:])
    for kind in KINDS:
        per_step = sum(fetched[kind].values()) / steps
        names = ", ".join(f"{name} {n / steps:.1f}" for name, n in fetched[kind].most_common())
        print(f"{'values fetched a step, ' + kind:44}{per_step:12.1f}   ({names})")


def print_pairs(times: dict[str, list[tuple[float, float]]], ours: list[dict[str, float]]) -> None:
    """The table; the first steps, which make the optimizer's state, are left out."""
    (stock, wall), (watched, watched_wall) = (zip(*times[kind][WARM_UP:], strict=True) for kind in KINDS)
    base = statistics.median(stock)
    added = sorted(b - a for a, b in zip(stock, watched, strict=True))
    middle, half = statistics.median(added), len(added) // 2
    reach = int(0.98 * len(added) ** 0.5)  # order statistics that hold the median with 95 % (sign test)
    low, high = added[max(0, half - reach)], added[min(len(added) - 1, half + reach)]
    own = [sum(step.values()) for step in ours]

    def share(seconds: float) -> str:
        return f"{100 * seconds / base:+.3f} %"

    print(f"{'ms a step, stock (median)':44}{1e3 * base:12.2f}   (wall {1e3 * statistics.median(wall):.2f})")
    print(
        f"{'ms a step, watched (median)':44}{1e3 * statistics.median(watched):12.2f}"
        f"   (wall {1e3 * statistics.median(watched_wall):.2f})"
    )
    print(f"{'ms added, median of the pairs':44}{1e3 * middle:12.2f}   ({share(middle)})")
    print(
        f"{'  95 % interval of that median':44}{1e3 * low:12.2f} to {1e3 * high:.2f}   ({share(low)} to {share(high)})"
    )
    print(f"{'ms in our own code, median':44}{1e3 * statistics.median(own):12.2f}   ({share(statistics.median(own))})")
    for name in ours[0]:
        print(f"{'  ' + name:44}{1e3 * statistics.median(step.get(name, 0.0) for step in ours):12.3f}")


def soak(work: Path, args: argparse.Namespace) -> None:
    """Train many steps and print one JSON line with the memory of the process."""
    import psutil
    import torch

    from xtts_gatekeeper import gatekeep

    # isort: split
    from trainer import Trainer, TrainerArgs
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

    from xtts_gatekeeper.data import load_ljspeech

    samples = sorted(load_ljspeech(work / "speech"), key=lambda clip: len(clip["text"]))[:4]
    config = make_config(work, args.soak, batch_size=1)
    model = GPTTrainer(config)
    loader = model.get_data_loader(config, samples=list(samples), verbose=False)
    trainer = Trainer(
        TrainerArgs(),
        config,
        model=model,
        train_samples=list(samples),
        train_loader=Batches(loader, 4, args.soak),
        parse_command_line_args=False,
        callbacks=gatekeep(config) if args.child == "watched" else {},
    )
    process, seen = psutil.Process(), []
    step = trainer.train_step

    def counted(*a, **k):
        result = step(*a, **k)
        if trainer.total_steps_done % 100 == 0:
            memory = process.memory_info()  # without pages of files, which come and go as others need memory
            seen.append((trainer.total_steps_done, memory.rss - getattr(memory, "shared", 0)))
            if trainer.total_steps_done % 1000 == 0:
                print(
                    f"{args.child} {trainer.total_steps_done}: {seen[-1][1] / 1e6:.1f} MB", file=sys.stderr, flush=True
                )
        return result

    trainer.train_step = counted
    torch.manual_seed(1)
    begin = time.perf_counter()
    trainer.fit()
    print(json.dumps({"rss": seen, "seconds": time.perf_counter() - begin}))


def line(points: list[tuple[int, int]]) -> tuple[float, float]:
    """Least-squares slope and its standard error, in MB per 1,000 steps."""
    xs, ys = [x / 1000 for x, _ in points], [y / 1e6 for _, y in points]
    mx, my = statistics.fmean(xs), statistics.fmean(ys)
    sxx = sum((x - mx) ** 2 for x in xs)
    slope = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sxx
    rest = sum((y - my - slope * (x - mx)) ** 2 for x, y in zip(xs, ys, strict=True))
    return slope, (rest / (len(xs) - 2) / sxx) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    full = "--full" in sys.argv
    parser.add_argument("--full", action="store_true", help="at the public model's size")
    parser.add_argument("--steps", type=int, default=8 if full else 150, help="pairs of steps to measure")
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--clip", type=float, default=0.0, help="grad_clip; with one the Trainer takes the norm, too")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="train N steps of each kind, look at memory")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of the soak")
    parser.add_argument("--work", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        soak(args.work, args)
        return

    from xtts_gatekeeper.toy.model import build_toy_base
    from xtts_gatekeeper.toy.sentences import SENTENCES
    from xtts_gatekeeper.toy.speech import make_speech_set

    with tempfile.TemporaryDirectory(prefix="overhead-", dir=args.work) as folder:
        work = Path(folder)
        build_toy_base(work / "base")
        if args.full:
            (work / "base" / "config.json").unlink()  # what it says of the architecture; without it, the public model's
        make_speech_set(work / "speech", SENTENCES[:40])
        if not args.soak:
            pairs(work, args)
            return
        for kind in args.kinds:
            command = [sys.executable, __file__, "--child", kind, "--work", folder, "--soak", str(args.soak)]
            env = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1"}
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.strip().splitlines()[-1])
            points = [tuple(point) for point in found["rss"]]
            late = [point for point in points if point[0] > args.soak // 5]
            slope, error = line(late)
            second = [point for point in points if point[0] > args.soak // 2]
            slope2, error2 = line(second)
            print(
                f"{kind:8} {args.soak} steps in {found['seconds']:.0f} s: {points[0][1] / 1e6:.1f} MB at first, "
                f"{late[0][1] / 1e6:.1f} after a fifth, {points[-1][1] / 1e6:.1f} at the end; "
                f"{slope:+.3f} +- {2 * error:.3f} MB per 1,000 steps, second half {slope2:+.3f} +- {2 * error2:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

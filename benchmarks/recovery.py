"""Crash a training in every way that has a class of its own, and see it come back: the table of docs/recovery.md.

    python benchmarks/recovery.py [--times 10] [--kills 100] [--seed 0] [--only CLASS] [--folder DIR]

A real recipe with the toy XTTS runs under `xtts-gatekeeper run`. At random steps it crashes: by signals, by errors of
the system, by exceptions with CUDA's own messages. For every crash it is looked at whether it was taken for what it
was, whether the next process went on from the newest state, how many updates were lost, and how long it took from the
crash to the next step, beside what a start takes that nothing has crashed before, measured right after each class. That
of a hang holds the four seconds after which it is one; that of SIGTERM, a save, and a person who starts it once more;
that of NaN, the updates that are lost before. What was trained in the end is compared with a run that went through:
evaluations, epochs and weights have to be equal to the bit, but where the answer to the crash is to train otherwise. At
last one run is killed at random instants, many times over.

Linux. Exit code 1 when a crash was taken for another or a run did not come back as it should.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from xtts_gatekeeper import read_run
from xtts_gatekeeper.data import load_ljspeech
from xtts_gatekeeper.dataset.split import stable_split
from xtts_gatekeeper.record import Start
from xtts_gatekeeper.record.events import Crash
from xtts_gatekeeper.record.run import RunRecord

HERE = Path(__file__).parent
SAVE_STEP = 2
#: Fault -> the kinds that are right for it. Those in `_OTHERWISE` change what is trained from then on.
CLASSES = {
    "SIGKILL": ("killed",),
    "SIGSEGV": ("segfault",),
    "SIGABRT": ("segfault",),
    "SIGTERM": ("terminated",),
    "exception": ("exception",),
    "illegal access": ("gpu_fault",),
    "device-side assert": ("gpu_assert",),
    "ECC": ("gpu_lost",),
    "out of memory": ("out_of_memory",),
    "host memory": ("host_out_of_memory",),
    "disk full": ("disk_full",),
    "hang": ("hang",),
    "NaN": ("nonfinite",),
}
_OTHERWISE = ("out of memory", "NaN")
#: What is planted under a name of the table, where that is not the fault's own.
_PLANTED = {"exception": "other exception", "host memory": "host memory in the update"}


@dataclass
class Found:
    """What came of the crashes of one class."""

    crashes: int = 0
    right: int = 0
    resumed: int = 0
    lost: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    as_through: str = ""


@dataclass
class Place:
    """Where things are."""

    folder: Path
    base: Path
    data: Path

    def command(self, output: Path, epochs: int) -> list[str]:
        """The recipe."""
        recipe = HERE / "recovery_recipe.py"
        return [sys.executable, str(recipe), *map(str, (self.base, self.data, output, epochs, SAVE_STEP))]


def environment(times: Path, plan: Sequence[dict] = (), **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "TIMES": str(times),
        "FAULTS": json.dumps(list(plan)),
        "FAULTS_FOLDER": str(times.parent),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
        "CUDA_VISIBLE_DEVICES": "",
        **more,
    }


def supervised(place: Place, output: Path, epochs: int, times: Path, plan: Sequence[dict], *flags: str) -> list[str]:
    """Run under the supervisor until it ends; what it printed, without the lines of the Trainer."""
    command = [sys.executable, "-m", "xtts_gatekeeper", "run", "--backoff", "0", "--max-restarts", "25", "--"]
    with (times.parent / "printed.txt").open("ab") as printed:
        subprocess.run(
            [*command, *place.command(output, epochs), *flags],
            env=environment(times, plan),
            stdout=printed,
            stderr=printed,
            check=False,
        )
    lines = (times.parent / "printed.txt").read_text(errors="replace").splitlines()
    return [line for line in lines if line.startswith(" > gatekeeper run:")]


def run_in(output: Path) -> Path:
    (run,) = (path for path in output.iterdir() if (path / "gatekeeper").is_dir())
    return run


def told(times: Path) -> list[dict]:
    return [json.loads(line) for line in times.read_text().splitlines()]


# Start-up


def start_up(place: Place, times: int, through: Path) -> dict[str, float]:
    """Median seconds from the start of a process to its first step: stock, gatekept, and gatekept from a checkpoint."""
    kinds = {"stock": {"STOCK": "1"}, "gatekept": {}, "resumed by hand": {}}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(times):
        for kind, more in kinds.items():
            folder = place.folder / f"start-{number}-{kind.replace(' ', '-')}"
            folder.mkdir()
            flags = []
            if kind == "resumed by hand":
                shutil.copytree(through, folder / "run")
                flags = ["--continue_path", str(folder / "run"), "--coqpit.epochs", "999"]
            began = time.time()
            subprocess.run(
                [*place.command(folder / "out", 99), *flags],
                env=environment(folder / "times", FIRST_STEP_ONLY="1", **more),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
            steps = [line for line in told(folder / "times") if line["event"] == "step"]
            seconds[kind].append(steps[0]["time"] - began)
            shutil.rmtree(folder)
    return {kind: statistics.median(values) for kind, values in seconds.items()}


# One class


def crash_times(place: Place, name: str, times: int, seed: random.Random, per_epoch: int) -> tuple[Found, Path, int]:
    """Crash one run so many times, at random steps; what came of it, its folder and its epochs."""
    folder = place.folder / name.replace(" ", "-")
    (folder / "out").mkdir(parents=True)
    steps, step = [], 3 * SAVE_STEP  # with the first checkpoint on the disk: before that a run begins anew
    for _ in range(times):
        step += seed.randint(SAVE_STEP + 1, 3 * SAVE_STEP) + (4 if name == "NaN" else 0)
        steps.append(step)
    epochs = -(-(step + 2) // per_epoch)
    plan = [{"kind": _PLANTED.get(name, name), "step": step} for step in steps]
    flags: list[str] = []
    for _ in range(2 * times + 1):
        supervised(place, folder / "out", epochs, folder / "times", plan, *flags)
        run = run_in(folder / "out")
        record = read_run(run)
        if record.end is not None and record.end.how == "finished":
            break
        # SIGTERM and a NaN that comes twice end the supervisor as they should: a person starts it once more.
        flags = ["--continue_path", str(run)]
    found = look_at(name, read_run(run), told(folder / "times"))
    return found, run, epochs


def look_at(name: str, record: RunRecord, lines: list[dict]) -> Found:
    """What the journal and the recipe's own times say of the crashes of a run."""
    found = Found()
    starts = [event for event in record.events if isinstance(event, Start)]
    kinds = [event.kind for event in record.events if isinstance(event, Crash)]
    if name == "SIGTERM":
        kinds = [event.how for event in record.events if event.type == "end" and event.how != "finished"]
    processes: list[list[dict]] = []
    for line in lines:
        if line["event"] == "born":
            processes.append([])
        elif processes:
            processes[-1].append(line)
    found.crashes = len(starts) - 1
    found.right = sum(kind in CLASSES[name] for kind in kinds)
    for number, start in enumerate(starts[1:], 1):
        events = record.events[: record.events.index(start)]
        newest = [e.step for e in RunRecord(events).files if e.resumable]
        found.resumed += bool(newest) and start.step == newest[-1]
        if number < len(processes) and processes[number - 1] and processes[number]:
            last, first = processes[number - 1][-1], processes[number][0]
            found.lost.append(last["step"] - start.step)
            found.seconds.append(first["time"] - last["time"])
    return found


def equal(run: Path, through: Path, *, exactly: bool) -> str:
    """Whether what was trained is what a run that went through has: words for the table."""
    one, other = read_run(run), read_run(through)
    places = [[(e.step, e.epoch) for e in r.evaluations] for r in (one, other)]
    epochs = [[(e.step, e.epoch, e.batches) for e in r.train_epochs] for r in (one, other)]
    shared = len(places[0])
    if places[0] != places[1][:shared] or epochs[0] != epochs[1][: len(epochs[0])]:
        return "NO: gap or duplicate"
    losses = [[e.metrics for e in r.evaluations][:shared] for r in (one, other)]
    worst = max(abs(a["eval.mel_ce"] - b["eval.mel_ce"]) for a, b in zip(*losses, strict=True))
    if not exactly:
        return f"history whole, mel CE within {worst:.3f}"
    trained = [[e.metrics for e in r.train_epochs][: len(epochs[0])] for r in (one, other)]
    if losses[0] != losses[1] or trained[0] != trained[1]:
        return f"NO: mel CE differs by {worst:.2e}"
    return "equal"


def same_weights(run: Path, through: Path) -> bool:
    """Whether the last checkpoints of two runs of one length hold the same bits."""
    states = []
    for folder in (run, through):
        newest = [file.path for file in read_run(folder).files if file.resumable][-1]
        states.append(torch.load(folder / newest, map_location="cpu", mmap=True, weights_only=True)["model"])
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


# Random instants


def killed_at_random(place: Place, kills: int, seed: random.Random, per_epoch: int) -> tuple[Found, Path, int, int]:
    """One run, killed at so many random instants after its first step, or before it."""
    folder = place.folder / "random-kills"
    (folder / "out").mkdir(parents=True)
    times = folder / "times"
    times.touch()
    epochs = -(-max(2, kills * 2) // per_epoch)
    left = [kills]
    done = threading.Event()

    def kill() -> None:
        seen: set[int] = set()
        while left[0] and not done.wait(0.05):
            lines = told(times)
            fresh = [line for line in lines if line["event"] == "step" and line["pid"] not in seen]
            begun = any((folder / "out").glob("*/checkpoint_*.pth"))  # before the first one a run begins anew
            if not fresh or not begun:
                continue
            pid = fresh[-1]["pid"]
            seen.add(pid)
            if done.wait(seed.uniform(0.0, 4.0)):
                return
            try:
                os.kill(pid, signal.SIGKILL)
                left[0] -= 1
            except ProcessLookupError:
                pass

    killer = threading.Thread(target=kill)
    killer.start()
    supervised(place, folder / "out", epochs, times, [])
    done.set()
    killer.join()
    run = run_in(folder / "out")
    return look_at("SIGKILL", read_run(run), told(times)), run, epochs, kills - left[0]


def through_run(place: Place, epochs: int) -> Path:
    folder = place.folder / f"through-{epochs}"
    folder.mkdir()
    with (folder / "printed.txt").open("wb") as printed:
        subprocess.run(
            place.command(folder / "out", epochs),
            env=environment(folder / "times"),
            stdout=printed,
            stderr=printed,
            check=True,
        )
    return run_in(folder / "out")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="crashes of each class")
    parser.add_argument("--kills", type=int, default=100, help="kills at random instants over one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=CLASSES, help="this class; may be repeated")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    args = parser.parse_args()
    from xtts_gatekeeper.toy.model import build_toy_base
    from xtts_gatekeeper.toy.sentences import SENTENCES
    from xtts_gatekeeper.toy.speech import make_speech_set

    folder = args.folder or Path(tempfile.mkdtemp(prefix="recovery-"))
    folder.mkdir(parents=True, exist_ok=True)
    data = make_speech_set(folder / "speech", SENTENCES[:30])
    place = Place(folder, build_toy_base(folder / "base"), data)
    train, _ = stable_split(load_ljspeech(data), eval_fraction=0.2)
    per_epoch = -(-len(train) // 3)
    seed = random.Random(args.seed)
    names = args.only or list(CLASSES)

    runs: dict[str, tuple[Found, Path, int]] = {}
    bare: dict[str, dict[str, float]] = {}
    failed = False
    for name in names:
        runs[name] = crash_times(place, name, args.times, seed, per_epoch)
        found = runs[name][0]
        bare[name] = start_up(place, 3, runs[name][1])  # right beside: in half an hour a machine's pace changes
        print(f"{name}: {found.right} of {found.crashes} classified right", file=sys.stderr, flush=True)
    longest = max((epochs for _, _, epochs in runs.values()), default=2)
    through = through_run(place, longest)

    print(f"toy XTTS, {per_epoch} steps an epoch, a checkpoint every {SAVE_STEP} steps, --times {args.times}")
    starts = {kind: statistics.median(found[kind] for found in bare.values()) for kind in next(iter(bare.values()))}
    print("seconds from start to first step: " + ", ".join(f"{kind} {value:.1f}" for kind, value in starts.items()))
    header = (
        "class",
        "crashes",
        "right",
        "resumed",
        "lost: median",
        "most",
        "s to next step",
        "x bare",
        "x hand",
        "result",
    )
    print(("{:<19}{:>8}{:>7}{:>9}{:>14}{:>6}{:>16}{:>8}{:>8}  {}").format(*header))
    for name, (found, run, epochs) in runs.items():
        exactly = name not in _OTHERWISE
        found.as_through = equal(run, through, exactly=exactly)
        if exactly and epochs == longest and not same_weights(run, through):
            found.as_through = "NO: weights differ"
        failed |= show(name, found, bare[name])
    if args.kills:
        found, run, epochs, done = killed_at_random(place, args.kills, seed, per_epoch)
        whole = through_run(place, epochs)
        found.as_through = equal(run, whole, exactly=True)
        if not same_weights(run, whole):
            found.as_through += ", weights differ"
        failed |= show(f"{done} random SIGKILLs", found, start_up(place, 3, whole))
        mel = [read_run(path).evaluations[-1].metrics["eval.mel_ce"] for path in (run, whole)]
        print(f"its last evaluation: mel CE {mel[0]:.6f}, that of a run that went through {mel[1]:.6f}")
    if not failed and args.folder is None:
        shutil.rmtree(folder)
    return int(failed)


def show(name: str, found: Found, bare: dict[str, float]) -> bool:
    """Print a row; whether something is wrong with it."""
    seconds = statistics.median(found.seconds) if found.seconds else float("nan")
    ratios = [seconds / bare[kind] for kind in ("gatekept", "resumed by hand")]
    lost = f"{statistics.median(found.lost or [0]):>14.0f}{max(found.lost, default=0):>6}"
    times = f"{seconds:>16.1f}{ratios[0]:>8.2f}{ratios[1]:>8.2f}"
    print(
        f"{name:<19}{found.crashes:>8}{found.right:>7}{found.resumed:>9}{lost}{times}  {found.as_through}", flush=True
    )
    wrong = found.right < found.crashes or found.resumed < found.crashes or found.as_through.startswith("NO")
    return wrong and "random" not in name


if __name__ == "__main__":
    sys.exit(main())

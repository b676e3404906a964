"""Kill a training in every way there is, fill its disk, fail its writes, flip its bits; count what was lost.

    python benchmarks/survival.py [--quick] [--random 300] [--xtts 4] [--flips 500] [--seed 0] ...

The training is the stock Trainer with the gatekeeper on a small torch model that saves all the time; with `--xtts N`
also the toy XTTS. After each blow the run folder is looked at as a user would find it: `resume` has to choose a whole
file no older than the last one that the journal had acknowledged, the acknowledged best has to be there with the
weights that scored it, the stock Trainer's own choice has to be resumable, and no file of a stock name may be broken.

Every process is forked from this one, which has imported what is slow to import. Exit code 1 if anything was lost;
then each failure is printed as a `--case` that repeats it (`random` and `asynchronous` ones as far as time repeats
itself), and the run folders stay. Linux only.
"""

import argparse
import contextlib
import filecmp
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from survival_blows import Case, Operations, Tiny, can_mount, shortage, small_disk, train
from trainer.io import get_last_checkpoint

from xtts_gatekeeper import read_run
from xtts_gatekeeper.checkpoints import disk, resume
from xtts_gatekeeper.checkpoints.contents import peek
from xtts_gatekeeper.checkpoints.integrity import scan
from xtts_gatekeeper.checkpoints.inventory import BEST_NAME, NUMBERED, candidates
from xtts_gatekeeper.checkpoints.verify import verify_file
from xtts_gatekeeper.record import Checkpoint, Evaluation, journal_path

ROOT = Path(__file__).parent.parent
#: Kills of one `random` run: after each it is continued, until the next.
LINKS = 6
TIMEOUT_SECONDS = 300
LOSSES = ("state lost", "best lost", "broken file", "flip missed", "training ended", "not continued")


@dataclass
class Outcome:
    """What was found: blows dealt, and for each loss its column and a sentence."""

    blows: int = 0
    losses: list[tuple[str, str]] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)


# Processes


def forked(work: Callable[[], object], log: Path) -> int:
    """Do `work` in a process of its own, its output in `log`; the process's number."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        work()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """The exit code of a process, negative for a signal; None when it still runs after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.002)


def trained(case: Case, folder: Path, run: Path | None = None, epochs: int = 1) -> int:
    """One training of a case in a process of its own, to whatever end; its exit code."""

    def work() -> None:
        operations = Operations(folder, case.at, case.how)
        callbacks = shortage(case, folder) if case.part in ("disk", "limit") else None
        if case.part in ("boundary", "fault", "count"):
            operations.install()
        train(case, folder, run, callbacks, epochs)
        if case.part == "count":
            (folder / "operations.json").write_text(json.dumps(operations.done))

    # Not on the disk that is full: what cannot be printed would end the process.
    pid = forked(work, (folder.parent.parent if case.part == "disk" else folder) / "output.txt")
    code = ended(pid, TIMEOUT_SECONDS)
    if code is None:
        os.kill(pid, signal.SIGABRT)
        code = ended(pid, math.inf)
    return code or 0


def only_run(folder: Path) -> Path | None:
    """The run folder in `folder`, or None where the process did not get so far."""
    runs = [path for path in folder.glob("run-*") if path.is_dir()]
    return runs[0] if runs else None


def copied(run: Path, folder: Path) -> Path:
    """A copy of a run in `folder`, hard links and times kept."""
    subprocess.run(["cp", "-a", run, folder], check=True)
    return folder / run.name


# What is left


def check(run: Path | None, before: bytes = b"", damaged: Path | None = None) -> list[tuple[str, str]]:
    """What was lost of the run, as columns and sentences.

    Args:
        run: the run folder, if there is one.
        before: how the journal began.
        damaged: a copy of a file that had been damaged before; that one counts for nothing.
    """
    if run is None or not journal_path(run).exists():
        return [("state lost", "the journal is gone")] if before else []
    found: list[tuple[str, str]] = []
    if not journal_path(run).read_bytes().startswith(before):
        found.append(("state lost", "the journal is not what it was"))
    record = resume.record_of(run)
    acknowledged = [event for event in record.events if isinstance(event, Checkpoint) and event.intact]
    if damaged is not None:  # its digest is still that of the whole file: the flipped bit is in a tensor
        acknowledged = [event for event in acknowledged if event.digest != scan(damaged).digest]
    states = [event for event in acknowledged if event.resumable]
    bests = [event for event in acknowledged if event.kind == "best" and event.value is not None]
    files = {file.path: file for file in candidates(run, record)}

    resume._verified.clear()
    chosen = resume.choose(run)
    if chosen.file is not None:
        state = loaded(chosen.file)
        if not (isinstance(state, dict) and state.get("optimizer") and state.get("model")):
            found.append(("state lost", f"{chosen.file.name} was chosen and cannot be loaded"))
    if states and chosen.file is None:
        found.append(("state lost", f"{states[-1].path} was acknowledged, and now: {chosen.why}"))
    elif states and chosen.step < states[-1].step:
        found.append(("state lost", f"{chosen.file.name} holds step {chosen.step}, {states[-1].step} was acknowledged"))
    if bests:
        expected = min(bests, key=lambda event: event.value)
        best = resume.choose(run, "best").file
        value = math.inf if best is None else score(best, files[best.name].metrics.get(expected.metric, math.inf))
        if not value <= expected.value * (1 + 1e-4):
            found.append(
                ("best lost", f"{expected.path} had {expected.value:.6f}, now {best and best.name} {value:.6f}")
            )
    names = [path for path in run.glob("*.pth") if NUMBERED.fullmatch(path.name) or path.name == BEST_NAME]
    found += [
        ("broken file", f"{path.name}: {'; '.join(report.problems)}")
        for path in names
        if not (report := verify_file(path)).intact
        and not (damaged is not None and filecmp.cmp(path, damaged, shallow=False))
    ]
    if states:
        try:
            json.loads((run / "config.json").read_text())
        except ValueError:
            found.append(("state lost", "config.json is broken: no Trainer can continue the run"))
        stock = Path(get_last_checkpoint(run)[0])
        if not peek(stock).resumable:
            found.append(("state lost", f"the stock Trainer would go on from {stock.name}, which cannot be resumed"))
    return found


def loaded(path: Path):
    """What torch loads; None when it cannot."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return None


def score(path: Path, recorded: float) -> float:
    """What the weights of a file score when they are evaluated again; of an XTTS what is on record."""
    state = loaded(path)
    if state is None:
        return math.inf
    if "out.weight" not in state["model"]:
        return recorded
    model = Tiny(state["model"]["out.weight"].shape[1])
    model.load_state_dict(state["model"])
    return model.evaluate()


def continues(case: Case, folder: Path, fresh: bool = False) -> list[tuple[str, str]]:
    """Train on in what is left, in a fork or in a fresh interpreter, to the end; what is wrong with that."""
    run = only_run(folder)
    if run is None or not any(run.glob("*.pth")):
        return []
    before = read_run(run).events
    epochs = max(event.epoch for event in before) + 2
    chosen = resume.choose(run)
    calm = replace(case, part="calm", at=-1, how="")
    if fresh:
        command = [sys.executable, __file__, "--child", json.dumps([asdict(calm), str(folder), str(run), epochs])]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        code, said = done.returncode, done.stderr[-500:]
    else:
        code, said = trained(calm, folder, run, epochs), f"see {folder / 'output.txt'}"
    after = read_run(run)
    if code or after.end is None or after.end.how != "finished":
        return [("not continued", f"exit code {code}, {after.end and after.end.how}: {said}")]
    if after.start.resume_mode != "continue" or Path(after.start.resumed_from).name != chosen.file.name:
        return [("not continued", f"it began from {after.start.resumed_from} instead of {chosen.file}")]
    if after.end.step <= after.start.step:
        return [("not continued", f"it did not train: from step {after.start.step} to {after.end.step}")]
    values = [value for event in after.events[after.events.index(after.start) :] for value in objective(event)]
    best = resume.choose(run, "best").file
    if case.model == "tiny" and not score(best, math.inf) <= min(values) * (1 + 1e-4):
        return [("best lost", f"an evaluation was {min(values):.6f}, {best.name} scores {score(best, math.inf):.6f}")]
    return check(run)


def objective(event) -> list[float]:
    """What an evaluation of the small model measured; nothing of another event."""
    return [event.metrics["eval.loss"]] if isinstance(event, Evaluation) else []


# Parts


def play(case: Case, work: Path) -> Outcome:
    """Deal one case's blows and look at what is left."""
    folder = Path(tempfile.mkdtemp(prefix=f"{case.part}-", dir=work))
    small = folder / "small"
    outcome = Outcome(runs=[str(folder)])
    if case.part == "random":
        _chain(case, folder, outcome)
        return outcome
    if case.part == "flip":
        _flip(case, work, folder, outcome)
        return outcome
    with contextlib.ExitStack() as stack:
        at = folder
        if case.part == "disk":
            small.mkdir()
            stack.enter_context(small_disk(small, (6 << 20) + (disk.RESERVE_BYTES if case.how == "guarded" else 0)))
            (at := small / "runs").mkdir()
        run = None
        if case.base:
            base = only_run(work / "bases" / case.base)
            run = copied(base, at)
        code = trained(case, at, run, epochs=2 if run else 1)
        outcome.blows += 1
        damaged = base / (work / "bases" / "damaged").read_text() if case.base == "broken" else None
        outcome.losses += check(only_run(at), damaged=damaged)
        if case.part == "boundary" and code != -signal.SIGKILL and case.at >= 0:
            outcome.blows -= 1  # the operation that was to be the last never came
        if case.part != "boundary" and code:
            outcome.losses.append(("training ended", f"exit code {code}: see {at / 'output.txt'}"))
        if at != folder:
            copied(only_run(at), folder)
    if not outcome.losses and case.seed % 8 == 0:
        outcome.losses += continues(case, folder)
    return outcome


def _chain(case: Case, folder: Path, outcome: Outcome) -> None:
    """Kill a run at random instants of its life, and each time go on with what is left."""
    draw = random.Random(case.seed)
    before = b""
    longest = {"tiny": 1.5, "xtts": 15.0}[case.model]
    for _ in range(LINKS):
        run = only_run(folder)
        if run is not None and not any(run.glob("*.pth")):
            shutil.rmtree(run)  # killed before the first save was whole: nothing to go on from
            run, before = None, b""
        done = max((event.epoch for event in read_run(run).events), default=0) if run else 0
        epochs = done + draw.choice((2, 50))  # the end of a training is to be hit, too
        pid = forked(lambda run=run, epochs=epochs: train(case, folder, run, None, epochs), folder / "output.txt")
        code = ended(pid, draw.uniform(0.0, longest))
        if code is None:
            os.kill(pid, signal.SIGKILL)
            ended(pid, math.inf)
        elif code:
            outcome.losses.append(("not continued", f"exit code {code}: see {folder / 'output.txt'}"))
        outcome.blows += 1
        run = only_run(folder)
        outcome.losses += check(run, before)
        if outcome.losses:
            return
        before = journal_path(run).read_bytes() if run is not None and journal_path(run).exists() else b""
    outcome.losses += continues(case, folder)


def _flip(case: Case, work: Path, folder: Path, outcome: Outcome) -> None:
    """Flip bits of a finished run's newest resumable file, or of its best, and put them back."""
    draw = random.Random(case.seed)
    run = copied(only_run(work / "bases" / "whole"), folder)
    which = "best" if case.how == "best" else "latest"
    target = resume.choose(run, which).file
    stat = target.stat()
    for _ in range(case.at):
        place, bit = draw.randrange(stat.st_size), draw.randrange(8)
        flip(target, place, bit)
        outcome.blows += 1
        resume._verified.clear()
        where = f"bit {bit} of byte {place} of {target.name}"
        if verify_file(target).intact:
            outcome.losses.append(("flip missed", where))
        left = resume.choose(run, which).file
        if left is None and which == "latest":
            outcome.losses.append(("state lost", f"{where}: nothing to resume from"))
        if left == target or (left is not None and not verify_file(left).intact):
            outcome.losses.append(("flip missed", f"{where}: and it was chosen"))
        flip(target, place, bit)
        os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def make_bases(work: Path) -> dict[str, list[str]]:
    """Runs to start from, and the operations that a training does on each.

    `whole` has finished; `killed` died between giving a best its name and acknowledging it, and left half a file;
    `broken` has a damaged newest checkpoint, and a best of a higher number than the one before it.
    """
    bases = work / "bases"
    operations = {}

    def made(name: str, case: Case) -> Path:
        (bases / name).mkdir(parents=True)
        trained(case, bases / name)
        return only_run(bases / name)

    made("whole", Case("flip", asynchronous=False))
    made("count", Case("count", asynchronous=False))
    operations[""] = json.loads((bases / "count" / "operations.json").read_text())
    last_best = max(i for i, done in enumerate(operations[""]) if done.startswith("replace best_model_"))
    killed = made("killed", Case("boundary", at=last_best, how="after", asynchronous=False))
    (killed / "checkpoint_99.pth.partial").write_bytes(b"half")
    broken = made("broken", Case("calm", base="broken", asynchronous=False))
    newest = resume.choose(broken).file
    flip(newest, newest.stat().st_size // 2, 0)
    (bases / "damaged").write_text(newest.name)
    for name in ("killed", "broken"):
        counting = bases / f"count-{name}"
        counting.mkdir()
        run = copied(only_run(bases / name), counting)
        trained(Case("count", base=name, asynchronous=False), counting, run, epochs=2)
        operations[name] = json.loads((counting / "operations.json").read_text())
    return operations


def cases_of(args: argparse.Namespace, operations: dict[str, list[str]]) -> list[Case]:
    """Everything that was asked for, the long ones first."""
    draw = random.Random(args.seed)
    chains = [Case("random", seed=args.seed * 10_000 + i, model="xtts") for i in range(-(-args.xtts // LINKS))]
    chains += [Case("random", seed=args.seed * 10_000 + i) for i in range(-(-args.random // LINKS))]
    boundary, fault = [], []
    for base, done in operations.items():
        for at, name in enumerate(done):
            hows = (
                ("before", "during", "after") if name.split()[0] in ("save", "write", "config") else ("before", "after")
            )
            boundary += [Case("boundary", base=base, at=at, how=how, asynchronous=False) for how in hows]
            if name.endswith("config.json"):  # the Trainer's own, before training begins
                continue
            fault += [Case("fault", base=base, at=at, how=how, asynchronous=False) for how in ("EIO", "EACCES", "EIO+")]
    boundary += [replace(case, asynchronous=True) for case in boundary if not case.base]
    for cases, count in ((boundary, args.boundaries), (fault, args.faults)):
        draw.shuffle(cases)
        del cases[count:]
        cases[:] = [replace(case, seed=i) for i, case in enumerate(cases)]
    hows = ("", "guarded")
    short = [Case("disk", seed=args.seed + i, how=hows[i % 2]) for i in range(args.disk)]
    short += [Case("limit", seed=args.seed + i) for i in range(args.limit)]
    each = -(-args.flips // 10)
    flips = [
        Case("flip", seed=args.seed + i, how=how, at=each)
        for i in range(5 if args.flips else 0)
        for how in ("latest", "best")
    ]
    return [*chains, *boundary, *fault, *short, *flips]


def play_all(cases: list[Case], work: Path, at_once: int) -> Iterator[tuple[Case, Outcome]]:
    """Play the cases, several at once, each in a fork of this process."""
    waiting, running = list(reversed(cases)), {}
    while waiting or running:
        while waiting and len(running) < at_once:
            case = waiting.pop()
            result = work / f"result-{len(waiting)}.json"

            def work_on(case=case, result=result) -> None:
                result.write_text(json.dumps(asdict(play(case, work))))

            running[forked(work_on, work / "output.txt")] = case, result
        pid, _ = os.wait()
        case, result = running.pop(pid)
        if result.exists():
            yield case, Outcome(**json.loads(result.read_text()))
        else:
            yield case, Outcome(losses=[("not continued", f"this script failed: see {work / 'output.txt'}")])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    quick = "--quick" in sys.argv

    def number(flag: str, usual: int, short: int, help: str) -> None:
        parser.add_argument(flag, type=int, default=short if quick else usual, metavar="N", help=help)

    parser.add_argument("--quick", action="store_true", help="a small share of everything, about a minute")
    number("--random", 300, 24, "kills at random instants")
    number("--xtts", 12, 0, "kills of the toy XTTS at random instants")
    number("--boundaries", 100_000, 40, "kills at file operations, at most")
    number("--faults", 100_000, 40, "injected errors, at most")
    number("--disk", 40, 6, "disks that fill up")
    number("--limit", 40, 6, "limits on the size of files")
    number("--flips", 500, 40, "flipped bits")
    number("--continue", 10, 2, "survivors that a fresh interpreter trains on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--work", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--case", help="only this case, as it was printed with a failure")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        case, folder, run, epochs = json.loads(args.child)
        train(Case(**case), Path(folder), Path(run), None, epochs)
        return 0
    return survey(args)


def survey(args: argparse.Namespace) -> int:
    """Play everything, print the table; the exit code."""
    work = Path(tempfile.mkdtemp(prefix="survival-", dir=args.work))
    os.environ["SURVIVAL_ASSETS"] = str(work / "assets")
    if args.xtts or (args.case and "xtts" in args.case):
        from xtts_gatekeeper.toy.model import build_toy_base
        from xtts_gatekeeper.toy.sentences import SENTENCES
        from xtts_gatekeeper.toy.speech import make_speech_set

        build_toy_base(work / "assets" / "base")
        make_speech_set(work / "assets" / "speech", SENTENCES[:16])
        import TTS.tts.layers.xtts.trainer.gpt_trainer  # noqa: F401
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # imports what every fork would
    operations = make_bases(work)
    if args.disk and not can_mount():
        print("disks that fill up: skipped, this user may not mount a small file system")
        args.disk = 0
    cases = [Case(**json.loads(args.case))] if args.case else cases_of(args, operations)
    table: dict[str, dict[str, int]] = {}
    failures, survivors = [], []
    began = time.monotonic()
    for case, outcome in play_all(cases, work, args.at_once):
        part = f"{case.part} {case.model}" if case.part == "random" else case.part
        row = table.setdefault(part, dict.fromkeys(("blows", *LOSSES), 0))
        row["blows"] += outcome.blows
        for loss, sentence in outcome.losses:
            row[loss] += 1
            failures.append((case, loss, sentence))
        spared = not outcome.losses and case.part in ("random", "boundary", "fault", "limit")
        folder = Path(outcome.runs[0]) if outcome.runs else None
        if spared and len(survivors) < getattr(args, "continue") and only_run(folder) and case.seed % 7 == 0:
            survivors.append((case, folder))
        elif folder and not outcome.losses and not args.case:
            shutil.rmtree(folder)
    fresh = [(case, loss) for case, folder in survivors for loss in continues(case, folder, fresh=True)]
    failures += [(case, *loss) for case, loss in fresh]
    print(f"\n{'':16}{'blows':>8}" + "".join(f"{name:>16}" for name in LOSSES))
    for part, row in table.items():
        print(f"{part:16}" + f"{row['blows']:8}" + "".join(f"{row[name]:16}" for name in LOSSES))
    print(f"{len(survivors)} survivors trained on by a fresh interpreter, {len(fresh)} did not go on")
    print(f"{time.monotonic() - began:.0f} s, seed {args.seed}")
    for case, loss, sentence in failures:
        changed = {key: value for key, value in asdict(case).items() if value != getattr(Case(""), key)}
        what = operations[case.base][case.at] if case.part in ("boundary", "fault") and not case.asynchronous else ""
        print(f"\n{loss} [{what}]: {sentence}\n  --case '{json.dumps(changed)}'")
    if failures or args.case:
        print(f"\nthe run folders are in {work}")
    else:
        shutil.rmtree(work)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

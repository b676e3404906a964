"""How long `prune --dry-run` takes on a run folder with many small real checkpoints.

    python benchmarks/prune_speed.py [--files 1000] [--repeats 5] [--folder DIR]

Two folders: one of the stock Trainer with its console log, and one of ours with a journal. The checkpoints are what the
Trainer saves of a model of two layers with an Adam optimizer and the settings of a run. Prints the time of
`prune_document` and of the whole command, each as a median with its range, and what takes the most of it. Measures,
asserts nothing.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from xtts_gatekeeper.checkpoints.integrity import scan
from xtts_gatekeeper.checkpoints.pruner import prune_document
from xtts_gatekeeper.record import Checkpoint, Evaluation, Journal, Start, journal_path

#: As many as a Coqui config has.
SETTINGS = {"run_name": "voice", "output_path": "/runs", **{f"setting_{n}": n / 7 for n in range(150)}}
#: Steps from one checkpoint to the next, and of an epoch.
STEPS = 10


def checkpoint(path: Path) -> None:
    """A checkpoint of the Trainer's, small."""
    import torch
    from trainer.io import save_model

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    adam = torch.optim.AdamW(model.parameters())
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    adam.step()
    save_model(SETTINGS, model, path, current_step=STEPS, epoch=0, optimizer=[adam], model_loss={"train_loss": 1.0})


def files_of(run: Path, count: int) -> list[Path]:
    """The folder with its checkpoints: copies, for their content does not matter here."""
    run.mkdir()
    (run / "config.json").write_text(json.dumps(SETTINGS))
    paths = [run / f"checkpoint_{STEPS * n}.pth" for n in range(1, count + 1)]
    checkpoint(paths[0])
    for path in paths[1:]:
        shutil.copyfile(paths[0], path)
    return paths


def stock(run: Path, count: int) -> None:
    lines = []
    for number, path in enumerate(files_of(run, count)):
        base = number * STEPS
        lines.append(f"\n > EPOCH: {number}/{count}\n --> {run}\n\n > TRAINING (2031-02-03 04:05:06) \n")
        for step in range(STEPS):
            lines.append(f"\n   --> STEP: {step}/{STEPS - 1} -- GLOBAL_STEP: {base + step}\n")
            lines.append(f"     | > loss_mel_ce: {3 - number / count:.5f}  ({3 - number / count:.5f})\n\n")
        lines.append("\n > EVALUATION \n\n\n  --> EVAL PERFORMANCE\n")
        lines.append(f"     | > avg_loss_mel_ce: {3 - number / count:.5f} (-0.001)\n\n > CHECKPOINT : {path}\n")
    (run / "trainer_0_log.txt").write_text("".join(lines))


def journaled(run: Path, count: int) -> None:
    paths = files_of(run, count)
    digest, size = scan(paths[0]).digest, paths[0].stat().st_size
    journal = Journal(journal_path(run))
    journal.append(Start(step=0, epoch=0))
    for number, path in enumerate(paths):
        step, mel = STEPS * (number + 1), 3 - number / count
        events = [
            Evaluation(step=step, epoch=number, metrics={"eval.mel_ce": mel, "eval.loss": mel}, eval_set="dev"),
            Checkpoint(
                step=step, epoch=number, kind="latest", path=path.name, bytes=size, intact=True, resumable=True,
                mtime_ns=path.stat().st_mtime_ns, digest=digest,
            ),
        ]  # fmt: skip
        for event in events:
            journal.append(event)


def document(run: Path) -> None:
    prune_document(run, (), None, dry_run=True)


def command(run: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-m", "xtts_gatekeeper", "prune", str(run), "--dry-run", "--json"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        raise SystemExit(done.stderr)


def seconds(what: Callable[[Path], object], run: Path) -> float:
    began = time.perf_counter()
    what(run)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="Where the runs are made; else the system's temporary folder.")
    options = parser.parse_args()
    for make in (stock, journaled):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            run = Path(folder) / "run"
            make(run, options.files)
            for name, what in (("prune_document", document), ("the command", command)):
                turns = [seconds(what, run) for _ in range(options.repeats)]
                spread = f"({min(turns):.2f} to {max(turns):.2f})"
                print(f"{make.__name__:10} {options.files} files, {name:14} {statistics.median(turns):6.2f} s {spread}")
            profile = cProfile.Profile()
            profile.runcall(document, run)
            found = pstats.Stats(profile).stats
            for (file, _, function), (_, _, _, total, _) in sorted(found.items(), key=lambda f: -f[1][3])[:12]:
                print(f"    {total:6.2f} s under the profiler in {Path(file).name} {function}")


if __name__ == "__main__":
    main()

"""The flags that the recipes share. Imports nothing heavy, so that a mistake is told before the slow imports."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from xtts_gatekeeper.checkpoints.resume import record_of
from xtts_gatekeeper.crashes.restart import Restart
from xtts_gatekeeper.data import load_ljspeech
from xtts_gatekeeper.dataset.selection import leave_out, read_names
from xtts_gatekeeper.dataset.split import pinned_split, stable_split, without_evaluation
from xtts_gatekeeper.errors import UserError, nearest
from xtts_gatekeeper.record import journal_path
from xtts_gatekeeper.settings import has_flag
from xtts_gatekeeper.trainer_port import TRAINER_FLAGS


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises a `UserError` for a mistake instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UserError(f"{message}; see --help.")


def recipe_parser(description: str, lr: float | None, *, resumes: bool = True) -> argparse.ArgumentParser:
    """The flags of a fine-tuning, with the phase-2 report's numbers as defaults.

    Args:
        description: the recipe's docstring, for `--help`.
        lr: default of `--lr`; None leaves the flag out.
        resumes: whether `--resume` is to be the usual flag.
    """
    parser = Parser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Flags of the stock Trainer work too: --continue_path RUN, --coqpit[.gatekeeper].KEY VALUE.",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="speech in LJSpeech layout: metadata.csv and wavs/")
    add("--language", default="en", help="language of the data (default: %(default)s)")
    add(
        "--base",
        default="xtts-v2",
        help="toy, xtts-v2 (downloads it once) or a folder with its files (default: %(default)s)",
    )
    add("--output", type=Path, default=Path("runs"), help="folder for runs and base models (default: %(default)s)")
    if lr is not None:
        add("--lr", type=float, default=lr, help="learning rate (default: %(default)s)")
    add("--epochs", type=int, default=30, help="(default: %(default)s)")
    add("--batch-size", type=int, default=3, help="(default: %(default)s)")
    add("--grad-accum", type=int, default=1, help="batches an optimizer update (default: %(default)s)")
    add("--eval-fraction", type=float, default=0.15, help="share of clips held out, by content (default: %(default)s)")
    add("--eval-clips", type=int, default=2, help="refuse to begin with fewer held out (default: %(default)s)")
    add("--eval-seconds", type=float, default=0.0, help="or with fewer seconds of them (default: %(default)s)")
    add(
        "--eval-list",
        type=Path,
        metavar="FILE",
        help="list of the clips to hold out, one path or id a line, or a .json",
    )
    add("--save-step", type=int, default=500, help="steps between checkpoints (default: %(default)s)")
    add("--workers", type=int, default=0, help="data loader processes (default: %(default)s)")
    add("--policy", default="checklist", help="name or YAML file of the gate rules (default: %(default)s)")
    add("--exclude", type=Path, metavar="FILE", help="list of clips to leave out, one path or id a line")
    if resumes:
        add("--resume", metavar="auto|RUN", help="go on with RUN, or with the newest run of this recipe in --output")
    add("--no-stop", action="store_true", help="print a verdict `stop` and train on")
    return parser


def parse_flags(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """Parse a recipe's flags; those of the stock Trainer are let through to it.

    Raises:
        UserError: an unknown flag, or a number that makes no sense.
    """
    args, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    own = {option for action in parser._actions for option in action.option_strings}
    for flag in (token.split("=")[0] for token in rest if token.startswith("-") and not _is_number(token)):
        if not flag.startswith("--coqpit.") and flag not in TRAINER_FLAGS:
            raise UserError(f"unknown flag {flag}, {nearest(flag, own | set(TRAINER_FLAGS))}")
    if rest and not rest[0].startswith("-"):
        raise UserError(f"{rest[0]!r} belongs to no flag; see --help.")
    for name in ("epochs", "batch_size", "grad_accum", "save_step", "eval_clips"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be 1 or more.")
    if not args.eval_seconds >= 0:
        raise UserError(f"--eval-seconds is {args.eval_seconds}; it must be 0 or more.")
    if args.workers < 0:
        raise UserError(f"--workers is {args.workers}; it must be 0 or more.")
    return args


def load_clips(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The clips to train with and those to evaluate with, without those that `--exclude` names.

    Raises:
        UserError: the data or the list cannot be used.
    """
    samples = load_ljspeech(args.data, args.language)
    if args.exclude is not None:
        kept, unknown = leave_out(samples, read_names(args.exclude))
        print(f"{len(samples) - len(kept)} of {len(samples)} clips are left out", file=sys.stderr)
        _warn_of(args.exclude, unknown)
        samples = kept
    if args.eval_list is not None:
        train, held_out, unknown = pinned_split(samples, read_names(args.eval_list, "evaluate with"))
        _warn_of(args.eval_list, unknown)
    else:
        floor = {"minimum_clips": args.eval_clips, "minimum_seconds": args.eval_seconds}
        train, held_out = stable_split(samples, args.eval_fraction, **floor)
    for sentence in without_evaluation(train, held_out):
        print(f"WARNING: {sentence}", file=sys.stderr)
    return train, held_out


def _warn_of(file: Path, unknown: list[str]) -> None:
    if unknown:
        print(f"WARNING: {file} names clips that are not there: {', '.join(unknown)}", file=sys.stderr)


def go_on(resume: str | None, output: Path, run_name: str) -> None:
    """Do what `--resume` says, by the Trainer's own `--continue_path`; with `auto` a new run where there is none yet.

    A run that has done its work ends the process here, with exit code 0: an engine that starts the same command again
    and again is done then.

    Args:
        resume: `auto`, a run folder, or None.
        output: where the runs of the recipe are.
        run_name: what their names begin with.

    Raises:
        UserError: no such run.
    """
    if resume is None or goes_on(run_name):
        return
    run = newest_run(output, run_name) if resume == "auto" else Path(resume)
    if run is None:
        print(f"there is no run of {run_name} in {output} to go on with: a new one begins", file=sys.stderr)
        return
    if not (run / "config.json").is_file():
        raise UserError(f"--resume {run} is no run folder: it has no config.json.")
    end = record_of(run).end
    if end is not None and (end.how == "finished" or (end.how == "stopped" and end.cause in ("", "verdict"))):
        print(
            f"{run} has {end.how}: there is nothing to go on with. More epochs: --continue_path {run} "
            "--coqpit.epochs N",
            file=sys.stderr,
        )
        raise SystemExit(0)
    print(f"going on with {run}", file=sys.stderr)
    sys.argv += ["--continue_path", str(run)]


def goes_on(run_name: str) -> bool:
    """Whether this process is to go on with a run of this name: by its flags, or because a supervisor says so."""
    restart = Restart.asked()
    return has_flag("--continue_path") or (restart is not None and bool(restart.run_for(run_name)))


def newest_run(output: Path, run_name: str) -> Path | None:
    """The run of a recipe that was written to last, of those that hold a checkpoint; None without any."""
    runs = [
        path
        for path in output.glob(f"{run_name}-*")
        if (path / "config.json").is_file() and any(path.glob("checkpoint_*.pth")) and journal_path(path).is_file()
    ]
    return max(runs, key=lambda path: journal_path(path).stat().st_mtime, default=None)


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True

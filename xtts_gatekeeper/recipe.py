"""The flags that the recipes share. Imports nothing heavy, so that a mistake is told before the slow imports."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from xtts_gatekeeper.errors import UserError, nearest
from xtts_gatekeeper.trainer_port import TRAINER_FLAGS


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises a `UserError` for a mistake instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UserError(f"{message}; see --help.")


def recipe_parser(description: str, lr: float | None) -> argparse.ArgumentParser:
    """The flags of a fine-tuning, with the phase-2 report's numbers as defaults.

    Args:
        description: the recipe's docstring, for `--help`.
        lr: default of `--lr`; None leaves the flag out.
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
    add("--save-step", type=int, default=500, help="steps between checkpoints (default: %(default)s)")
    add("--workers", type=int, default=0, help="data loader processes (default: %(default)s)")
    add("--policy", default="checklist", help="name or YAML file of the gate rules (default: %(default)s)")
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
    for name in ("epochs", "batch_size", "grad_accum", "save_step"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be 1 or more.")
    if args.workers < 0:
        raise UserError(f"--workers is {args.workers}; it must be 0 or more.")
    return args


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True

"""Our settings and the Trainer's paths as the command line has them, checked before the Trainer makes its folder."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import sys
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.lock import refuse_if_written
from xtts_gatekeeper.checkpoints.resume import choose, resume_file
from xtts_gatekeeper.errors import UserError, nearest

_FLAG = "--coqpit.gatekeeper."


def section_in_effect(config: Any) -> Any:
    """The `gatekeeper` section as the Trainer will see it, command line included.

    The Trainer parses the same flags later and ignores those it does not know; here they are an error.

    Raises:
        UserError: no such section; an unknown flag, or a value that does not fit.
    """
    if not hasattr(config, "gatekeeper"):
        raise UserError(
            f"{type(config).__name__} has no `gatekeeper` section: use GatekeptGPTTrainerConfig, or pass "
            "gatekeep(config, gatekeeper=GatekeeperConfig(...))."
        )
    flags = [argument for argument in sys.argv[1:] if argument.startswith(_FLAG)]
    if not flags:
        return config.gatekeeper
    parsed = copy.deepcopy(config)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            unknown = parsed.parse_known_args(sys.argv[1:], relaxed_parser=True)
    except SystemExit:
        raise UserError(said.getvalue().strip().splitlines()[-1].split("error: ")[-1] + ".") from None
    for argument in unknown:
        if argument.startswith(_FLAG):
            name = argument.removeprefix(_FLAG).split("=")[0]
            raise UserError(
                f"unknown config key gatekeeper.{name}, {nearest(name, [key for key, _ in config.gatekeeper.flat()])}"
            )
    return parsed.gatekeeper


def check_trainer_paths(argv: list[str]) -> None:
    """Check the paths of the Trainer's own flags, which it opens only after it has made the run's folder.

    Raises:
        UserError: a run or checkpoint to go on from is not there.
    """
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--continue_path", default="")
    flags.add_argument("--restore_path", default="")
    given, _ = flags.parse_known_args(argv)
    if given.continue_path and "://" not in given.continue_path:
        run = Path(given.continue_path)
        if not (run / "config.json").is_file():
            raise UserError(f"--continue_path {run} is no run folder: it has no config.json.")
        if not any(run.glob("*.pth")):
            raise UserError(f"--continue_path {run} holds no checkpoint to go on from.")
        if (choice := choose(run)).file is None:
            refuse_if_written(run)  # its files come and go
            raise UserError(f"--continue_path {run} cannot be resumed: {choice.why}.")
    elif given.restore_path and "://" not in given.restore_path:
        resume_file(Path(given.restore_path))


def has_flag(flag: str) -> bool:
    """Whether a flag stands on the command line."""
    return any(argument == flag or argument.startswith(f"{flag}=") for argument in sys.argv[1:])

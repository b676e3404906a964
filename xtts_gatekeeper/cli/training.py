"""Verbs that train."""

from __future__ import annotations

import math
from pathlib import Path

import click

from xtts_gatekeeper.cli.common import cli
from xtts_gatekeeper.errors import UserError


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), help="Your own speech in LJSpeech layout instead of espeak's.")
@click.option("--language", default="en", show_default=True, help="Language of --data.")
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(2), help="Epochs over both phases.")
@click.option(
    "--output",
    default=Path("xtts-gatekeeper-demo"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for toy model, speech and runs.",
)
def demo(data: Path | None, language: str, epochs: int, output: Path) -> None:
    """Do the whole job on a toy XTTS, offline: two phases under gates, pruning, verdict and table.

    Needs the `train` extra. The toy is the real GPTTrainer with two layers; its voice is no voice.
    """
    from xtts_gatekeeper.demo import run_demo

    run_demo(output=output, data=data, language=language, epochs=epochs)


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--max-restarts",
    default=3,
    show_default=True,
    type=click.IntRange(0),
    help="Restarts in a row that bring no progress; others are not counted.",
)
@click.option(
    "--backoff",
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(0),
    help="Wait before the first of them, doubled each time; after progress there is no wait.",
)
@click.option("--exclude-suspects", is_flag=True, help="Leave out the clips of a batch that crashes twice.")
@click.option(
    "--disk-wait",
    default=60.0,
    show_default=True,
    metavar="MINUTES",
    type=click.FloatRange(0),
    help="How long to wait for room on a full disk.",
)
@click.argument("command", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(
    context: click.Context,
    max_restarts: int,
    backoff: float,
    exclude_suspects: bool,
    disk_wait: float,
    command: tuple[str, ...],
) -> None:
    """Run the recipe CMD, and start it anew after a crash, from the newest whole state, as long as that is of use.

    Its output is passed on unchanged and kept in RUN/gatekeeper/output, what is known of a crash in
    RUN/gatekeeper/crashes. Exit codes: 0 the training ended by itself or by a verdict, 1 it crashed and another start
    is of no use, 2 the recipe refused its settings or cannot be started, 130 Ctrl-C, 143 SIGTERM: saved, to be gone on
    with later.

    Example: xtts-gatekeeper run -- python recipes/train_two_phase.py --data data/my-voice
    """
    from xtts_gatekeeper.crashes.decide import Limits
    from xtts_gatekeeper.supervisor import Supervisor

    if not (math.isfinite(backoff) and math.isfinite(disk_wait)):
        raise UserError("--backoff and --disk-wait are numbers of seconds and minutes.")
    limits = Limits(restarts=max_restarts, backoff=backoff, exclude=exclude_suspects)
    context.exit(Supervisor(command, limits, disk_wait * 60).run())

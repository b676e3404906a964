"""What the verbs share: the group they belong to, arguments, exit codes and printing."""

from __future__ import annotations

from pathlib import Path

import click

from xtts_gatekeeper import __version__

#: Exit code of `gate` for each verdict; `gates.evaluate` has the same, and importing it takes longer than `--help`.
EXIT_CODES = {"continue": 0, "tune": 10, "stop": 20, "undecided": 30}

#: Exit code where something was looked at and is not as it must be.
EXIT_CHECK_FAILED = 1

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

#: Arguments and options that several verbs have.
RUN = click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
WHICH = click.option(
    "--run", "which", metavar="NAME|N", help="Which run, where a file holds several. Default: the last."
)
POLICY = click.option(
    "--policy", default=None, metavar="NAME|FILE", help="Rules to judge by. Default: those the run was started with."
)
INTERVAL = click.option(
    "--interval", default=5.0, show_default=True, type=click.FloatRange(0.05), help="Seconds between looks of --watch."
)


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__)
def cli() -> None:
    """Gates, phases and checkpoint care for XTTS fine-tuning with the stock Coqui Trainer.

    Exit codes: 0 fine or continue, 10 tune, 20 stop, 30 undecided, 1 a check failed, 2 bad usage or bad input.
    """


def print_json(document: object, indent: int | None = 2) -> None:
    """One JSON document on stdout; NaN and infinities are strings in it."""
    from xtts_gatekeeper.record.journal import to_json

    click.echo(to_json(document, indent=indent))


def print_with(how: str, document: object) -> None:
    """Print with a function of `report.console`; on a real terminal in colour."""
    from rich.console import Console

    from xtts_gatekeeper.report import console

    getattr(console, how)(Console(highlight=False), document)

"""`xtts-gatekeeper VERB`: each verb is a few lines that call the library.

Heavy imports stand inside the verbs, so that the offline ones start at once. JSON goes to stdout, all else of a
`--json` call to stderr.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xtts_gatekeeper import __version__
from xtts_gatekeeper.errors import EXIT_BAD_INPUT, UserError, refuse

if TYPE_CHECKING:
    from xtts_gatekeeper.gates import Policy

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_RUN = click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_POLICY = click.option(
    "--policy", default=None, metavar="NAME|FILE", help="Rules to judge by. Default: those the run was started with."
)


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__)
def cli() -> None:
    """Gates, phases and checkpoint care for XTTS fine-tuning with the stock Coqui Trainer.

    Exit codes: 0 fine or continue, 10 tune, 20 stop, 30 undecided, 1 a check failed, 2 bad usage or bad input.
    """


@cli.command()
@_RUN
@_POLICY
@click.option("--at", metavar="epoch:N|step:N", help="Judge as it stood after N finished epochs, or at GLOBAL_STEP N.")
@_JSON
@click.pass_context
def gate(context: click.Context, run: Path, policy: str | None, at: str | None, as_json: bool) -> None:
    """Say continue, tune, stop or undecided about RUN, finished or still running, and why.

    RUN is the folder of a run that the gatekeeper watched.
    """
    from xtts_gatekeeper.gates import evaluate
    from xtts_gatekeeper.record.run import evaluation_at, find_run, read_run

    folder = find_run(run)
    record = read_run(folder)
    verdict = evaluate(record, _policy_of(folder, policy), evaluation_at(record, at) if at else None)
    if as_json:
        _print_json(verdict.to_dict())
    else:
        from rich.console import Console

        from xtts_gatekeeper.report.console import print_verdict

        print_verdict(Console(highlight=False), verdict.to_dict())
    context.exit(verdict.exit_code)


@cli.command()
@_RUN
@_POLICY
@_JSON
def status(run: Path, policy: str | None, as_json: bool) -> None:
    """Print the checklist's tracking table of RUN, its phases, its best, its verdict and its disk use."""
    from xtts_gatekeeper.record.run import find_run, read_run
    from xtts_gatekeeper.report.table import status as collect

    folder = find_run(run)
    document = collect(folder, read_run(folder), _policy_of(folder, policy))
    if as_json:
        _print_json(document)
    else:
        from rich.console import Console

        from xtts_gatekeeper.report.console import print_status

        print_status(Console(highlight=False), document)


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


def _policy_of(folder: Path, policy: str | None) -> Policy:
    from xtts_gatekeeper.gates import load_policy
    from xtts_gatekeeper.record.journal import FOLDER

    kept = folder / FOLDER / "policy.yaml"
    return load_policy(policy or (kept if kept.is_file() else "checklist"))


def _print_json(document: object) -> None:
    from xtts_gatekeeper.record.journal import to_json

    click.echo(to_json(document, indent=2))


def main() -> None:
    """Run the command line. A user's mistake is one sentence on stderr and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that knows no dash must not end the program
    try:
        code = cli(standalone_mode=False)
    except UserError as error:
        raise refuse(error) from None
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = EXIT_BAD_INPUT
    except click.ClickException as error:
        raise refuse(UserError(error.format_message())) from None
    except OSError as error:
        raise refuse(UserError(f"{error.filename or 'a file'}: {error.strerror or error}.")) from None
    except click.Abort:
        code = 130
    sys.exit(code if isinstance(code, int) else 0)

"""Verbs that look at a run and change nothing of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from xtts_gatekeeper.cli.common import EXIT_CODES, INTERVAL, JSON, POLICY, RUN, WHICH, cli, print_json, print_with
from xtts_gatekeeper.errors import UserError


@cli.command()
@RUN
@POLICY
@WHICH
@click.option("--at", metavar="epoch:N|step:N", help="Judge as it stood after N finished epochs, or at GLOBAL_STEP N.")
@click.option(
    "--replay", is_flag=True, help="The verdict at every evaluation, and what the first stop would have saved."
)
@click.option(
    "--watch", is_flag=True, help="Follow a growing log: a verdict at each new evaluation, until stop or end."
)
@INTERVAL
@JSON
@click.pass_context
def gate(
    context: click.Context,
    run: Path,
    policy: str | None,
    which: str | None,
    at: str | None,
    replay: bool,
    watch: bool,
    interval: float,
    as_json: bool,
) -> None:
    """Say continue, tune, stop or undecided about RUN, finished or still running, and why.

    RUN is a run folder, with or without our journal, a console log (trainer_0_log.txt, a notebook, a pasted piece), a
    TensorBoard event file, or a CSV, TSV or Markdown table with a column for epoch or step.
    """
    from xtts_gatekeeper import offline

    if watch:
        if not math.isfinite(interval):
            raise UserError(f"--interval {interval} is no number of seconds.")
        if at or replay:
            raise UserError("--watch looks at the newest evaluation: it cannot be combined with --at or --replay.")
        documents = offline.watch(run, policy, which, interval)
    else:
        documents = iter([offline.gate_document(offline.open_run(run, policy, which), at, replay)])
    verdict = "undecided"
    for document in documents:
        verdict = document["verdict"]
        if as_json:
            print_json(document, indent=None if watch else 2)
        else:
            print_with("print_gate", document)
    context.exit(EXIT_CODES[verdict])


@cli.command()
@RUN
@POLICY
@WHICH
@click.option("--clips", is_flag=True, help="Which clips were drawn how often, and which of them do not learn.")
@click.option("--markdown", is_flag=True, help="The tables in Markdown, for an issue or a README.")
@JSON
def status(run: Path, policy: str | None, which: str | None, clips: bool, markdown: bool, as_json: bool) -> None:
    """Print the checklist's tracking table of RUN, its phases and what each gained, best, verdict and disk use.

    RUN is anything that `gate` takes.
    """
    from xtts_gatekeeper import offline
    from xtts_gatekeeper.report.table import status as collect

    if markdown and (clips or as_json):
        raise UserError("--markdown is another form of the tables: it cannot be combined with --clips or --json.")
    opened = offline.open_run(run, policy, which)
    folder = opened.source.folder or opened.path
    document = collect(folder, opened.record, opened.policy)
    if clips:
        from xtts_gatekeeper.dataset.coverage import coverage_of

        document["coverage"] = coverage_of(folder).to_dict()
    if markdown:
        from xtts_gatekeeper.report.sheets import markdown as lines

        click.echo("\n".join(lines(document)))
    elif as_json:
        print_json(document)
    else:
        print_with("print_status", document)


@cli.command()
@RUN
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The page. Default: RUN/gatekeeper/report.html, for a lone log report.html here.",
)
@POLICY
@WHICH
@click.option(
    "--audio",
    default="few",
    show_default=True,
    type=click.Choice(["few", "all", "none"]),
    help="Which samples can be played: the first, the best, the latest and some between; all; none.",
)
@click.option("--audit", is_flag=True, help="Audit the data of RUN for it, with the worst clips to hear.")
@click.option("--watch", is_flag=True, help="Write it anew whenever RUN has something new; an open page follows.")
@INTERVAL
@JSON
@click.pass_context
def report(context: click.Context, /, run: Path, **options: Any) -> None:
    """Write one HTML file that shows RUN: verdict, curves, tables, samples to play, data, incidents and disk.

    It needs no network and holds all it shows. RUN is anything that `gate` takes. Needs the `report` extra, or `train`.
    """
    from xtts_gatekeeper.report.verb import run_report

    context.exit(run_report(run, **options))

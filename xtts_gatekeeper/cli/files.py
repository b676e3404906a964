"""Verbs on checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from xtts_gatekeeper.cli.common import EXIT_CHECK_FAILED, JSON, RUN, cli, print_json, print_with
from xtts_gatekeeper.errors import UserError


@cli.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--threads", type=click.IntRange(1), help="Threads that read. Default: one a core, up to four.")
@JSON
@click.pass_context
def verify(context: click.Context, paths: tuple[str, ...], threads: int | None, as_json: bool) -> None:
    """Check that checkpoints are whole, safe to load and what their names say; exit code 1 when one is not.

    PATH is a file, a run folder, or another folder with .pth files. Every byte is read; of a run of ours it is
    compared with what was written. Without torch the numbers in the tensors are not looked at. PATH may also be a
    remote run (s3://bucket/runs/NAME): every file of the copy is read again.
    """
    from xtts_gatekeeper.checkpoints.verify import verify_document

    show = (lambda path: click.echo(f"verifying {path}", err=True)) if sys.stderr.isatty() else None
    document = verify_document(paths, threads, show)
    intact = document["intact"]
    if as_json:
        print_json(document)
    else:
        print_with("print_verify", document)
    context.exit(0 if intact else EXIT_CHECK_FAILED)


@cli.command()
@RUN
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option(
    "--keep",
    multiple=True,
    metavar="TERM",
    help="latest:N, best:N[:METRIC], every:STEPS, gate[:NAME], A&B; may be repeated. Default: the run's own setting, "
    "else latest:1 and best:1. The newest resumable file and the best always stay.",
)
@click.option("--budget", metavar="GB", type=click.FloatRange(0, min_open=True), help="Gigabytes the files may take.")
@JSON
@click.pass_context
def prune(
    context: click.Context, run: Path, dry_run: bool, keep: tuple[str, ...], budget: float | None, as_json: bool
) -> None:
    """Delete the checkpoints of RUN that nothing needs, and put the name of its best right; stock runs too.

    What is kept is read back whole first. The best is kept as weights alone. Nothing is deleted that cannot be shown to
    be this run's, or while the run is being trained. Exit code 1: unsafe to prune, or a file is broken.
    """
    from xtts_gatekeeper.checkpoints.pruner import prune_document

    document = prune_document(run, keep, budget, dry_run=dry_run)
    if as_json:
        print_json(document)
    else:
        print_with("print_prune", document)
    unsafe = document["refused"] or document["broken"] or (document["in_use"] and not dry_run)
    context.exit(EXIT_CHECK_FAILED if unsafe else 0)


@cli.command()
@click.argument("run", metavar="RUN")
@click.option("--dry-run", is_flag=True, help="Leave broken files where they are.")
@click.option("--to", type=click.Path(path_type=Path), help="Folder to fetch a remote RUN to, which is made.")
@JSON
@click.pass_context
def resume(context: click.Context, run: str, dry_run: bool, to: Path | None, as_json: bool) -> None:
    """Say from which file of RUN training should go on, and why; put broken ones aside.

    The file is the newest resumable one that is whole, read to its last byte. Broken ones are renamed, into
    RUN/gatekeeper/quarantine, and kept. Recipes do the same on --continue_path RUN. A remote RUN (s3://bucket/runs/NAME)
    is fetched first. Exit code 1: there is none.
    """
    from xtts_gatekeeper.checkpoints.resume import resume_document

    if ("://" in run) != (to is not None):
        raise UserError("--to DIR and a remote RUN (s3://bucket/runs/NAME) belong together.")
    if to is not None:
        from xtts_gatekeeper.checkpoints.remote_fetch import fetch_resumable

        fetch_resumable(run, to, lambda message: click.echo(message, err=True))
    document = resume_document(to or Path(run), dry_run=dry_run)
    if as_json:
        print_json(document)
    else:
        print_with("print_resume", document)
    context.exit(0 if document["file"] else EXIT_CHECK_FAILED)


@cli.command()
@click.argument("path", metavar="RUN|CKPT", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, metavar="DIR", type=click.Path(path_type=Path), help="The new folder.")
@click.option("--half", is_flag=True, help="Weights with 16 bits: half the size, outputs nearly the same.")
@click.option(
    "--safetensors", is_flag=True, help="A model.safetensors beside model.pth, for other tools: XTTS opens model.pth."
)
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="WAV",
    type=click.Path(path_type=Path),
    help="A clip of the voice to put in; may be repeated. Default: those that the run names.",
)
@JSON
@click.pass_context
def export(
    context: click.Context,
    path: Path,
    output: Path,
    half: bool,
    safetensors: bool,
    references: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Write the best checkpoint of RUN, or CKPT, as a folder that `TTS` and `Xtts.load_checkpoint` open.

    The folder holds weights, config, vocabulary, mel statistics, clips of the voice and a model card. It gets its name
    once it was loaded as a user loads it and spoke as the checkpoint does. Needs the `train` extra.
    """
    from contextlib import redirect_stdout

    from xtts_gatekeeper.checkpoints.export import export as write
    from xtts_gatekeeper.checkpoints.export_check import ExportFailed

    try:
        with redirect_stdout(sys.stderr):
            done = write(
                path,
                output,
                half=half,
                safetensors=safetensors,
                references=references,
                say=lambda line: click.echo(line, err=True),
            )
    except ExportFailed as error:
        click.echo(f"xtts-gatekeeper: {error}", err=True)
        context.exit(EXIT_CHECK_FAILED)
    if as_json:
        print_json(done.to_dict())
    else:
        click.echo(f"{done.folder}: {', '.join(done.files)}, {done.bytes / 1e9:.2f} GB, from {done.checkpoint.name}")

"""`xtts-gatekeeper VERB`: each verb is a few lines that call the library.

Heavy imports stand inside the verbs, so that the offline ones start at once. JSON goes to stdout, all else of a
`--json` call to stderr.
"""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import click

from xtts_gatekeeper import __version__
from xtts_gatekeeper.errors import EXIT_BAD_INPUT, UserError, refuse

#: Exit code of `gate` for each verdict; `gates.evaluate` has the same, and importing it takes longer than `--help`.
EXIT_CODES = {"continue": 0, "tune": 10, "stop": 20, "undecided": 30}

#: Exit code where something was looked at and is not as it must be.
EXIT_CHECK_FAILED = 1

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_RUN = click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_WHICH = click.option(
    "--run", "which", metavar="NAME|N", help="Which run, where a file holds several. Default: the last."
)
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
@_WHICH
@click.option("--at", metavar="epoch:N|step:N", help="Judge as it stood after N finished epochs, or at GLOBAL_STEP N.")
@click.option(
    "--replay", is_flag=True, help="The verdict at every evaluation, and what the first stop would have saved."
)
@click.option(
    "--watch", is_flag=True, help="Follow a growing log: a verdict at each new evaluation, until stop or end."
)
@click.option(
    "--interval", default=5.0, show_default=True, type=click.FloatRange(0.05), help="Seconds between looks of --watch."
)
@_JSON
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
            _print_json(document, indent=None if watch else 2)
        else:
            _print("print_gate", document)
    context.exit(EXIT_CODES[verdict])


@cli.command()
@_RUN
@_POLICY
@_WHICH
@click.option("--clips", is_flag=True, help="Which clips were drawn how often, and which of them do not learn.")
@click.option("--markdown", is_flag=True, help="The tables in Markdown, for an issue or a README.")
@_JSON
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
        _print_json(document)
    else:
        _print("print_status", document)


@cli.command()
@click.argument("path", metavar="METADATA|DIR|RUN", type=click.Path(path_type=Path))
@click.option("--language", metavar="CODE", help="Language of all clips. Default: what the metadata or the run says.")
@click.option(
    "--formatter", metavar="NAME", help="ljspeech, coqui or another of Coqui's readers. Default: by the content."
)
@click.option(
    "--vocab",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="XTTS's vocab.json, or its folder. Default: the run's, else the one that Coqui has downloaded.",
)
@click.option(
    "--max-wav-length",
    metavar="N",
    type=click.IntRange(1),
    help="Longest clip in samples. Default: the run's, else 255995.",
)
@click.option(
    "--max-text-length",
    metavar="N",
    type=click.IntRange(1),
    help="Longest text in tokens. Default: the run's, else 200.",
)
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write a page with histograms and the worst clips to hear.",
)
@click.option(
    "--exclude-list",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the clips to leave out, for a recipe's --exclude.",
)
@click.option(
    "--faults",
    default="unusable,hard",
    show_default=True,
    metavar="LIST",
    help="Which severities put a clip on that list: unusable, hard, soft, note.",
)
@click.option("--show", default=20, show_default=True, metavar="N", type=click.IntRange(0), help="Faults to print.")
@click.option("--verify", is_flag=True, help="Read every file again, whatever its size and time of change say.")
@_JSON
@click.pass_context
def audit(context: click.Context, /, path: Path, **options: Any) -> None:
    """Say which clips XTTS does not use and why, what is wrong with the others, and how often each is drawn.

    It takes a metadata file, a folder with one, or a run. Exit code 1: a clip is unusable or surely wrong. Needs the
    `audit` extra, or `train`.
    """
    from xtts_gatekeeper.dataset.verb import run_audit

    context.exit(run_audit(path, **options))


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
@_JSON
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
        _print_json(done.to_dict())
    else:
        click.echo(f"{done.folder}: {', '.join(done.files)}, {done.bytes / 1e9:.2f} GB, from {done.checkpoint.name}")


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


@cli.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--threads", type=click.IntRange(1), help="Threads that read. Default: one a core, up to four.")
@_JSON
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
        _print_json(document)
    else:
        _print("print_verify", document)
    context.exit(0 if intact else EXIT_CHECK_FAILED)


@cli.command()
@_RUN
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option(
    "--keep",
    multiple=True,
    metavar="TERM",
    help="latest:N, best:N[:METRIC], every:STEPS, gate[:NAME], A&B; may be repeated. Default: the run's own setting, "
    "else latest:1 and best:1. The newest resumable file and the best always stay.",
)
@click.option("--budget", metavar="GB", type=click.FloatRange(0, min_open=True), help="Gigabytes the files may take.")
@_JSON
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
        _print_json(document)
    else:
        _print("print_prune", document)
    unsafe = document["refused"] or document["broken"] or (document["in_use"] and not dry_run)
    context.exit(EXIT_CHECK_FAILED if unsafe else 0)


@cli.command()
@click.argument("run", metavar="RUN")
@click.option("--dry-run", is_flag=True, help="Leave broken files where they are.")
@click.option("--to", type=click.Path(path_type=Path), help="Folder to fetch a remote RUN to, which is made.")
@_JSON
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
        _print_json(document)
    else:
        _print("print_resume", document)
    context.exit(0 if document["file"] else EXIT_CHECK_FAILED)


@cli.command()
@click.argument("wavs", metavar="[WAV]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--text", metavar="TEXT", help="What the file says.")
@click.option(
    "--metadata", metavar="FILE", type=click.Path(path_type=Path), help="What the files say; without WAV, all of them."
)
@click.option("--language", metavar="CODE", help="A language of XTTS. Default: what the metadata says.")
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="WAV|FILE|RUN",
    type=click.Path(path_type=Path),
    help="Real clips of the speaker, best with texts: a metadata file or a run's held-out clips. May be repeated.",
)
@click.option(
    "--calibration", metavar="FILE", type=click.Path(path_type=Path), help="A run's calibration.json instead."
)
@click.option(
    "--models",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder with the measures' models. Default: XTTS_GATEKEEPER_MODELS.",
)
@click.option("--download", is_flag=True, help="Fetch missing models from the Hugging Face hub.")
@click.option(
    "--whisper",
    default="base",
    show_default=True,
    type=click.Choice(["base", "small", "medium", "large-v3"]),
    help="Size of the recogniser.",
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Cores to use.")
@_JSON
@click.pass_context
def measure(
    context: click.Context,
    wavs: tuple[Path, ...],
    text: str | None,
    metadata: Path | None,
    language: str | None,
    references: tuple[Path, ...],
    calibration: Path | None,
    models: Path | None,
    download: bool,
    whisper: str,
    threads: int,
    as_json: bool,
) -> None:
    """Measure speech and name its faults: words, ends, noise, artefacts, clipping, pitch, voice.

    Limits come from the speaker's own clips where they are given. Exit code 1: a file has a fault. Needs the `measures`
    extra.
    """
    from xtts_gatekeeper.samples.measure_verb import run_measure
    from xtts_gatekeeper.samples.measures.models import Models

    found = Models(models, download, whisper, threads)
    context.exit(run_measure(wavs, text, metadata, language, references, calibration, found, as_json))


@cli.command()
@click.argument("paths", metavar="RUN|CKPT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="best|latest|previous|base|FILE",
    help="Which weights of RUN; may be repeated. Default: the samples before the best, and the best.",
)
@click.option(
    "--prompts",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What to say, YAML or one sentence a line. Default: what the run's samples say.",
)
@click.option(
    "--takes", metavar="N", type=click.IntRange(1), help="Samples of each prompt. Default: the run's, else 1."
)
@click.option(
    "--voice",
    multiple=True,
    metavar="WAV",
    type=click.Path(path_type=Path),
    help="A clip of the voice; may be repeated. Default: the run's held-out clips.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Where to speak. Default: a GPU, unless the run is being trained.",
)
@click.option("--no-measure", is_flag=True, help="Speak only.")
@click.option(
    "--models",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder with the measures' models. Default: XTTS_GATEKEEPER_MODELS.",
)
@click.option("--download", is_flag=True, help="Fetch missing models from the Hugging Face hub.")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the samples go to. Default: RUN/gatekeeper/samples.",
)
@_JSON
@click.pass_context
def sample(
    context: click.Context,
    /,
    paths: tuple[Path, ...],
    checkpoints: tuple[str, ...],
    no_measure: bool,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Speak fixed prompts with the weights of RUN or CKPT, measure them, and compare.

    The prompts, the voice and the seeds are those of the samples that RUN made while it trained, so that a set can be
    held against any other. Exit code 1: nothing could be spoken. Needs the `train` extra, and `measures` to measure.
    """
    from contextlib import redirect_stdout

    from xtts_gatekeeper.samples import sample_verb

    wish = sample_verb.Wish(checkpoints=checkpoints, measure=not no_measure, **wishes)
    with redirect_stdout(sys.stderr):
        result = sample_verb.sample(paths, wish, lambda line: click.echo(line, err=True))
    if as_json:
        _print_json(result.to_dict())
    else:
        from rich.console import Console

        from xtts_gatekeeper.samples.sample_table import print_result

        print_result(Console(highlight=False), result)
    context.exit(0 if result.spoke else EXIT_CHECK_FAILED)


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


def _print_json(document: object, indent: int | None = 2) -> None:
    from xtts_gatekeeper.record.journal import to_json

    click.echo(to_json(document, indent=indent))


def _print(how: str, document: object) -> None:
    """Print with a function of `report.console`; on a real terminal in colour."""
    from rich.console import Console

    from xtts_gatekeeper.report import console

    getattr(console, how)(Console(highlight=False), document)


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

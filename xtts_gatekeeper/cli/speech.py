"""Verbs on speech: the data, and what a model says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from xtts_gatekeeper.cli.common import EXIT_CHECK_FAILED, JSON, RUN, cli, print_json


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
@JSON
@click.pass_context
def audit(context: click.Context, /, path: Path, **options: Any) -> None:
    """Say which clips XTTS does not use and why, what is wrong with the others, and how often each is drawn.

    It takes a metadata file, a folder with one, or a run. Exit code 1: a clip is unusable or surely wrong. Needs the
    `audit` extra, or `train`.
    """
    from xtts_gatekeeper.dataset.verb import run_audit

    context.exit(run_audit(path, **options))


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
@JSON
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
        print_json(result.to_dict())
    else:
        from rich.console import Console

        from xtts_gatekeeper.samples.sample_table import print_result

        print_result(Console(highlight=False), result)
    context.exit(0 if result.spoke else EXIT_CHECK_FAILED)


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
@JSON
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
@RUN
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME",
    help="A folder of RUN/gatekeeper/samples; may be repeated. Default: the newest, the one before, and the best.",
)
@click.option("--prompts", metavar="N", type=click.IntRange(1), help="At most so many prompts. Default: all.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at. Another than this computer's own lets others in who have the link.",
)
@click.option("--port", default=0, metavar="N", type=click.IntRange(0, 65535), help="Default: one that is free.")
@click.option("--no-browser", is_flag=True, help="Print the link only.")
@click.option(
    "--export",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write a page that works without this computer, to send to a listener.",
)
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take in the answers that such a page has saved; may be repeated.",
)
@click.option("--results", is_flag=True, help="Print what was scored so far, and how consistent each listener is.")
@JSON
@click.pass_context
def listen(context: click.Context, /, run: Path, no_browser: bool, **options: Any) -> None:
    """Open a page on which people judge the samples of RUN without knowing which is which.

    Five rows of 1 to 5, faults, a note and a preference for each prompt; the scores go to the run's journal, where the
    gates find them. Ends with Ctrl-C. Needs the `listen` extra.
    """
    from xtts_gatekeeper.listening.verb import run_listen

    context.exit(run_listen(run, browser=not no_browser, **options))

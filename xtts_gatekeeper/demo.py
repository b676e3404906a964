"""The `demo` verb: the whole job once, on the toy."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from xtts_gatekeeper.data import load_ljspeech
from xtts_gatekeeper.dataset.split import stable_split
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.sources import read_run


def run_demo(output: Path, data: Path | None, language: str, epochs: int) -> None:
    """Build toy and speech, train two phases under gates, print verdict, table, disk and where everything lies.

    Raises:
        UserError: the `train` extra is missing, or `data` cannot be used; nothing has been trained then.
    """
    began = time.perf_counter()
    console = Console(stderr=True, highlight=False)
    samples = load_ljspeech(data, language) if data is not None else None  # refuse bad data before the slow imports
    console.print("Loading the stock stack (torch, TTS, trainer) ...")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module="torchaudio")
    try:
        import torch
        from trainer import Trainer, TrainerArgs
        from TTS.tts.configs.xtts_config import XttsAudioConfig
        from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer
    except ImportError as error:
        raise UserError(
            f'the demo trains and needs the extra: pip install "xtts-gatekeeper[train]" ({error}).'
        ) from None
    from xtts_gatekeeper.base import resolve_base
    from xtts_gatekeeper.config import ActionsConfig, GatekeeperConfig, GatekeptGPTTrainerConfig, PhaseConfig
    from xtts_gatekeeper.plugin import gatekeep
    from xtts_gatekeeper.toy.model import TOY_LRS

    output.mkdir(parents=True, exist_ok=True)
    console.print(f"Building the toy model and its speech in {output} ...", markup=False)
    base = resolve_base("toy", output)
    if samples is None:
        from xtts_gatekeeper.toy.speech import make_speech_set

        samples = load_ljspeech(make_speech_set(output / "speech"), language)
    train, dev = stable_split(samples)

    first = max(1, epochs // 2)
    config = GatekeptGPTTrainerConfig(
        output_path=str(output / "runs"),
        run_name="demo",
        model_args=GPTArgs(**base.model_args()),
        audio=XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000),
        epochs=epochs,
        batch_size=3,
        eval_batch_size=3,
        num_loader_workers=0,
        print_step=10,
        optimizer="AdamW",
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
        lr=TOY_LRS[0],
        gatekeeper=GatekeeperConfig(
            phases=[
                PhaseConfig(name="coarse", lr=TOY_LRS[0], until_epoch=first),
                PhaseConfig(name="fine", lr=TOY_LRS[1]),
            ],
            actions=ActionsConfig(stop=True),
        ),
    )
    steps = epochs * -(-len(train) // config.batch_size)
    torch.manual_seed(config.training_seed)
    with _quiet_trainer(), _progress(console, "Training") as bar:
        trainer = Trainer(
            TrainerArgs(),
            config,
            model=GPTTrainer(config),
            train_samples=train,
            eval_samples=dev,
            parse_command_line_args=False,
            callbacks=gatekeep(config, {"on_train_step_end": lambda t: bar(t.total_steps_done, steps)}),
        )
        trainer.fit()
    _summary(Path(trainer.output_path), time.perf_counter() - began)


def _summary(run: Path, seconds: float) -> None:
    from xtts_gatekeeper.gates import load_policy
    from xtts_gatekeeper.record.journal import FOLDER
    from xtts_gatekeeper.report.console import print_status
    from xtts_gatekeeper.report.table import status
    from xtts_gatekeeper.report.verb import NAME

    out = Console(highlight=False)
    record = read_run(run)
    print_status(out, status(run, record, load_policy(run / FOLDER / "policy.yaml")))
    out.print(f"Log, checkpoints and config: {run}", soft_wrap=True, markup=False)
    out.print(f"Journal and rules in force:  {run / FOLDER}", soft_wrap=True, markup=False)
    if (run / FOLDER / NAME).is_file():
        out.print(f"The same to look at:         {run / FOLDER / NAME}", soft_wrap=True, markup=False)
    out.print(f"Done in {seconds:.0f} s.")


@contextmanager
def _quiet_trainer() -> Iterator[None]:
    """Keep the Trainer's lines off the screen; they are in the run's log file."""
    screens = [h for h in logging.getLogger("trainer").handlers if type(h) is logging.StreamHandler]
    levels = [handler.level for handler in screens]
    for handler in screens:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for handler, level in zip(screens, levels, strict=True):
            handler.setLevel(level)


@contextmanager
def _progress(console: Console, what: str) -> Iterator[Any]:
    """A function `(done, total)` that moves a bar, or prints a plain line at each tenth when stderr is no terminal."""
    if not console.is_terminal:
        told = -1

        def line(done: int, total: int) -> None:
            nonlocal told
            if done * 10 // total > told:
                told = done * 10 // total
                console.print(f"{what}: {done} of {total}")

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)

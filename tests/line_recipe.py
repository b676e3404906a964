"""A recipe with the one-line model, which faults can be planted in: `python line_recipe.py OUTPUT [flags]`.

`LINE` holds fields of the config as JSON, and beside them: `gatekeeper`, our section; `clips`, to give the Trainer
samples; `poison`, a file at which every step crashes; `eval_fits`, clips that an evaluation has memory for;
`eval_seconds`, `step_seconds` and `load_seconds`, how long a batch of an evaluation, a step and the loading of a clip
take; `workers`, processes that load; `parse`, whether the Trainer parses the command line; `runs`, names of runs to
train one after the other; `exit`, the code to end with after the training.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]

import torch  # noqa: E402
from lines import BATCH, CLIPS, Line, LineConfig  # noqa: E402
from trainer import Trainer, TrainerArgs  # noqa: E402

from xtts_gatekeeper import gatekeep  # noqa: E402
from xtts_gatekeeper.config import GatekeeperConfig  # noqa: E402

OF_THE_MODEL = ("poison", "eval_fits", "eval_seconds", "step_seconds", "load_seconds", "workers")


class Slow(list):
    """Rows that take their time to load."""

    def __init__(self, rows, seconds):
        super().__init__(rows)
        self.seconds = seconds

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return super().__getitem__(index)


class Told(Line):
    """Does what `LINE` says."""

    def __init__(
        self, *, poison=None, eval_fits=BATCH, eval_seconds=0.0, step_seconds=0.0, load_seconds=0.0, workers=0
    ):
        super().__init__()
        self.poison, self.eval_fits, self.workers = poison, eval_fits, workers
        self.eval_seconds, self.step_seconds, self.load_seconds = eval_seconds, step_seconds, load_seconds

    def get_data_loader(self, config, *, is_eval=False, samples=None, verbose=True):
        stock = super().get_data_loader(config, is_eval=is_eval)
        rows = stock.dataset
        if samples is not None:
            rows = [row for row in rows if row["file"] in {sample["audio_file"] for sample in samples}]
        size = config.eval_batch_size if is_eval else config.batch_size
        rows, workers = (rows, 0) if is_eval else (Slow(rows, self.load_seconds), self.workers)
        return torch.utils.data.DataLoader(rows, batch_size=size, collate_fn=self.collate, num_workers=workers)

    def train_step(self, batch, criterion, optimizer_idx=None):
        if self.training and self.poison in batch["filenames"]:
            raise RuntimeError("stack expects each tensor to be equal size")
        time.sleep(self.step_seconds)
        return super().train_step(batch, criterion, optimizer_idx)

    def eval_step(self, batch, criterion, optimizer_idx=None):
        if len(batch["x"]) > self.eval_fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        time.sleep(self.eval_seconds)
        return super().eval_step(batch, criterion, optimizer_idx)


def main():
    settings = json.loads(os.environ.get("LINE", "{}"))
    code = settings.pop("exit", 0)
    output = sys.argv.pop(1)
    for name in settings.pop("runs", ["line"]):
        train(output, name, dict(settings))
    sys.exit(code)


def train(output, name, settings):
    from faults import plant

    # Without a page of each run, which takes longer than training it.
    section = GatekeeperConfig.new_from_dict({"report": False, **settings.pop("gatekeeper", {})})
    own = {name: settings.pop(name) for name in OF_THE_MODEL if name in settings}
    clips, parse = settings.pop("clips", False), settings.pop("parse", True)
    values = {"epochs": 5, "lr": 0.1, "print_step": 1000, "save_step": 3, "run_name": name, **settings}
    config = LineConfig(output_path=output, **{"batch_size": BATCH, "eval_batch_size": BATCH, **values})
    callbacks = gatekeep(config, {"on_init_end": plant}, gatekeeper=section)
    samples = [{"audio_file": f"{number}.wav", "text": str(number)} for number in range(CLIPS)] if clips else None
    trainer = Trainer(
        TrainerArgs(),
        config,
        model=Told(**own),
        train_samples=samples,
        eval_samples=samples[:6] if samples else None,
        callbacks=callbacks,
        parse_command_line_args=parse,
    )
    trainer.fit()
    print(f"TRAINED {trainer.total_steps_done}", flush=True)


if __name__ == "__main__":
    main()

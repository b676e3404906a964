"""A model of one line for the real Trainer: an epoch takes milliseconds."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from trainer import Trainer, TrainerArgs, TrainerConfig, TrainerModel

from xtts_gatekeeper import gatekeep

#: Clips and batches of its training set, the last batch being smaller.
CLIPS, BATCH, STEPS = 14, 4, 4


@dataclass
class LineConfig(TrainerConfig):
    optimizer: str = "SGD"
    optimizer_params: dict = field(default_factory=dict)


class Line(TrainerModel):
    """Learns y = 2x. Its batches name their clips, and its loss is their mean, as XTTS logs it."""

    def __init__(self, size=1):
        super().__init__()
        self.layer = torch.nn.Linear(size, 1)
        with torch.no_grad():
            self.layer.weight.fill_(0.5)
            self.layer.bias.zero_()
        #: Called with each batch as it is trained, before the forward pass.
        self.before = lambda batch: None

    def forward(self, x):
        return self.layer(x)

    def inference(self, x, aux_input=None):
        return {}

    @staticmethod
    def init_from_config(config, **kwargs):
        return Line()

    def get_criterion(self):
        return torch.nn.MSELoss()

    def get_data_loader(self, config, *, is_eval=False, samples=None, verbose=True):
        size = self.layer.in_features
        clips = 6 if is_eval else CLIPS
        x = torch.linspace(0.1, 1, clips).unsqueeze(1).repeat(1, size)
        data = [{"x": row, "y": 2 * row[:1], "file": f"{number}.wav"} for number, row in enumerate(x)]
        return torch.utils.data.DataLoader(data, batch_size=BATCH, collate_fn=self.collate)

    @staticmethod
    def collate(rows):
        return {
            "x": torch.stack([row["x"] for row in rows]),
            "y": torch.stack([row["y"] for row in rows]),
            "filenames": [row["file"] for row in rows],
        }

    def train_step(self, batch, criterion, optimizer_idx=None):
        if self.training:
            self.before(batch)
        loss = criterion(self(batch["x"]), batch["y"])
        return {"y": None}, {"loss": loss, "loss_mel_ce": loss}

    def eval_step(self, batch, criterion, optimizer_idx=None):
        return self.train_step(batch, criterion, optimizer_idx)


class TwoLines(Line):
    """The same with two optimizers, as a GAN has them."""

    def get_optimizer(self):
        return [torch.optim.SGD([self.layer.weight], lr=0.1), torch.optim.SGD([self.layer.bias], lr=0.1)]

    def get_scheduler(self, optimizer):
        return [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in optimizer]

    def get_criterion(self):
        return [torch.nn.MSELoss(), torch.nn.MSELoss()]


def line_trainer(output, section, model=None, *, callbacks=None, args=None, flags=(), **config):
    """A Trainer as a recipe makes it, but for the page that a run ends with; `section` None for a stock one."""
    settings = LineConfig(**{"output_path": str(output), "epochs": 3, "lr": 0.1, "print_step": 1000, **config})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["recipe.py", *flags])
        hooks = callbacks or {}
        if section is not None:
            section.report = False
            hooks = gatekeep(settings, callbacks, gatekeeper=section)
        return Trainer(
            TrainerArgs(**(args or {})),
            settings,
            model=Line() if model is None else model,
            callbacks=hooks,
        )


def rates_at_updates(trainer):
    """A list that fills with (step, the LR of every group of every optimizer that updates)."""
    seen = []
    for optimizer in trainer.optimizer:
        optimizer.register_step_post_hook(
            lambda o, args, kwargs: seen.append((trainer.total_steps_done, [group["lr"] for group in o.param_groups]))
        )
    return seen


def run_folder(trainer):
    return Path(trainer.output_path)

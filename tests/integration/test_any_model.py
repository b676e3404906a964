"""Models other than XTTS, with one optimizer or two: the real Trainer, a model of one line."""

from pathlib import Path

import lines
import pytest
import torch
from lines import LineConfig
from trainer import Trainer, TrainerArgs

from xtts_gatekeeper import gatekeep, read_run
from xtts_gatekeeper.config import GatekeeperConfig, PhaseConfig


class Line(lines.Line):
    """Learns y = 2x. Logs `loss` and `loss_mel`, as many Coqui models do."""

    def get_data_loader(self, config, *, is_eval=False, samples=None, verbose=True):
        x = torch.linspace(0, 1, 7 if is_eval else 12).unsqueeze(1)
        data = torch.utils.data.TensorDataset(x, 2 * x)
        return torch.utils.data.DataLoader(data, batch_size=4)

    def format_batch(self, batch):
        return {"x": batch[0], "y": batch[1]}

    def train_step(self, batch, criterion, optimizer_idx=None):
        loss = criterion(self(batch["x"]), batch["y"])
        return {"y": None}, {"loss": loss, "loss_mel": 2 * loss}

    def eval_step(self, batch, criterion, optimizer_idx=None):
        return self.train_step(batch, criterion, optimizer_idx)


class TwoLines(Line):
    """The same with two optimizers, as a GAN has them."""

    get_optimizer = lines.TwoLines.get_optimizer
    get_criterion = lines.TwoLines.get_criterion

    def get_scheduler(self, optimizer):
        return [None, None]


def train(tmp_path, model, section, **config):
    config = LineConfig(output_path=str(tmp_path), epochs=4, lr=0.1, print_step=1000, **config)
    callbacks = gatekeep(config, gatekeeper=section)
    trainer = Trainer(TrainerArgs(), config, model=model, parse_command_line_args=False, callbacks=callbacks)
    trainer.fit()
    return trainer, read_run(trainer.output_path)


@pytest.mark.parametrize(("model", "target"), [(Line, "eval.loss"), (TwoLines, "eval.loss_0")])
def test_without_the_objective_it_is_said_once_and_the_best_is_the_trainers_target(tmp_path, model, target):
    policy = tmp_path / "mel.yaml"
    policy.write_text("{version: 1, name: mel, objective: eval.mel_ce, health: [{rule: finite, on_fail: stop}]}")
    trainer, record = train(tmp_path, model(), GatekeeperConfig(policy=str(policy)))
    assert [incident.code for incident in record.incidents] == ["no_objective"]
    assert {event.verdict for event in record.verdicts} == {"undecided"}
    last = record.evaluations[-1]
    assert last.metrics[target] < record.evaluations[0].metrics[target]
    assert (Path(trainer.output_path) / f"best_model_{last.step}.pth").is_file()


@pytest.mark.parametrize("model", [Line, TwoLines])
def test_what_plays_the_objective_is_found_by_what_the_model_logs(tmp_path, model):
    _, record = train(tmp_path, model(), GatekeeperConfig())
    assert record.incidents == ()
    assert record.verdicts[-1].verdict == "continue"
    assert record.resolve("eval.objective") == "eval.loss_mel"
    best = [file for file in record.files if file.kind == "best"]
    assert [file.metric for file in best] == ["eval.loss_mel"]
    assert best[0].value == min(evaluation.metrics["eval.loss_mel"] for evaluation in record.evaluations)


def test_a_logged_key_can_be_given_our_name(tmp_path):
    _, record = train(tmp_path, Line(), GatekeeperConfig(metrics={"mel_ce": "loss_mel"}))
    assert record.incidents == ()
    assert record.verdicts[-1].verdict == "continue"
    metrics = record.evaluations[-1].metrics
    assert metrics["eval.mel_ce"] == metrics["eval.loss_mel"] == pytest.approx(2 * metrics["eval.loss"])


def test_means_weigh_a_short_last_batch_by_its_samples(tmp_path):
    """Seven samples in batches of four and three: the mean of the whole set, not of two batches."""
    trainer, record = train(tmp_path, Line(), GatekeeperConfig())
    x = torch.linspace(0, 1, 7).unsqueeze(1)
    with torch.no_grad():
        exact = torch.nn.functional.mse_loss(trainer.model(x), 2 * x).item()
    assert record.evaluations[-1].metrics["eval.loss"] == pytest.approx(exact, rel=1e-5)
    assert record.evaluations[-1].samples == 7


def test_phases_own_the_learning_rate_of_every_optimizer(tmp_path):
    phases = [PhaseConfig(name="a", lr=0.05, until_epoch=2), PhaseConfig(name="b", lr=0.01)]
    _, record = train(tmp_path, TwoLines(), GatekeeperConfig(phases=phases))
    assert [epoch.lr_end for epoch in record.train_epochs] == [[0.05] * 2, [0.05] * 2, [0.01] * 2, [0.01] * 2]
    checks = [event for event in record.events if event.type == "lr_check"]
    assert [(check.phase, check.ok) for check in checks] == [("a", True), ("a", True), ("b", True), ("b", True)]


def test_a_run_without_evaluations_keeps_its_latest_checkpoint_and_says_so(tmp_path):
    trainer, record = train(tmp_path, Line(), GatekeeperConfig(), run_eval=False, save_step=2)
    assert any("run_eval is false" in warning for warning in record.start.warnings)
    files = [path.name for path in Path(trainer.output_path).glob("*.pth")]
    assert files == [f"checkpoint_{trainer.total_steps_done}.pth"]

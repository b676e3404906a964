"""Without phases the rate is compared with what config and scheduler ask for; under phases nothing overrides it."""

import pytest
import torch
from lines import STEPS, TwoLines, line_trainer, rates_at_updates, run_folder

from xtts_gatekeeper import read_run
from xtts_gatekeeper.config import ActionsConfig, GatekeeperConfig, PhaseConfig

SCHEDULERS = {
    "MultiStepLR": {"milestones": [1, 3], "gamma": 0.1},
    "OneCycleLR": {"max_lr": 0.5, "total_steps": 40},
    "NoamLR": {"warmup_steps": 5},
}


def test_a_continued_run_that_keeps_its_old_rate_is_refused(tmp_path, capsys):
    first = line_trainer(tmp_path, GatekeeperConfig(), epochs=1)
    first.fit()
    args, flags = {"continue_path": str(first.output_path)}, ["--coqpit.lr", "0.001", "--coqpit.epochs", "2"]
    second = line_trainer(tmp_path, GatekeeperConfig(), args=args, flags=flags)
    with pytest.raises(SystemExit) as exit_:
        second.fit()
    assert exit_.value.code == 2
    assert "LR 0.1 in effect where the config plans 0.001; give the rate" in capsys.readouterr().err


def test_it_is_a_warning_where_that_is_asked_for_and_where_we_only_watch(tmp_path):
    for settings in ({"lr_mismatch": "warn"}, {"watch_only": True}):
        first = line_trainer(tmp_path, GatekeeperConfig(), epochs=1)
        first.fit()
        args, flags = {"continue_path": str(first.output_path)}, ["--coqpit.lr", "0.001", "--coqpit.epochs", "2"]
        second = line_trainer(tmp_path, GatekeeperConfig(**settings), args=args, flags=flags)
        second.fit()
        record = read_run(second.output_path)
        assert [incident.code for incident in record.incidents] == ["lr_not_as_planned"]
        assert record.train_epochs[-1].lr_end == [0.1]  # said, and left as it is


def test_a_scheduler_that_never_steps_is_said(tmp_path):
    """Trainer 0.4 with one optimizer and scheduler_after_epoch."""
    scheduler = {"lr_scheduler": "MultiStepLR", "lr_scheduler_params": {"milestones": [2], "gamma": 0.1}}
    trainer = line_trainer(tmp_path, GatekeeperConfig(), epochs=4, scheduler_after_epoch=True, **scheduler)
    trainer.fit()
    record = read_run(trainer.output_path)
    (incident,) = record.incidents
    assert incident.message.endswith("LR 0.1 in effect where MultiStepLR plans 0.01")
    assert (incident.code, incident.epoch) == ("lr_not_as_planned", 2)
    assert record.verdicts[-1].reasons[0]["code"] == "learning_rate"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_that_does_step_is_followed_over_a_resume(tmp_path, name):
    settings = {"lr_scheduler": name, "lr_scheduler_params": SCHEDULERS[name], "scheduler_after_epoch": False}
    first = line_trainer(tmp_path, GatekeeperConfig(), epochs=2, **settings)
    first.fit()
    args, flags = {"continue_path": str(first.output_path)}, ["--coqpit.epochs", "4"]
    second = line_trainer(tmp_path, GatekeeperConfig(), args=args, flags=flags)
    seen = rates_at_updates(second)
    second.fit()
    record = read_run(second.output_path)
    assert record.incidents == ()
    assert len(seen) == 2 * STEPS
    assert len({rates[0] for _, rates in seen}) > 1 or name == "MultiStepLR"


def test_a_restored_scheduler_does_not_override_a_phase(tmp_path):
    """The stock run's OneCycleLR is restored with its position, and would move rate and momentum."""
    settings = {"lr_scheduler": "OneCycleLR", "lr_scheduler_params": {"max_lr": 0.5, "total_steps": 40}}
    stock = line_trainer(
        tmp_path, None, epochs=1, save_step=3, scheduler_after_epoch=False, optimizer="AdamW", **settings
    )
    stock.fit()
    section = GatekeeperConfig(phases=[PhaseConfig(name="fine", lr=0.02)])
    args, flags = {"continue_path": str(stock.output_path)}, ["--coqpit.epochs", "3"]
    trainer = line_trainer(tmp_path, section, args=args, flags=flags)
    seen = rates_at_updates(trainer)
    trainer.fit()
    assert {rates[0] for _, rates in seen} == {0.02} and seen
    assert tuple(trainer.optimizer[0].param_groups[0]["betas"]) == (0.9, 0.999)


def test_something_that_steps_a_scheduler_of_its_own_under_a_phase_is_caught(tmp_path, capsys):
    def meddle(trainer):
        own = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizer[0], 0.5)
        trainer.optimizer[0].register_step_pre_hook(lambda o, args, kwargs: own.step())

    trainer = line_trainer(
        tmp_path,
        GatekeeperConfig(phases=[PhaseConfig(name="coarse", lr=0.05)]),
        callbacks={"on_init_end": meddle},
    )
    with pytest.raises(SystemExit):
        trainer.fit()
    assert "where coarse plans 0.05" in capsys.readouterr().err


def test_a_warm_up_that_a_restore_overwrites_is_refused(tmp_path, capsys):
    """`restore_path` sets the config's rate after NoamLR has set its first, and the first update is far too large."""
    first = line_trainer(tmp_path, GatekeeperConfig(), epochs=1)
    first.fit()
    second = line_trainer(
        tmp_path,
        GatekeeperConfig(),
        args={"restore_path": str(run_folder(first) / "best_model.pth")},
        lr_scheduler="NoamLR",
        lr_scheduler_params={"warmup_steps": 100},
        scheduler_after_epoch=False,
    )
    with pytest.raises(SystemExit):
        second.fit()
    assert "LR 0.1 in effect where NoamLR plans 0.001" in capsys.readouterr().err


def test_a_scheduler_that_drives_a_copy_of_its_optimizer_is_said(tmp_path):
    class Shared(TwoLines):
        def get_scheduler(self, optimizer):
            return torch.optim.lr_scheduler.ExponentialLR(optimizer[0], 0.5)

    trainer = line_trainer(tmp_path, GatekeeperConfig(), Shared(), grad_clip=[0.0, 0.0], epochs=1)
    trainer.fit()
    said = [warning for warning in read_run(trainer.output_path).start.warnings if "cannot be followed" in warning]
    assert said and all("it does not drive this optimizer" in sentence for sentence in said)


def test_actions_on_the_rate_without_phases_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        line_trainer(tmp_path, GatekeeperConfig(actions=ActionsConfig(lower_lr=True)))
    assert "actions.lower_lr changes the learning rate: it needs phases" in capsys.readouterr().err

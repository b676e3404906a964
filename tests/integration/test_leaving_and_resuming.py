"""Stops, resumes, refusals: how a run is left and gone on with."""

import json
from pathlib import Path

import pytest
import torch
from files import tree

from xtts_gatekeeper import read_run
from xtts_gatekeeper.config import ActionsConfig, GatekeeperConfig, PhaseConfig

STOP_AT_ONCE = """
version: 1
name: stop at once
health:
  - {rule: target, metric: eval.mel_ce, value: 1000, on_fail: stop}
"""


@pytest.fixture
def stopping_policy(tmp_path):
    path = tmp_path / "stop.yaml"
    path.write_text(STOP_AT_ONCE)
    return str(path)


def checkpoints(trainer):
    return sorted(path.name for path in Path(trainer.output_path).glob("*.pth"))


def test_a_stop_verdict_ends_fit_normally_with_a_checkpoint(make_trainer, tmp_path, stopping_policy):
    trainer = make_trainer(
        tmp_path / "out", GatekeeperConfig(policy=stopping_policy, actions=ActionsConfig(stop=True)), epochs=3
    )
    trainer.fit()
    steps = len(trainer.train_loader)
    assert trainer.total_steps_done == steps
    assert torch.is_grad_enabled()
    assert checkpoints(trainer) == ["best_model.pth", f"best_model_{steps}.pth", f"checkpoint_{steps}.pth"]
    record = read_run(trainer.output_path)
    assert record.end.how == "stopped"
    assert "reached the target" in record.end.message


def test_a_stop_verdict_is_only_advice_unless_the_action_is_enabled(make_trainer, tmp_path, stopping_policy):
    trainer = make_trainer(tmp_path / "out", GatekeeperConfig(policy=stopping_policy), epochs=2)
    trainer.fit()
    record = read_run(trainer.output_path)
    assert [event.verdict for event in record.verdicts] == ["stop", "stop"]
    assert record.end.how == "finished"


def test_a_mid_epoch_stop_leaves_within_the_epoch_and_keeps_its_best(make_trainer, tmp_path, stopping_policy):
    section = GatekeeperConfig(policy=stopping_policy, actions=ActionsConfig(stop=True))
    trainer = make_trainer(tmp_path / "out", section, epochs=2, run_eval_steps=2)
    trainer.fit()
    assert trainer.total_steps_done == 2
    assert checkpoints(trainer) == ["best_model.pth", "best_model_2.pth", "checkpoint_2.pth"]
    state = torch.load(Path(trainer.output_path) / "checkpoint_2.pth", weights_only=True)
    assert state["epoch"] == 0  # unfinished: a resume repeats it


def test_a_continued_run_goes_on_where_it_was_left_with_the_planned_learning_rate(make_trainer, tmp_path):
    phases = [PhaseConfig(name="coarse", lr=1e-3, until_epoch=1), PhaseConfig(name="fine", lr=1e-4)]
    first = make_trainer(tmp_path, GatekeeperConfig(phases=phases), epochs=1)
    first.fit()
    run, steps = str(first.output_path), len(first.train_loader)
    weights = {key: value.clone() for key, value in first.model.state_dict().items()}

    second = make_trainer(
        tmp_path,
        GatekeeperConfig(phases=phases),
        args={"continue_path": run},
        flags=["--coqpit.epochs", "2", "--coqpit.gatekeeper.enabled", "true"],
    )
    assert str(second.output_path) == run
    assert all(torch.equal(weights[key], value) for key, value in second.model.state_dict().items())
    second.fit()

    record = read_run(run)
    assert [start.resume_mode for start in record.events if start.type == "start"] == ["new", "continue"]
    assert record.start.step == steps and record.start.epoch == 1  # the finished epoch is not repeated
    # The same settings are no change, though flags turn empty ones into None.
    assert not [warning for warning in record.start.warnings if "changed" in warning]
    assert [(phase.name, phase.epoch) for phase in record.phases] == [("coarse", 0), ("fine", 1)]
    checks = [event for event in record.events if event.type == "lr_check"]
    assert [(check.phase, check.in_effect) for check in checks] == [("coarse", [1e-3] * 2), ("fine", [1e-4] * 2)]
    assert [record.epochs_done(e) for e in record.evaluations] == [1, 2]
    assert [epoch.lr_end for epoch in record.train_epochs] == [[1e-3] * 2, [1e-4] * 2]


def test_a_run_that_has_nothing_left_to_train_is_left_as_it_is(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, GatekeeperConfig(), epochs=1)
    trainer.fit()
    before = checkpoints(trainer)
    again = make_trainer(tmp_path, GatekeeperConfig(), args={"continue_path": str(trainer.output_path)})
    again.fit()
    assert checkpoints(again) == before
    assert read_run(again.output_path).end.how == "finished"


def test_the_record_says_how_many_steps_a_file_holds(make_trainer, tmp_path):
    """The Trainer saves inside a step, before it counts it."""
    trainer = make_trainer(tmp_path, GatekeeperConfig(), epochs=1, save_step=2)
    trainer.fit()
    written = [(e.path, e.step) for e in read_run(trainer.output_path).checkpoints if e.kind == "latest"]
    assert written == [("checkpoint_2.pth", 3), ("checkpoint_4.pth", 4)]


def test_without_phases_a_continued_run_says_that_the_new_learning_rate_is_not_in_effect(make_trainer, tmp_path):
    first = make_trainer(tmp_path, GatekeeperConfig(), epochs=1)
    first.fit()
    flags = ["--coqpit.lr", "1e-5", "--coqpit.epochs", "2"]
    second = make_trainer(tmp_path, GatekeeperConfig(), args={"continue_path": str(first.output_path)}, flags=flags)
    start = read_run(second.output_path).start
    assert start.lr == [1e-3] * 2 and start.lr_requested == [1e-5]
    assert any("LR 0.001, 0.001 is in effect where the config asks for 1e-05" in warning for warning in start.warnings)


def test_phases_hold_when_a_stock_run_is_continued(make_trainer, tmp_path):
    """A stock run's config.json has no section of ours; the script's must not be lost for defaults."""
    stock = make_trainer(tmp_path, epochs=1, save_step=3)
    stock.fit()
    section = GatekeeperConfig(phases=[PhaseConfig(name="fine", lr=2e-5)])
    flags = ["--coqpit.epochs", "2"]
    trainer = make_trainer(tmp_path, section, args={"continue_path": str(stock.output_path)}, flags=flags)
    before = checkpoints(trainer)
    stock_best = (Path(stock.output_path) / "best_model.pth").read_bytes()
    trainer.fit()
    record = read_run(trainer.output_path)
    assert record.train_epochs[-1].lr_end == [2e-5] * 2
    assert set(before) <= set(checkpoints(trainer))  # stock files are not ours to delete
    assert stock_best == (Path(stock.output_path) / "best_model.pth").read_bytes()
    assert "best_name" in {incident.code for incident in record.incidents}


def test_an_unplanned_learning_rate_at_the_first_update_refuses_to_train(make_trainer, tmp_path, capsys):
    def meddle(trainer):
        def wrong(optimizer, args, kwargs):
            optimizer.param_groups[1]["lr"] = 0.5

        trainer.optimizer[0].register_step_pre_hook(wrong)

    section = GatekeeperConfig(phases=[PhaseConfig(name="fine", lr=1e-4)])
    trainer = make_trainer(tmp_path, section, callbacks={"on_init_end": meddle})
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    with pytest.raises(SystemExit) as exit_:
        trainer.fit()
    assert exit_.value.code == 2
    assert all(torch.equal(before[key], value) for key, value in trainer.model.state_dict().items())
    assert "LR 0.0001, 0.5 in effect where fine plans 0.0001" in capsys.readouterr().err


def test_an_unplanned_learning_rate_after_a_switch_saves_what_was_trained_before_it_refuses(make_trainer, tmp_path):
    def meddle(trainer):
        def wrong(optimizer, args, kwargs):
            if trainer.total_steps_done >= 2:
                optimizer.param_groups[0]["lr"] = 0.5

        trainer.optimizer[0].register_step_pre_hook(wrong)

    phases = [PhaseConfig(name="coarse", lr=1e-3, until_step=2), PhaseConfig(name="fine", lr=1e-4)]
    trainer = make_trainer(tmp_path, GatekeeperConfig(phases=phases), callbacks={"on_init_end": meddle})
    with pytest.raises(SystemExit) as exit_:
        trainer.fit()
    assert exit_.value.code == 2
    assert checkpoints(trainer) == ["checkpoint_2.pth"]
    assert read_run(trainer.output_path).end.how == "refused"


def test_start_with_eval_is_said_to_cost_the_first_phase_an_epoch(make_trainer, tmp_path):
    phases = [PhaseConfig(name="coarse", lr=1e-3, until_epoch=2), PhaseConfig(name="fine", lr=1e-4)]
    trainer = make_trainer(tmp_path, GatekeeperConfig(phases=phases), args={"start_with_eval": True}, epochs=2)
    trainer.fit()
    record = read_run(trainer.output_path)
    assert any("coarse trains one epoch less" in warning for warning in record.start.warnings)
    assert [record.epochs_done(e) for e in record.evaluations] == [0, 1]


def test_a_leftover_rank_is_refused_before_a_run_that_would_save_nothing(make_trainer, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit) as exit_:
        make_trainer(tmp_path / "out", GatekeeperConfig())
    assert exit_.value.code == 2
    assert "RANK=3 is set" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_parent_folder_named_like_a_checkpoint_does_not_mislead_a_resume(make_trainer, tmp_path):
    parent = tmp_path / "checkpoint_99999_x"
    first = make_trainer(parent, GatekeeperConfig(), epochs=1)
    first.fit()
    latest = f"checkpoint_{first.total_steps_done}.pth"
    second = make_trainer(parent, GatekeeperConfig(), args={"continue_path": str(first.output_path)})
    assert Path(read_run(second.output_path).start.resumed_from).name == latest


def test_a_later_unplanned_learning_rate_is_corrected_and_recorded(make_trainer, tmp_path):
    used = []

    def meddle(trainer):
        def wrong(optimizer, args, kwargs):
            if trainer.total_steps_done >= 2:
                optimizer.param_groups[0]["lr"] = 0.5

        trainer.optimizer[0].register_step_pre_hook(wrong)
        trainer.optimizer[0].register_step_post_hook(
            lambda optimizer, args, kwargs: used.append({group["lr"] for group in optimizer.param_groups})
        )

    section = GatekeeperConfig(phases=[PhaseConfig(name="fine", lr=1e-4)])
    trainer = make_trainer(tmp_path, section, callbacks={"on_init_end": meddle}, epochs=1)
    trainer.fit()
    assert used == [{1e-4}] * len(trainer.train_loader)
    record = read_run(trainer.output_path)
    assert [incident.code for incident in record.incidents] == ["lr_not_as_planned"]
    assert record.verdicts[-1].verdict == "tune"
    assert record.verdicts[-1].reasons[0]["code"] == "learning_rate"


def test_a_switch_before_the_current_step_is_refused_and_nothing_changes(make_trainer, tmp_path, capsys):
    stock = make_trainer(tmp_path, epochs=1, save_step=3)
    stock.fit()
    run = Path(stock.output_path)
    before = {name: content for name, content in tree(run).items() if name.endswith(".pth")}
    phases = [PhaseConfig(name="coarse", lr=1e-3, until_step=2), PhaseConfig(name="fine", lr=1e-4)]
    with pytest.raises(SystemExit) as exit_:
        make_trainer(tmp_path, GatekeeperConfig(phases=phases), args={"continue_path": str(run)})
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("xtts-gatekeeper: the end of coarse at step 2 lies before the start of this run at step")
    assert {name: content for name, content in tree(run).items() if name.endswith(".pth")} == before
    assert not (run / "gatekeeper").exists()


@pytest.mark.parametrize("samples", ["none", "all too short"])
def test_an_empty_eval_set_is_refused_before_training_and_leaves_no_folder(
    make_trainer, tmp_path, clips, capsys, samples
):
    import soundfile

    train, dev = clips
    if samples == "none":
        dev = []
    else:
        audio, rate = soundfile.read(dev[0]["audio_file"])
        soundfile.write(tmp_path / "short.wav", audio[: rate // 4], rate)
        dev = [{**dev[0], "audio_file": str(tmp_path / "short.wav")}]
    with pytest.raises(SystemExit) as exit_:
        make_trainer(tmp_path / "out", GatekeeperConfig(), samples=(train, dev))
    assert exit_.value.code == 2
    assert "the eval set is empty" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_checkpoint_that_is_missing_or_broken_is_refused_and_leaves_no_folder(make_trainer, tmp_path, capsys):
    broken = tmp_path / "checkpoint_7.pth"
    broken.write_bytes(b"PK\x03\x04 cut short")
    for path, said in ((tmp_path / "checkpoint_8.pth", "does not exist"), (broken, "cannot be resumed from")):
        with pytest.raises(SystemExit) as exit_:
            make_trainer(tmp_path / "out", GatekeeperConfig(), args={"restore_path": str(path)})
        assert exit_.value.code == 2
        assert said in capsys.readouterr().err
        assert list((tmp_path / "out").iterdir()) == []


def test_two_runs_of_one_minute_do_not_share_a_folder(make_trainer, tmp_path):
    runs = [Path(make_trainer(tmp_path, GatekeeperConfig()).output_path) for _ in range(2)]
    assert runs[0] != runs[1]
    assert all((run / "gatekeeper" / "journal.jsonl").is_file() for run in runs)


def test_the_flag_switches_everything_off(make_trainer, tmp_path):
    own = {"on_epoch_end": lambda trainer: None}
    trainer = make_trainer(
        tmp_path, GatekeeperConfig(), callbacks=own, flags=["--coqpit.gatekeeper.enabled", "false"], epochs=1
    )
    trainer.fit()
    assert not (Path(trainer.output_path) / "gatekeeper").exists()
    assert trainer.callbacks.callbacks_on_epoch_end == [own["on_epoch_end"]]
    assert trainer.callbacks.callbacks_on_init_end == []


def test_flags_reach_nested_keys_and_phases(make_trainer, tmp_path):
    section = GatekeeperConfig(phases=[PhaseConfig(name="coarse", lr=1e-3, until_epoch=1), PhaseConfig(lr=1e-4)])
    flags = ["--coqpit.gatekeeper.actions.stop", "true", "--coqpit.gatekeeper.phases.1.lr", "7e-5"]
    trainer = make_trainer(tmp_path, section, flags=flags)
    kept = json.loads((Path(trainer.output_path) / "gatekeeper" / "config.json").read_text())
    assert kept["actions"]["stop"] is True
    assert [phase["lr"] for phase in kept["phases"]] == [1e-3, 7e-5]
    saved = json.loads((Path(trainer.output_path) / "config.json").read_text())
    assert saved["gatekeeper"]["phases"][1]["lr"] == 7e-5


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--coqpit.gatekeeper.polcy", "x"], "unknown config key gatekeeper.polcy, did you mean 'policy'?"),
        (["--coqpit.gatekeeper.actions.stpo=true"], "did you mean 'actions.stop'?"),
        (["--coqpit.gatekeeper.policy", "no-such-policy"], "there is no policy 'no-such-policy'"),
        (["--coqpit.gatekeeper.enabled", "yes"], "--coqpit.gatekeeper.enabled"),
        (["--continue_path", "no/such/run"], "no/such/run is no run folder"),
        (["--restore_path", "no/such.pth"], "no/such.pth does not exist"),
    ],
)
def test_a_wrong_flag_is_one_sentence_before_anything_is_made(make_trainer, tmp_path, capsys, flags, said):
    with pytest.raises(SystemExit) as exit_:
        make_trainer(tmp_path / "out", GatekeeperConfig(), flags=flags)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_stock_config_takes_its_settings_beside_it(make_trainer, tmp_path, capsys):
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainerConfig

    from xtts_gatekeeper import gatekeep

    callbacks = gatekeep(GPTTrainerConfig(), gatekeeper=GatekeeperConfig())
    trainer = make_trainer(tmp_path, callbacks=callbacks, epochs=1)
    trainer.fit()
    assert len(read_run(trainer.output_path).evaluations) == 1
    with pytest.raises(SystemExit):
        gatekeep(GPTTrainerConfig())
    assert "has no `gatekeeper` section" in capsys.readouterr().err


def test_a_failed_save_is_reported_and_training_goes_on_with_the_last_good_file(make_trainer, tmp_path, monkeypatch):
    """The disk is full from the second epoch on: torch's writer meets a real ENOSPC."""
    section = GatekeeperConfig()
    run = make_trainer(tmp_path, section, epochs=2)
    stock, saves = torch.save, []

    def full_from_the_third(state, path, **kwargs):
        saves.append(path)
        if len(saves) > 2:  # a checkpoint and the best were written after the first epoch
            Path(path).write_bytes(b"PK half of a file")
            path = "/dev/full"
        stock(state, path, **kwargs)

    monkeypatch.setattr(torch, "save", full_from_the_third)
    run.fit()
    record = read_run(run.output_path)
    assert record.end.how == "finished"
    assert "save_failed" in {incident.code for incident in record.incidents}
    first = len(run.train_loader)
    assert checkpoints(run) == ["best_model.pth", f"best_model_{first}.pth", f"checkpoint_{first}.pth"]
    assert list(Path(run.output_path).glob("*.partial")) == []

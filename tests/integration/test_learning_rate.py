"""The learning rate that was asked for is the one in effect, or somebody hears of it."""

import pytest
import torch
from lines import STEPS, Line, TwoLines, line_trainer, rates_at_updates, run_folder

from xtts_gatekeeper import read_run
from xtts_gatekeeper.config import GatekeeperConfig, PhaseConfig

SCHEDULERS = {
    "none": (None, {}),
    "MultiStepLR": ("MultiStepLR", {"milestones": [1, 3], "gamma": 0.1}),
    "OneCycleLR": ("OneCycleLR", {"max_lr": 0.5, "total_steps": 6}),
    "NoamLR": ("NoamLR", {"warmup_steps": 5}),
    "ReduceLROnPlateau": ("ReduceLROnPlateau", {}),
}


def phases(*, switch=2):
    return [PhaseConfig(name="coarse", lr=0.05, until_epoch=switch), PhaseConfig(name="fine", lr=0.01)]


def planned(step, switch=2):
    return 0.05 if step < switch * STEPS else 0.01


@pytest.mark.parametrize("after_epoch", [True, False])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_phases_own_the_rate_whatever_the_scheduler_of_the_config(tmp_path, scheduler, after_epoch):
    """OneCycleLR alone would end this run after six steps, and ReduceLROnPlateau at its first."""
    name, params = SCHEDULERS[scheduler]
    trainer = line_trainer(
        tmp_path,
        GatekeeperConfig(phases=phases()),
        lr_scheduler=name,
        lr_scheduler_params=params,
        scheduler_after_epoch=after_epoch,
        optimizer="AdamW",
        optimizer_params={"betas": [0.9, 0.96]},
    )
    seen = rates_at_updates(trainer)
    trainer.fit()
    assert [(step, [planned(step)]) for step in range(3 * STEPS)] == seen
    assert trainer.optimizer[0].param_groups[0]["betas"] == [0.9, 0.96]  # OneCycleLR puts another first one in


def test_phases_own_the_rate_of_several_optimizers(tmp_path):
    trainer = line_trainer(tmp_path, GatekeeperConfig(phases=phases()), TwoLines(), grad_clip=[0.0, 0.0])
    seen = rates_at_updates(trainer)
    trainer.fit()
    assert seen == [(step, [planned(step)]) for step in range(3 * STEPS) for _ in range(2)]
    checks = [event for event in read_run(trainer.output_path).events if event.type == "lr_check"]
    assert len(checks) == 4 and all(check.ok for check in checks)


@pytest.mark.parametrize("how", ["continue", "restore"])
def test_a_resume_goes_on_in_its_phase(tmp_path, how):
    first = line_trainer(tmp_path, GatekeeperConfig(phases=phases()), epochs=3)
    first.fit()
    run = run_folder(first)
    if how == "continue":
        args, flags = {"continue_path": str(run)}, ["--coqpit.epochs", "4"]
    else:
        args, flags = {"restore_path": str(run / f"checkpoint_{3 * STEPS}.pth")}, ["--coqpit.epochs", "1"]
    second = line_trainer(tmp_path, GatekeeperConfig(phases=phases()), args=args, flags=flags)
    seen = rates_at_updates(second)
    second.fit()
    assert [rates for _, rates in seen] == [[0.01]] * STEPS
    record = read_run(second.output_path)
    assert record.phases[-1].name == "fine" and record.phases[-1].why == "goes on"
    if how == "restore":  # the plan goes on at the step where the checkpoint was written
        assert (record.phases[-1].step_offset, record.phases[-1].epoch_offset) == (3 * STEPS, 3)


def test_restart_phases_begins_with_the_first_phase_after_a_restore(tmp_path):
    first = line_trainer(tmp_path, GatekeeperConfig(phases=phases()), epochs=3)
    first.fit()
    file = run_folder(first) / f"checkpoint_{3 * STEPS}.pth"
    section = GatekeeperConfig(phases=phases(), restart_phases=True)
    second = line_trainer(tmp_path, section, args={"restore_path": str(file)}, epochs=1)
    seen = rates_at_updates(second)
    second.fit()
    assert {rates[0] for _, rates in seen} == {0.05}


def test_the_best_weights_alone_carry_the_phase_too(tmp_path):
    first = line_trainer(tmp_path, GatekeeperConfig(phases=phases()), epochs=3)
    first.fit()
    copied = tmp_path / "elsewhere.pth"
    copied.write_bytes((run_folder(first) / "best_model.pth").read_bytes())
    second = line_trainer(tmp_path, GatekeeperConfig(phases=phases()), args={"restore_path": str(copied)}, epochs=1)
    assert [phase.name for phase in read_run(second.output_path).phases] == ["fine"]


def test_a_restore_from_a_file_of_the_stock_trainer_in_a_run_of_ours_asks_the_journal(tmp_path):
    from xtts_gatekeeper.config import CheckpointsConfig

    section = GatekeeperConfig(phases=phases(), checkpoints=CheckpointsConfig(prune=False))
    first = line_trainer(tmp_path, section, epochs=3, save_step=STEPS)
    first.fit()
    file = run_folder(first) / f"checkpoint_{2 * STEPS}.pth"
    assert "gatekeeper" not in torch.load(file, weights_only=True)
    second = line_trainer(tmp_path, GatekeeperConfig(phases=phases()), args={"restore_path": str(file)}, epochs=1)
    assert [phase.name for phase in read_run(second.output_path).phases] == ["fine"]


def test_a_plan_of_other_phases_begins_with_its_first_after_a_restore(tmp_path):
    first = line_trainer(tmp_path, GatekeeperConfig(phases=phases()), epochs=3)
    first.fit()
    section = GatekeeperConfig(phases=[PhaseConfig(name="polish", lr=0.002)])
    args = {"restore_path": str(run_folder(first) / "best_model.pth")}
    second = line_trainer(tmp_path, section, args=args, epochs=1)
    phase = read_run(second.output_path).phases[-1]
    assert (phase.name, phase.lr, phase.step_offset) == ("polish", 0.002, 0)


@pytest.mark.parametrize("how", ["continue", "restore"])
def test_a_stock_run_takes_up_a_plan(tmp_path, how):
    stock = line_trainer(tmp_path, None, epochs=1, save_step=2)
    stock.fit()
    section = GatekeeperConfig(phases=phases())
    args = {f"{how}_path": str(run_folder(stock) if how == "continue" else run_folder(stock) / "checkpoint_2.pth")}
    trainer = line_trainer(tmp_path, section, args=args, flags=["--coqpit.epochs", "3"])
    seen = rates_at_updates(trainer)
    trainer.fit()
    assert read_run(trainer.output_path).end.how == "finished"
    # The stock file is one of the first epoch, which a resume repeats.
    assert [rates[0] for _, rates in seen] == [0.05] * 2 * STEPS + [0.01] * STEPS


# Schedules


def test_the_checklists_plan_is_torchs_one_cycle_over_a_hundred_epochs(tmp_path):
    trainer = line_trainer(
        tmp_path, GatekeeperConfig(phases=[PhaseConfig(lr=0.05, schedule="one_cycle")]), epochs=100, run_eval=False
    )
    seen = rates_at_updates(trainer)
    trainer.fit()
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=100 * STEPS, cycle_momentum=False)
    wanted = []
    for _ in range(100 * STEPS):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), scheduler.step()
    assert [rates[0] for _, rates in seen] == pytest.approx(wanted, rel=1e-9)


def test_warm_up_and_cosine_go_on_after_a_resume_in_the_middle(tmp_path):
    plan = [PhaseConfig(name="fall", lr=0.05, schedule="cosine", warmup_steps=3, until_step=40), PhaseConfig(lr=0.01)]
    whole = line_trainer(tmp_path, GatekeeperConfig(phases=plan), epochs=6)
    wanted = rates_at_updates(whole)
    whole.fit()
    assert [rates[0] for _, rates in wanted[:3]] == pytest.approx([0.05 / 3, 0.1 / 3, 0.05])
    assert wanted[3][1][0] > wanted[-1][1][0]

    first = line_trainer(tmp_path, GatekeeperConfig(phases=plan), epochs=3)
    first.fit()
    second = line_trainer(
        tmp_path,
        GatekeeperConfig(phases=plan),
        args={"continue_path": str(first.output_path)},
        flags=["--coqpit.epochs", "6"],
    )
    seen = rates_at_updates(second)
    second.fit()
    # The Trainer's counter is one ahead after a resume from a file that was saved between two steps.
    by_step = dict(wanted)
    assert all(by_step.get(step, rates) == rates for step, rates in seen) and len(seen) == 3 * STEPS


# Ends by what the evaluations say


def losses(values):
    """Makes evaluations give these losses, one after the other."""
    given = iter(values)

    class Scripted(Line):
        def eval_step(self, batch, criterion, optimizer_idx=None):
            outputs, found = super().eval_step(batch, criterion)
            if len(batch["x"]) == 4:  # the first of two batches
                self.value = next(given)
            return outputs, {key: torch.tensor(float(self.value)) for key in found}

    return Scripted()


ENDS = {
    "plateau": ({"until_plateau": 3}, [3.0, 2.0, 2.0, 1.9995, 2.1, 1.0], 5, "3 evaluations without a better one"),
    "target": ({"until_target": 2.5}, [3.0, 2.6, 2.5, 2.4, 2.3, 2.2], 3, "the target 2.5 is reached"),
    "target by a hair": ({"until_target": 2.5}, [3.0, 2.501, 2.4999, 2.4, 2.3, 2.2], 3, "the target 2.5 is reached"),
    "tune": ({"until_tune": True}, [3.0, 2.0, 2.5, 3.0, 3.3, 3.5], 4, "the verdict is tune"),
}


@pytest.fixture
def tuning(tmp_path):
    policy = tmp_path / "tuning.yaml"
    policy.write_text(
        "{version: 1, name: tuning, objective: eval.mel_ce, minimum_evaluations: 1, health: "
        "[{rule: trend, metric: eval.mel_ce, window: 3, noise: 0.0, on_fail: tune}]}"
    )
    return str(policy)


@pytest.mark.parametrize(
    ("end", "resumed"),
    # A verdict is on the evaluations of its own run, so a tune is not counted over a restore.
    [(end, how) for end in ENDS for how in (None, "continue", "restore") if (end, how) != ("tune", "restore")],
)
def test_a_phase_ends_by_what_the_evaluations_say_and_a_resume_keeps_count(tmp_path, tuning, end, resumed):
    ends, values, at, why = ENDS[end]
    plan = [PhaseConfig(name="coarse", lr=0.05, **ends), PhaseConfig(name="fine", lr=0.01)]
    section = GatekeeperConfig(phases=plan, policy=tuning)
    half = at - 1 if resumed else 6
    trainer = line_trainer(tmp_path, section, losses(values[:half]), epochs=half)
    trainer.fit()
    if resumed:
        assert [phase.name for phase in read_run(trainer.output_path).phases] == ["coarse"]
        run = run_folder(trainer)
        path = run if resumed == "continue" else run / f"checkpoint_{half * STEPS}.pth"
        args, flags = {f"{resumed}_path": str(path)}, []
        if resumed == "continue":
            flags = ["--coqpit.epochs", "6"]
        epochs = 6 - half
        trainer = line_trainer(tmp_path, section, losses(values[half:]), args=args, flags=flags, epochs=epochs)
        trainer.fit()
    record = read_run(trainer.output_path)
    fine = next(phase for phase in record.phases if phase.name == "fine")
    assert fine.why == f"coarse ended: {why}"
    trained = fine.epoch + 1 + fine.epoch_offset
    assert trained == at
    assert record.train_epochs[-1].lr_end == [0.01]


def test_a_run_killed_between_the_evaluation_and_the_switch_switches_on_resuming(tmp_path, tuning):
    """The journal has the evaluation that ends the phase, and not the phase that follows."""
    plan = [PhaseConfig(name="coarse", lr=0.05, until_plateau=2), PhaseConfig(name="fine", lr=0.01)]
    section = GatekeeperConfig(phases=plan, policy=tuning)
    first = line_trainer(tmp_path, section, losses([3.0, 2.0, 2.0, 2.0]), epochs=4)
    first.fit()
    journal = run_folder(first) / "gatekeeper" / "journal.jsonl"
    lines = journal.read_text().splitlines()
    cut = next(i for i, line in enumerate(lines) if '"type": "phase"' in line and '"fine"' in line)
    journal.write_text("\n".join(line for line in lines[:cut] if '"type": "end"' not in line) + "\n")
    args, flags = {"continue_path": str(first.output_path)}, ["--coqpit.epochs", "5"]
    second = line_trainer(tmp_path, section, losses([1.9999]), args=args, flags=flags)
    second.fit()
    record = read_run(second.output_path)
    assert record.phases[-1].name == "fine"


# What a phase changes


def test_a_phase_changes_clipping_accumulation_and_what_trains(tmp_path):
    plan = [
        PhaseConfig(name="one", lr=0.05, until_epoch=1, grad_clip=0.25, freeze=["layer.bias"]),
        PhaseConfig(name="two", lr=0.05, until_epoch=2, grad_accum_steps=2),
        PhaseConfig(name="three", lr=0.05),
    ]
    seen = []

    def watch(trainer):
        trainer.optimizer[0].register_step_pre_hook(
            lambda o, args, kwargs: seen.append(
                (
                    trainer.epochs_done,
                    trainer.grad_accum_steps,
                    trainer.model.layer.bias.grad is None,
                    trainer.config.grad_clip,
                )
            )
        )

    trainer = line_trainer(tmp_path, GatekeeperConfig(phases=plan), callbacks={"on_init_end": watch}, grad_clip=5.0)
    trainer.fit()
    assert [row for row in seen if row[0] == 0] == [(0, 1, True, 0.25)] * STEPS
    assert [row for row in seen if row[0] == 1] == [(1, 2, False, 5.0)] * (STEPS // 2)
    assert [row for row in seen if row[0] == 2] == [(2, 1, False, 5.0)] * STEPS
    assert read_run(trainer.output_path).train_epochs[0].gradients["norm_max"] > 0.25  # before clipping


def test_a_phase_that_changes_no_clipping_leaves_that_of_several_optimizers_as_it_is(tmp_path):
    """Stock takes no clipping from a number where there are several optimizers."""
    section = GatekeeperConfig(phases=[PhaseConfig(lr=0.05, until_epoch=1, grad_clip=0.5), PhaseConfig(lr=0.05)])
    trainer = line_trainer(tmp_path, section, TwoLines(), grad_clip=1.0, epochs=2)
    seen = []
    trainer.optimizer[0].register_step_pre_hook(lambda o, args, kwargs: seen.append(trainer.config.grad_clip))
    trainer.fit()
    assert seen == [[0.5, 0.5]] * STEPS + [1.0] * STEPS


@pytest.mark.parametrize(("of_config", "of_phase", "fits"), [(1.0, 0.0, False), (0.0, 1.0, True), (1.0, None, True)])
def test_freezing_with_a_gradient_scaler_needs_the_phases_own_clipping(tmp_path, of_config, of_phase, fits):
    from xtts_gatekeeper.errors import UserError
    from xtts_gatekeeper.phases.actor import check_plan
    from xtts_gatekeeper.phases.plan import PhasePlan
    from xtts_gatekeeper.trainer_port import TrainerPort

    trainer = line_trainer(tmp_path, None, use_grad_scaler=True, grad_clip=of_config)
    trainer.scaler = torch.amp.GradScaler("cpu")
    plan = PhasePlan.of([PhaseConfig(lr=0.1, freeze=["layer.bias"], grad_clip=of_phase)])
    if fits:
        check_plan(plan, TrainerPort(trainer))
        assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    else:
        with pytest.raises(UserError, match="phase 1 freezes with a gradient scaler"):
            check_plan(plan, TrainerPort(trainer))


@pytest.mark.parametrize("reset", [True, False])
def test_the_optimizer_stays_warm_across_a_switch_unless_it_is_to_begin_anew(tmp_path, reset):
    plan = [PhaseConfig(lr=0.05, until_epoch=1), PhaseConfig(lr=0.01, reset_optimizer=reset)]
    seen = []

    def watch(trainer):
        trainer.optimizer[0].register_step_post_hook(
            lambda o, args, kwargs: seen.append(int(o.state[trainer.model.layer.weight]["step"]))
        )

    section = GatekeeperConfig(phases=plan)
    trainer = line_trainer(tmp_path, section, callbacks={"on_init_end": watch}, epochs=2, optimizer="AdamW")
    trainer.fit()
    counted = list(range(1, STEPS + 1))
    assert seen == counted + (counted if reset else [STEPS + n for n in counted])


@pytest.mark.parametrize(
    ("plan", "model", "said"),
    [
        ([PhaseConfig(lr=0.1, freeze=["layre.*"])], Line, "freeze 'layre.*' matches no trained parameter"),
        ([PhaseConfig(lr=0.1, freeze=["layer.*"])], Line, "leaves nothing to train"),
        ([PhaseConfig(lr=0.1, grad_accum_steps=2)], TwoLines, "the Trainer cannot with"),
    ],
)
def test_what_a_phase_cannot_change_is_refused_before_training(tmp_path, capsys, plan, model, said):
    with pytest.raises(SystemExit) as exit_:
        line_trainer(tmp_path, GatekeeperConfig(phases=plan), model())
    assert exit_.value.code == 2 and said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

"""What a verdict leads to, in a real training: the next phase, a lower rate, a rewind, the end."""

import json
import math

import pytest
import torch
from lines import STEPS, Line, line_trainer, rates_at_updates, run_folder

from xtts_gatekeeper import read_run
from xtts_gatekeeper.checkpoints.resume import choose
from xtts_gatekeeper.config import ActionsConfig, CheckpointsConfig, GatekeeperConfig, PhaseConfig

ONE = [PhaseConfig(name="only", lr=0.05)]
TWO = [PhaseConfig(name="coarse", lr=0.05, until_epoch=50), PhaseConfig(name="fine", lr=0.01)]
RISING = [3.0, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]


class Scripted(Line):
    """Its evaluations give these losses, one after the other."""

    def __init__(self, values):
        super().__init__()
        self.values = iter(values)

    def eval_step(self, batch, criterion, optimizer_idx=None):
        outputs, found = super().eval_step(batch, criterion)
        if len(batch["x"]) == 4:  # the first of two batches
            self.value = next(self.values)
        return outputs, {key: torch.tensor(float(self.value)) for key in found}


@pytest.fixture
def policy(tmp_path):
    """A function that writes a policy: a rising objective has this outcome."""

    def write(outcome, rule="trend, metric: eval.mel_ce, window: 3, noise: 0.0"):
        path = tmp_path / f"{outcome}.yaml"
        path.write_text(
            "{version: 1, name: mine, objective: eval.mel_ce, minimum_evaluations: 1, health: "
            f"[{{rule: {rule}, on_fail: {outcome}}}]}}"
        )
        return str(path)

    return write


def actions(trainer):
    return [(action.name, action.epoch) for action in read_run(trainer.output_path).actions]


def test_nothing_is_done_unless_it_is_enabled(tmp_path, policy):
    for outcome in ("tune", "stop"):
        section = GatekeeperConfig(phases=TWO, policy=policy(outcome))
        trainer = line_trainer(tmp_path, section, Scripted(RISING), epochs=8)
        trainer.fit()
        record = read_run(trainer.output_path)
        assert record.verdicts[-1].verdict == outcome and record.actions == ()
        assert record.train_epochs[-1].lr_end == [0.05] and record.end.how == "finished"


def test_tune_begins_the_next_phase_once(tmp_path, policy):
    section = GatekeeperConfig(phases=TWO, policy=policy("tune"), actions=ActionsConfig(next_phase=True))
    trainer = line_trainer(tmp_path, section, Scripted(RISING), epochs=8)
    seen = rates_at_updates(trainer)
    trainer.fit()
    assert actions(trainer) == [("next_phase", 3)]
    assert [rates[0] for _, rates in seen] == [0.05] * 4 * STEPS + [0.01] * 4 * STEPS


def test_tune_lowers_the_rate_waits_to_see_and_does_it_no_more_often_than_allowed(tmp_path, policy):
    enabled = ActionsConfig(lower_lr=True, limit=2, wait=2)
    section = GatekeeperConfig(phases=ONE, policy=policy("tune"), actions=enabled)
    trainer = line_trainer(tmp_path, section, Scripted([*RISING, 6.0, 7.0]), epochs=10)
    seen = rates_at_updates(trainer)
    trainer.fit()
    assert actions(trainer) == [("lower_lr", 3), ("lower_lr", 5)]
    by_epoch = [rates[0] for _, rates in seen][::STEPS]
    assert by_epoch == pytest.approx([0.05] * 4 + [0.025] * 2 + [0.013] * 4)  # two digits, as the next step said
    # Each is proven at its first update.
    checks = [event for event in read_run(trainer.output_path).events if event.type == "lr_check"]
    assert [check.planned for check in checks] == pytest.approx([0.05, 0.025, 0.013])


@pytest.mark.parametrize("how", ["continue", "restore"])
def test_a_lowered_rate_stays_lowered_after_a_resume(tmp_path, policy, how):
    section = GatekeeperConfig(phases=ONE, policy=policy("tune"), actions=ActionsConfig(lower_lr=True, limit=1))
    first = line_trainer(tmp_path, section, Scripted(RISING), epochs=5)
    first.fit()
    run = run_folder(first)
    path = run if how == "continue" else run / f"checkpoint_{5 * STEPS}.pth"
    args, flags = {f"{how}_path": str(path)}, ["--coqpit.epochs", "6"]
    second = line_trainer(tmp_path, section, Scripted([1.0] * 9), args=args, flags=flags)
    seen = rates_at_updates(second)
    second.fit()
    assert {rates[0] for _, rates in seen} == {0.025} and seen


def test_a_rate_that_was_found_too_high_is_not_exceeded_by_a_later_phase(tmp_path, policy):
    plan = [PhaseConfig(name="coarse", lr=0.05, until_epoch=6), PhaseConfig(name="fine", lr=0.04)]
    section = GatekeeperConfig(phases=plan, policy=policy("tune"), actions=ActionsConfig(lower_lr=True, limit=1))
    trainer = line_trainer(tmp_path, section, Scripted(RISING), epochs=8)
    seen = rates_at_updates(trainer)
    trainer.fit()
    assert [rates[0] for _, rates in seen][::STEPS] == pytest.approx([0.05] * 4 + [0.025] * 4)


# Rewind


def run_away(trainer):
    """After the second epoch the weights are thrown far off, and the optimizer's moments with them."""
    if trainer.epochs_done == 2 and trainer.total_steps_done == 2 * STEPS:
        with torch.no_grad():
            trainer.model.layer.weight.fill_(math.nan)
            for state in trainer.optimizer[0].state.values():
                state["exp_avg"].fill_(1e6)


@pytest.fixture
def rewound(tmp_path):
    section = GatekeeperConfig(phases=ONE, actions=ActionsConfig(rewind=True, stop=True), policy="checklist")
    best = {}

    def keep(trainer):
        if trainer.epochs_done == 1:
            best.update({key: value.clone() for key, value in trainer.model.state_dict().items()})

    callbacks = {"on_train_step_start": run_away, "on_epoch_end": keep}
    trainer = line_trainer(tmp_path, section, callbacks=callbacks, epochs=6, optimizer="AdamW")
    after = {}
    stock = trainer.train_epoch

    def train_epoch():
        if trainer.epochs_done == 3:
            after["weights"] = {key: value.clone() for key, value in trainer.model.state_dict().items()}
            after["moments"] = len(trainer.optimizer[0].state)
        stock()

    trainer.train_epoch = train_epoch
    trainer.fit()
    return trainer, best, after


def test_weights_that_have_run_away_are_taken_back_to_the_best_and_training_goes_on(rewound):
    trainer, best, after = rewound
    record = read_run(trainer.output_path)
    (rewind,) = record.actions
    assert (rewind.name, rewind.epoch, rewind.values["to_step"]) == ("rewind", 2, 2 * STEPS)
    assert rewind.values["file"] == f"best_model_{2 * STEPS}.pth"
    assert rewind.values["optimizer"] == "new" and after["moments"] == 0
    assert all(torch.equal(best[key], value) for key, value in after["weights"].items())
    # Counters go on, the rate is lower, and what was measured in between is on no line of weights any more.
    assert trainer.total_steps_done == 6 * STEPS and record.end.how == "finished"
    assert record.train_epochs[-1].lr_end[0] < 0.05
    assert [e.step for e in record.evaluations] == [STEPS, 2 * STEPS, 4 * STEPS, 5 * STEPS, 6 * STEPS]
    assert all(math.isfinite(e.metrics["eval.mel_ce"]) for e in record.evaluations)
    assert record.evaluations[-1].metrics["eval.mel_ce"] < record.evaluations[1].metrics["eval.mel_ce"]


def test_a_resume_right_after_a_rewind_goes_on_from_the_rewound_state(rewound):
    """As if killed before the next save: the newest file is that of the rewind."""
    record = read_run(rewound[0].output_path)
    at = next(i for i, event in enumerate(record.events) if event.type == "action")
    saved = next(event for event in record.events[at:] if event.type == "checkpoint")
    assert saved.kind == "latest" and saved.step == 3 * STEPS
    assert saved.intact


def test_a_rewind_without_our_saving_lets_the_trainer_save(tmp_path):
    enabled = ActionsConfig(rewind=True)
    section = GatekeeperConfig(phases=ONE, actions=enabled, checkpoints=CheckpointsConfig(prune=False))
    callbacks = {"on_train_step_start": run_away}
    trainer = line_trainer(tmp_path, section, callbacks=callbacks, epochs=4, optimizer="AdamW", save_step=STEPS)
    trainer.fit()
    (rewind,) = read_run(trainer.output_path).actions
    saved = torch.load(run_folder(trainer) / f"checkpoint_{rewind.step}.pth", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())


def test_a_rewind_begins_to_count_the_patience_of_a_phase_anew(tmp_path):
    plan = [PhaseConfig(name="coarse", lr=0.05, until_plateau=2), PhaseConfig(name="fine", lr=0.01)]
    policy = tmp_path / "finite.yaml"
    policy.write_text(
        "{version: 1, name: finite, objective: eval.mel_ce, minimum_evaluations: 1, "
        "health: [{rule: finite, on_fail: stop}]}"
    )
    section = GatekeeperConfig(phases=plan, policy=str(policy), actions=ActionsConfig(rewind=True))
    trainer = line_trainer(tmp_path, section, Scripted([3.0, 2.0, math.nan, 2.0, 2.0, 1.0]), epochs=6)
    trainer.fit()
    record = read_run(trainer.output_path)
    assert [action.epoch for action in record.actions] == [2]
    assert [(phase.name, phase.epoch) for phase in record.phases] == [("coarse", 0), ("fine", 4)]


def test_it_stops_when_the_rewinds_are_used_up(tmp_path):
    def always(trainer):
        if trainer.epochs_done >= 2:
            with torch.no_grad():
                trainer.model.layer.weight.fill_(math.nan)

    enabled = ActionsConfig(rewind=True, stop=True, limit=2, wait=1)
    section = GatekeeperConfig(phases=ONE, actions=enabled)
    trainer = line_trainer(tmp_path, section, callbacks={"on_train_epoch_start": always}, epochs=30)
    trainer.fit()
    record = read_run(trainer.output_path)
    assert [action.name for action in record.actions] == ["rewind", "rewind", "stop"]
    assert record.end.how == "stopped"
    choice = choose(run_folder(trainer))
    state = torch.load(choice.file, weights_only=True)
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    assert choice.file.name == f"checkpoint_{4 * STEPS}.pth"  # written by the second rewind


def test_a_rewind_passes_over_a_best_that_is_broken(tmp_path):
    section = GatekeeperConfig(
        phases=ONE, actions=ActionsConfig(rewind=True), checkpoints=CheckpointsConfig(asynchronous=False)
    )

    def break_best(trainer):
        if trainer.epochs_done == 2:
            for file in run_folder(trainer).glob("best_model*.pth"):
                file.write_bytes(file.read_bytes()[:-400])
        run_away(trainer)

    trainer = line_trainer(
        tmp_path, section, callbacks={"on_train_step_start": break_best}, epochs=4, optimizer="AdamW"
    )
    trainer.fit()
    (rewind,) = read_run(trainer.output_path).actions
    assert rewind.values["file"] == f"checkpoint_{2 * STEPS}.pth" and rewind.values["optimizer"] == "restored"


def test_the_gates_see_offline_what_they_saw_live_after_a_rewind(rewound, python):
    trainer, _, _ = rewound
    offline = json.loads(python("-m", "xtts_gatekeeper", "gate", trainer.output_path, "--json").stdout)
    live = read_run(trainer.output_path).verdicts[-1]
    assert (offline["verdict"], offline["evaluations"]) == (live.verdict, 5)


def test_a_rewind_on_the_toy_xtts_leaves_its_dvae_alone(make_trainer, tmp_path):
    """The best is its weights without the DVAE, which every training reads from a file of its own."""

    def run_off(trainer):
        if trainer.epochs_done == 1:
            with torch.no_grad():
                next(trainer.model.xtts.gpt.parameters()).fill_(math.nan)

    section = GatekeeperConfig(phases=[PhaseConfig(lr=1e-3)], actions=ActionsConfig(rewind=True))
    policy = tmp_path / "nan.yaml"
    policy.write_text(
        "{version: 1, name: nan, objective: eval.mel_ce, minimum_evaluations: 1, "
        "health: [{rule: finite, on_fail: stop}]}"
    )
    section.policy = str(policy)
    trainer = make_trainer(tmp_path, section, callbacks={"on_epoch_end": lambda t: None}, epochs=3)
    dvae = {name: value.clone() for name, value in trainer.model.dvae.state_dict().items()}
    stock = trainer.eval_epoch

    def eval_epoch():
        run_off(trainer)
        stock()

    trainer.eval_epoch = eval_epoch
    trainer.fit()
    record = read_run(trainer.output_path)
    assert [action.name for action in record.actions] == ["rewind"]
    assert all(torch.equal(dvae[name], value) for name, value in trainer.model.dvae.state_dict().items())
    assert math.isfinite(record.evaluations[-1].metrics["eval.mel_ce"])
    assert record.end.how == "finished"

"""One two-phase run with everything switched on, looked at from all sides."""

import json
from pathlib import Path

import pytest
import torch

from xtts_gatekeeper import evaluate, load_policy, read_run
from xtts_gatekeeper.config import GatekeeperConfig, PhaseConfig
from xtts_gatekeeper.record import Evaluation
from xtts_gatekeeper.report.table import tracking_rows

COARSE, FINE = 1e-3, 3e-4


class Seen:
    """What a user's own callbacks saw."""

    def __init__(self):
        self.lr_at_update = []
        self.calls = []

    def on_init_end(self, trainer):
        self.calls.append("on_init_end")
        trainer.optimizer[0].register_step_post_hook(
            lambda optimizer, args, kwargs: self.lr_at_update.append(
                (trainer.total_steps_done, [group["lr"] for group in optimizer.param_groups])
            )
        )

    def on_epoch_start(self, trainer):
        self.calls.append("on_epoch_start")
        # Files of others in the run's folder, named like checkpoints.
        folder = Path(trainer.output_path)
        (folder / "checkpoint_1.pth").write_bytes(b"somebody else's")
        if not (folder / "best_model_2.pth").is_symlink():
            (folder / "best_model_2.pth").symlink_to(folder / "checkpoint_1.pth")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_trainer):
    """(trainer, seen) of a finished run: 3 epochs, switch before the second, an evaluation every 3 steps too."""
    seen = Seen()
    phases = [PhaseConfig(name="coarse", lr=COARSE, until_epoch=1), PhaseConfig(name="fine", lr=FINE)]
    trainer = make_trainer(
        tmp_path_factory.mktemp("two-phase"),
        GatekeeperConfig(phases=phases),
        callbacks={"on_init_end": seen.on_init_end, "on_epoch_start": seen.on_epoch_start},
        epochs=3,
        run_eval_steps=3,
        save_step=4,
        lr_scheduler="MultiStepLR",
        lr_scheduler_params={"milestones": [2], "gamma": 0.1},
        scheduler_after_epoch=False,
    )
    trainer.fit()
    return trainer, seen


@pytest.fixture(scope="module")
def record(finished):
    return read_run(finished[0].output_path)


def test_every_update_uses_the_planned_learning_rate_whatever_the_scheduler_does(finished):
    trainer, seen = finished
    steps_an_epoch = len(trainer.train_loader)
    assert len(seen.lr_at_update) == 3 * steps_an_epoch
    for step, groups in seen.lr_at_update:
        assert len(groups) == 2
        assert set(groups) == {COARSE if step < steps_an_epoch else FINE}


def test_the_first_update_of_each_phase_is_on_record(finished, record):
    checks = [event for event in record.events if event.type == "lr_check"]
    assert [(check.phase, check.planned, check.in_effect, check.ok) for check in checks] == [
        ("coarse", COARSE, [COARSE] * 2, True),
        ("fine", FINE, [FINE] * 2, True),
    ]
    assert checks[1].step == len(finished[0].train_loader)


def test_own_callbacks_are_kept(finished):
    assert finished[1].calls == ["on_init_end", *["on_epoch_start"] * 3]


def test_evaluations_are_exact_weighted_means_over_all_batches(finished, record):
    """Recomputed from the model as it stands at the end, batch by batch."""
    trainer, _ = finished
    trainer.model.eval()
    totals, clips = {"mel": 0.0, "text": 0.0}, 0
    with torch.inference_mode():
        for batch in trainer.eval_loader:
            size = len(batch["text_lengths"])
            _, losses = trainer.model.eval_step(trainer.format_batch(batch), None)
            totals["mel"] += losses["loss_mel_ce"].item() * size
            totals["text"] += losses["loss_text_ce"].item() * size
            clips += size
    last = record.evaluations[-1]
    assert clips == last.samples == len(trainer.eval_loader.dataset) and clips % 3 != 0  # the last batch is smaller
    assert last.metrics["eval.mel_ce"] == pytest.approx(totals["mel"] / clips, rel=1e-6)
    assert last.metrics["eval.loss_text_ce"] == pytest.approx(totals["text"] / clips, rel=1e-6)
    assert last.metrics["eval.text_ce"] == pytest.approx(100 * totals["text"] / clips, rel=1e-6)


def test_mid_epoch_evaluations_stand_alone(finished, record):
    steps_an_epoch = len(finished[0].train_loader)
    mid = [evaluation.step for evaluation in record.evaluations if evaluation.mid_epoch]
    assert mid == [step for step in range(1, 3 * steps_an_epoch + 1) if step % 3 == 0]
    assert len({evaluation.samples for evaluation in record.evaluations}) == 1
    full = [evaluation.step for evaluation in record.evaluations if not evaluation.mid_epoch]
    assert full == [steps_an_epoch, 2 * steps_an_epoch, 3 * steps_an_epoch]


def test_training_epochs_are_recorded_with_all_their_batches(finished, record):
    trainer, _ = finished
    assert [epoch.batches for epoch in record.train_epochs] == [len(trainer.train_loader)] * 3
    assert [epoch.lr_end for epoch in record.train_epochs] == [[COARSE] * 2, [FINE] * 2, [FINE] * 2]
    for epoch in record.train_epochs:
        metrics = epoch.metrics
        assert metrics["train.loss"] == pytest.approx(metrics["train.mel_ce"] + 0.01 * metrics["train.text_ce"])


def test_the_folder_holds_one_latest_and_one_best_and_nothing_of_others_is_touched(finished, record):
    folder = Path(finished[0].output_path)
    foreign = {"checkpoint_1.pth", "best_model_2.pth"}
    own = {path.name for path in folder.glob("*.pth")} - foreign
    best = evaluate(record, load_policy()).best
    last = finished[0].total_steps_done
    assert own == {f"checkpoint_{last}.pth", f"best_model_{best['step']}.pth", "best_model.pth"}
    assert (folder / "best_model.pth").samefile(folder / f"best_model_{best['step']}.pth")
    assert (folder / "checkpoint_1.pth").read_bytes() == b"somebody else's"
    assert (folder / "best_model_2.pth").is_symlink()
    assert sum(event.bytes_freed for event in record.pruned) > 0


def test_no_file_goes_before_another_one_as_new_was_read_back_and_is_there(record):
    there = {}
    for event in record.events:
        if event.type == "checkpoint" and event.intact:
            there[event.path] = event.step
        elif event.type == "pruned":
            gone = [there.pop(name) for name in event.removed]
            assert max(there.values()) >= max(gone)


def test_the_best_is_the_lowest_objective_of_all_evaluations_mid_epoch_ones_included(record):
    lowest = min(record.evaluations, key=lambda evaluation: evaluation.metrics["eval.mel_ce"])
    best = [file for file in record.files if file.kind == "best"]
    assert [(file.step, file.value) for file in best] == [(lowest.step, lowest.metrics["eval.mel_ce"])]


def test_stock_code_finds_and_loads_the_files(finished):
    from trainer.io import get_last_checkpoint, load_fsspec

    trainer, _ = finished
    latest, _ = get_last_checkpoint(trainer.output_path)
    assert Path(latest).name == f"checkpoint_{trainer.total_steps_done}.pth"
    state = load_fsspec(latest, map_location="cpu")
    assert set(state) >= {"config", "model", "optimizer", "scheduler", "scaler", "step", "epoch", "model_loss"}
    live = trainer.model.state_dict()
    assert state["model"].keys() == live.keys()
    assert all(torch.equal(state["model"][key], live[key]) for key in live)


def test_table_shows_both_phases_and_a_verdict_in_every_row(finished, record):
    rows = [row for row in tracking_rows(record, load_policy()) if not row["mid_epoch"]]
    assert [row["label"] for row in rows] == ["1", "2", "3"]
    assert [row["lr_end"][0] for row in rows] == [COARSE, FINE, FINE]
    assert all(row["decision"] in ("continue", "tune", "stop", "undecided") for row in rows)
    assert all(row["memory_state"] in ("low", "moderate", "high", "critical") for row in rows)


def test_the_live_verdicts_are_those_of_the_finished_record(record):
    offline = [evaluate(record, load_policy(), evaluation).verdict for evaluation in record.evaluations]
    assert [event.verdict for event in record.verdicts] == offline


def test_the_baseline_says_what_is_in_effect(finished, record):
    trainer, _ = finished
    start = record.start
    assert (start.device, start.precision) == ("cpu", "float32")
    assert start.scheduler == "overridden by the phases"
    assert start.lr == [COARSE] * 2
    assert (start.resume_mode, start.resumed_from) == ("new", None)
    assert start.train_clips == len(trainer.train_samples) and start.eval_clips == record.evaluations[0].samples
    assert {evaluation.eval_set for evaluation in record.evaluations} == {start.eval_set}
    assert torch.__version__.startswith(start.versions["torch"])
    assert start.telemetry["TRAINER_TELEMETRY"] == "0"


def test_the_run_folder_keeps_settings_and_rules(finished):
    folder = Path(finished[0].output_path) / "gatekeeper"
    assert load_policy(folder / "policy.yaml").hash == load_policy().hash
    assert json.loads((folder / "config.json").read_text())["phases"][1]["lr"] == FINE
    assert {path.name for path in folder.iterdir()} == {
        "clips.jsonl",
        "journal.jsonl",
        "steps.jsonl",
        "policy.yaml",
        "config.json",
        "eval_clips.json",
        "run.lock",
        "flight.json",
        "crashes",
    }


def test_eval_mel_ce_falls(record):
    full = [e for e in record.evaluations if isinstance(e, Evaluation) and not e.mid_epoch]
    assert full[-1].metrics["eval.mel_ce"] < full[0].metrics["eval.mel_ce"]

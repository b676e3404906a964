"""What the keeper does to the files of a folder, with real files and a small stand-in for the Trainer's side."""

import math
import os
import subprocess
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from records import TIME, evaluated, start

torch = pytest.importorskip("torch")

from xtts_gatekeeper.checkpoints import keeper as keeper_module  # noqa: E402
from xtts_gatekeeper.checkpoints.disk import RESERVE_BYTES  # noqa: E402
from xtts_gatekeeper.checkpoints.integrity import scan  # noqa: E402
from xtts_gatekeeper.checkpoints.inventory import run_files  # noqa: E402
from xtts_gatekeeper.checkpoints.keeper import BEST_NAME, CheckpointKeeper, Saving  # noqa: E402
from xtts_gatekeeper.checkpoints.retention import DEFAULT, parse_policy  # noqa: E402
from xtts_gatekeeper.checkpoints.room import make_room  # noqa: E402
from xtts_gatekeeper.record import Journal, RunRecord, journal_path  # noqa: E402
from xtts_gatekeeper.record.events import VerdictEvent  # noqa: E402
from xtts_gatekeeper.trainer_port import StopTraining  # noqa: E402


class Port:
    """The part of a `TrainerPort` that the keeper uses, on a model of one layer with its optimizer."""

    reloaded_weights = ("dvae.",)
    on_gpu = False

    def __init__(self, folder):
        self.run_folder = folder
        self.step = self.epoch = 0
        self.in_step = False
        self.config = SimpleNamespace(save_best_after=0, save_all_best=False, run_eval=True)
        self.lines = []
        self.model = torch.nn.ModuleDict({"layer": torch.nn.Linear(64, 64), "dvae": torch.nn.Linear(8, 8)})
        self.optimizer = torch.optim.AdamW(self.model["layer"].parameters())
        self.model["layer"](torch.ones(64)).sum().backward()
        self.optimizer.step()

    def fill(self, value):
        """Training: the live weights change in place."""
        with torch.no_grad():
            self.model["layer"].weight.fill_(value)

    @property
    def steps_trained(self):
        return self.step + self.in_step

    def target_loss(self, metrics):
        return metrics.get("eval.loss", math.nan)

    def optimizer_bytes_to_come(self):
        return 0

    def state(self, epoch):
        return {
            "config": {"name": "run"},
            "model": self.model.state_dict(),
            "optimizer": [self.optimizer.state_dict()],
            "scheduler": [],
            "scaler": None,
            "step": self.step,
            "epoch": epoch,
        }

    def log(self, message):
        self.lines.append(message)


class Run:
    """A run folder with its journal and its keeper. Weights are filled with the value of their evaluation."""

    def __init__(self, folder, terms=DEFAULT, objective="eval.mel_ce", **saving):
        self.folder = folder
        self.journal = Journal(journal_path(folder))
        self.port = Port(folder)
        self.changes = []
        self.keeper = CheckpointKeeper(
            self.port,
            objective,
            self.journal.append,
            lambda: self.record,
            Saving(policy=parse_policy(terms), **saving),
            lambda: self.changes.append(self.names()),
        )
        if not self.journal.events:
            self.journal.append(start())

    @property
    def record(self):
        return RunRecord(tuple(self.journal.events))

    def evaluate(self, step, mel=None, dev="dev", gates=None, flush=True, **metrics):
        """The epoch ends with an evaluation, and the Trainer looks for a best."""
        self.port.step = step
        if mel is not None:
            self.port.fill(mel)
            metrics["eval.mel_ce"] = mel
        self.journal.append(evaluated(0, step=step, eval_set=dev, metrics=metrics))
        if gates is not None:
            self.journal.append(
                VerdictEvent(
                    step=step, epoch=0, time=TIME, verdict="continue", reasons=[], gates=gates, policy_hash="x"
                )
            )
        self.keeper.save_best()
        if flush:
            self.keeper.flush()

    def latest(self, step, epoch=None, flush=True, **options):
        self.port.step = step
        self.keeper.save_latest(epoch, **options)
        if flush:
            self.keeper.flush()

    def resume(self, step, name, **options):
        """A new process goes on from the file `name`; the keeper is told as the plug-in tells it."""
        again = Run(self.folder, **options)
        again.keeper.begin()
        again.journal.append(start(step=step, resume_mode="continue", resumed_from=str(self.folder / name)))
        again.keeper.prune()
        again.port.step = step
        return again

    def names(self):
        return sorted(path.name for path in self.folder.iterdir() if path.is_file() or path.is_symlink())

    def codes(self):
        return [incident.code for incident in self.record.incidents]

    def saves(self):
        return [(event.path, event.intact) for event in self.record.checkpoints]

    def load(self, name):
        return torch.load(self.folder / name, weights_only=True)

    def value(self, name):
        """What the weights in a file were filled with."""
        return self.load(name)["model"]["layer.weight"][0, 0].item()

    def best_is(self, name):
        return (self.folder / BEST_NAME).samefile(self.folder / name)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def stock_choice(folder):
    """What stock code resumes from; None where it finds nothing."""
    from trainer.io import get_last_checkpoint

    try:
        return Path(get_last_checkpoint(folder)[0])
    except ValueError:
        return None


class Held:
    """Writes wait for `go`; `begun` says that one does."""

    def __init__(self, monkeypatch):
        self.begun, self.go, self.count = threading.Event(), threading.Event(), 0
        stock = torch.save

        def save(state, path, **options):
            self.count += 1
            self.begun.set()
            assert self.go.wait(30)
            stock(state, path, **options)

        monkeypatch.setattr(torch, "save", save)


@pytest.fixture
def held(monkeypatch):
    hold = Held(monkeypatch)
    yield hold
    hold.go.set()


# What is kept


def test_the_best_is_weights_alone_with_a_resumable_file_of_its_number_beside_it(run):
    run.evaluate(2, 2.0)
    assert run.names() == [BEST_NAME, "best_model_2.pth", "checkpoint_2.pth"]
    best, full = run.load("best_model_2.pth"), run.load("checkpoint_2.pth")
    assert {"optimizer", "scheduler", "scaler"} <= full.keys() and full["step"] == 2
    assert not {"optimizer", "scheduler", "scaler"} & best.keys() and best["step"] == 2
    assert "dvae.weight" in full["model"] and "dvae.weight" not in best["model"]
    assert run.best_is("best_model_2.pth")
    assert stock_choice(run.folder).name == "checkpoint_2.pth"


def test_the_latest_and_the_best_stay_and_the_best_has_a_second_name(run):
    run.evaluate(1, 3.0)
    run.evaluate(2, 2.0)
    run.latest(3)
    run.evaluate(4, 2.5)
    run.latest(5)
    assert run.names() == [BEST_NAME, "best_model_2.pth", "checkpoint_5.pth"]
    assert run.best_is("best_model_2.pth")
    assert run.codes() == []
    assert run.changes[-1] == run.names()


def test_the_old_best_outlives_a_change_of_the_eval_set(run):
    run.evaluate(1, 1.0, dev="one")
    run.evaluate(2, 9.0, dev="two")
    run.evaluate(3, 8.0, dev="two")
    assert run.names() == [BEST_NAME, "best_model_1.pth", "best_model_3.pth", "checkpoint_3.pth"]
    assert run.best_is("best_model_3.pth")


def test_a_best_by_another_metric_does_not_stand_in_the_way(run):
    run.evaluate(1, 0.9)
    run.evaluate(2, **{"eval.loss": 3.0})
    assert "best_model_2.pth" in run.names()


def test_an_evaluation_with_values_that_are_not_finite_makes_no_best(run):
    run.port.step = 1
    run.journal.append(evaluated(0, 1.0, step=1, nonfinite_batches=1))
    run.keeper.save_best()
    run.keeper.flush()
    assert run.names() == ["checkpoint_1.pth"]  # the first state all the same: a crash would delete an empty run


@pytest.mark.parametrize("run_eval", [True, False])
def test_epochs_without_an_evaluation_leave_what_to_go_on_from(run, run_eval):
    run.port.config.run_eval = run_eval
    for step in (5, 9):
        run.port.step = step
        run.keeper.save_best()
        run.keeper.flush()
        run.port.epoch += 1
    assert run.names() == [f"checkpoint_{5 if run_eval else 9}.pth"]
    assert run.load(run.names()[0])["epoch"] == (1 if run_eval else 2)  # the next one


def test_an_evaluation_that_logs_nothing_changes_nothing_about_the_best(run):
    run.evaluate(1, **{"eval.mel_ce": 3.00, "eval.loss": 3.03})
    run.evaluate(2, **{"eval.mel_ce": 3.01, "eval.loss": 3.02})
    run.port.step = 3
    run.journal.append(evaluated(0, step=3, metrics={}))
    run.keeper.save_best()
    run.latest(4)
    assert run.names() == [BEST_NAME, "best_model_1.pth", "checkpoint_4.pth"]
    assert run.best_is("best_model_1.pth")


def test_a_term_with_a_metric_that_the_run_does_not_log_is_said(tmp_path):
    run = Run(tmp_path, ["latest:1", "best:1:eval.mle_ce"])
    run.evaluate(1, 3.0)
    assert run.codes() == ["unknown_metric"]


def test_what_must_stay_beyond_the_budget_is_said_once(tmp_path):
    run = Run(tmp_path, DEFAULT, budget=1)
    run.evaluate(1, 3.0)
    run.evaluate(2, 2.0)
    assert run.codes() == ["over_budget"]


def test_a_run_that_was_copied_without_its_times_is_pruned_all_the_same(run):
    import os

    run.evaluate(1, 3.0)
    for path in run.folder.glob("*.pth"):
        os.utime(path, (1, 1))
    run.evaluate(2, 2.0)
    assert run.names() == [BEST_NAME, "best_model_2.pth", "checkpoint_2.pth"]


def test_a_half_loaded_file_of_somebody_else_stays(run):
    (run.folder / "base_download.pth.partial").write_bytes(b"half")
    (run.folder / "checkpoint_1.pth.partial").write_bytes(b"half")
    run.keeper.begin()
    assert "base_download.pth.partial" in run.names()
    assert "checkpoint_1.pth.partial" not in run.names()


def test_an_evaluation_of_other_weights_makes_no_best(run):
    run.journal.append(evaluated(0, 1.0, step=1))
    run.port.step = 2
    run.keeper.save_best()
    run.keeper.flush()
    assert run.names() == ["checkpoint_2.pth"]


def test_nothing_is_best_before_the_step_that_the_user_named(run):
    run.port.config.save_best_after = 10
    run.evaluate(10, 1.0)
    assert run.names() == []
    run.evaluate(11, 2.0)
    assert run.names() == [BEST_NAME, "best_model_11.pth", "checkpoint_11.pth"]


def test_all_best_files_stay_for_who_asked_for_them(run):
    run.port.config.save_all_best = True
    for step, value in enumerate([3.0, 2.0, 2.5, 1.0], 1):
        run.evaluate(step, value)
    # Without the second name: stock code that goes on here would copy its next best over it, into the older file.
    assert run.names() == [*(f"best_model_{n}.pth" for n in (1, 2, 4)), "checkpoint_4.pth"]


def test_a_file_at_which_a_gate_was_decided_stays_resumable(tmp_path):
    run = Run(tmp_path, [*DEFAULT, "gate"])
    run.evaluate(1, 3.0, gates=[])
    run.evaluate(2, 4.0, gates=["A"])  # not the best
    run.evaluate(3, 5.0, gates=[])  # neither
    run.latest(4)
    assert run.names() == [BEST_NAME, "best_model_1.pth", "checkpoint_2.pth", "checkpoint_4.pth"]


def test_the_best_by_a_second_metric_stays_and_does_not_take_the_name(tmp_path):
    run = Run(tmp_path, [*DEFAULT, "best:1:eval.text_ce"])
    run.evaluate(1, 3.0, **{"eval.text_ce": 1.0})
    run.evaluate(2, 2.0, **{"eval.text_ce": 2.0})
    assert "best_model_1.pth" in run.names()
    run.evaluate(3, 4.0, **{"eval.text_ce": 0.5})
    assert run.names() == [BEST_NAME, "best_model_2.pth", "best_model_3.pth", "checkpoint_3.pth"]
    assert run.best_is("best_model_2.pth")


def test_several_best_stay_when_the_objective_is_named_by_its_role(tmp_path):
    run = Run(tmp_path, ["latest:1", "best:2"], objective="eval.objective")
    for step, value in enumerate([3.0, 1.0, 2.0, 4.0], 1):
        run.evaluate(step, value)
    assert run.names() == [BEST_NAME, "best_model_2.pth", "best_model_3.pth", "checkpoint_3.pth"]


def test_the_first_file_at_or_after_each_multiple_of_steps_stays(tmp_path):
    run = Run(tmp_path, ["latest:1", "every:100"])
    for step in (90, 110, 150, 210, 250):
        run.latest(step)
    assert run.names() == ["checkpoint_110.pth", "checkpoint_210.pth", "checkpoint_250.pth"]


def test_a_budget_lets_the_oldest_go_and_never_the_newest_or_the_best(tmp_path):
    probe = Run(tmp_path / "probe")
    probe.evaluate(1, 1.0)
    full, weights = ((probe.folder / name).stat().st_size for name in ("checkpoint_1.pth", "best_model_1.pth"))
    run = Run(tmp_path / "run", ["latest:5", "best:1"], budget=2 * full + weights + 500)
    run.evaluate(1, 1.0)
    for step in (2, 3, 4):
        run.latest(step)
        assert sum(run_files(run.folder).values()) <= run.keeper.saving.budget
    assert run.names() == [BEST_NAME, "best_model_1.pth", "checkpoint_3.pth", "checkpoint_4.pth"]
    tight = Run(tmp_path / "tight", ["latest:5"], budget=1)
    tight.evaluate(1, 1.0)
    tight.latest(2)
    assert tight.names() == [BEST_NAME, "best_model_1.pth", "checkpoint_2.pth"]


# What is not ours


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_a_best_model_of_somebody_else_stays_and_that_is_said_once(run, kind):
    name = run.folder / BEST_NAME
    if kind == "file":
        name.write_bytes(b"theirs")
    else:
        target = run.folder / "theirs.bin"
        if kind == "link":
            target.write_bytes(b"theirs")
        name.symlink_to(target)
    run.evaluate(1, 3.0)
    run.evaluate(2, 2.0)
    assert run.codes() == ["best_name"]
    assert name.is_symlink() == (kind != "file")
    assert kind == "dangling link" or name.read_bytes() == b"theirs"
    assert "best_model_2.pth" in run.names()


def test_a_file_that_somebody_put_under_our_name_is_not_deleted(run):
    run.latest(1)
    ours = run.folder / "checkpoint_1.pth"
    content = b"y" * ours.stat().st_size
    ours.unlink()
    ours.write_bytes(content)
    os.utime(ours, ns=(1, 1))
    run.latest(2)
    run.latest(3)
    assert ours.read_bytes() == content
    assert run.names() == ["checkpoint_1.pth", "checkpoint_3.pth"]


def test_a_file_that_somebody_linked_to_from_elsewhere_stays_and_that_is_said_once(run, tmp_path_factory):
    run.latest(1)
    os.link(run.folder / "checkpoint_1.pth", tmp_path_factory.mktemp("elsewhere") / "mine.pth")
    for step in (2, 3, 4):
        run.latest(step)
    assert run.names() == ["checkpoint_1.pth", "checkpoint_4.pth"]
    assert run.codes() == ["prune_failed"]


def test_a_symbolic_link_under_our_name_stays(run, tmp_path_factory):
    run.latest(1)
    target = tmp_path_factory.mktemp("elsewhere") / "big.pth"
    (run.folder / "checkpoint_1.pth").rename(target)
    (run.folder / "checkpoint_1.pth").symlink_to(target)
    run.latest(2)
    assert run.names() == ["checkpoint_1.pth", "checkpoint_2.pth"] and target.is_file()


def test_a_name_that_a_kill_left_on_the_old_best_is_set_right(run):
    run.evaluate(1, 3.0)
    run.evaluate(2, 2.0)
    (run.folder / BEST_NAME).unlink()
    run.latest(3)
    assert run.best_is("best_model_2.pth")


# Beside training


def test_training_goes_on_while_a_save_is_in_flight_and_what_it_changes_is_not_saved(run, held):
    run.port.fill(5.0)
    run.latest(1, flush=False)  # comes back while the write is held
    assert held.begun.wait(30)
    assert run.record.checkpoints == ()
    run.port.fill(99.0)
    with torch.no_grad():
        for state in run.port.optimizer.state.values():
            state["exp_avg"].fill_(99.0)
    run.port.step = 7
    held.go.set()
    run.keeper.flush()
    assert run.saves() == [("checkpoint_1.pth", True)]
    saved = run.load("checkpoint_1.pth")
    assert run.value("checkpoint_1.pth") == 5.0 and saved["step"] == 1
    assert not any((state["exp_avg"] == 99.0).any() for state in saved["optimizer"][0]["state"].values())
    event = run.record.checkpoints[0]
    assert event.step == 1 and event.blocked_seconds < event.seconds


def test_one_save_is_in_flight_and_the_next_waits_for_it(run, held):
    run.port.fill(1.0)
    run.latest(1, flush=False)
    assert held.begun.wait(30)
    second = threading.Thread(target=run.latest, args=(2,), kwargs={"flush": False})
    second.start()
    second.join(0.2)
    assert second.is_alive() and held.count == 1
    held.go.set()
    second.join(30)
    run.keeper.flush()
    assert run.saves() == [("checkpoint_1.pth", True), ("checkpoint_2.pth", True)]
    assert run.names() == ["checkpoint_2.pth"]


def test_flush_waits_for_what_is_in_flight(run, held):
    run.latest(1, flush=False)
    waits = threading.Thread(target=run.keeper.flush)
    waits.start()
    waits.join(0.2)
    assert waits.is_alive() and run.names() == ["checkpoint_1.pth.partial"] * 0
    held.go.set()
    waits.join(30)
    assert run.names() == ["checkpoint_1.pth"]


def test_without_memory_for_the_copy_saving_holds_up_training_and_that_is_said_once(run, monkeypatch):
    monkeypatch.setattr(keeper_module, "memory_allows", lambda size: False)
    for step in (1, 2):
        run.latest(step, flush=False)
        assert run.names() == [f"checkpoint_{step}.pth"]
    assert run.codes() == ["no_memory"]
    event = run.record.checkpoints[-1]
    assert event.blocked_seconds == event.seconds > 0


def test_a_copy_that_fails_falls_back_to_saving_at_once(run, monkeypatch):
    def fails(self, state):
        raise MemoryError("no")

    monkeypatch.setattr(keeper_module.HostCopy, "copy", fails)
    run.latest(1, flush=False)
    assert run.names() == ["checkpoint_1.pth"] and run.codes() == ["no_memory"]


def test_saving_is_synchronous_for_who_asked_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(keeper_module.BackgroundWriter, "submit", lambda *_: pytest.fail("a thread was used"))
    run = Run(tmp_path, asynchronous=False)
    run.evaluate(1, 2.0, flush=False)
    assert run.names() == [BEST_NAME, "best_model_1.pth", "checkpoint_1.pth"]
    assert run.codes() == []


def test_the_same_state_is_not_written_twice(run):
    run.latest(5)
    run.latest(5)
    run.evaluate(5, 1.0)  # says that the epoch is over: a resume has to go on with the next one
    run.latest(5, epoch=1)
    assert run.saves() == [("checkpoint_5.pth", True), ("checkpoint_5.pth", True), ("best_model_5.pth", True)]
    assert run.load("checkpoint_5.pth")["epoch"] == 1


def test_memory_for_the_copy_is_ready_before_the_first_save(run):
    run.keeper.foresee(steps=100, gates=0)
    run.keeper.begin()
    run.keeper._preparing.join()
    ready = run.keeper._host.bytes
    assert ready > 0
    run.latest(1)
    assert run.keeper._host.bytes == ready


def test_the_forecast_is_what_the_files_take(run):
    foreseen = run.keeper.foresee(steps=100, gates=0)
    run.evaluate(1, 1.0)
    sizes = run_files(run.folder)
    assert foreseen.checkpoint == pytest.approx(sizes["checkpoint_1.pth"], rel=0.12)  # a toy's pickle is a tenth of it
    assert foreseen.weights < foreseen.checkpoint / 2
    assert run.keeper.foresee(steps=100, gates=0).present == sum(sizes.values())


# What fails


def full_disk(monkeypatch, *, when=lambda path: True):
    """torch's writer meets a real ENOSPC after it has begun the file."""
    stock = torch.save

    def save(state, path, **options):
        if when(path):
            Path(path).write_bytes(b"PK half of a file")
            path = "/dev/full"
        stock(state, path, **options)

    monkeypatch.setattr(torch, "save", save)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_failed_write_leaves_the_last_good_file_and_is_reported_and_the_next_save_works(run, monkeypatch):
    run.evaluate(1, 1.0)
    good = run.record.files
    with monkeypatch.context() as patch:
        full_disk(patch)
        run.latest(2)
        run.latest(1)  # the name of the good one, for another epoch
        run.evaluate(3, 0.5)
    assert run.codes() == ["save_failed"] * 3
    assert run.saves()[2:] == [("checkpoint_2.pth", False), ("checkpoint_1.pth", False), ("checkpoint_3.pth", False)]
    assert run.record.files == good
    assert run.names() == [BEST_NAME, "best_model_1.pth", "checkpoint_1.pth"]
    assert any("checkpoint_2.pth was not saved" in line for line in run.port.lines)
    run.port.step = 3
    run.keeper.save_best()
    run.keeper.flush()
    assert run.names() == [BEST_NAME, "best_model_3.pth", "checkpoint_3.pth"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_where_only_the_best_cannot_be_written_its_checkpoint_stays_for_it(run, monkeypatch):
    run.evaluate(1, 1.0)
    with monkeypatch.context() as patch:
        full_disk(patch, when=lambda path: "best_model" in str(path))
        run.evaluate(2, 0.5)
    run.latest(3)
    assert run.codes() == ["save_failed"]
    assert run.names() == [BEST_NAME, "checkpoint_2.pth", "checkpoint_3.pth"]
    assert run.value(BEST_NAME) == 0.5


def test_a_file_that_cannot_get_the_name_of_an_older_one_leaves_that_one_on_record(run, monkeypatch):
    run.latest(1)
    good = run.record.files

    def fails(path, target):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails)
        run.latest(1, epoch=1)
    assert run.codes() == ["save_failed"]
    assert run.record.files == good and run.names() == ["checkpoint_1.pth"]
    run.latest(1, epoch=1)
    assert run.load("checkpoint_1.pth")["epoch"] == 1
    assert [file.digest for file in run.record.files] == [scan(run.folder / "checkpoint_1.pth").digest]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["weights", "optimizer"])
def test_values_that_are_not_finite_are_never_written_and_replace_nothing(run, bad, place):
    run.evaluate(1, 1.0)
    before = {name: (run.folder / name).read_bytes() for name in run.names()}
    tensor = (
        run.port.model["layer"].weight.detach()
        if place == "weights"
        else next(iter(run.port.optimizer.state.values()))["exp_avg"]
    )
    tensor[3, 3] = bad
    run.latest(2)
    run.latest(1)
    run.port.step = 3
    run.journal.append(evaluated(0, 0.5, step=3))
    run.keeper.save_best()
    run.keeper.flush()
    assert run.codes() == ["save_failed"] * 3
    assert "NaN or infinity" in run.record.incidents[0].message
    assert {name: (run.folder / name).read_bytes() for name in run.names()} == before
    tensor[3, 3] = 0.0
    run.latest(3)
    assert "checkpoint_3.pth" in run.names()


@pytest.mark.parametrize("kind", ["checkpoint", "best_model"])
def test_the_first_file_of_each_kind_is_loaded_and_compared_with_the_state(run, monkeypatch, kind):
    stock = torch.save

    def changes_one_value(state, path, **options):
        if kind in str(path):
            weight = state["model"]["layer.weight"].clone()
            weight[5, 5] += 1
            state = {**state, "model": {**state["model"], "layer.weight": weight}}
        stock(state, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", changes_one_value)
        run.evaluate(1, 1.0)
        assert run.codes() == ["save_failed"]
        assert "model.layer.weight is not what was saved" in run.record.incidents[0].message
        assert not any(name.startswith(f"{kind}_") for name in run.names())
        run.port.fill(2.0)
        run.latest(2)
        assert ("checkpoint_2.pth" in run.names()) == (kind == "best_model")  # still tested, as none has passed
    run.latest(3)
    assert "checkpoint_3.pth" in run.names()


def test_an_error_of_ours_beside_training_is_reported_and_later_saves_work(run, monkeypatch):
    def fails(state):
        raise ValueError("not foreseen")

    with monkeypatch.context() as patch:
        patch.setattr(keeper_module, "not_finite", fails)
        run.latest(1)
    assert run.codes() == ["gatekeeper_error"]
    run.latest(2)
    assert run.names() == ["checkpoint_2.pth"]


# A full disk


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A disk of `disk.capacity` bytes, of which `disk.free_later` get free while one waits."""
    run = Run(tmp_path / "run", ["latest:2", "best:1"], asynchronous=False, pause_seconds=60)
    state = SimpleNamespace(run=run, capacity=1 << 40, slept=0, free_later=0)

    def free(folder):
        return state.capacity - sum(run_files(folder).values()) + RESERVE_BYTES

    def sleep(seconds):
        state.slept += seconds
        state.capacity += state.free_later

    monkeypatch.setattr(keeper_module, "make_room", partial(make_room, free=free, sleep=sleep))
    run.latest(1)
    run.latest(2)
    state.full = (run.folder / "checkpoint_1.pth").stat().st_size
    return state


def test_a_full_disk_first_prunes_what_retention_would_keep(disk):
    disk.capacity = round(2.3 * disk.full)
    disk.run.latest(3)
    assert disk.run.codes() == ["disk_short"]
    assert disk.run.names() == ["checkpoint_2.pth", "checkpoint_3.pth"]


def test_room_for_two_checkpoints_and_the_best_is_enough_for_one_best_after_the_other(tmp_path, monkeypatch):
    """The checkpoint goes first, and what it replaces makes room for the weights."""
    run = Run(tmp_path / "run", ["latest:1", "best:1"], asynchronous=False)
    run.evaluate(1, 3.0)
    (full, weights) = ((run.folder / name).stat().st_size for name in ("checkpoint_1.pth", "best_model_1.pth"))
    capacity = 2 * full + weights + 100

    def free(folder):
        return capacity - sum(run_files(folder).values()) + RESERVE_BYTES

    monkeypatch.setattr(keeper_module, "make_room", partial(make_room, free=free))
    for step, value in ((2, 2.0), (3, 1.0), (4, 9.0)):
        run.evaluate(step, value)
    run.latest(5)
    assert run.codes() == []
    assert run.names() == [BEST_NAME, "best_model_3.pth", "checkpoint_5.pth"]


def test_then_weights_are_saved_alone_and_go_when_a_resumable_file_follows(disk):
    disk.capacity = round(1.7 * disk.full)
    disk.run.port.fill(7.0)
    disk.run.latest(3)
    assert disk.run.names() == ["checkpoint_2.pth", "weights_3.pth"]
    assert disk.run.value("weights_3.pth") == 7.0
    assert "optimizer" not in disk.run.load("weights_3.pth")
    assert disk.run.codes() == ["disk_short"]
    assert stock_choice(disk.run.folder).name == "checkpoint_2.pth"
    before = disk.run.saves()
    disk.run.latest(3)
    assert disk.run.saves() == before  # the same state again: nothing new to write
    disk.capacity = 1 << 40
    disk.run.latest(4)
    assert disk.run.names() == ["checkpoint_2.pth", "checkpoint_4.pth"]


def test_weights_saved_for_want_of_room_hold_the_best_and_stock_code_does_not_resume_from_them(disk):
    disk.run.evaluate(3, 3.0)
    disk.capacity = round(1.9 * disk.full)
    disk.run.evaluate(4, 1.0)
    assert disk.run.names() == ["checkpoint_3.pth", "weights_4.pth"]
    assert disk.run.value("weights_4.pth") == 1.0
    assert stock_choice(disk.run.folder).name == "checkpoint_3.pth"
    disk.capacity = 1 << 40
    disk.run.latest(5)
    assert disk.run.names() == [BEST_NAME, "best_model_4.pth", "checkpoint_3.pth", "checkpoint_5.pth"]
    assert disk.run.best_is("best_model_4.pth") and disk.run.value(BEST_NAME) == 1.0


def test_then_it_waits_for_room(disk):
    disk.capacity, disk.free_later = disk.full, disk.full // 2
    disk.run.latest(3)
    assert disk.slept > 0
    assert disk.run.codes() == ["disk_full", "disk_room"]
    assert "checkpoint_3.pth" in disk.run.names()


def test_then_it_stops_and_the_last_resumable_file_stays(disk):
    disk.capacity = disk.full
    with pytest.raises(StopTraining, match="the disk is full"):
        disk.run.latest(3)
    assert disk.slept == 60
    assert disk.run.names() == ["checkpoint_2.pth"]


def test_who_wants_to_leave_is_not_kept_waiting(disk):
    disk.capacity = disk.full
    disk.run.keeper.hurry = lambda: disk.slept > 2
    disk.run.latest(3)
    assert 2 < disk.slept < 5
    assert disk.run.codes() == ["disk_full", "disk_full"]


def test_when_training_is_over_nobody_waits_for_room(disk):
    disk.capacity = disk.full
    disk.run.latest(3, patient=False)
    assert disk.slept == 0
    assert disk.run.names() == ["checkpoint_2.pth"]
    assert disk.run.codes() == ["disk_full"]


# What a killed process left


def test_what_was_half_written_is_removed_at_the_start(run):
    run.evaluate(1, 1.0)
    (run.folder / "checkpoint_2.pth.partial").write_bytes(b"half")
    os.link(run.folder / "best_model_1.pth", run.folder / "best_model.pth.partial")
    (run.folder / "notes.partial").write_bytes(b"not ours")
    run.resume(1, "checkpoint_1.pth")
    assert run.names() == [BEST_NAME, "best_model_1.pth", "checkpoint_1.pth", "notes.partial"]


def test_a_whole_file_that_is_not_on_record_is_adopted_and_a_broken_one_is_not(run):
    run.evaluate(1, 1.0)
    run.port.step = 2
    torch.save(run.port.state(0), run.folder / "checkpoint_2.pth")
    whole = (run.folder / "checkpoint_2.pth").read_bytes()
    (run.folder / "checkpoint_3.pth").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    (run.folder / "checkpoint_4.pth").write_bytes(damaged)
    again = run.resume(2, "checkpoint_2.pth")
    assert [file.path for file in again.record.files] == ["best_model_1.pth", "checkpoint_2.pth"]
    adopted = again.record.checkpoints[-1]
    assert adopted.intact and adopted.resumable and adopted.digest and adopted.bytes == len(whole)
    assert run.names() == [
        BEST_NAME,
        "best_model_1.pth",
        *(f"checkpoint_{n}.pth" for n in (2, 3, 4)),
    ]


def test_the_best_in_a_checkpoint_that_is_not_on_record_is_not_lost(run):
    """Killed between the rename of a new best's checkpoint and its line in the journal."""
    run.evaluate(1, 3.0)
    run.port.step = 2
    run.port.fill(1.0)
    run.journal.append(evaluated(0, 1.0, step=2))
    torch.save(run.port.state(1), run.folder / "checkpoint_2.pth")
    again = run.resume(2, "checkpoint_2.pth")
    again.latest(3)
    assert again.value(BEST_NAME) == 1.0


def test_weights_saved_for_want_of_room_that_are_not_on_record_are_adopted(run):
    run.latest(1)
    state = run.port.state(0)
    torch.save({"model": state["model"], "step": 2}, run.folder / "weights_2.pth")
    again = Run(run.folder)
    again.keeper.begin()
    assert again.record.files[-1].kind == "weights"
    assert run.names() == ["checkpoint_1.pth", "weights_2.pth"]
    again.latest(3)
    assert run.names() == ["checkpoint_3.pth"]


# Names that stock code goes by


def went_back(folder, **options):
    """A run that went back from its best at step 20 to step 10 and went on to a worse one at 15."""
    first = Run(folder, ["latest:2", "best:1"], **options)
    first.evaluate(10, 3.0)
    first.evaluate(20, 1.0)
    again = first.resume(10, "checkpoint_10.pth", terms=["latest:2", "best:1"], **options)
    again.evaluate(15, 2.0)
    again.latest(16)
    return again


def test_after_going_back_the_best_is_parked_and_gets_its_name_back_when_it_is_overtaken(tmp_path):
    run = went_back(tmp_path)
    assert run.names() == ["best_20.pth", "checkpoint_15.pth", "checkpoint_16.pth"] or run.names() == [
        "best_20.pth",
        "checkpoint_10.pth",
        "checkpoint_16.pth",
    ]
    assert run.value("best_20.pth") == 1.0
    assert stock_choice(tmp_path).name == "checkpoint_16.pth"
    run.latest(21)
    assert "best_model_20.pth" in run.names() and run.best_is("best_model_20.pth")
    assert stock_choice(tmp_path).name == "checkpoint_21.pth"
    assert [file.path for file in run.record.files if not file.resumable] == ["best_model_20.pth"]


def test_a_parked_best_is_not_overwritten_by_one_of_its_number(tmp_path):
    run = went_back(tmp_path)
    run.evaluate(20, 5.0, dev="another set")  # both are the best of their set
    run.latest(30)
    values = {run.value(name) for name in run.names() if name.startswith("best_") and name != BEST_NAME}
    assert values == {1.0, 5.0}
    assert run.value(BEST_NAME) == 5.0
    assert stock_choice(tmp_path).name == "checkpoint_30.pth"


def test_a_parked_best_gives_way_to_a_better_one(tmp_path):
    run = went_back(tmp_path)
    run.evaluate(18, 0.5)
    assert [name for name in run.names() if name.startswith("best")] == [BEST_NAME, "best_model_18.pth"]
    assert run.best_is("best_model_18.pth")


def test_best_files_that_all_stay_are_parked_too(tmp_path):
    first = Run(tmp_path, ["latest:2", "best:1"])
    first.port.config.save_all_best = True
    for step, value in ((10, 3.0), (20, 2.0), (30, 1.0)):
        first.evaluate(step, value)
    (tmp_path / "checkpoint_30.pth").unlink()
    again = Run(tmp_path, ["latest:2", "best:1"])
    again.port.config.save_all_best = True
    again.journal.append(start(step=20, resume_mode="continue", resumed_from="checkpoint_20.pth"))
    again.latest(15)
    again.latest(16)
    assert {"best_model_10.pth", "best_20.pth", "best_30.pth"} <= set(again.names())
    assert stock_choice(tmp_path).name == "checkpoint_16.pth"


# At every boundary


class Boundaries:
    """Calls `look` before and after every rename, link, removal and journal line in a folder."""

    def __init__(self, monkeypatch, look):
        self.count = 0

        def around(owner, name):
            stock = getattr(owner, name)

            def wrapped(*arguments, **options):
                self.count += 1
                look(f"before {name}")
                try:
                    return stock(*arguments, **options)
                finally:
                    look(f"after {name}")

            monkeypatch.setattr(owner, name, wrapped)

        for owner, name in (
            (Path, "replace"),
            (Path, "rename"),
            (Path, "unlink"),
            (os, "link"),
            (Journal, "append"),
            (keeper_module, "_torch_save"),
        ):
            around(owner, name)


def rises(folder):
    """Bests that rise, worse ones, saves in between, another eval set."""
    run = Run(folder)
    run.evaluate(10, 3.0)
    run.latest(12)
    run.evaluate(20, 2.0)
    run.evaluate(30, 2.5)
    run.latest(32)
    run.evaluate(40, 1.5)
    run.port.fill(777.0)
    run.latest(41)
    run.port.fill(778.0)
    run.latest(41, epoch=1)  # the same name once more


def goes_back(folder):
    """The best is parked, gets its name back and gives way to a better one."""
    run = went_back(folder)
    run.port.fill(777.0)
    run.latest(21)
    run.evaluate(30, 0.5)


#: What is done, and how many resumable files and files of weights there may be at any time.
SCENARIOS = pytest.mark.parametrize(("scenario", "most"), [(rises, (2, 1)), (goes_back, (3, 1))])


def best_value(run):
    """The best value of which a whole file was ever recorded."""
    values = {event.step: event.metrics.get("eval.mel_ce") for event in run.events if event.type == "evaluation"}
    return min((values[f.step] for f in run.checkpoints if f.intact and values.get(f.step)), default=None)


def weights_in(folder):
    return {
        torch.load(path, weights_only=True)["model"]["layer.weight"][0, 0].item()
        for path in folder.glob("*.pth")
        if not path.is_symlink()
    }


@SCENARIOS
def test_at_every_boundary_stock_code_would_resume_and_the_best_is_there_and_the_disk_holds_no_more(
    tmp_path, monkeypatch, scenario, most
):
    probe = Run(tmp_path / "probe")
    probe.evaluate(1, 1.0)
    full, weights = ((probe.folder / n).stat().st_size for n in ("checkpoint_1.pth", "best_model_1.pth"))
    folder = tmp_path / "run"
    folder.mkdir()
    wrong, resumable, looking = [], [], threading.local()

    def look(where):
        if getattr(looking, "now", False):
            return
        looking.now = True
        try:
            choice = stock_choice(folder)
            record = RunRecord(tuple(Journal(journal_path(folder)).events)) if journal_path(folder).exists() else None
            if choice is not None:
                resumable.append(choice.name)
                if "optimizer" not in torch.load(choice, weights_only=True):
                    wrong.append(f"{where}: stock code would resume from {choice.name}")
            elif resumable:
                wrong.append(f"{where}: nothing to resume from")
            best = best_value(record) if record is not None else None
            if best is not None and best not in weights_in(folder):
                wrong.append(f"{where}: the best ({best}) is gone")
            inodes = {path.stat().st_ino: path.stat().st_size for path in folder.iterdir() if path.is_file()}
            if sum(inodes.values()) > most[0] * full + most[1] * weights + 1000:
                wrong.append(f"{where}: {sum(inodes.values())} bytes in {sorted(p.name for p in folder.iterdir())}")
        finally:
            looking.now = False

    boundaries = Boundaries(monkeypatch, look)
    scenario(folder)
    assert boundaries.count > 60 and len(set(resumable)) > 4
    assert wrong == []


@SCENARIOS
def test_killed_at_any_boundary_a_new_process_finds_the_best_and_what_to_resume_from(
    tmp_path, monkeypatch, scenario, most
):
    folder, copies, seen = tmp_path / "run", [], []
    folder.mkdir()

    def look(where):
        files = sorted((path, path.stat()) for path in folder.rglob("*") if path.is_file())
        state = [(path, stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in files]
        if state not in seen:
            to = tmp_path / f"{len(copies):04}"
            subprocess.run(["cp", "-a", folder, to], check=True)
            copies.append((where, to))
            seen.append(state)

    with monkeypatch.context() as patch:
        Boundaries(patch, look)
        scenario(folder)
    assert len(copies) > 50
    wrong = []
    for where, copied in copies:
        before = RunRecord(tuple(Journal(journal_path(copied)).events)) if journal_path(copied).exists() else None
        if before is None or not before.events:
            continue
        for file in before.files:  # a resume goes by these before anything else looks at the folder
            if (copied / file.path).exists() and scan(copied / file.path).digest != file.digest:
                wrong.append(f"{where}: {file.path} in {copied.name} is not the one on record")
        best = best_value(before)
        run = Run(copied, ["latest:1", "best:1"])
        run.keeper.begin()
        choice = stock_choice(copied)
        if choice is None:
            if any(file.resumable for file in before.files):
                wrong.append(f"{where}: nothing to resume from in {copied.name}, {run.names()}")
            continue
        if "optimizer" not in run.load(choice.name):
            wrong.append(f"{where}: stock code would resume from {choice.name} in {copied.name}")
        run = run.resume(run.load(choice.name)["step"], choice.name)
        run.port.fill(999.0)
        run.latest(1000)
        if best is not None and run.value(BEST_NAME) > best:
            wrong.append(f"{where}: the best ({best}) is gone from {copied.name}, {run.names()}")
        if len(run_files(copied)) > 2 or any(name.endswith(".partial") for name in run.names()):
            wrong.append(f"{where}: {copied.name} is left with {run.names()}")
    assert wrong == []

"""What the keeper does to the files of a folder, with real files and a small stand-in for the Trainer's side."""

import os
import zipfile
from types import SimpleNamespace

import pytest
from records import evaluated

from xtts_gatekeeper.checkpoints.keeper import BEST_NAME, CheckpointKeeper
from xtts_gatekeeper.record import Journal, RunRecord, journal_path


class Port:
    """The part of a `TrainerPort` that the keeper uses; saves a small file of torch's layout."""

    def __init__(self, folder):
        self.run_folder = folder
        self.step = self.epoch = 0
        self.config = SimpleNamespace(save_best_after=0, save_all_best=False)

    @property
    def steps_trained(self):
        return self.step

    def target_loss(self, metrics):
        return metrics.get("eval.loss", float("nan"))

    def save(self, path, epoch):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", f"{self.step} {epoch}")
            archive.writestr("archive/data/0", b"x" * 1000)

    def log(self, message):
        pass


@pytest.fixture
def run(tmp_path):
    """A run: `run.evaluate(step, value)` lets the keeper look for a best; `run.names()` lists the files."""
    port = Port(tmp_path)
    journal = Journal(journal_path(tmp_path))
    keeper = CheckpointKeeper(port, "eval.mel_ce", journal.append, lambda: RunRecord(tuple(journal.events)))

    def evaluate(step, mel=None, dev="dev", **metrics):
        port.step = step
        journal.append(evaluated(0, mel, step=step, eval_set=dev, **({"metrics": metrics} if metrics else {})))
        keeper.save_best()

    def latest(step):
        port.step = step
        keeper.save_latest()

    def names():
        return sorted(path.name for path in tmp_path.iterdir() if path.is_file() or path.is_symlink())

    def codes():
        return [incident.code for incident in RunRecord(tuple(journal.events)).incidents]

    return SimpleNamespace(
        evaluate=evaluate, latest=latest, names=names, codes=codes, folder=tmp_path, keeper=keeper, port=port
    )


def test_the_best_and_the_latest_stay_and_the_best_has_a_second_name(run):
    run.evaluate(1, 3.0)
    run.evaluate(2, 2.0)
    run.latest(3)
    run.evaluate(4, 2.5)
    run.latest(5)
    assert run.names() == [BEST_NAME, "best_model_2.pth", "checkpoint_5.pth"]
    assert (run.folder / BEST_NAME).samefile(run.folder / "best_model_2.pth")


def test_the_old_best_outlives_a_change_of_the_eval_set(run):
    run.evaluate(1, 1.0, dev="one")
    run.evaluate(2, 9.0, dev="two")
    run.evaluate(3, 8.0, dev="two")
    assert run.names() == [BEST_NAME, "best_model_1.pth", "best_model_3.pth"]
    assert (run.folder / BEST_NAME).samefile(run.folder / "best_model_3.pth")


def test_a_best_by_another_metric_does_not_stand_in_the_way(run):
    run.evaluate(1, 0.9)
    run.evaluate(2, **{"eval.loss": 3.0})
    assert "best_model_2.pth" in run.names()


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
    assert run.codes() == ["foreign_best"]
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


def test_a_name_that_a_kill_left_on_the_old_best_is_set_right(run):
    run.evaluate(1, 3.0)
    run.evaluate(2, 2.0)
    (run.folder / BEST_NAME).unlink()
    run.latest(3)
    assert (run.folder / BEST_NAME).samefile(run.folder / "best_model_2.pth")


def test_all_best_files_stay_for_who_asked_for_them(run):
    run.port.config.save_all_best = True
    for step, value in enumerate([3.0, 2.0, 1.0], 1):
        run.evaluate(step, value)
    assert run.names() == [BEST_NAME, "best_model_1.pth", "best_model_2.pth", "best_model_3.pth"]


def test_a_better_file_of_an_abandoned_stretch_stays_the_best(run):
    run.evaluate(300, 1.0)
    run.evaluate(250, 2.0)
    run.latest(260)
    assert run.names() == [BEST_NAME, "best_model_300.pth", "checkpoint_260.pth"]

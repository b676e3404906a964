"""Saving in real runs: what is on the disk while training goes on, and after it was ended in every way."""

import copy
import json
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
from processes import leaves, only_run, wait_for_line
from trainer.io import get_last_checkpoint

from xtts_gatekeeper import read_run
from xtts_gatekeeper.checkpoints.contents import peek
from xtts_gatekeeper.checkpoints.resume import choose
from xtts_gatekeeper.checkpoints.verify import verify_file
from xtts_gatekeeper.config import CheckpointsConfig, GatekeeperConfig


def names(run):
    return sorted(path.name for path in Path(run).glob("*.pth"))


def assert_whole(run):
    """Every file on record is whole, and stock code would go on from one that can be gone on from."""
    record = read_run(run)
    assert record.files
    for file in record.files:
        assert verify_file(run / file.path).problems == []
    chosen, _ = get_last_checkpoint(run)
    assert peek(Path(chosen)).resumable
    return record


@pytest.fixture(scope="module")
def finished(make_trainer, tmp_path_factory):
    """A finished run of two epochs with a checkpoint every second step."""
    trainer = make_trainer(tmp_path_factory.mktemp("finished"), GatekeeperConfig(), epochs=2, save_step=2)
    trainer.fit()
    return trainer


def test_a_finished_run_holds_one_resumable_file_and_the_best_weights(finished):
    run = Path(finished.output_path)
    record = assert_whole(run)
    best, latest = record.files[-1], record.files[-2]
    assert (latest.kind, best.kind) == ("latest", "best")
    assert names(run) == sorted(["best_model.pth", best.path, latest.path])
    assert (run / "best_model.pth").samefile(run / best.path)
    contents = peek(run / best.path)
    assert not contents.resumable and "optimizer" not in contents.keys
    assert not [name for name in contents.model if name.startswith("dvae.")]
    assert best.bytes < 0.35 * latest.bytes


def test_training_waits_for_a_part_of_each_save_only(finished):
    for file in read_run(finished.output_path).checkpoints:
        assert file.intact and file.blocked_seconds < file.seconds


def test_files_written_beside_training_are_what_the_stock_code_would_have_written(make_trainer, tmp_path):
    """The state is taken when the Trainer asks: later updates do not show in the file."""
    taken = {}

    def keep(trainer):
        state = copy.deepcopy(trainer.model.state_dict())
        taken[trainer.total_steps_done] = (state, copy.deepcopy(trainer.optimizer[0].state_dict()))

    trainer = make_trainer(
        tmp_path,
        GatekeeperConfig(checkpoints=CheckpointsConfig(keep="latest:9")),
        callbacks={"on_train_step_end": keep},
        epochs=1,
        save_step=2,
    )
    trainer.fit()
    run = Path(trainer.output_path)
    for file in (file for file in read_run(run).files if file.kind == "latest"):
        saved = torch.load(run / file.path, weights_only=True)
        model, optimizer = taken[file.step]
        assert all(torch.equal(saved["model"][name], value) for name, value in model.items())
        moments = saved["optimizer"][0]["state"]
        assert all(torch.equal(moments[i]["exp_avg"], s["exp_avg"]) for i, s in optimizer["state"].items())


def test_the_best_weights_start_a_new_run_and_an_xtts(finished, make_trainer, tmp_path, toy_base):
    from TTS.tts.models.xtts import Xtts

    best = Path(finished.output_path) / "best_model.pth"
    weights = torch.load(best, weights_only=True)["model"]
    trainer = make_trainer(tmp_path, GatekeeperConfig(), args={"restore_path": str(best)})
    restored = trainer.model.state_dict()
    assert all(torch.equal(restored[name], value) for name, value in weights.items())
    assert trainer.total_steps_done == 0

    config = finished.config
    speaker = Xtts(config)
    speaker.load_checkpoint(config, checkpoint_path=str(best), vocab_path=str(toy_base / "vocab.json"))
    own = speaker.state_dict()
    assert all(torch.equal(own[name.removeprefix("xtts.")], v) for name, v in weights.items() if name[:5] == "xtts.")


def test_gates_pin_their_checkpoints_and_terms_add_to_what_stays(make_trainer, tmp_path):
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nname: one\nobjective: eval.objective\nminimum_evaluations: 1\n"
        "health:\n  - rule: finite\n    on_fail: stop\n"
        "gates:\n  - name: Early\n    after_epochs: 1\n    rules:\n      - rule: finite\n        on_fail: stop\n"
    )
    section = GatekeeperConfig(
        policy=str(tmp_path / "policy.yaml"), checkpoints=CheckpointsConfig(keep="latest:1, gate:Early")
    )
    trainer = make_trainer(tmp_path / "runs", section, epochs=3)
    trainer.fit()
    steps = len(trainer.train_loader)
    assert {f"checkpoint_{steps}.pth", f"checkpoint_{3 * steps}.pth"} <= set(names(trainer.output_path))
    assert peek(Path(trainer.output_path) / f"checkpoint_{steps}.pth").resumable


def test_a_disk_without_room_is_refused_with_the_numbers_before_training(make_trainer, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=500_000_000))
    with pytest.raises(SystemExit) as exit_:
        make_trainer(tmp_path, GatekeeperConfig())
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert "the disk has no room for this run: a checkpoint takes 0.33 GB, the best 0.10 GB" in said
    assert "0.50 GB are free" in said
    assert list(tmp_path.iterdir()) == []


def test_the_forecast_is_what_the_files_take(finished):
    import re

    log = next(Path(finished.output_path).glob("trainer_*_log.txt")).read_text()
    told = re.search(r"a checkpoint takes ([\d.]+) GB, the best ([\d.]+) GB", log)
    full, best = (
        next(f.bytes for f in read_run(finished.output_path).files if f.kind == k) for k in ("latest", "best")
    )
    assert float(told[1]) == pytest.approx(full / 1e9, abs=0.006)
    assert float(told[2]) == pytest.approx(best / 1e9, abs=0.006)


def test_without_memory_for_a_copy_saving_is_synchronous_and_said_once(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr("xtts_gatekeeper.checkpoints.keeper.memory_allows", lambda size: False)
    trainer = make_trainer(tmp_path, GatekeeperConfig(), epochs=1, save_step=2)
    trainer.fit()
    record = assert_whole(Path(trainer.output_path))
    assert [incident.code for incident in record.incidents] == ["no_memory"]
    assert not [thread for thread in threading.enumerate() if thread.name == "gatekeeper-writer"]


def flags(speech, toy_base, output, *more):
    return ["--data", speech, "--base", toy_base, "--output", output, "--epochs", 50, "--lr", 1e-3, *more]


def test_sigterm_finishes_the_step_saves_and_ends_by_the_signal(tmp_path, toy_base, speech, started):
    process = started("recipes/train_phase1.py", *flags(speech, toy_base, tmp_path, "--save-step", 1000))
    wait_for_line(process, "EPOCH: 1/")
    process.send_signal(signal.SIGTERM)
    leaves(process)
    assert process.returncode == -signal.SIGTERM
    run = only_run(tmp_path)
    record = assert_whole(run)
    assert record.end.how == "terminated"
    assert choose(run).step == record.end.step  # nothing that was trained is lost


def test_a_process_that_is_ended_twice_goes_at_once(tmp_path, toy_base, speech, started):
    process = started("recipes/train_phase1.py", *flags(speech, toy_base, tmp_path))
    wait_for_line(process, "saved checkpoint_")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    leaves(process)
    assert process.returncode == -signal.SIGTERM
    run = only_run(tmp_path)
    assert choose(run).file is not None


def test_a_second_process_in_the_same_run_is_refused(tmp_path, toy_base, speech, started, python):
    for_long = ("--save-step", 2, "--epochs", 500, "--no-stop")  # the second process may take its time to start
    process = started("recipes/train_phase1.py", *flags(speech, toy_base, tmp_path, *for_long))
    wait_for_line(process, "saved checkpoint_2.pth")
    run = only_run(tmp_path)
    second = python("recipes/train_phase1.py", *flags(speech, toy_base, tmp_path), "--continue_path", run)
    assert second.returncode == 2
    assert "is being written by" in second.stderr.strip().splitlines()[-1]
    assert process.poll() is None
    dry = python("-m", "xtts_gatekeeper", "prune", run, "--dry-run", "--json")
    assert json.loads(dry.stdout)["in_use"]
    pruned = python("-m", "xtts_gatekeeper", "prune", run)
    assert pruned.returncode == 1 and "Not pruned" in pruned.stdout


def test_a_continued_run_passes_over_a_broken_newest_file_and_puts_it_aside(make_trainer, tmp_path):
    section = GatekeeperConfig(checkpoints=CheckpointsConfig(keep="latest:2, best:1"))
    first = make_trainer(tmp_path, section, epochs=1, save_step=2)
    first.fit()
    run = Path(first.output_path)
    newest, older = choose(run).file, names(run)[-2]
    with newest.open("r+b") as file:
        file.seek(newest.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    again = make_trainer(tmp_path, section, args={"continue_path": str(run)}, flags=["--coqpit.epochs", "2"])
    again.fit()
    record = assert_whole(run)
    assert record.start.resumed_from.endswith(older)
    assert (run / "gatekeeper" / "quarantine" / newest.name).is_file()
    assert "quarantined" in {incident.code for incident in record.incidents}


def test_a_remote_output_path_is_refused_for_the_trainer_would_make_a_local_folder_of_it(
    make_trainer, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        make_trainer("s3://bucket/runs", GatekeeperConfig())
    assert exit_.value.code == 2
    assert "gatekeeper.checkpoints.remote" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_from_its_remote_copy_in_another_folder(make_trainer, tmp_path):
    from xtts_gatekeeper.checkpoints.remote import verify_remote
    from xtts_gatekeeper.checkpoints.remote_fetch import fetch_resumable

    section = GatekeeperConfig(checkpoints=CheckpointsConfig(remote=(tmp_path / "remote").as_uri()))
    first = make_trainer(tmp_path / "here", section, epochs=1, save_step=2)
    first.fit()
    run = Path(first.output_path)
    url = f"{section.checkpoints.remote}/{run.name}"
    copies = verify_remote(url)
    assert {file.name for file in copies if file.name.endswith(".pth")} == set(names(run)) - {"best_model.pth"}
    assert not [file.wrong for file in copies if file.wrong]

    target = tmp_path / "there" / run.name
    assert fetch_resumable(url, target).name == choose(run).file.name
    again = make_trainer(tmp_path, section, args={"continue_path": str(target)}, flags=["--coqpit.epochs", "2"])
    again.fit()
    record = assert_whole(target)
    assert [start.resume_mode for start in record.events if start.type == "start"] == ["new", "continue"]
    copied = {file.name for file in verify_remote(url) if file.name.endswith(".pth")}
    assert copied == set(names(target)) - {"best_model.pth"}

"""`prune`, on real files: what it keeps, what it frees, what it says, and what a kill leaves."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from files import tree
from records import curve, saved, start, write_run
from stock_runs import SETTINGS, epoch, flip_weight, names, restarted, stock_run, write
from test_cli import call
from trainer.io import get_last_checkpoint

from xtts_gatekeeper.checkpoints.inventory import run_files
from xtts_gatekeeper.checkpoints.pruner import prune_document
from xtts_gatekeeper.checkpoints.resume import choose, record_of
from xtts_gatekeeper.cli import cli
from xtts_gatekeeper.errors import UserError

F = "/data/runs/voice-1"
FALLING = epoch(0, 3.0, F, best=10) + epoch(1, 2.0, F, saved=(15,), best=20) + epoch(2, 2.5, F, saved=(25,))
FILES = ("checkpoint_15.pth", "best_model_20.pth", "checkpoint_25.pth")


@pytest.fixture
def run(tmp_path):
    """A stock run: its best in two full copies, two checkpoints."""
    return with_copy(stock_run(tmp_path / "voice-1", FALLING, *FILES), "best_model_20.pth")


def with_copy(run, best):
    (run / "best_model.pth").write_bytes((run / best).read_bytes())
    return run


@pytest.fixture
def ours(tmp_path):
    """A run of ours: the best as weights, three checkpoints."""
    return journaled(tmp_path / "ours", (10, 20, 30), best=20)


def journaled(run, steps, best=None, **settings):
    stock_run(run, None, settings={**SETTINGS, **settings})
    events = []
    for step, mel in zip(steps, (3.0, 2.0, 2.5), strict=False):
        events += [*curve(mel, first=step // 10 - 1), noted(run, step)]
        if step == best:
            events.append(noted(run, step, "best", value=mel, metric="eval.mel_ce", eval_set="dev"))
    return write_run(run, start(), events)


def noted(run, step, kind="latest", **values):
    name = f"{'best_model' if kind == 'best' else 'checkpoint'}_{step}.pth"
    stat = write(run / name, optimizer=kind != "best").stat()
    return saved(step, kind, bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, resumable=kind != "best", **values)


def prune(run, *keep, budget=None, dry_run=False):
    return prune_document(run, keep, budget, dry_run=dry_run)


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def moved(document, key):
    return {move["path"] for move in document[key]}


# Stock runs


def test_of_a_stock_run_the_latest_stays_and_the_best_as_weights_with_a_second_name(run):
    document = prune(run)
    assert names(run) == ["best_model.pth", "best_model_20.pth", "checkpoint_25.pth"]
    best = torch.load(run / "best_model_20.pth", weights_only=True)
    assert best.keys() >= {"model", "config", "step", "epoch"}
    assert not {"optimizer", "scheduler", "scaler"} & best.keys()
    assert (run / "best_model.pth").samefile(run / "best_model_20.pth")
    assert get_last_checkpoint(run)[0] == str(run / "checkpoint_25.pth")
    assert choose(run).file == run / "checkpoint_25.pth"
    assert choose(run, "best").file == run / "best_model_20.pth"
    assert (document["best"], document["not_removed"]) == ("best_model_20.pth", {})


def test_it_frees_exactly_the_bytes_that_it_says(run):
    before = sum(run_files(run).values())
    document = prune(run)
    assert document["freed"] == before - sum(run_files(run).values()) > 0
    assert document["bytes_before"] == before
    assert abs(document["freed"] - document["bytes_freed"]) < 4000  # headers of a weights file


def test_pruning_twice_frees_nothing_more(run, ours):
    for folder in (run, ours):
        prune(folder)
        before = tree(folder)
        document = prune(folder)
        assert (document["freed"], document["removed"], document["broken"]) == (0, [], [])
        assert tree(folder) == before


def test_a_best_that_is_the_latest_stays_resumable(tmp_path):
    run = stock_run(tmp_path / "voice-1", FALLING.partition(" > EPOCH: 2")[0], *FILES[:2])
    prune(with_copy(run, "best_model_20.pth"))
    assert names(run) == ["best_model.pth", "best_model_20.pth"]
    assert "optimizer" in torch.load(run / "best_model_20.pth", weights_only=True)
    assert (run / "best_model.pth").samefile(run / "best_model_20.pth")
    # Then stock code goes on, and the best is no longer the latest.
    (run / "trainer_0_log.txt").write_text(FALLING)
    write(run / "checkpoint_25.pth")
    prune(run)
    assert names(run) == ["best_model.pth", "best_model_20.pth", "checkpoint_25.pth"]
    assert "optimizer" not in torch.load(run / "best_model.pth", weights_only=True)
    assert (run / "best_model.pth").samefile(run / "best_model_20.pth")


@pytest.fixture
def lost(tmp_path):
    """A stock run that picked a worse best after a resume and deleted the true one; a checkpoint beside it is left."""
    log = epoch(0, 3.0, F, best=10) + epoch(1, 2.0, F, saved=(15,), best=20) + epoch(2, 2.5, F, saved=(20, 25))
    log += restarted(F, 25) + epoch(2, 9.0, F, base=26, saved=(40,), best=36) + epoch(3, 9.5, F, base=36, saved=(40,))
    run = stock_run(tmp_path / "voice-1", log, "checkpoint_20.pth", "checkpoint_25.pth", "best_model_36.pth")
    write(run / "checkpoint_40.pth")
    return with_copy(run, "best_model_36.pth")


def test_the_best_that_stock_code_lost_is_found_again_and_its_names_are_repaired(lost):
    done = invoke("prune", lost)
    assert done.exit_code == 0, done.output
    assert "best_model.pth holds step 36; by the recorded evaluations the best file is checkpoint_20.pth" in done.output
    assert names(lost) == ["best_model.pth", "best_model_20.pth", "checkpoint_40.pth"]
    assert torch.load(lost / "best_model.pth", weights_only=True)["step"] == 20
    again = prune(lost)
    assert (again["notes"], again["best"]) == ([], "best_model_20.pth")


def test_the_best_is_never_taken_from_a_train_loss(tmp_path):
    losses = {"checkpoint_10.pth": (0.01, None), "best_model_20.pth": (0.1, 3.0), "best_model_30.pth": (5.0, 2.0)}
    run = stock_run(tmp_path / "run", None, *losses, "checkpoint_40.pth", losses=losses)
    assert prune(run)["best"] == "best_model_30.pth"
    assert names(run) == ["best_model.pth", "best_model_30.pth", "checkpoint_40.pth"]


def test_without_any_evaluation_nothing_is_called_the_best_and_that_is_said(tmp_path):
    run = stock_run(tmp_path / "run", None, "checkpoint_10.pth", "checkpoint_20.pth")
    document = prune(run)
    assert document["best"] is None and "none can be called the best" in document["notes"][0]
    assert names(run) == ["checkpoint_20.pth"]


def test_the_best_of_an_earlier_eval_set_stays_and_the_name_is_that_of_the_latest(tmp_path):
    run = stock_run(tmp_path / "run", None)
    events = [*curve(1.0, eval_set="old"), noted(run, 10), *curve(9.0, first=1), noted(run, 20), noted(run, 30)]
    write_run(run, start(), events)
    assert prune(run)["best"] == "checkpoint_20.pth"
    assert names(run) == ["best_model.pth", "best_model_10.pth", "best_model_20.pth", "checkpoint_30.pth"]
    assert (run / "best_model.pth").samefile(run / "best_model_20.pth")


def test_a_best_model_without_number_that_is_the_only_one_left_is_not_taken_for_a_copy(tmp_path):
    run = stock_run(tmp_path / "voice-1", FALLING, "checkpoint_15.pth", "checkpoint_25.pth")
    write(run / "best_model.pth", 20)
    prune(run)
    assert names(run) == ["best_model.pth", "best_model_20.pth", "checkpoint_25.pth"]
    assert torch.load(run / "best_model.pth", weights_only=True)["step"] == 20


def test_where_stock_code_would_write_through_a_link_its_copy_stays_a_copy(tmp_path):
    run = stock_run(tmp_path / "voice-1", FALLING, *FILES, settings={**SETTINGS, "save_all_best": True})
    for path in run.glob("*.pth"):
        write(path, settings={**SETTINGS, "save_all_best": True})
    prune(with_copy(run, "best_model_20.pth"))
    assert not (run / "best_model.pth").samefile(run / "best_model_20.pth")


# Runs of ours


def test_of_our_run_the_latest_and_the_best_stay_and_the_journal_tells(ours):
    document = prune(ours)
    assert names(ours) == ["best_model.pth", "best_model_20.pth", "checkpoint_30.pth"]
    record = record_of(ours)
    assert {file.path for file in record.files} == {"best_model_20.pth", "checkpoint_30.pth"}
    assert set(record.pruned[-1].removed) == {"checkpoint_10.pth", "checkpoint_20.pth"}
    assert record.pruned[-1].bytes_freed == document["freed"]


def test_a_checkpoint_that_is_the_best_of_our_run_is_journaled_as_weights_with_its_value(tmp_path):
    run = journaled(tmp_path / "ours", (10, 20, 30))
    prune(run)
    assert names(run) == ["best_model.pth", "best_model_20.pth", "checkpoint_30.pth"]
    file = next(file for file in record_of(run).files if file.path == "best_model_20.pth")
    assert (file.value, file.metric, file.resumable, file.intact) == (2.0, "eval.mel_ce", False, True)
    assert prune(run)["best"] == "best_model_20.pth"
    assert choose(run, "best").file == run / "best_model_20.pth"


def test_a_full_best_of_an_old_journal_becomes_weights(tmp_path):
    run = stock_run(tmp_path / "ours", None, "best_model_20.pth")
    stat = (run / "best_model_20.pth").stat()
    best = saved(20, "best", value=2.0, metric="eval.mel_ce", bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)
    write_run(run, start(), curve(3.0, 2.0), best, noted(run, 30))
    prune(run)
    assert names(run) == ["best_model.pth", "best_model_20.pth", "checkpoint_30.pth"]
    assert "optimizer" not in torch.load(run / "best_model_20.pth", weights_only=True)
    assert not prune(run)["broken"]


def test_what_stock_code_would_resume_from_after_going_back_can_be_resumed_from(tmp_path):
    run = stock_run(tmp_path / "ours", None)
    events = [*curve(3.0, 2.0, 1.0), noted(run, 20), noted(run, 30), noted(run, 30, "best")]
    write_run(run, start(), events, start(20, 2), noted(run, 25))
    prune(run)
    assert names(run) == ["best_30.pth", "checkpoint_25.pth"]
    assert get_last_checkpoint(run)[0] == str(run / "checkpoint_25.pth")
    assert choose(run, "best").file == run / "best_30.pth"


def test_the_runs_own_settings_are_used_and_the_command_line_wins(ours):
    (ours / "gatekeeper" / "config.json").write_text(json.dumps({"checkpoints": {"keep": "latest:2"}}))
    assert moved(prune(ours, dry_run=True), "keep") == {"checkpoint_20.pth", "best_model_20.pth", "checkpoint_30.pth"}
    assert "checkpoint_20.pth" in moved(prune(ours, "latest:1", dry_run=True), "drop")


@pytest.mark.parametrize("settings", ["[]", "{", '{"checkpoints": {"keep": [1], "disk_budget_gb": "x"}}'])
def test_settings_that_cannot_be_read_are_passed_over(ours, settings):
    (ours / "gatekeeper" / "config.json").write_text(settings)
    assert prune(ours, dry_run=True)["terms"] == ["latest:1", "best:1"]


def test_best_by_number_means_the_objective_and_a_metric_that_the_run_does_not_log_is_refused(ours):
    document = prune(ours, "best:3", dry_run=True)
    assert moved(document, "keep") | moved(document, "shrink") == {
        "checkpoint_10.pth",
        "best_model_20.pth",
        "checkpoint_30.pth",
    }
    with pytest.raises(UserError, match=r"no 'eval\.mel_cee' to pick the best by; did you mean 'eval\.mel_ce'"):
        prune(ours, "best:3:eval.mel_cee")


def test_the_budget_takes_extras_and_says_what_is_too_much(ours):
    size = (ours / "checkpoint_30.pth").stat().st_size
    document = prune(ours, "latest:9", budget=2.2 * size / 1e9, dry_run=True)
    assert moved(document, "keep") == {"best_model_20.pth", "checkpoint_30.pth"}
    done = invoke("prune", ours, "--dry-run", "--budget", "1e-9")
    assert "over the budget" in done.output


# What is said


def test_a_dry_run_changes_nothing_and_says_what_happens_to_each_file_with_bytes(run):
    before = tree(run)
    done = invoke("prune", run, "--dry-run")
    assert done.exit_code == 0
    assert tree(run) == before
    assert "Would free" in done.output and "nothing was changed" in done.output
    for name in (*FILES, "best_model.pth"):
        assert name in done.output
    document = json.loads(invoke("prune", run, "--dry-run", "--json").stdout)
    moves = [move for key in ("keep", "drop", "shrink") for move in document[key]]
    assert {move["path"] for move in moves} == {*FILES, "best_model.pth"}
    assert all(move["bytes"] == (run / move["path"]).stat().st_size and move["why"] for move in moves)
    assert (document["freed"], document["removed"], document["dry_run"]) == (0, [], True)


def test_the_command_itself_prunes_and_says_it_in_json(run):
    done = call("prune", run, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert set(document["removed"]) == {"checkpoint_15.pth", "best_model_20.pth", "best_model.pth"}
    assert names(run) == ["best_model.pth", "best_model_20.pth", "checkpoint_25.pth"]


@pytest.mark.parametrize("arguments", [("--keep", "latset:1"), ("--budget", "0")])
def test_bad_arguments_are_bad_usage_and_change_nothing(run, arguments):
    before = tree(run)
    done = call("prune", run, *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert tree(run) == before


# Broken files


@pytest.mark.parametrize("broken", ["checkpoint_25.pth", "best_model_20.pth"])
def test_a_broken_file_is_no_reason_to_delete_another(run, broken):
    flip_weight(run / broken)
    done = invoke("prune", run, "--json")
    document = json.loads(done.stdout)
    assert done.exit_code == 1
    assert moved(document, "broken") == {broken}
    assert broken in names(run) or broken == "best_model_20.pth"
    assert choose(run).file == run / ("checkpoint_25.pth" if broken != "checkpoint_25.pth" else "best_model_20.pth")


def test_where_no_resumable_file_is_whole_nothing_is_deleted(run):
    for name in FILES:
        flip_weight(run / name)
    before = tree(run)
    done = invoke("prune", run)
    assert done.exit_code == 1
    assert tree(run) == before


def test_where_only_weights_are_whole_nothing_is_deleted(ours):
    for path in ours.glob("checkpoint_*.pth"):
        flip_weight(path)
    write_more = write(ours / "best_model_10.pth", optimizer=False)
    before = tree(ours)
    assert invoke("prune", ours).exit_code == 1
    assert {name: content for name, content in tree(ours).items() if name != "gatekeeper/run.lock"} == before
    assert write_more.exists()


# A run in use

HOLD = """
import sys
from pathlib import Path
from xtts_gatekeeper.checkpoints.lock import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
LOG = """
import sys
log = open(sys.argv[1] + "/trainer_0_log.txt", "a")
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Starts a process of this code and waits for its first line."""
    started = []

    def begin(code, run):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        started.append(child)
        assert child.stdout.readline()
        return child

    yield begin
    for child in started:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("code", [HOLD, LOG], ids=["lock", "log"])
def test_while_another_process_trains_nothing_is_deleted_and_afterwards_it_is(run, holder, code):
    (run / "gatekeeper").mkdir()
    child = holder(code, run)
    before = tree(run)
    done = call("prune", run)
    assert (done.returncode, tree(run)) == (1, before)
    assert "is being written by" in done.stdout
    assert call("prune", run, "--dry-run").returncode == 0
    child.kill()  # the system releases what a killed process held
    child.wait()
    assert call("prune", run).returncode == 0
    assert names(run) == ["best_model.pth", "best_model_20.pth", "checkpoint_25.pth"]


def test_who_only_reads_the_log_does_not_stand_in_the_way(run, holder):
    holder(LOG.replace('"a"', '"r"'), run)
    assert call("prune", run).returncode == 0


# Killed


def killed_before(operation, run):
    """Prune in a process of its own that is killed before its so-many-th change of the disk; whether it got to it."""
    pid = os.fork()
    if pid == 0:
        left = operation

        def before(what):
            def call(*arguments, **options):
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return what(*arguments, **options)

            return call

        for name in ("unlink", "rename", "replace"):
            setattr(Path, name, before(getattr(Path, name)))
        os.link, os.fsync = before(os.link), before(os.fsync)
        try:
            prune(run)
        finally:
            os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return os.WIFSIGNALED(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_killed_before_any_operation_a_resumable_file_and_the_best_are_left_and_pruning_again_finishes(tmp_path, kind):
    def make(folder):
        if kind == "ours":
            return journaled(folder, (10, 20, 30))
        return with_copy(stock_run(folder, FALLING, *FILES), "best_model_20.pth")

    latest = "checkpoint_30.pth" if kind == "ours" else "checkpoint_25.pth"
    for at in itertools.count():
        run = make(tmp_path / str(at) / "voice-1")
        killed = killed_before(at, run)
        assert choose(run).file == run / latest, at
        assert torch.load(choose(run, "best").file, weights_only=True)["step"] == 20, at
        assert get_last_checkpoint(run)[0] == str(run / latest), at
        document = prune(run)
        assert names(run) == ["best_model.pth", "best_model_20.pth", latest], (at, document)
        assert not document["broken"]
        if not killed:
            break
    assert at > 8

"""From which file training goes on, and what becomes of those that are broken."""

import json

import pytest
import torch
from click.testing import CliRunner
from files import tree
from records import curve, saved, start, write_run
from stock_runs import SETTINGS, epoch, flip_weight, names, restarted, stock_run, write
from test_cli import call
from test_prune import HOLD, LOG, holder, journaled  # noqa: F401
from trainer.io import get_last_checkpoint

from xtts_gatekeeper.checkpoints.resume import choose, record_of, resumable_or_refuse, resume_document, resume_file
from xtts_gatekeeper.cli import cli
from xtts_gatekeeper.errors import UserError

F = "/data/runs/voice-1"


@pytest.fixture
def run(tmp_path):
    """A stock run with two checkpoints."""
    return stock_run(tmp_path / "voice-1", None, "checkpoint_10.pth", "checkpoint_20.pth")


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


# Which file


@pytest.mark.parametrize(
    ("files", "which", "expected"),
    [
        (["checkpoint_900.pth", "checkpoint_2000.pth"], "latest", "checkpoint_2000.pth"),
        (["best_model_900.pth", "best_model_2000.pth"], "best", "best_model_2000.pth"),
        (["checkpoint_10.pth", "best_model_20.pth"], "latest", "best_model_20.pth"),
        (["checkpoint_20.pth", "best_model_20.pth"], "latest", "checkpoint_20.pth"),
        (["checkpoint_20.pth", "best_model_10.pth"], "best", "best_model_10.pth"),
        (["checkpoint_4.pth", "checkpoint_5.pth.json", "checkpoint_6.pth.partial"], "latest", "checkpoint_4.pth"),
        (["checkpoint_4.pth", "old_checkpoint_5.pth", "checkpoint_x.pth", "dvae.pth"], "latest", "checkpoint_4.pth"),
        (["best_model_4.pth", "best_model.pth"], "best", "best_model_4.pth"),
    ],
)
@pytest.mark.parametrize("parent", ["run", "checkpoint_99999_x", "best_model_7.pth"])
def test_the_file_is_chosen_by_the_number_in_its_own_name(tmp_path, parent, files, which, expected):
    run = tmp_path / parent
    run.mkdir()
    for name in files:
        write(run / name, 4 if name == "best_model.pth" else None)
    assert resume_file(run, which) == run / expected


def test_in_a_stock_run_the_log_tells_the_last_written_and_the_true_best(tmp_path):
    log = epoch(0, 3.0, F, best=10) + epoch(1, 2.0, F, saved=(15,), best=20) + epoch(2, 2.5, F, saved=(20, 25))
    log += restarted(F, 25) + epoch(2, 9.0, F, base=26, best=36)
    run = stock_run(tmp_path / "voice-1", log, "checkpoint_20.pth", "checkpoint_25.pth", "best_model_36.pth")
    assert resume_file(run, "latest").name == "best_model_36.pth"
    assert resume_file(run, "best").name == "checkpoint_20.pth"


def test_in_our_run_the_best_is_that_of_the_journal_and_may_be_weights(tmp_path):
    run = journaled(tmp_path / "ours", (10, 20, 30), best=20)
    assert resume_file(run, "best").name == "best_model_20.pth"
    assert resume_file(run, "latest").name == "checkpoint_30.pth"
    assert resume_file(run / "best_model_20.pth").name == "best_model_20.pth"
    (run / "best_model_20.pth").unlink()
    assert resume_file(run, "best").name == "checkpoint_20.pth"


def test_after_going_back_the_last_written_is_resumed(tmp_path):
    run = stock_run(tmp_path / "ours", None, "checkpoint_30.pth", "checkpoint_25.pth")
    sizes = {name: (run / name).stat().st_size for name in names(run)}
    events = [saved(step, bytes=sizes[f"checkpoint_{step}.pth"]) for step in (30, 25)]
    write_run(run, start(), curve(3.0, 2.0, 1.0), events[0], start(20, 2), events[1])
    assert choose(run).file.name == "checkpoint_25.pth"


def test_files_of_other_runs_are_passed_over_and_left_where_they_are(run):
    other = write(run / "checkpoint_99.pth", settings={**SETTINGS, "run_name": "other"})
    document = resume_document(run, dry_run=False)
    assert document["file"] == str(run / "checkpoint_20.pth")
    assert document["quarantined"] == {}
    assert other.exists()
    assert "it is of another run" in document["considered"][0]["problem"]


# Broken files


def truncated(run):
    path = run / "checkpoint_30.pth"
    path.write_bytes(write(path).read_bytes()[:-500])


def flipped(run):
    flip_weight(write(run / "checkpoint_30.pth"))


def nan(run):
    write(run / "checkpoint_30.pth", spoil=lambda model: model.weight.fill_(float("nan")))


def of_another_step(run):
    write(run / "checkpoint_30.pth", 29)


def without_optimizer(run):
    write(run / "checkpoint_30.pth", optimizer=False)


def empty(run):
    (run / "checkpoint_30.pth").write_bytes(b"")


BREAKS = (truncated, flipped, nan, of_another_step, without_optimizer, empty)


@pytest.mark.parametrize("spoil", BREAKS)
def test_a_broken_newest_file_is_passed_over_and_put_aside_once(run, spoil):
    spoil(run)
    content = (run / "checkpoint_30.pth").read_bytes()
    done = invoke("resume", run)
    assert done.exit_code == 0
    assert str(run / "checkpoint_20.pth") in done.output
    assert "checkpoint_30.pth was passed over" in done.output
    aside = run / "gatekeeper" / "quarantine" / "checkpoint_30.pth"
    assert aside.read_bytes() == content
    assert names(run) == ["checkpoint_10.pth", "checkpoint_20.pth"]
    assert get_last_checkpoint(run)[0] == str(run / "checkpoint_20.pth")
    before = tree(run)
    document = resume_document(run, dry_run=False)
    assert (document["quarantined"], document["file"]) == ({}, str(run / "checkpoint_20.pth"))
    assert {**before, "gatekeeper/run.lock": b""} == {**tree(run), "gatekeeper/run.lock": b""}


@pytest.mark.parametrize("spoil", BREAKS)
def test_a_dry_run_leaves_it_where_it_is(run, spoil):
    spoil(run)
    before = tree(run)
    document = json.loads(invoke("resume", run, "--dry-run", "--json").stdout)
    assert document["file"] == str(run / "checkpoint_20.pth")
    assert document["broken"] == ["checkpoint_30.pth"]
    assert tree(run) == before


def test_a_second_broken_file_of_the_same_name_gets_a_name_of_its_own(run):
    for _ in range(2):
        flipped(run)
        resumable_or_refuse(run)
    aside = run / "gatekeeper" / "quarantine"
    assert sorted(p.name for p in aside.iterdir()) == ["checkpoint_30.pth", "checkpoint_30.pth.2"]


def test_in_our_run_the_journal_tells_and_what_stock_code_would_choose_can_be_resumed_from(tmp_path):
    run = journaled(tmp_path / "ours", (10, 20, 30), best=30)
    assert names(run)[0] == "best_model_30.pth"
    flip_weight(run / "checkpoint_30.pth")
    document = resume_document(run, dry_run=False)
    assert document["file"] == str(run / "checkpoint_20.pth")
    assert document["renamed"] == {"best_model_30.pth": "best_30.pth"}
    assert get_last_checkpoint(run)[0] == str(run / "checkpoint_20.pth")
    assert {file.path for file in record_of(run).files} == {"checkpoint_10.pth", "checkpoint_20.pth", "best_30.pth"}
    assert [incident.code for incident in record_of(run).incidents] == ["quarantined"]
    assert resume_file(run, "best").name == "checkpoint_20.pth"


@pytest.mark.parametrize("code", [HOLD, LOG], ids=["lock", "log"])
def test_while_another_process_trains_nothing_is_renamed(run, holder, code):  # noqa: F811
    flipped(run)
    (run / "gatekeeper").mkdir()
    holder(code, run)
    before = tree(run)
    done = call("resume", run, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["file"]) == (0, str(run / "checkpoint_20.pth"))
    assert document["in_use"]
    assert tree(run) == before


def test_where_nothing_is_whole_that_is_said_and_nothing_is_renamed(run):
    for path in run.glob("*.pth"):
        flip_weight(path)
    before = tree(run)
    done = invoke("resume", run, "--json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["file"], document["arguments"]) == (1, None, None)
    assert set(document["broken"]) == {"checkpoint_10.pth", "checkpoint_20.pth"}
    with pytest.raises(UserError, match="cannot be resumed"):
        resumable_or_refuse(run)
    assert tree(run) == before


# Files and folders that are given


def test_the_command_says_the_file_the_reason_and_the_flag(run):
    done = call("resume", run)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == str(run / "checkpoint_20.pth")
    assert f"--continue_path {run}" in done.stdout


def test_a_folder_that_is_not_there_is_bad_input_and_one_without_checkpoints_has_nothing(tmp_path):
    done = call("resume", tmp_path / "missing")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    done = invoke("resume", tmp_path)
    assert done.exit_code == 1 and "there is no checkpoint_N.pth" in done.output


@pytest.mark.parametrize(
    ("place", "which", "sentence"),
    [("missing", "latest", "does not exist"), (".", "latest", "no latest"), (".", "best", "no best")],
)
def test_where_there_is_nothing_to_resume_from_that_is_said(tmp_path, place, which, sentence):
    if which == "best":
        write(tmp_path / "checkpoint_5.pth")
    with pytest.raises(UserError, match=sentence):
        resume_file(tmp_path / place, which)


def test_a_file_itself_is_taken_whatever_its_name(tmp_path):
    assert resume_file(write(tmp_path / "model.bin", 5)) == tmp_path / "model.bin"


@pytest.mark.parametrize("place", ["checkpoint_5.pth", "."])
def test_a_damaged_file_is_refused_with_its_name(tmp_path, place):
    flip_weight(write(tmp_path / "checkpoint_5.pth"))
    with pytest.raises(UserError, match=r"checkpoint_5\.pth.* cannot be resumed from|cannot be resumed from.*point_5"):
        resume_file(tmp_path / place, "latest")


@pytest.mark.parametrize("given", ["checkpoint_5.pth", "."])
def test_a_file_in_the_format_before_torch_1_6_can_be_resumed_from_for_it_has_no_checksums_to_fail(tmp_path, given):
    path = write(tmp_path / "checkpoint_5.pth")
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert resume_file(tmp_path / given, "latest") == path

"""What is never deleted, whatever a journal, a log or a name says."""

import json
import os

import pytest
from click.testing import CliRunner
from files import tree
from records import curve, saved, start, write_run
from stock_runs import SETTINGS, epoch, names, stock_run, write
from test_inventory import LOOKALIKES

from xtts_gatekeeper.checkpoints.pruner import prune_document
from xtts_gatekeeper.checkpoints.removal import delete, refusal
from xtts_gatekeeper.cli import cli

F = "/data/runs/voice-1"
LOG = epoch(0, 3.0, F, saved=(5,)) + epoch(1, 2.0, F, saved=(15,)) + epoch(2, 2.5, F, saved=(25,))
OLD, NEW = "checkpoint_5.pth", "checkpoint_25.pth"


@pytest.fixture
def run(tmp_path):
    """A stock run of which nothing but the latest file is needed."""
    return stock_run(tmp_path / "voice-1", LOG, OLD, NEW)


def prune(run):
    document = prune_document(run, (), None, dry_run=False)
    return {move["path"]: move["why"] for move in document["stays"]}, document


def test_what_nothing_needs_and_is_this_runs_is_deleted(run):
    assert prune(run)[0] == {}
    assert names(run) == [NEW]


def test_a_symbolic_link_and_what_it_points_to_stay(run, tmp_path):
    target = (run / OLD).rename(tmp_path / "kept.pth")
    (run / OLD).symlink_to(target)
    prune(run)
    assert (run / OLD).is_symlink() and target.exists()
    assert refusal(run, OLD) == "it is a symbolic link"


def test_a_run_folder_that_is_reached_through_a_link_is_pruned_all_the_same(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    prune(tmp_path / "link")
    assert names(run) == [NEW]


def test_a_file_with_a_second_name_elsewhere_stays(run, tmp_path):
    os.link(run / OLD, tmp_path / "backup.pth")
    stays, document = prune(run)
    assert stays == {OLD: "it has a second name outside of the run folder"}
    assert (names(run), document["freed"]) == ([NEW, OLD], 0)


def test_a_file_whose_second_name_is_in_the_folder_goes_and_frees_nothing_until_both_are_gone(run):
    os.link(run / OLD, run / "mine.pth")
    assert delete(run, [OLD]).freed == 0
    assert delete(run, ["mine.pth"]).freed > 0


@pytest.mark.parametrize("name", ["../x.pth", "/etc/hostname", "..", ".", "", "sub/x.pth", "a\\..\\x.pth"])
def test_no_path_is_followed_out_of_the_folder(run, tmp_path, name):
    (tmp_path / "x.pth").write_bytes(b"x")
    removed = delete(run, [name])
    assert (removed.names, removed.freed) == ([], 0) and name in removed.kept
    assert (tmp_path / "x.pth").exists()


@pytest.mark.parametrize("name", ["../checkpoint_5.pth", "{absolute}", "config.json", "gatekeeper"])
def test_a_tampered_journal_deletes_nothing_but_checkpoints_of_the_folder(tmp_path, name):
    outside = write(tmp_path / "checkpoint_5.pth")
    run = stock_run(tmp_path / "run", None, NEW)
    stat = (run / NEW).stat()
    target = outside if "checkpoint" in name or "absolute" in name else run / "config.json"
    told = target.stat()
    lie = saved(5, path=name.format(absolute=outside), bytes=told.st_size, mtime_ns=told.st_mtime_ns, resumable=True)
    write_run(run, start(), lie, saved(25, bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, resumable=True))
    prune(run)
    assert outside.exists() and (run / "config.json").exists()
    assert names(run) == [NEW]


def test_a_file_of_another_run_stays_and_does_not_take_the_place_of_our_own(run):
    other = write(run / "checkpoint_99.pth", settings={**SETTINGS, "run_name": "other"})
    (run / "trainer_0_log.txt").write_text(LOG + f"\n > CHECKPOINT : {F}/checkpoint_99.pth\n")
    stays, _ = prune(run)
    assert stays == {other.name: "it is of another run: its run_name is other"}
    assert names(run) == [NEW, other.name]


def test_a_file_of_which_the_runs_log_says_nothing_stays_and_does_not_take_the_place_of_our_own(run):
    other = write(run / "checkpoint_99.pth")  # of another run of the same recipe: the same settings
    write(run / "best_model_20.pth")
    stays, _ = prune(run)
    assert set(stays) == {other.name, "best_model_20.pth"}
    assert "the run's log does not say" in stays[other.name]
    assert names(run) == ["best_model_20.pth", NEW, other.name]


def test_without_settings_to_tell_whose_a_file_is_all_stay(tmp_path):
    run = stock_run(tmp_path / "run", LOG, OLD, NEW, settings={})
    assert set(prune(run)[0]) == {OLD, NEW}
    assert names(run) == [NEW, OLD]


def test_a_file_that_was_put_under_a_journaled_name_stays(tmp_path):
    run = stock_run(tmp_path / "run", None, OLD, NEW)
    stats = {name: (run / name).stat() for name in (OLD, NEW)}
    events = [
        saved(step, path=name, bytes=stats[name].st_size, mtime_ns=stats[name].st_mtime_ns, digest="d", resumable=True)
        for step, name in ((5, OLD), (25, NEW))
    ]
    from xtts_gatekeeper.checkpoints.integrity import scan

    object.__setattr__(events[1], "digest", scan(run / NEW).digest)
    write_run(run, start(), curve(2.0), events)
    os.utime(run / OLD)
    stays, _ = prune(run)
    assert stays == {OLD: "it is not the file that the journal lists under this name"}
    assert names(run) == [NEW, OLD]


def test_names_that_only_look_like_checkpoints_and_folders_stay(run):
    for name in LOOKALIKES:
        write(run / name, 12)
    (run / "checkpoint_6.pth").mkdir()
    (run / "model.pth.partial").write_bytes(b"a download")
    before = {name: data for name, data in tree(run).items() if name != OLD}
    prune(run)
    assert tree(run) == before


def test_the_file_that_a_killed_writer_left_goes(run):
    (run / "best_model_20.pth.partial").write_bytes(b"half")
    assert prune(run)[1]["freed"] > 4
    assert names(run) == [NEW]


@pytest.mark.parametrize("parent", ["checkpoint_99999_x", "best_model_7.pth", "a b"])
def test_the_name_of_a_parent_folder_means_nothing(tmp_path, parent):
    run = stock_run(tmp_path / parent / "voice-1", LOG, OLD, NEW)
    prune(run)
    assert names(run) == [NEW]


@pytest.mark.parametrize("what", ["empty", "parent", "file", "missing"])
def test_a_folder_that_is_no_run_is_refused_and_left_alone(run, tmp_path, what, monkeypatch):
    place = tmp_path / "other"
    if what in ("empty", "file"):
        place.mkdir()
        write(place / OLD)
        write(place / NEW)
    place = {"parent": tmp_path, "file": place / OLD}.get(what, place)
    before = tree(tmp_path)
    done = CliRunner().invoke(cli, ["prune", str(place)])
    assert done.exit_code != 0
    assert tree(tmp_path) == before


def test_kept_files_are_not_touched(run):
    before = (run / NEW).stat()
    prune(run)
    after = (run / NEW).stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_size) == (after.st_ino, after.st_mtime_ns, after.st_size)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="an administrator may delete anything")
def test_what_cannot_be_deleted_is_said(run):
    run.chmod(0o500)
    try:
        document = prune(run)[1]
    finally:
        run.chmod(0o700)
    assert "could not be deleted" in document["not_removed"][OLD]
    assert json.loads((run / "config.json").read_text())


def test_a_file_that_is_gone_already_is_said_and_the_others_go(run):
    removed = delete(run, ["checkpoint_6.pth", OLD])
    assert removed.names == [OLD]
    assert "cannot be looked at" in removed.kept["checkpoint_6.pth"]

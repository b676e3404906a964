import os
import random
import subprocess
import sys
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import curve, record_of, saved, start, write_run

from xtts_gatekeeper.checkpoints.integrity import damage
from xtts_gatekeeper.checkpoints.inventory import run_files
from xtts_gatekeeper.checkpoints.resume import resume_file
from xtts_gatekeeper.checkpoints.retention import retain
from xtts_gatekeeper.checkpoints.writer import link, write_verified
from xtts_gatekeeper.errors import UserError


def save(path, number=0):
    """A small file as `torch.save` writes a checkpoint, written by zipfile: most tests here need no torch."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"pickle")
        archive.writestr("archive/data/0", bytes([number]) * 100)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The bytes of a real `torch.save` file, and the bytes of its one tensor."""
    torch = pytest.importorskip("torch")
    tensor = torch.arange(64, dtype=torch.float64)
    path = tmp_path_factory.mktemp("torch") / "checkpoint_5.pth"
    torch.save({"model": {"weight": tensor}, "step": 5}, path)
    return path.read_bytes(), tensor.numpy().tobytes()


# Integrity


def test_a_file_that_torch_wrote_is_whole(tmp_path, checkpoint):
    path = tmp_path / "a.pth"
    path.write_bytes(checkpoint[0])
    assert damage(path) is None


def test_a_truncated_file_is_found_wherever_it_is_cut(tmp_path, checkpoint):
    path = tmp_path / "a.pth"
    for cut in random.Random(0).sample(range(len(checkpoint[0])), 100):
        path.write_bytes(checkpoint[0][:cut])
        assert damage(path), cut


def test_a_flipped_byte_in_a_tensor_is_found_wherever_it_is(tmp_path, checkpoint):
    whole, tensor = checkpoint
    path = tmp_path / "a.pth"
    begin = whole.index(tensor)
    for place in random.Random(0).sample(range(begin, begin + len(tensor)), 100):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert "data/0" in damage(path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x80\x02}q\x00.", b"PK\x03\x04"])
def test_what_is_no_zip_is_damaged(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    assert "no whole zip archive" in damage(path)


def test_a_zip_that_torch_did_not_write_is_damaged(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "data.pkl" in damage(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_a_missing_file_and_a_folder_are_damaged_not_an_error(tmp_path, name):
    assert damage(tmp_path / name)


# Writing


def test_a_checkpoint_gets_its_name_and_no_partial_file_stays(tmp_path):
    write_verified(tmp_path / "a.pth", save)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    assert damage(tmp_path / "a.pth") is None


def breaks_off(path):
    path.write_bytes(b"half")
    raise RuntimeError("no space left")


def is_interrupted(path):
    path.write_bytes(b"half")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("writer", "error"),
    [
        (breaks_off, RuntimeError),
        (is_interrupted, KeyboardInterrupt),
        (lambda path: path.write_bytes(b"garbage"), OSError),
        (lambda path: path.write_bytes(b""), OSError),
        (lambda path: save(path).write_bytes(path.read_bytes()[:-30]), OSError),
        (lambda path: None, OSError),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_a_failed_write_leaves_what_stood_there_and_no_partial_file(tmp_path, writer, error, before):
    old = save(tmp_path / "a.pth").read_bytes() if before else None
    with pytest.raises(error):
        write_verified(tmp_path / "a.pth", writer)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"] * before
    assert not before or (tmp_path / "a.pth").read_bytes() == old


def test_killed_while_writing_the_old_file_stands_whole_and_nothing_else_looks_like_a_checkpoint(tmp_path):
    old = save(tmp_path / "checkpoint_5.pth").read_bytes()
    code = """
import os, sys
from pathlib import Path
from xtts_gatekeeper.checkpoints.writer import write_verified
def killed(path):
    path.write_bytes(b"half")
    os.kill(os.getpid(), 9)
write_verified(Path(sys.argv[1]) / "checkpoint_5.pth", killed)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False, timeout=60, env=environment)
    assert (tmp_path / "checkpoint_5.pth.partial").exists()
    assert (tmp_path / "checkpoint_5.pth").read_bytes() == old
    assert list(run_files(tmp_path)) == ["checkpoint_5.pth"]
    assert resume_file(tmp_path, "latest").name == "checkpoint_5.pth"
    write_verified(tmp_path / "checkpoint_5.pth", lambda path: save(path, 9))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_5.pth"]


def test_a_link_is_a_second_name_of_the_same_bytes_and_replaces_what_was_there(tmp_path):
    first, second, name = save(tmp_path / "1.pth", 1), save(tmp_path / "2.pth", 2), tmp_path / "best_model.pth"
    link(first, name)
    assert name.samefile(first)
    link(second, name)
    link(second, name)
    assert name.samefile(second)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.pth", "2.pth", "best_model.pth"]
    second.unlink()
    assert damage(name) is None


def test_where_no_link_can_be_made_the_old_name_stays(tmp_path):
    name = save(tmp_path / "best_model.pth")
    with pytest.raises(OSError, match="missing"):
        link(tmp_path / "missing.pth", name)
    assert damage(name) is None
    assert [path.name for path in tmp_path.iterdir()] == ["best_model.pth"]


def test_names_of_one_file_count_once_on_the_disk(tmp_path):
    size = save(tmp_path / "best_model_5.pth").stat().st_size
    link(tmp_path / "best_model_5.pth", tmp_path / "best_model.pth")
    save(tmp_path / "checkpoint_5.pth")
    (tmp_path / "notes.txt").write_text("x")
    assert sorted(run_files(tmp_path).values()) == [size, size]


def test_no_flipped_bit_anywhere_ends_in_an_exception(tmp_path, checkpoint):
    path = tmp_path / "a.pth"
    for place in range(len(checkpoint[0])):
        flipped = bytearray(checkpoint[0])
        flipped[place] ^= 0x80
        path.write_bytes(flipped)
        assert damage(path) is None or "\n" not in damage(path)


# Retention

files = st.lists(
    st.builds(
        lambda step, kind, value, dev: saved(step, kind, value=value, metric="eval.mel_ce", eval_set=dev),
        st.integers(0, 2000),
        st.sampled_from(["latest", "best"]),
        st.floats(0, 10),
        st.sampled_from(["one", "two"]),
    ),
    unique_by=lambda file: file.path,
)


@given(files)
def test_retention_keeps_the_last_written_and_the_best_of_each_eval_set(some):
    kept = retain(some)
    assert kept.keep.keys() | kept.drop.keys() == {file.path for file in some}
    assert not kept.keep.keys() & kept.drop.keys()
    for dev in ("one", "two"):
        values = [file.value for file in some if file.kind == "best" and file.eval_set == dev]
        stayed = [f.value for f in some if f.kind == "best" and f.eval_set == dev and f.path in kept.keep]
        assert not values or min(values) in stayed
    if some:
        assert some[-1].path in kept.keep
    assert len(kept.keep) <= 3


@given(files)
def test_pruning_twice_drops_nothing_more(some):
    kept = retain(some).keep
    assert not retain([file for file in some if file.path in kept]).drop


@given(files)
def test_who_wants_all_best_files_keeps_them(some):
    assert {file.path for file in some if file.kind == "best"} <= retain(some, all_best=True).keep.keys()


def test_values_of_another_metric_are_not_compared():
    mel, loss = saved(1, "best", value=0.9, metric="eval.mel_ce"), saved(2, "best", value=3.0, metric="target loss")
    assert retain([mel, loss]).drop == {}


def test_names_are_not_sorted_as_text():
    kept = retain([saved(900), saved(1000), saved(2000)])
    assert list(kept.keep) == ["checkpoint_2000.pth"]
    assert set(kept.drop) == {"checkpoint_900.pth", "checkpoint_1000.pth"}


def test_after_going_back_the_new_file_stays_and_the_abandoned_higher_step_goes():
    assert list(retain([saved(300), saved(250)]).keep) == ["checkpoint_250.pth"]


def test_of_two_files_of_one_step_the_last_written_stays_for_it_says_where_to_go_on():
    inside, after = saved(30, path="checkpoint_29.pth"), saved(30, path="checkpoint_30.pth")
    assert list(retain([inside, after]).keep) == ["checkpoint_30.pth"]
    assert list(retain([after, inside]).keep) == ["checkpoint_29.pth"]


def test_a_best_file_that_is_the_newest_serves_as_the_latest_too():
    kept = retain([saved(900), saved(1000, "best")])
    assert kept.keep == {"best_model_1000.pth": "latest and best"}


# Resuming


@pytest.mark.parametrize(
    ("names", "which", "expected"),
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
def test_the_file_is_chosen_by_the_number_in_its_own_name(tmp_path, parent, names, which, expected):
    run = tmp_path / parent
    run.mkdir()
    for name in names:
        save(run / name)
    assert resume_file(run, which) == run / expected


def test_a_folder_named_like_a_checkpoint_is_no_checkpoint(tmp_path):
    save(tmp_path / "checkpoint_1.pth")
    (tmp_path / "checkpoint_2.pth").mkdir()
    assert resume_file(tmp_path, "latest").name == "checkpoint_1.pth"


def test_the_best_of_our_run_is_the_best_one_of_the_journal_that_is_still_there(tmp_path):
    events = [saved(5, "best", value=3.0), *curve(3.0), saved(10, "best", value=2.0), *curve(4.0, first=1)]
    write_run(tmp_path, start(), events, saved(20, "best", value=1.0, intact=False), saved(30))
    for name in ("best_model_5.pth", "best_model_10.pth", "best_model_20.pth", "checkpoint_30.pth"):
        save(tmp_path / name)
    assert resume_file(tmp_path, "best").name == "best_model_10.pth"
    assert resume_file(tmp_path, "latest").name == "checkpoint_30.pth"
    (tmp_path / "best_model_10.pth").unlink()
    assert resume_file(tmp_path, "best").name == "best_model_5.pth"


def test_a_file_itself_is_taken_whatever_its_name(tmp_path):
    assert resume_file(save(tmp_path / "model.bin")) == tmp_path / "model.bin"


@pytest.mark.parametrize("place", ["checkpoint_5.pth", "."])
def test_a_damaged_file_is_refused_with_its_name(tmp_path, place):
    (tmp_path / "checkpoint_5.pth").write_bytes(save(tmp_path / "x").read_bytes()[:-40])
    with pytest.raises(UserError, match=r"checkpoint_5\.pth cannot be resumed from"):
        resume_file(tmp_path / place, "latest")


@pytest.mark.parametrize(
    ("place", "which", "sentence"),
    [("missing", "latest", "does not exist"), (".", "latest", "no latest"), (".", "best", "no best")],
)
def test_where_there_is_nothing_to_resume_from_that_is_said(tmp_path, place, which, sentence):
    if which == "best":
        save(tmp_path / "checkpoint_5.pth")
    with pytest.raises(UserError, match=sentence):
        resume_file(tmp_path / place, which)


def test_the_files_of_a_record_are_what_retention_works_on():
    record = record_of(saved(10), saved(10, "best"), saved(20), saved(30))
    assert set(retain(record.files).keep) == {"checkpoint_30.pth", "best_model_10.pth"}


def test_a_file_in_the_format_before_torch_1_6_can_be_resumed_from_for_it_has_no_checksums_to_fail(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "best_model_5.pth"
    torch.save({"step": 5}, path, _use_new_zipfile_serialization=False)
    assert damage(path)
    assert damage(path, legacy=True) is None
    assert resume_file(tmp_path) == path

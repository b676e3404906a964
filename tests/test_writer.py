"""Writing files whole or not at all, and the thread that does it."""

import errno
import os
import resource
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from disks import small_disk  # noqa: F401

from xtts_gatekeeper.checkpoints.integrity import damage, scan
from xtts_gatekeeper.checkpoints.inventory import run_files
from xtts_gatekeeper.checkpoints.writer import BackgroundWriter, link, write_verified


def save(path, number=0):
    """A small file as `torch.save` writes a checkpoint, written by zipfile."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"pickle")
        archive.writestr("archive/data/0", bytes([number]) * 100)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def child(code, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=False, timeout=60, env=environment, capture_output=True, text=True, **options)


# Files


def test_a_checkpoint_gets_its_name_and_no_partial_file_stays(tmp_path):
    found = write_verified(tmp_path / "a.pth", save)
    assert names(tmp_path) == ["a.pth"]
    assert found == scan(tmp_path / "a.pth") and found.problem is None


def breaks_off(path):
    path.write_bytes(b"half")
    raise ValueError("not a value that can be saved")


def is_interrupted(path):
    path.write_bytes(b"half")
    raise KeyboardInterrupt


def meets_a_full_disk_as_torch_says_it(path):
    path.write_bytes(b"half")
    raise RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0\nframe #0")


@pytest.mark.parametrize(
    ("writer", "error"),
    [
        (breaks_off, ValueError),
        (is_interrupted, KeyboardInterrupt),
        (meets_a_full_disk_as_torch_says_it, OSError),
        (lambda path: path.write_bytes(b"garbage"), OSError),
        (lambda path: path.write_bytes(b""), OSError),
        (lambda path: save(path).write_bytes(path.read_bytes()[:-30]), OSError),
        (lambda path: None, OSError),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_a_failed_write_leaves_what_stood_there_and_no_partial_file(tmp_path, writer, error, before):
    old = save(tmp_path / "a.pth").read_bytes() if before else None
    with pytest.raises(error) as raised:
        write_verified(tmp_path / "a.pth", writer)
    assert "\n" not in str(raised.value)
    assert names(tmp_path) == ["a.pth"] * before
    assert not before or (tmp_path / "a.pth").read_bytes() == old


def test_a_file_that_the_check_finds_wrong_never_gets_its_name(tmp_path):
    old = save(tmp_path / "a.pth", 1).read_bytes()
    seen = []

    def check(path):
        seen.append(path.name)
        return "it is another one"

    with pytest.raises(OSError, match=r"a\.pth was written and does not read back: it is another one"):
        write_verified(tmp_path / "a.pth", lambda path: save(path, 2), check)
    assert seen == ["a.pth.partial"]
    assert names(tmp_path) == ["a.pth"] and (tmp_path / "a.pth").read_bytes() == old


def test_the_file_is_synced_and_read_back_before_its_name_and_the_folder_is_synced_after_it(tmp_path, monkeypatch):
    order = []
    stock_sync, stock_replace = os.fsync, Path.replace

    def sync(descriptor):
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        stock_sync(descriptor)

    def replace(path, target):
        order.append("rename")
        return stock_replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    write_verified(tmp_path / "a.pth", save, lambda path: order.append("check"))
    assert order == ["a.pth.partial", "check", "rename", tmp_path.name]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_an_error_of_the_system_at_any_step_leaves_the_old_file(tmp_path, monkeypatch, number, where):
    old = save(tmp_path / "a.pth", 1).read_bytes()

    def fails(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails) if where == "fsync" else monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match=os.strerror(number)):
        write_verified(tmp_path / "a.pth", lambda path: save(path, 2))
    monkeypatch.undo()
    assert names(tmp_path) == ["a.pth"] and (tmp_path / "a.pth").read_bytes() == old


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
    assert child(code, tmp_path).returncode == -9
    assert (tmp_path / "checkpoint_5.pth.partial").exists()
    assert (tmp_path / "checkpoint_5.pth").read_bytes() == old
    assert list(run_files(tmp_path)) == ["checkpoint_5.pth"]
    write_verified(tmp_path / "checkpoint_5.pth", lambda path: save(path, 9))
    assert names(tmp_path) == ["checkpoint_5.pth"]


LARGE = """
import sys
from pathlib import Path
import torch
from xtts_gatekeeper.checkpoints.writer import write_verified
try:
    write_verified(Path(sys.argv[1]), lambda path: torch.save({"model": torch.ones(4 << 20)}, path))
except OSError as error:
    print("refused:", error)
"""


def test_a_limit_on_the_size_of_files_ends_in_one_sentence_and_leaves_the_old_file(tmp_path):
    old = save(tmp_path / "a.pth").read_bytes()
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # noqa: E731
    done = child(LARGE, tmp_path / "a.pth", preexec_fn=limit)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: ") and done.stdout.count("\n") == 1
    assert names(tmp_path) == ["a.pth"] and (tmp_path / "a.pth").read_bytes() == old


def test_a_disk_that_is_really_full_ends_in_one_sentence_and_leaves_the_old_file(small_disk):  # noqa: F811
    old = save(small_disk / "a.pth").read_bytes()
    done = child(LARGE, small_disk / "a.pth")  # 16 MiB on a disk of 8
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: ") and done.stdout.count("\n") == 1
    assert names(small_disk) == ["a.pth"] and (small_disk / "a.pth").read_bytes() == old


# Second names


def test_a_link_is_a_second_name_of_the_same_bytes_and_replaces_what_was_there(tmp_path):
    first, second, name = save(tmp_path / "1.pth", 1), save(tmp_path / "2.pth", 2), tmp_path / "best_model.pth"
    link(first, name)
    assert name.samefile(first)
    link(second, name)
    link(second, name)
    assert name.samefile(second)
    assert names(tmp_path) == ["1.pth", "2.pth", "best_model.pth"]
    second.unlink()
    assert damage(name) is None


def test_a_link_half_made_by_a_killed_process_does_not_stand_in_the_way(tmp_path):
    first, second, name = save(tmp_path / "1.pth", 1), save(tmp_path / "2.pth", 2), tmp_path / "best_model.pth"
    os.link(first, tmp_path / "best_model.pth.partial")
    link(second, name)
    assert name.samefile(second)
    assert names(tmp_path) == ["1.pth", "2.pth", "best_model.pth"]


def test_where_no_link_can_be_made_the_old_name_stays(tmp_path):
    name = save(tmp_path / "best_model.pth")
    with pytest.raises(OSError, match="missing"):
        link(tmp_path / "missing.pth", name)
    assert damage(name) is None
    assert names(tmp_path) == ["best_model.pth"]


# The thread


def test_work_is_done_beside_who_submits_it_and_in_order():
    writer, may_end, done = BackgroundWriter(), threading.Event(), []

    def first():
        assert may_end.wait(30)
        done.append(1)

    writer.submit(first)
    assert done == []  # submit came back while the work was held
    waits = threading.Thread(target=writer.submit, args=(lambda: done.append(2),))
    waits.start()
    waits.join(0.2)
    assert waits.is_alive()  # one in flight: the second submit waits for it
    may_end.set()
    waits.join(30)
    writer.wait()
    assert done == [1, 2]


def test_work_may_wait_for_the_writer_without_waiting_for_itself():
    writer, done = BackgroundWriter(), threading.Event()
    writer.submit(lambda: (writer.wait(), done.set()))
    assert done.wait(30)
    writer.wait()


def test_a_process_that_ends_by_itself_or_by_an_error_finishes_the_file_in_flight(tmp_path):
    code = """
import sys, threading
from pathlib import Path
from xtts_gatekeeper.checkpoints.writer import BackgroundWriter
left = threading.Event()
threading._register_atexit(left.set)  # the main thread leaves the program
def work():
    left.wait(30)
    Path(sys.argv[1]).write_text("whole")
BackgroundWriter().submit(work)
if sys.argv[2] == "error":
    raise RuntimeError("the training crashed")
"""
    for how in ("end", "error"):
        assert child(code, tmp_path / how, how).returncode == (how == "error")
        assert (tmp_path / how).read_text() == "whole"

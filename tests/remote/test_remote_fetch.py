"""Coming back from a mirror: what is fetched, and what is passed over."""

import json
import os

import pytest
from records import start
from remotes import Run, remote_files, write_checkpoint

from xtts_gatekeeper.checkpoints import remote_fetch
from xtts_gatekeeper.checkpoints.integrity import damage
from xtts_gatekeeper.checkpoints.remote import Mirror, remote_runs, verify_remote
from xtts_gatekeeper.checkpoints.remote_fetch import fetch_resumable
from xtts_gatekeeper.checkpoints.remote_store import MANIFEST, RemoteFolder
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import Journal, journal_path

fsspec = pytest.importorskip("fsspec", reason="fsspec comes with the train extra")


def test_a_run_that_was_continued_elsewhere_is_refused_on_the_old_machine(run, url, tmp_path):
    run.save(10)
    run.sync(url)
    target = tmp_path / "machine-b" / run.folder.name
    fetch_resumable(url, target)
    journal = Journal(journal_path(target))
    journal.append(start(10, resumed_from="checkpoint_10.pth"))
    assert Mirror(target, url, log=print).sync().ok
    run.save(20)
    before = remote_files(url)
    assert "continued elsewhere" in run.mirror(url).sync().failed[""]
    assert remote_files(url) == before


def test_a_fresh_machine_goes_on_from_the_newest_file(run, url, tmp_path):
    run.save(10, "best", value=3.0)
    run.save(20, "best", value=2.0)
    run.save(30)
    os.link(run.folder / "best_model_20.pth", run.folder / "best_model.pth")
    run.sync(url)
    target = tmp_path / "fresh" / run.folder.name
    checkpoint = fetch_resumable(url, target)
    assert checkpoint == target / "checkpoint_30.pth"
    assert sorted(path.name for path in target.glob("*")) == [
        "best_model.pth",
        "best_model_20.pth",
        "checkpoint_30.pth",
        "config.json",
        "gatekeeper",
        "trainer_0_log.txt",
    ]
    for path in target.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (run.folder / path.relative_to(target)).read_bytes()
    # The keeper takes a file for the run's own only with the time that the journal noted.
    assert checkpoint.stat().st_mtime_ns == (run.folder / "checkpoint_30.pth").stat().st_mtime_ns
    assert (target / "best_model.pth").samefile(target / "best_model_20.pth")
    assert Mirror(target, url, log=print).sync().uploaded == []
    io = pytest.importorskip("trainer.io")
    assert io.get_last_checkpoint(target)[0] == str(checkpoint)


def test_the_newest_is_the_last_written_one(run, url, tmp_path):
    run.save(30)
    run.save(20)  # after going back
    run.save(40, kind="weights")
    run.sync(url)
    assert fetch_resumable(url, tmp_path / "fresh").name == "checkpoint_20.pth"
    assert sorted(path.name for path in (tmp_path / "fresh").glob("*.pth")) == ["checkpoint_20.pth"]


def test_a_broken_newest_file_falls_back_to_the_next_older_one(run, url, tmp_path):
    run.save(10)
    run.save(20)
    run.save(30)
    run.sync(url)
    fs, root = fsspec.core.url_to_fs(f"{url}/{run.folder.name}")
    data = bytearray(remote_files(url)["checkpoint_30.pth"])
    data[1000] ^= 1
    fs.pipe_file(f"{root}/checkpoint_30.pth", bytes(data))
    fs.pipe_file(f"{root}/checkpoint_20.pth", bytes(data[:500]))
    notes = []
    checkpoint = fetch_resumable(url, tmp_path / "fresh" / run.folder.name, notes.append)
    assert checkpoint.name == "checkpoint_10.pth"
    assert [note.partition(" ")[0] for note in notes] == ["checkpoint_30.pth", "checkpoint_20.pth"]
    assert "SHA-256" in notes[0]
    assert "500 bytes" in notes[1]
    wrong = {file.name for file in verify_remote(url) if file.wrong}
    assert wrong == {"checkpoint_20.pth", "checkpoint_30.pth"}


def test_a_folder_without_manifest_goes_by_numbers_and_crcs(url, tmp_path):
    fs, root = fsspec.core.url_to_fs(f"{url}/stock-run")
    if not url.startswith("s3"):
        fs.makedirs(root, exist_ok=True)
    for name, step in {"best_model_20.pth": 20, "checkpoint_20.pth": 21, "checkpoint_9.pth": 9}.items():
        write_checkpoint(tmp_path / name, step, 3000)
        fs.pipe_file(f"{root}/{name}", (tmp_path / name).read_bytes())
    broken = bytearray((tmp_path / "checkpoint_20.pth").read_bytes())
    broken[1500] ^= 1
    fs.pipe_file(f"{root}/checkpoint_30.pth", bytes(broken))
    with pytest.raises(UserError, match=r"no config\.json"):
        fetch_resumable(url, tmp_path / "fresh")
    fs.pipe_file(f"{root}/config.json", b"{}")
    notes = []
    checkpoint = fetch_resumable(f"{url}/stock-run", tmp_path / "stock-run", notes.append)
    assert checkpoint.name == "checkpoint_20.pth"
    assert damage(checkpoint) is None
    assert len(notes) == 1
    assert "checkpoint_30.pth is passed over: the CRC" in notes[0]
    with pytest.raises(UserError, match=r"has no gatekeeper/remote\.json"):
        verify_remote(url)


def test_a_download_that_was_cut_short_leaves_no_run_folder_and_is_taken_up(run, url, tmp_path, monkeypatch):
    run.save(10)
    run.sync(url)
    target = tmp_path / "fresh" / run.folder.name
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "read", lambda self, name: (_ for _ in ()).throw(OSError("cut")))
        with pytest.raises(UserError, match="could not be read: OSError: cut"):
            fetch_resumable(url, target)
    with monkeypatch.context() as patch:
        patch.setattr(remote_fetch._Fetch, "_small", lambda self, name: (_ for _ in ()).throw(OSError("cut")))
        with pytest.raises(UserError, match="cut"):
            fetch_resumable(url, target)
    assert not target.exists()
    downloads = []
    copy = RemoteFolder.copy
    monkeypatch.setattr(RemoteFolder, "copy", lambda self, *values: downloads.append(values) or copy(self, *values))
    assert fetch_resumable(url, target).exists()
    assert downloads == []  # the checkpoint was there, and was compared
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    with pytest.raises(UserError, match="is there already"):
        fetch_resumable(url, target)


def test_small_files_that_are_ahead_of_the_manifest_are_taken_as_it_says(run, url, tmp_path):
    run.save(10)
    run.sync(url)
    fs, root = fsspec.core.url_to_fs(f"{url}/{run.folder.name}")
    for name, data in remote_files(url).items():
        if name in ("trainer_0_log.txt", "gatekeeper/journal.jsonl"):  # a mirror was killed before the manifest
            fs.pipe_file(f"{root}/{name}", data + b"and more\n")
    fs.pipe_file(f"{root}/config.json", b'{"epochs": 4}')
    notes = []
    target = fetch_resumable(url, tmp_path / "fresh" / run.folder.name, notes.append).parent
    for name in ("trainer_0_log.txt", "gatekeeper/journal.jsonl"):
        assert (target / name).read_bytes() == (run.folder / name).read_bytes()
    assert (target / "config.json").read_text() == '{"epochs": 4}'
    assert notes == ["config.json is not as the manifest says, and taken as it is"]
    assert [file.name for file in verify_remote(url) if file.wrong] == ["config.json"]


def test_what_an_earlier_download_left_does_not_come_along(run, tmp_path):
    url = f"memory://{tmp_path.name}"
    run.save(10)
    run.sync(url)
    target = tmp_path / "fresh" / run.folder.name
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True)
    write_checkpoint(partial / "checkpoint_99.pth", 99, 100)
    (partial / "checkpoint_10.pth").write_bytes(b"cut short")
    assert fetch_resumable(url, target).read_bytes() == (run.folder / "checkpoint_10.pth").read_bytes()
    assert [path.name for path in target.glob("*.pth")] == ["checkpoint_10.pth"]


def test_runs_of_a_remote_are_listed_and_one_must_be_named(run, url, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        fetch_resumable(url, tmp_path / "fresh")
    other = Run(tmp_path / "runs" / "other")
    for each in (run, other):
        each.save(10)
        each.sync(url)
    runs = remote_runs(url)
    assert [(r.name, r.checkpoints, r.mirrored) for r in runs] == [
        ("other", ("checkpoint_10.pth",), True),
        (run.folder.name, ("checkpoint_10.pth",), True),
    ]
    with pytest.raises(UserError, match="holds 2 runs; name one of them: other, xtts"):
        fetch_resumable(url, tmp_path / "fresh")
    assert fetch_resumable(runs[0].url, tmp_path / "fresh").exists()


@pytest.mark.parametrize("name", ["../outside.pth", "/etc/x", "gatekeeper/../../x", "C:/x", "a\\b"])
def test_a_manifest_that_names_files_outside_is_refused(run, tmp_path, name):
    url = (tmp_path / "remote").as_uri()
    run.save(10)
    run.sync(url)
    path = tmp_path / "remote" / run.folder.name / MANIFEST
    content = json.loads(path.read_text())
    content["files"][name] = content["files"]["checkpoint_10.pth"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="cannot be one of a run"):
        fetch_resumable(url, tmp_path / "fresh")


def test_a_manifest_that_is_none_is_said(run, tmp_path):
    url = (tmp_path / "remote").as_uri()
    run.sync(url)
    (tmp_path / "remote" / run.folder.name / MANIFEST).write_text("[]")
    with pytest.raises(UserError, match="is no manifest"):
        verify_remote(url)
    assert "is no manifest" in run.mirror(url).sync().failed[""]

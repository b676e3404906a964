"""What a mirror uploads, what it deletes, and what it leaves alone."""

import os
import threading
from pathlib import Path

import pytest
from records import pruned, start
from remotes import BUCKET, Run, assert_promises_hold, manifest, remote_files, write_checkpoint

from xtts_gatekeeper.checkpoints import remote_store
from xtts_gatekeeper.checkpoints.integrity import scan
from xtts_gatekeeper.checkpoints.remote import Mirror, local_output, verify_remote
from xtts_gatekeeper.checkpoints.remote_store import MANIFEST, RemoteFolder
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import Journal
from xtts_gatekeeper.record.events import Renamed

fsspec = pytest.importorskip("fsspec", reason="fsspec comes with the train extra")


def test_the_trainer_makes_a_local_folder_of_a_url_and_we_refuse_that(tmp_path, monkeypatch):
    generic_utils = pytest.importorskip("trainer.generic_utils")
    monkeypatch.chdir(tmp_path)
    path = generic_utils.get_experiment_folder_path("s3://bucket/runs", "xtts")
    path.mkdir(parents=True)
    assert next((tmp_path / "s3:" / "bucket" / "runs").iterdir()).name == path.name
    for output_path in ("s3://bucket/runs", "gs://bucket", Path("s3://bucket/runs")):
        with pytest.raises(UserError, match=r"local folder named '\w+:'.*gatekeeper\.checkpoints\.remote"):
            local_output(output_path)


@pytest.mark.parametrize("path", ["runs", "/tmp/runs", "C:/runs", r"C:\runs", "./a:b/c"])
def test_a_local_output_path_passes(path):
    assert local_output(path) == Path(path)


def test_a_run_is_uploaded_and_reads_back(run, url):
    run.save(10)
    run.save(20, "best", value=2.0, metric="eval.mel_ce")
    os.link(run.folder / "best_model_20.pth", run.folder / "best_model.pth")
    report = run.sync(url)
    assert report.uploaded[:2] == ["checkpoint_10.pth", "best_model_20.pth"]
    assert report.uploaded[-1] == "gatekeeper/journal.jsonl"
    there = remote_files(url)
    local = {p.relative_to(run.folder).as_posix(): p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    del local["best_model.pth"]
    assert {name: data for name, data in there.items() if name != MANIFEST} == local
    assert manifest(url)["aliases"] == {"best_model.pth": "best_model_20.pth"}
    best = manifest(url)["files"]["best_model_20.pth"]
    digest = scan(run.folder / "best_model_20.pth").digest
    assert (best["step"], best["resumable"], best["digest"], best["kind"]) == (20, True, digest, "best")
    assert all(file.wrong is None for file in verify_remote(url))


def test_a_second_pass_uploads_only_what_is_new(run, url):
    run.save(10)
    run.sync(url)
    assert run.sync(url).uploaded == []
    with (run.folder / "trainer_0_log.txt").open("a") as log:
        log.write("second line\n")
    run.save(20)
    assert run.sync(url).uploaded == ["checkpoint_20.pth", "trainer_0_log.txt", "gatekeeper/journal.jsonl"]


def test_a_file_written_anew_under_its_name_is_uploaded_again(run, url):
    run.save(10)
    run.sync(url)
    write_checkpoint(run.folder / "checkpoint_10.pth", 999, 2000)
    run.note("checkpoint_10.pth", 10)
    assert run.sync(url).uploaded[0] == "checkpoint_10.pth"
    assert remote_files(url)["checkpoint_10.pth"] == (run.folder / "checkpoint_10.pth").read_bytes()


def test_only_whole_files_of_the_journal_are_uploaded(run, url):
    run.save(10)
    run.save(20)
    (run.folder / "checkpoint_20.pth").write_bytes(b"another file")
    run.save(30)
    (run.folder / "checkpoint_30.pth").unlink()
    run.save(40, intact=False)
    write_checkpoint(run.folder / "checkpoint_50.pth", 50, 10)  # not in the journal
    (run.folder / "checkpoint_60.pth").symlink_to(run.folder / "checkpoint_10.pth")
    (run.folder / "checkpoint_70.pth.partial").write_bytes(b"half")
    (run.folder / "gatekeeper" / "quarantine").mkdir()
    write_checkpoint(run.folder / "gatekeeper" / "quarantine" / "checkpoint_5.pth", 5, 10)
    (run.folder / "gatekeeper" / "run.lock").write_text("")
    (run.folder / "my_notes.txt").write_text("not the Trainer's")
    report = run.sync(url)
    assert sorted(report.skipped) == ["checkpoint_20.pth", "checkpoint_30.pth"]
    small = ["config.json", "gatekeeper/journal.jsonl", "gatekeeper/policy.yaml", MANIFEST, "trainer_0_log.txt"]
    assert sorted(remote_files(url)) == ["checkpoint_10.pth", *small]


def test_a_file_that_nobody_has_looked_at_is_checked_before_it_is_uploaded(run, url):
    run.save(10, intact=None)
    (run.folder / "checkpoint_20.pth").write_bytes(b"PK half an archive")
    run.note("checkpoint_20.pth", 20, intact=None)
    report = run.mirror(url).sync()
    assert [*report.failed] == ["checkpoint_20.pth"]
    assert "checkpoint_10.pth" in remote_files(url)
    assert "checkpoint_20.pth" not in remote_files(url)


def test_a_large_file_goes_up_in_parts(run, s3, monkeypatch):
    monkeypatch.setattr(remote_store, "_PART_BYTES", 5 << 20)
    monkeypatch.setattr(remote_store, "_CHUNK", 1 << 20)
    run.save(10, size=13_000_000)
    run.sync(s3.url)
    head = s3.client.head_object(Bucket=BUCKET, Key=f"{s3.prefix}/{run.folder.name}/checkpoint_10.pth")
    assert head["ETag"].strip('"').endswith("-3")  # an object of three parts
    assert all(file.wrong is None for file in verify_remote(s3.url))


def test_pruned_files_go_after_the_manifest_and_foreign_ones_stay(run, url, monkeypatch):
    run.save(10)
    run.save(20)
    run.sync(url)
    fs, root = fsspec.core.url_to_fs(f"{url}/{run.folder.name}")
    fs.pipe_file(f"{root}/checkpoint_5.pth", b"not ours")
    fs.pipe_file(f"{root}/notes.txt", b"not ours")
    run.save(30)
    run.prune("checkpoint_10.pth", "checkpoint_20.pth")
    run.journal.append(pruned(99, "checkpoint_5.pth"))  # named by the journal, but never uploaded by the mirror
    listed = []
    remove = RemoteFolder.remove

    def removing(self, name):
        listed.append((name in manifest(url)["files"], "checkpoint_30.pth" in manifest(url)["files"]))
        assert name in remote_files(url)
        remove(self, name)

    monkeypatch.setattr(RemoteFolder, "remove", removing)
    assert run.sync(url).removed == ["checkpoint_10.pth", "checkpoint_20.pth"]
    assert listed == [(False, True)] * 2
    there = remote_files(url)
    assert sorted(name for name in there if ".pth" in name) == ["checkpoint_30.pth", "checkpoint_5.pth"]
    assert there["notes.txt"] == b"not ours"


def test_nothing_is_deleted_before_the_newest_file_is_there(run, url):
    run.save(10)
    run.sync(url)
    run.save(20)
    run.prune("checkpoint_10.pth")
    (run.folder / "checkpoint_20.pth").rename(run.folder / "elsewhere")
    report = run.mirror(url).sync()
    assert (report.removed, report.deferred) == ([], ["checkpoint_10.pth"])
    (run.folder / "elsewhere").rename(run.folder / "checkpoint_20.pth")
    assert run.sync(url).removed == ["checkpoint_10.pth"]


def test_a_renamed_file_is_uploaded_under_its_new_name_and_the_old_one_goes(run, url):
    run.save(10)
    run.save(20)
    run.sync(url)
    (run.folder / "checkpoint_20.pth").rename(run.folder / "abandoned_20.pth")
    run.journal.append(
        Renamed(step=20, epoch=0, old="checkpoint_20.pth", new="abandoned_20.pth", reason="the run went back")
    )
    run.sync(url)
    assert sorted(n for n in remote_files(url) if n.endswith(".pth")) == ["abandoned_20.pth", "checkpoint_10.pth"]


def test_a_foreign_file_of_the_same_name_is_not_overwritten(run, url):
    run.save(10)
    run.sync(url)
    fs, root = fsspec.core.url_to_fs(f"{url}/{run.folder.name}")
    fs.pipe_file(f"{root}/checkpoint_20.pth", b"not ours")
    run.save(20)
    report = run.mirror(url).sync()
    assert "not from this mirror" in report.failed["checkpoint_20.pth"]
    assert remote_files(url)["checkpoint_20.pth"] == b"not ours"


def test_a_folder_that_is_no_mirror_is_refused(run, url):
    fs, root = fsspec.core.url_to_fs(f"{url}/{run.folder.name}")
    fs.makedirs(root, exist_ok=True) if "s3" not in url else None
    fs.pipe_file(f"{root}/config.json", b"{}")
    report = run.mirror(url).sync()
    assert "is no mirror" in report.failed[""]
    assert remote_files(url) == {"config.json": b"{}"}


def test_another_run_of_the_same_name_is_refused(run, url, tmp_path):
    run.save(10)
    run.sync(url)
    other = Run(tmp_path / "other" / run.folder.name)
    other.journal.path.unlink()
    Journal(other.journal.path).append(start(device="cuda"))
    before = remote_files(url)
    assert "mirror of another run" in other.mirror(url).sync().failed[""]
    assert remote_files(url) == before


def test_a_file_pruned_during_its_upload_is_no_failure(run, url, monkeypatch):
    monkeypatch.setattr(remote_store, "_CHUNK", 1000)
    run.save(10)
    run.save(20)
    chunks = remote_store._chunks

    def pruning(source, size):
        for number, chunk in enumerate(chunks(source, size)):
            if number == 1 and (run.folder / "checkpoint_10.pth").exists():
                run.save(30)
                run.prune("checkpoint_10.pth", "checkpoint_20.pth")
            yield chunk

    monkeypatch.setattr(remote_store, "_chunks", pruning)
    report = run.sync(url)
    assert "pruned meanwhile" in report.skipped["checkpoint_20.pth"]
    assert_promises_hold(url)
    assert b"checkpoint_30" not in remote_files(url)["gatekeeper/journal.jsonl"]  # it is not there yet
    report = run.sync(url)
    assert (report.uploaded[0], report.removed) == ("checkpoint_30.pth", ["checkpoint_10.pth"])


def test_nothing_is_deleted_when_a_newer_file_vanished_before_its_upload(run, url, monkeypatch):
    run.save(10, "best", value=3.0)
    run.sync(url)
    run.save(20)
    run.save(30, "best", value=2.0)
    run.prune("best_model_10.pth")
    run.save(40)
    put = RemoteFolder.put

    def pruning(self, name, source, size):
        if name == "checkpoint_20.pth":
            run.save(50, "best", value=1.0)
            run.prune("best_model_30.pth")
        return put(self, name, source, size)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "put", pruning)
        report = run.sync(url)
    assert (report.removed, report.deferred) == ([], ["best_model_10.pth"])
    report = run.sync(url)
    assert report.removed == ["best_model_10.pth"]
    assert "best_model_50.pth" in report.uploaded


def test_a_file_that_somebody_replaced_is_not_deleted(run, url):
    run.save(10)
    run.sync(url)
    fs, root = fsspec.core.url_to_fs(f"{url}/{run.folder.name}")
    fs.pipe_file(f"{root}/checkpoint_10.pth", b"somebody's")
    run.save(20)
    run.prune("checkpoint_10.pth")
    report = run.sync(url)
    assert (report.removed, [*report.skipped]) == ([], ["checkpoint_10.pth"])
    assert remote_files(url)["checkpoint_10.pth"] == b"somebody's"
    assert "checkpoint_10.pth" not in manifest(url)["files"]


def test_requests_during_a_pass_become_one_more(run, tmp_path):
    passes, begun, go_on = [], threading.Event(), threading.Event()

    class Counting(Mirror):
        def sync(self):
            passes.append(1)
            begun.set()
            go_on.wait(30)
            return super().sync()

    mirror = Counting(run.folder, f"memory://{tmp_path.name}", log=print)
    run.save(10)
    mirror.start()
    mirror.request()
    assert begun.wait(30)
    run.save(20)
    for _ in range(5):
        mirror.request()
    assert mirror.close(timeout=0.01) is False  # still at it
    go_on.set()
    assert mirror.close(timeout=30)
    assert len(passes) == 2
    assert {"checkpoint_10.pth", "checkpoint_20.pth"} <= {*manifest(f"memory://{tmp_path.name}")["files"]}


def test_importing_the_mirror_imports_neither_fsspec_nor_torch(python):
    code = "import sys, xtts_gatekeeper.checkpoints.remote; print({'fsspec', 'torch'} & {*sys.modules})"
    assert python("-c", code).stdout.strip() == "set()"

"""What breaks under a mirror, and the check of a remote before the training."""

import gc
import os
import signal

import pytest
from remotes import BUCKET, assert_promises_hold, manifest, remote_files, unfinished_uploads, write_checkpoint

from xtts_gatekeeper.checkpoints import remote_store
from xtts_gatekeeper.checkpoints.remote import check_remote, verify_remote
from xtts_gatekeeper.checkpoints.remote_store import FileTrouble, RemoteFolder
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import RunRecord

fsspec = pytest.importorskip("fsspec", reason="fsspec comes with the train extra")


def test_an_upload_that_reads_back_otherwise_does_not_count(run, s3, monkeypatch):
    import s3fs

    run.save(10)
    run.sync(s3.url)
    run.save(20)
    opened = s3fs.S3FileSystem._open
    key = f"{s3.prefix}/{run.folder.name}/checkpoint_20.pth"

    def tampering(self, path, mode="rb", **values):
        if mode == "rb" and path.endswith("checkpoint_20.pth"):
            data = bytearray(s3.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
            data[1000] ^= 1
            s3.client.put_object(Bucket=BUCKET, Key=key, Body=bytes(data))
        return opened(self, path, mode=mode, **values)

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_open", tampering)
        run.prune("checkpoint_10.pth")
        report = run.mirror(s3.url).sync()
    assert "does not read back" in report.failed["checkpoint_20.pth"]
    assert report.deferred == ["checkpoint_10.pth"]
    assert "checkpoint_20.pth" not in manifest(s3.url)["files"]
    assert "checkpoint_20.pth" not in remote_files(s3.url)
    assert_promises_hold(s3.url)
    report = run.sync(s3.url)
    assert (report.uploaded[0], report.removed) == ("checkpoint_20.pth", ["checkpoint_10.pth"])


def test_a_server_killed_during_an_upload_is_made_up_for_when_it_is_back(run, s3, monkeypatch):
    import s3fs

    monkeypatch.setattr(remote_store, "_PART_BYTES", 5 << 20)
    run.save(10)
    run.sync(s3.url)
    run.save(20, size=13_000_000)
    upload = s3fs.core.S3File._upload_chunk

    def dying(self, final=False):
        result = upload(self, final=final)
        s3.server.kill()
        return result

    messages = []
    mirror = run.mirror(s3.url, log=messages.append, record=run.journal.append)
    with monkeypatch.context() as patch:
        patch.setattr(s3fs.core.S3File, "_upload_chunk", dying)
        report = mirror.sync()
    assert not report.ok
    assert run.folder.joinpath("checkpoint_20.pth").exists()
    assert not mirror.sync().ok  # still away
    s3.server.start()
    assert remote_files(s3.url) == {}
    report = mirror.sync()
    assert report.ok, report.failed
    assert report.uploaded[:2] == ["checkpoint_10.pth", "checkpoint_20.pth"]
    assert all(file.wrong is None for file in verify_remote(s3.url))
    assert messages[-1].endswith("is complete again")
    assert {incident.code for incident in RunRecord(tuple(run.journal.events)).incidents} == {"remote_failed"}


DYING = """
import os, signal, sys
from pathlib import Path
from xtts_gatekeeper.checkpoints import remote_store
from xtts_gatekeeper.checkpoints.remote import Mirror
remote_store._PART_BYTES = 5 << 20
remote_store._CHUNK = 1 << 20
chunks, at = remote_store._chunks, int(sys.argv[3])
total = 0
def dying(source, size):
    global total
    for chunk in chunks(source, size):
        yield chunk
        total += len(chunk)
        if total >= at:
            os.kill(os.getpid(), signal.SIGKILL)
remote_store._chunks = dying
Mirror(Path(sys.argv[1]), sys.argv[2], log=print).sync()
"""


@pytest.mark.parametrize("kind", ["s3", "file"])
@pytest.mark.parametrize("at", [1, 500, 7_000_000, 13_001_500])
def test_a_mirror_killed_anywhere_leaves_nothing_that_is_named_and_not_whole(run, kind, at, tmp_path, python, request):
    url = request.getfixturevalue("s3").url if kind == "s3" else (tmp_path / "remote").as_uri()
    run.save(10, size=13_000_000)
    killed = python("-c", DYING, run.folder, url, at)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    there = remote_files(url)
    for name in ("checkpoint_10.pth", "config.json"):
        assert there.get(name, (run.folder / name).read_bytes()) == (run.folder / name).read_bytes()
    assert_promises_hold(url)
    run.sync(url)
    assert all(file.wrong is None for file in verify_remote(url))
    assert remote_files(url)["checkpoint_10.pth"] == (run.folder / "checkpoint_10.pth").read_bytes()
    assert manifest(url)["pending"] == []
    assert kind != "s3" or unfinished_uploads(request.getfixturevalue("s3")) == []


def test_a_deletion_that_failed_is_made_up_for(run, url, monkeypatch):
    run.save(10)
    run.sync(url)
    run.save(20)
    run.prune("checkpoint_10.pth")
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "remove", lambda self, name: 1 / 0)
        assert not run.mirror(url).sync().ok
    assert "checkpoint_10.pth" not in manifest(url)["files"]
    assert "checkpoint_10.pth" in remote_files(url)
    assert run.sync(url).removed == ["checkpoint_10.pth"]
    assert "checkpoint_10.pth" not in remote_files(url)


@pytest.mark.parametrize("step", [10, 20])
def test_an_end_between_upload_and_manifest_breaks_no_promise(run, url, monkeypatch, step):
    run.save(10)
    run.sync(url)
    write_checkpoint(run.folder / f"checkpoint_{step}.pth", 999, 2000)  # 10: another content under the same name
    run.note(f"checkpoint_{step}.pth", step)
    put = RemoteFolder.put

    def ending(self, name, source, size):
        put(self, name, source, size)
        if name.endswith(".pth"):
            raise OSError("the connection broke")
        return "unused"

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "put", ending)
        assert "the connection broke" in run.mirror(url).sync().failed[""]
    assert_promises_hold(url)
    run.save(30)
    assert "checkpoint_30.pth" in run.sync(url).uploaded
    assert all(file.wrong is None for file in verify_remote(url))
    assert {"checkpoint_10.pth", "checkpoint_30.pth"} <= {*manifest(url)["files"]}


def test_an_upload_whose_source_fails_leaves_no_file_and_the_others_go_on(run, url, monkeypatch, request):
    monkeypatch.setattr(remote_store, "_PART_BYTES", 5 << 20)
    monkeypatch.setattr(remote_store, "_CHUNK", 1 << 20)
    run.save(10, size=13_000_000)
    run.save(20)
    chunks = remote_store._chunks

    def failing(source, size):
        for number, chunk in enumerate(chunks(source, size)):
            if number == 8:
                raise FileTrouble("the local file cannot be read: [Errno 5]")
            yield chunk

    with monkeypatch.context() as patch:
        patch.setattr(remote_store, "_chunks", failing)
        report = run.mirror(url).sync()
        gc.collect()
    assert "cannot be read" in report.failed["checkpoint_10.pth"]
    assert "checkpoint_20.pth" in report.uploaded
    assert "checkpoint_10.pth" not in remote_files(url)
    if url.startswith("s3"):
        assert unfinished_uploads(request.getfixturevalue("s3")) == []
    run.sync(url)
    assert all(file.wrong is None for file in verify_remote(url))


def test_what_has_rotted_on_the_disk_is_not_uploaded(run, url):
    run.save(10)
    run.sync(url)
    run.save(20)
    run.prune("checkpoint_10.pth")
    path = run.folder / "checkpoint_20.pth"
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    report = run.mirror(url).sync()
    assert "CRC" in report.failed["checkpoint_20.pth"]
    assert report.deferred == ["checkpoint_10.pth"]


def test_after_a_failure_a_mirror_connects_anew(run, tmp_path, monkeypatch):
    url = f"memory://{tmp_path.name}"
    run.save(10)
    mirror = run.mirror(url)
    assert mirror.sync().ok
    before, _ = fsspec.core.url_to_fs(url)
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "sizes", lambda self: 1 / 0)
        assert not mirror.sync().ok
    assert fsspec.core.url_to_fs(url)[0] is not before
    assert mirror.sync().ok


def test_trouble_is_told_once_and_never_raised(run, tmp_path):
    messages = []
    mirror = run.mirror((tmp_path / "file" / "remote").as_uri(), log=messages.append, record=run.journal.append)
    (tmp_path / "file").write_text("a file where the folder should be")
    run.save(10)
    for _ in range(3):
        assert not mirror.sync().ok
    warnings = [message for message in messages if message.startswith("WARNING")]
    assert len(warnings) == 1
    (incident,) = RunRecord(tuple(run.journal.events)).incidents
    assert (incident.code, incident.step) == ("remote_failed", 10)
    (tmp_path / "file").unlink()
    assert mirror.sync().ok
    assert messages[-1].endswith("is complete again")


def test_a_full_disk_under_the_journal_does_not_end_the_thread(run, tmp_path):
    def full(event):
        raise OSError("no space left")

    messages = []
    mirror = run.mirror("nonsense", log=messages.append, record=full)
    mirror.start()
    mirror.request()
    assert mirror.close(timeout=30)
    assert "is no URL" in messages[0]
    assert "no space left" in messages[1]


def test_a_usable_remote_passes_the_check_and_keeps_nothing_of_it(url):
    check_remote(url)
    assert remote_files(url) == {}


@pytest.mark.parametrize("url", ["bucket/folder", "s3://", "simplecache::s3://bucket/x", "nonsense://bucket/x"])
def test_what_is_no_remote_is_refused(url):
    with pytest.raises(UserError, match=r"is no URL of a folder|Protocol not known"):
        check_remote(url)


def test_a_missing_package_is_named(python):
    code = """
import sys
sys.modules["s3fs"] = sys.modules["gcsfs"] = None
from xtts_gatekeeper.checkpoints.remote import check_remote
from xtts_gatekeeper.errors import UserError
for url in ("s3://bucket/x", "gs://bucket/x"):
    try:
        check_remote(url)
    except UserError as error:
        print(error)
"""
    said = python("-c", code).stdout
    assert "pip install s3fs" in said
    assert "pip install gcsfs" in said


def test_a_missing_bucket_is_said_and_not_made(s3):
    with pytest.raises(UserError, match=r"create the bucket or folder first"):
        check_remote("s3://no-such-bucket/x")
    assert [bucket["Name"] for bucket in s3.client.list_buckets()["Buckets"]] == [BUCKET]


def test_missing_credentials_are_said(s3, python, tmp_path):
    code = """
from xtts_gatekeeper.checkpoints.remote import check_remote
from xtts_gatekeeper.errors import UserError
try:
    check_remote("s3://bucket/x")
except UserError as error:
    print(error)
"""
    without = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": str(tmp_path)}
    said = python("-c", code, env=without).stdout
    assert "give credentials, for S3 as AWS_ACCESS_KEY_ID" in said
    assert len(said.splitlines()) == 1


def test_a_server_that_is_not_there_is_said(monkeypatch, s3):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"cannot be used: .*check the address"):
        check_remote(s3.url)


def test_refused_access_is_said(s3, monkeypatch):
    import s3fs

    async def refused(self, *values, **named):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", refused)
    with pytest.raises(UserError, match="Access Denied; give credentials that may list, read, write and delete"):
        check_remote(s3.url)

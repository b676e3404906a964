"""The mirror of a run folder, on a real S3 server (moto's, a process of its own on loopback), in memory and on disk."""

import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from records import pruned, saved, start

from xtts_gatekeeper.checkpoints import remote as remote_module
from xtts_gatekeeper.checkpoints.integrity import damage, scan
from xtts_gatekeeper.checkpoints.remote import (
    MANIFEST,
    Mirror,
    check_remote,
    fetch_resumable,
    local_output,
    remote_runs,
    verify_remote,
)
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import Journal, RunRecord, journal_path
from xtts_gatekeeper.record.events import Renamed

fsspec = pytest.importorskip("fsspec", reason="fsspec comes with the train extra")

BUCKET = "bucket"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # never a real one
}


class Server:
    """moto's S3 server; what it holds is lost when it is killed."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                assert self.process.poll() is None, "moto's server ended"
                assert time.monotonic() < deadline, "moto's server does not answer"
                time.sleep(0.05)
        self.client.create_bucket(Bucket=BUCKET)

    def kill(self):
        self.process.kill()
        self.process.wait()

    @property
    def client(self):
        import boto3

        return boto3.client("s3", endpoint_url=self.url)


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("s3fs", reason="s3fs is in the remote extra")
    pytest.importorskip("moto", reason="moto[server] is in the test extra")
    pytest.importorskip("flask", reason="moto[server] is in the test extra")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server = Server()
        server.start()
        yield server
        server.kill()


@pytest.fixture
def s3(server, monkeypatch, request):
    """A folder of its own on the server: `s3.url`, `s3.client`, `s3.server`."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    s3fs.S3FileSystem.clear_instance_cache()  # its key is not the environment
    prefix = request.node.name.replace("[", "-").replace("]", "")
    return SimpleNamespace(url=f"s3://{BUCKET}/{prefix}", prefix=prefix, client=server.client, server=server)


@pytest.fixture(params=["s3", "memory", "file"])
def url(request, tmp_path):
    """A remote folder of each kind."""
    if request.param == "s3":
        return request.getfixturevalue("s3").url
    return f"memory://{tmp_path.name}" if request.param == "memory" else (tmp_path / "remote").as_uri()


class Run:
    """A run folder whose checkpoints are small files of torch's layout."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True)
        self.journal = Journal(journal_path(folder))
        self.journal.append(start())
        (folder / "config.json").write_text('{"epochs": 3}')
        (folder / "trainer_0_log.txt").write_text("first line\n")
        (folder / "gatekeeper" / "policy.yaml").write_text("rules: []\n")

    def save(self, step, kind="latest", size=2000, **values):
        name = f"{'best_model' if kind == 'best' else 'checkpoint'}_{step}.pth"
        write_checkpoint(self.folder / name, step, size)
        self.note(name, step, kind, **values)
        return name

    def note(self, name, step, kind="latest", **values):
        stat, digest = (self.folder / name).stat(), scan(self.folder / name).digest
        self.journal.append(
            saved(
                step,
                kind,
                path=name,
                **{"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "digest": digest, **values},
            )
        )

    def prune(self, *names):
        for name in names:
            (self.folder / name).unlink()
        self.journal.append(pruned(99, *names))

    def mirror(self, url, **values):
        return Mirror(self.folder, url, **{"log": lambda message: None, **values})

    def sync(self, url):
        report = self.mirror(url).sync()
        assert report.ok, report.failed
        return report


def write_checkpoint(path, seed, size):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", "pickle")
        archive.writestr("archive/data/0", random.Random(seed).randbytes(size))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "runs" / "xtts-November-23-2026_06+38AM-abc")


def remote_files(url):
    """Every file below a run's remote folder, by name."""
    fs, root = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return {path[len(root) :].lstrip("/").partition("/")[2]: fs.cat_file(path) for path in fs.find(root)}


def manifest(url):
    return json.loads(remote_files(url)[MANIFEST])


def unfinished_uploads(s3):
    """Parts that nobody sees, and that are paid for."""
    uploads = s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return [upload["Key"] for upload in uploads if upload["Key"].startswith(s3.prefix + "/")]


def assert_promises_hold(url):
    """Whatever the manifest lists is there, whole."""
    if MANIFEST in remote_files(url):
        assert [file for file in verify_remote(url) if file.wrong] == []


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
    monkeypatch.setattr(remote_module, "_PART_BYTES", 5 << 20)
    monkeypatch.setattr(remote_module, "_CHUNK", 1 << 20)
    run.save(10, size=13_000_000)
    run.sync(s3.url)
    head = s3.client.head_object(Bucket=BUCKET, Key=f"{s3.prefix}/{run.folder.name}/checkpoint_10.pth")
    assert head["ETag"].strip('"').endswith("-3")  # an object of three parts
    assert all(file.wrong is None for file in verify_remote(s3.url))


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

    monkeypatch.setattr(remote_module, "_PART_BYTES", 5 << 20)
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
from xtts_gatekeeper.checkpoints import remote
remote._PART_BYTES = 5 << 20
remote._CHUNK = 1 << 20
chunks, at = remote._chunks, int(sys.argv[3])
total = 0
def dying(source, size):
    global total
    for chunk in chunks(source, size):
        yield chunk
        total += len(chunk)
        if total >= at:
            os.kill(os.getpid(), signal.SIGKILL)
remote._chunks = dying
remote.Mirror(Path(sys.argv[1]), sys.argv[2], log=print).sync()
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
    remove = remote_module._Remote.remove

    def removing(self, name):
        listed.append((name in manifest(url)["files"], "checkpoint_30.pth" in manifest(url)["files"]))
        assert name in remote_files(url)
        remove(self, name)

    monkeypatch.setattr(remote_module._Remote, "remove", removing)
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


def test_a_deletion_that_failed_is_made_up_for(run, url, monkeypatch):
    run.save(10)
    run.sync(url)
    run.save(20)
    run.prune("checkpoint_10.pth")
    with monkeypatch.context() as patch:
        patch.setattr(remote_module._Remote, "remove", lambda self, name: 1 / 0)
        assert not run.mirror(url).sync().ok
    assert "checkpoint_10.pth" not in manifest(url)["files"]
    assert "checkpoint_10.pth" in remote_files(url)
    assert run.sync(url).removed == ["checkpoint_10.pth"]
    assert "checkpoint_10.pth" not in remote_files(url)


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


def test_a_file_pruned_during_its_upload_is_no_failure(run, url, monkeypatch):
    monkeypatch.setattr(remote_module, "_CHUNK", 1000)
    run.save(10)
    run.save(20)
    chunks = remote_module._chunks

    def pruning(source, size):
        for number, chunk in enumerate(chunks(source, size)):
            if number == 1 and (run.folder / "checkpoint_10.pth").exists():
                run.save(30)
                run.prune("checkpoint_10.pth", "checkpoint_20.pth")
            yield chunk

    monkeypatch.setattr(remote_module, "_chunks", pruning)
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
    put = remote_module._Remote.put

    def pruning(self, name, source, size):
        if name == "checkpoint_20.pth":
            run.save(50, "best", value=1.0)
            run.prune("best_model_30.pth")
        return put(self, name, source, size)

    with monkeypatch.context() as patch:
        patch.setattr(remote_module._Remote, "put", pruning)
        report = run.sync(url)
    assert (report.removed, report.deferred) == ([], ["best_model_10.pth"])
    report = run.sync(url)
    assert report.removed == ["best_model_10.pth"]
    assert "best_model_50.pth" in report.uploaded


@pytest.mark.parametrize("step", [10, 20])
def test_an_end_between_upload_and_manifest_breaks_no_promise(run, url, monkeypatch, step):
    run.save(10)
    run.sync(url)
    write_checkpoint(run.folder / f"checkpoint_{step}.pth", 999, 2000)  # 10: another content under the same name
    run.note(f"checkpoint_{step}.pth", step)
    put = remote_module._Remote.put

    def ending(self, name, source, size):
        put(self, name, source, size)
        if name.endswith(".pth"):
            raise OSError("the connection broke")
        return "unused"

    with monkeypatch.context() as patch:
        patch.setattr(remote_module._Remote, "put", ending)
        assert "the connection broke" in run.mirror(url).sync().failed[""]
    assert_promises_hold(url)
    run.save(30)
    assert "checkpoint_30.pth" in run.sync(url).uploaded
    assert all(file.wrong is None for file in verify_remote(url))
    assert {"checkpoint_10.pth", "checkpoint_30.pth"} <= {*manifest(url)["files"]}


def test_an_upload_whose_source_fails_leaves_no_file_and_the_others_go_on(run, url, monkeypatch, request):
    monkeypatch.setattr(remote_module, "_PART_BYTES", 5 << 20)
    monkeypatch.setattr(remote_module, "_CHUNK", 1 << 20)
    run.save(10, size=13_000_000)
    run.save(20)
    chunks = remote_module._chunks

    def failing(source, size):
        for number, chunk in enumerate(chunks(source, size)):
            if number == 8:
                raise remote_module._FileTrouble("the local file cannot be read: [Errno 5]")
            yield chunk

    with monkeypatch.context() as patch:
        patch.setattr(remote_module, "_chunks", failing)
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
        patch.setattr(remote_module._Remote, "read", lambda self, name: (_ for _ in ()).throw(OSError("cut")))
        with pytest.raises(UserError, match="could not be read: OSError: cut"):
            fetch_resumable(url, target)
    with monkeypatch.context() as patch:
        patch.setattr(remote_module._Fetch, "_small", lambda self, name: (_ for _ in ()).throw(OSError("cut")))
        with pytest.raises(UserError, match="cut"):
            fetch_resumable(url, target)
    assert not target.exists()
    downloads = []
    copy = remote_module._Remote.copy
    monkeypatch.setattr(
        remote_module._Remote, "copy", lambda self, *values: downloads.append(values) or copy(self, *values)
    )
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


def test_after_a_failure_a_mirror_connects_anew(run, tmp_path, monkeypatch):
    url = f"memory://{tmp_path.name}"
    run.save(10)
    mirror = run.mirror(url)
    assert mirror.sync().ok
    before, _ = fsspec.core.url_to_fs(url)
    with monkeypatch.context() as patch:
        patch.setattr(remote_module._Remote, "sizes", lambda self: 1 / 0)
        assert not mirror.sync().ok
    assert fsspec.core.url_to_fs(url)[0] is not before
    assert mirror.sync().ok


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


def test_importing_the_mirror_imports_neither_fsspec_nor_torch(python):
    code = "import sys, xtts_gatekeeper.checkpoints.remote; print({'fsspec', 'torch'} & {*sys.modules})"
    assert python("-c", code).stdout.strip() == "set()"

"""A run folder to mirror, an S3 server to mirror it to, and looks at what is there."""

import json
import random
import socket
import subprocess
import sys
import time
import zipfile

from records import pruned, saved, start

from xtts_gatekeeper.checkpoints.integrity import scan
from xtts_gatekeeper.checkpoints.remote import Mirror, verify_remote
from xtts_gatekeeper.checkpoints.remote_store import MANIFEST
from xtts_gatekeeper.record import Journal, journal_path

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


def remote_files(url):
    """Every file below a run's remote folder, by name."""
    from fsspec.core import url_to_fs

    fs, root = url_to_fs(url)
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

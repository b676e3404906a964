"""Remotes of three kinds: a real S3 server (moto's, a process of its own on loopback), memory, and a folder."""

from types import SimpleNamespace

import pytest
from remotes import BUCKET, CREDENTIALS, Run, Server


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


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "runs" / "xtts-November-23-2026_06+38AM-abc")

import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from xtts_gatekeeper import base
from xtts_gatekeeper.base import TRAINING_FILES, WEIGHTS, download_xtts_v2, read_base, resolve_base
from xtts_gatekeeper.errors import UserError

PAGE = b"<!doctype html><title>404</title>Entry not found"


@pytest.fixture
def published(tmp_path):
    """The content of the files that a server has under XTTS v2's names; small ones of the right format."""
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"pickle")
        archive.writestr("archive/data/0", b"x" * 5000)
    zipped = (tmp_path / "a.pth").read_bytes()
    config = json.dumps({"model_args": {"gpt_layers": 30, "gpt_num_audio_tokens": 1026}}).encode()
    return {
        "vocab.json": b'{"model": {}}',
        "dvae.pth": zipped,
        "mel_stats.pth": b"\x80\x02legacy pickle",
        "model.pth": zipped,
        "config.json": config,
    }


def fill(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


# A folder as the base


def test_a_folder_with_the_files_is_a_base_of_its_own_architecture(tmp_path, published):
    found = read_base(fill(tmp_path / "b", published))
    assert found.architecture["gpt_layers"] == 30
    args = found.model_args()
    assert args["xtts_checkpoint"] == str(tmp_path / "b/model.pth")
    assert args["tokenizer_file"] == str(tmp_path / "b/vocab.json")
    assert args["gpt_layers"] == 30


def test_without_config_it_is_the_public_architecture_and_without_weights_it_starts_from_none(tmp_path, published):
    del published["config.json"], published["model.pth"]
    found = read_base(fill(tmp_path / "b", published))
    assert found.architecture["gpt_use_perceiver_resampler"]
    assert "gpt_layers" not in found.architecture
    assert found.model_args()["xtts_checkpoint"] == ""


@pytest.mark.parametrize("name", TRAINING_FILES)
def test_a_missing_file_is_named(tmp_path, published, name):
    del published[name]
    with pytest.raises(UserError, match=f"lacks {name}; "):
        read_base(fill(tmp_path / "b", published))


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    with pytest.raises(UserError, match=r"lacks vocab\.json, dvae\.pth, mel_stats\.pth, model\.pth;"):
        read_base(tmp_path, needs=(*TRAINING_FILES, WEIGHTS))


@pytest.mark.parametrize("name", ["missing", "a.pth"])
def test_what_is_no_folder_is_refused(tmp_path, published, name):
    with pytest.raises(UserError, match="neither toy nor xtts-v2 nor a folder"):
        resolve_base(str(tmp_path / name), tmp_path)


@pytest.mark.parametrize("config", [b"{", b"[]", b"{}", b'{"model_args": 5}', b'{"model_args": null}', b"\xff\xfe"])
def test_a_config_that_is_none_of_xtts_is_refused(tmp_path, published, config):
    with pytest.raises(UserError, match=r"config\.json is no XTTS config"):
        read_base(fill(tmp_path / "b", {**published, "config.json": config}))


# The download, by the stack's own ModelManager from a server on this machine


@pytest.fixture
def server(published, monkeypatch):
    """Serves `published`, or what a test puts into `answers`; `asked` lists the files asked for."""
    pytest.importorskip("TTS.utils.manage", reason="the train extra is not installed")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rsplit("/", 1)[-1]
            running.asked.append(name)
            status, body, length = running.answers.get(name) or (200, published[name], None)
            self.send_response(status)
            self.send_header("Content-Length", str(length or len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked, running.answers = [], {}
        monkeypatch.setattr(base, "XTTS_V2_URL", f"http://127.0.0.1:{running.server_port}/XTTS-v2")
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield running
        running.shutdown()


def refused(folder):
    with pytest.raises(UserError) as caught:
        download_xtts_v2(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_file_arrives_as_it_was_published_and_the_folder_is_a_base(tmp_path, server, published):
    found = resolve_base("xtts-v2", tmp_path / "cache")
    assert found.folder == tmp_path / "cache/xtts-v2"
    assert {path.name: path.read_bytes() for path in found.folder.iterdir()} == published
    assert sorted(server.asked) == sorted(published)


def test_what_is_there_is_not_asked_for_again(tmp_path, server, published):
    del published["dvae.pth"]
    fill(tmp_path / "xtts-v2", published)
    published["dvae.pth"] = published["model.pth"]
    resolve_base("xtts-v2", tmp_path)
    resolve_base("xtts-v2", tmp_path)
    assert server.asked == ["dvae.pth"]


@pytest.mark.parametrize("name", ["vocab.json", "dvae.pth", "mel_stats.pth", "model.pth", "config.json"])
def test_an_error_page_does_not_get_the_files_name(tmp_path, server, name):
    server.answers[name] = (404, PAGE, None)
    assert f"{name} did not arrive" in refused(tmp_path / "x")
    there = [path.name for path in (tmp_path / "x").iterdir()]
    assert sorted(there) == sorted(server.asked[:-1])
    del server.answers[name]
    download_xtts_v2(tmp_path / "x")
    assert len(list((tmp_path / "x").iterdir())) == 5


def test_a_file_that_was_cut_on_the_server_does_not_get_its_name(tmp_path, server, published):
    server.answers["model.pth"] = (200, published["model.pth"][:-100], None)
    assert "model.pth did not arrive" in refused(tmp_path)
    assert not (tmp_path / "model.pth").exists()
    assert not list(tmp_path.glob("arriving*"))


def test_a_connection_that_breaks_off_is_a_sentence(tmp_path, server, published):
    body = published["model.pth"]
    server.answers["model.pth"] = (200, body[:-100], len(body))
    assert "could not be downloaded" in refused(tmp_path)
    assert not (tmp_path / "model.pth").exists()
    assert not list(tmp_path.glob("arriving*"))


def test_without_a_connection_it_says_what_to_do(tmp_path, server):
    server.shutdown()
    server.server_close()
    assert "go online once or give a folder as the base" in refused(tmp_path / "x")
    assert not list((tmp_path / "x").iterdir())


@pytest.mark.parametrize("name", ["vocab.json", "config.json"])
def test_an_error_in_json_does_not_get_the_files_name(tmp_path, server, name):
    server.answers[name] = (403, b'{"error": "gated"}', None)
    assert f"{name} did not arrive" in refused(tmp_path / "x")
    assert not (tmp_path / "x" / name).exists()


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path, server):
    (tmp_path / "file").write_text("in the way")
    assert "could not be stored" in refused(tmp_path / "file" / "x")

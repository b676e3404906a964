"""Shared toy assets, built once a session: they are what costs time."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# The stock stack sets torch to one thread on import; BLAS pools of the other libraries would only get in the way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is known of audio files is shared by the processes of a session, and is nobody else's.
_CACHE = tempfile.TemporaryDirectory(prefix="audio-cache-")
os.environ["XTTS_GATEKEEPER_CACHE"] = str(Path(_CACHE.name) / "audio.sqlite")


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory):
    """Folder with the toy's vocab.json, dvae.pth, mel_stats.pth and config.json."""
    from xtts_gatekeeper.toy.model import build_toy_base

    return build_toy_base(tmp_path_factory.mktemp("toy") / "base")


@pytest.fixture(scope="session")
def speaking_base(toy_base, tmp_path_factory):
    """A toy base with weights for all of the XTTS, decoder included, so that it speaks: noise, of 4 s at most."""
    return make_speaking_base(toy_base, tmp_path_factory.mktemp("toy") / "speaking")


def make_speaking_base(toy_base, folder):
    """Make it in `folder` out of a toy base on the same disk."""
    import json

    import torch
    from TTS.tts.models.xtts import Xtts

    from xtts_gatekeeper.checkpoints.source import build_xtts
    from xtts_gatekeeper.toy.model import TOY_ARGS

    folder.mkdir()
    for name in ("vocab.json", "dvae.pth", "mel_stats.pth"):
        os.link(toy_base / name, folder / name)
    args = {**TOY_ARGS, "gpt_max_audio_tokens": 90}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model: Xtts = build_xtts({"model": "xtts", "model_args": args}, folder / "vocab.json")
    # What training leaves in a real one, and 0 from birth.
    state = {
        key: torch.full_like(value, 0.01) if key.endswith("running_mean") else value
        for key, value in model.state_dict().items()
    }
    torch.save({"model": state}, folder / "model.pth")
    (folder / "config.json").write_text(json.dumps({"model_args": args}))
    return folder


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """LJSpeech folder with 16 short clips spoken by espeak-ng."""
    from xtts_gatekeeper.toy.sentences import SENTENCES
    from xtts_gatekeeper.toy.speech import make_speech_set

    return make_speech_set(tmp_path_factory.mktemp("speech") / "clips", SENTENCES[:16])


@pytest.fixture(scope="module", autouse=True)
def no_stand_ins():
    """Without SpeechBrain's stand-ins for modules that are not installed, which an earlier file's tests may leave.

    They raise an error when they are asked for their file, as hypothesis asks every module there is.
    """
    for name, module in list(sys.modules.items()) if "speechbrain" in sys.modules else ():
        if name.startswith("speechbrain.") and type(module).__name__ in ("LazyModule", "DeprecatedModuleRedirect"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def chromium():
    """A headless browser. Of a file of tests: as long as it is open, playwright lets no other be opened beside it."""
    from browser import open_chromium

    with open_chromium() as browser:
        yield browser


@pytest.fixture
def python():
    """Run a Python child process in the repository: `python("recipes/x.py", "--flag")`."""

    def run(*arguments, cwd=None, env=None, timeout=300):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd or ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run

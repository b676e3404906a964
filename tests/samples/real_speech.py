"""Real speech and real models for tests, where they are there."""

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
sys.path.append(str(Path(__file__).parents[2] / "recipes" / "datasets"))


def models_or_skip():
    """Folder with the measures' models."""
    pytest.importorskip("faster_whisper", reason="the measures extra is not installed")
    pytest.importorskip("speechbrain", reason="the measures extra is not installed")
    named = os.environ.get("XTTS_GATEKEEPER_MODELS", "")
    if not named or not (Path(named) / "faster-whisper-base" / "model.bin").is_file():
        pytest.skip("XTTS_GATEKEEPER_MODELS names no folder with faster-whisper-base and ecapa")
    return Path(named)


def prompts_or_skip(folder, language):
    """An LJSpeech folder of Asterisk prompts of 2 to 6 s: [(audio file, text)]."""
    import asterisk

    from xtts_gatekeeper.errors import UserError

    arguments = ["--language", language, "--output", str(folder), "--min-seconds", "2", "--max-seconds", "6"]
    before, sys.argv = sys.argv, ["asterisk.py", *arguments]
    try:
        asterisk.convert(asterisk.parse_arguments())
    except UserError as error:
        pytest.skip(str(error))
    finally:
        sys.argv = before
    lines = (folder / "metadata.csv").read_text(encoding="utf-8").splitlines()
    clips = [line.split("|")[:2] for line in lines]
    return [(folder / "wavs" / f"{name}.wav", text) for name, text in clips if len(text.split()) >= 4]

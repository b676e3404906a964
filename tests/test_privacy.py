import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xtts_gatekeeper import privacy

ROOT = Path(__file__).parent.parent

#: Variable -> the module of a published package that reads it when it is imported.
READERS = {
    "TRAINER_TELEMETRY": "trainer",
    "MLFLOW_DISABLE_TELEMETRY": "mlflow",
    "HF_HUB_DISABLE_TELEMETRY": "huggingface_hub",
    "DISABLE_SAFETENSORS_CONVERSION": "transformers",
    "GRADIO_ANALYTICS_ENABLED": "gradio",
}


def child(code, path=(), **environment):
    """Run `code` in a new process without any telemetry variable but those given; what it prints is JSON."""
    bare = {key: value for key, value in os.environ.items() if key not in privacy.TELEMETRY_OFF}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**bare, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *path])), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


def test_importing_the_package_sets_every_default():
    told = child("import json, os, xtts_gatekeeper; print(json.dumps(dict(os.environ)))")
    assert {variable: told[variable] for variable in privacy.TELEMETRY_OFF} == privacy.TELEMETRY_OFF


def test_the_import_of_the_package_imports_no_reader_itself():
    told = child("import json, sys, xtts_gatekeeper; print(json.dumps(sorted(sys.modules)))")
    assert not {*READERS.values(), "torch", "TTS"} & set(told)


@pytest.mark.parametrize("own", ["1", "", "whatever"])
def test_a_value_of_the_users_own_is_kept(own):
    environ = {"TRAINER_TELEMETRY": own, "UNRELATED": "x"}
    privacy.switch_telemetry_off(environ)
    assert environ == {**privacy.TELEMETRY_OFF, "TRAINER_TELEMETRY": own, "UNRELATED": "x"}


def test_the_state_is_what_is_in_effect(monkeypatch):
    monkeypatch.setenv("TRAINER_TELEMETRY", "1")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    told = privacy.state()
    assert told.keys() == privacy.TELEMETRY_OFF.keys()
    assert (told["TRAINER_TELEMETRY"], told["RAY_USAGE_STATS_ENABLED"]) == ("1", "")


TOO_LATE = "import {} , json, xtts_gatekeeper.privacy as privacy; print(json.dumps(privacy.too_late()))"


@pytest.mark.parametrize(("variable", "module"), READERS.items())
def test_a_reader_that_was_imported_first_is_told(tmp_path, variable, module):
    """The reader is a stand-in of the same name: what counts is that it was imported."""
    (tmp_path / f"{module}.py").touch()
    assert child(TOO_LATE.format(module), [tmp_path]) == [variable]
    assert child(TOO_LATE.format("json"), [tmp_path]) == []
    assert child(TOO_LATE.format(module), [tmp_path], **{variable: "1"}) == []


@pytest.mark.skipif(not importlib.util.find_spec("huggingface_hub"), reason="huggingface_hub is not installed")
def test_the_real_huggingface_hub_is_told_when_late_and_sends_nothing_when_not():
    assert "HF_HUB_DISABLE_TELEMETRY" in child(TOO_LATE.format("huggingface_hub"))
    code = (
        "import json, xtts_gatekeeper.privacy as privacy, huggingface_hub.constants as hub;"
        "print(json.dumps([privacy.too_late(), hub.HF_HUB_DISABLE_TELEMETRY]))"
    )
    assert child(code) == [[], True]

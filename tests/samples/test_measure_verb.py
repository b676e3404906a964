"""The verb `measure`: any audio; one sentence and exit code 2 for what cannot be measured at all."""

import json

import pytest
from click.testing import CliRunner
from samples.real_speech import models_or_skip, prompts_or_skip

from xtts_gatekeeper.cli import cli
from xtts_gatekeeper.errors import UserError

np = pytest.importorskip("numpy", reason="numpy comes with the measures extra")
soundfile = pytest.importorskip("soundfile", reason="soundfile comes with the measures extra")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return prompts_or_skip(tmp_path_factory.mktemp("prompts") / "en", "en")


def measure(*arguments):
    """Exit code and JSON of a call."""
    result = CliRunner().invoke(cli, ["measure", *map(str, arguments), "--json"], catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout)


def refused(*arguments):
    """The sentence of a call that is bad usage."""
    result = CliRunner().invoke(cli, ["measure", *map(str, arguments)])
    assert isinstance(result.exception, UserError), result.output
    assert "Traceback" not in result.output and not result.stdout
    return str(result.exception)


def test_clips_of_a_speaker_and_one_that_was_cut(tmp_path, clips):
    models = models_or_skip()
    whole, text = clips[0]
    audio, rate = soundfile.read(whole)
    cut = tmp_path / "cut.wav"
    soundfile.write(cut, audio[: int(0.55 * len(audio))], rate)
    (tmp_path / "metadata.csv").write_text(f"{whole.stem}|{text}|{text}\ncut|{text}|{text}\n", encoding="utf-8")
    speaker = tmp_path / "speaker.csv"
    lines = [f"{path.stem}|{text}|{text}" for path, text in clips[1:9]]
    speaker.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "wavs").symlink_to(whole.parent)
    code, document = measure(
        whole,
        cut,
        "--metadata",
        tmp_path / "metadata.csv",
        "--language",
        "en",
        "--reference",
        speaker,
        "--models",
        models,
    )
    good, bad = document["files"]
    assert code == 1
    assert document["calibration"]["own"] and len(document["calibration"]["clips"]) == 8
    assert good["faults"] == [] and good["missing"] == {} and good["text"] == text
    assert "early_stop" in {fault["kind"] for fault in bad["faults"]}
    assert bad["values"]["duration_ratio"] < -0.3
    assert {one["name"] for one in document["measures"]} >= {"words", "ends", "dnsmos", "naturalness", "likeness"}


def test_one_bad_file_does_not_spoil_the_others(tmp_path, clips, monkeypatch):
    monkeypatch.delenv("XTTS_GATEKEEPER_MODELS", raising=False)
    pytest.importorskip("speechmos", reason="the measures extra is not installed")
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    result = CliRunner().invoke(
        cli, ["measure", str(tmp_path / "text.wav"), str(clips[0][0]), str(tmp_path / "silent.wav")]
    )
    assert result.exit_code == 1
    assert "it cannot be read as audio (Format not recognised)." in result.stdout
    assert "it is silent." in result.stdout
    assert "Not measured: words (its text is not told)" in result.stdout
    assert "give clips of the speaker with --reference" in result.stdout


def test_a_file_that_is_fine_ends_with_zero_without_models(clips, monkeypatch):
    monkeypatch.delenv("XTTS_GATEKEEPER_MODELS", raising=False)
    pytest.importorskip("speechmos", reason="the measures extra is not installed")
    code, document = measure(clips[0][0])
    assert code == 0
    assert document["files"][0]["faults"] == []
    assert document["files"][0]["missing"]["likeness"] == "no clip of the speaker is given"


def test_a_lone_bad_file_is_refused(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    assert refused(tmp_path / "silent.wav") == f"{tmp_path / 'silent.wav'} cannot be measured: it is silent."


def test_bad_usage_is_one_sentence(tmp_path, clips):
    audio = clips[0][0]
    (tmp_path / "metadata.csv").write_text("other|Some words|Some words\n", encoding="utf-8")
    metadata = ["--metadata", tmp_path / "metadata.csv", "--language", "en"]
    assert "nothing to measure" in refused()
    assert "give one of them" in refused(audio, "--text", "a", *metadata)
    assert "--text is what one file says, and 2 are given" in refused(audio, audio, "--text", "a")
    assert "has no line for" in refused(audio, *metadata)
    assert "does not exist" in refused(audio, "--reference", tmp_path / "nowhere.wav")
    assert "'xx'" in refused(audio, "--language", "xx")
    (tmp_path / "empty.wav").write_bytes(b"")
    assert "none of the references can be used (empty.wav: the file is empty)" in refused(
        audio, "--reference", tmp_path / "empty.wav"
    )
    (tmp_path / "calibration.json").write_text("{}")
    assert "cannot be read" in refused(audio, "--calibration", tmp_path / "calibration.json")

"""Folders of samples are measured by a process of its own, whatever becomes of it."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from samples.real_speech import models_or_skip, prompts_or_skip

from xtts_gatekeeper.samples.calibration import Reference, read_calibration
from xtts_gatekeeper.samples.sets import Sample, SampleSet, read_set, write_spoken
from xtts_gatekeeper.samples.worker import Worker

soundfile = pytest.importorskip("soundfile", reason="soundfile comes with the measures extra")

#: Loading torch and four models takes its time on a busy machine.
PATIENCE = 180


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return prompts_or_skip(tmp_path_factory.mktemp("prompts") / "en", "en")


def folder_of(path, clips, broken=False):
    """A set of samples made of real clips; one of them no audio, where asked for."""
    path.mkdir()
    samples = []
    for number, (audio, text) in enumerate(clips):
        file = f"p{number}-0.wav"
        (path / file).write_bytes(b"no audio" if broken and number == 0 else audio.read_bytes())
        samples.append(Sample(file=file, prompt=f"p{number}", text=text, language="en", seconds=2.0))
    write_spoken(SampleSet(folder=path, step=7, epoch=1, weights="live", prompts="abc", samples=tuple(samples)))
    return path


def test_samples_are_measured_by_the_speakers_scale_made_once(tmp_path, clips):
    models = models_or_skip()
    references = [Reference(audio_file=str(audio), text=text, language="en") for audio, text in clips[:4]]
    scale = tmp_path / "calibration.json"
    first, second = (folder_of(tmp_path / name, clips[4:6], broken=name == "second") for name in ("first", "second"))
    worker = Worker(models)
    worker.submit(first, scale, references)
    worker.submit(second, scale, references)
    assert worker.finished() == []  # it never waits
    assert worker.wait(PATIENCE)
    assert [(done.folder, done.error) for done in worker.finished()] == [(first, ""), (second, "")]
    worker.close()

    assert len(read_calibration(scale).clips) == 4
    measured = read_set(first)
    assert len(measured.measured) == 2
    for one in measured.measured:
        assert one.error == "" and one.missing == {} and one.heard
        assert one.values["wer"] < 0.5 and one.values["likeness"] > 0.4
    assert 15 < measured.scores["sample.score"] <= 25
    bad, good = read_set(second).measured
    assert bad.error == "it cannot be read as audio (Format not recognised)."
    assert good.values == pytest.approx(measured.measured[1].values, rel=1e-3, abs=1e-3)


def test_a_process_that_dies_costs_what_it_was_at_and_no_more(tmp_path, clips):
    models = models_or_skip()
    first, second = (folder_of(tmp_path / name, clips[:1]) for name in ("first", "second"))
    worker = Worker(models)
    worker.submit(first, tmp_path / "none.json")
    (child,) = (p for p in psutil.Process().children() if "xtts_gatekeeper.samples.work" in p.cmdline())
    child.kill()
    assert worker.wait(PATIENCE)
    (done,) = worker.finished()
    assert done.folder == first
    assert "ended with exit code" in done.error or "could not be reached" in done.error
    assert not (first / "measures.json").exists()
    worker.submit(second, tmp_path / "none.json")
    assert worker.wait(PATIENCE)
    assert [(done.folder, done.error) for done in worker.finished()] == [(second, "")]
    worker.close()
    assert read_set(second).measured


def test_without_models_what_needs_none_is_measured_and_the_rest_says_why(tmp_path, clips, monkeypatch):
    models = models_or_skip()
    monkeypatch.delenv("XTTS_GATEKEEPER_MODELS")
    folder = folder_of(tmp_path / "set", clips[:1])
    worker = Worker(None)
    worker.submit(folder, tmp_path / "none.json")
    assert worker.wait(PATIENCE)
    worker.close()
    (one,) = read_set(folder).measured
    assert one.missing["words"].startswith("the model faster-whisper-base is missing: allow its download")
    assert one.values["dnsmos"] > 2 and "wer" not in one.values
    again = Worker(models)  # the models have come: what was missing is measured
    again.submit(folder, tmp_path / "none.json")
    assert again.wait(PATIENCE)
    again.close()
    (one,) = read_set(folder).measured
    assert "words" not in one.missing and one.values["wer"] < 0.5


def test_a_folder_without_samples_is_said_and_does_not_stop_the_next(tmp_path):
    (tmp_path / "empty").mkdir()
    worker = Worker(None)
    worker.submit(tmp_path / "empty", tmp_path / "none.json")
    assert worker.wait(PATIENCE)
    (done,) = worker.finished()
    assert "holds no samples" in done.error
    worker.close()
    worker.close()


SUBMITS = """
import sys, time
from pathlib import Path
from xtts_gatekeeper.samples.worker import Worker
worker = Worker(None)
worker.submit(Path(sys.argv[1]), Path(sys.argv[1]) / "none.json")
print(worker._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_it_ends_with_the_training_that_is_killed(tmp_path):
    training = subprocess.Popen(
        [sys.executable, "-c", SUBMITS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = psutil.Process(int(training.stdout.readline()))
    assert child.environ()["CUDA_VISIBLE_DEVICES"] == ""
    os.kill(training.pid, signal.SIGKILL)
    training.communicate()
    child.wait(PATIENCE)
    assert not child.is_running()


def test_what_is_on_disk_is_whole_json(tmp_path, clips):
    folder = folder_of(tmp_path / "set", clips[:2])
    document = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    assert [sample["text"] for sample in document["samples"]] == [text for _, text in clips[:2]]
    assert read_set(folder).of(read_set(folder).samples[0]) is None

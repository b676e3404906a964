"""A model in training speaks its prompts, and training never notices."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from samples.real_speech import models_or_skip
from traces import same, trace

from xtts_gatekeeper import read_run
from xtts_gatekeeper.base import read_base
from xtts_gatekeeper.config import CheckpointsConfig, GatekeeperConfig, SamplesConfig
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import Evaluation, SampleScore
from xtts_gatekeeper.samples import speak
from xtts_gatekeeper.samples.sampling import SAMPLES
from xtts_gatekeeper.samples.sets import Measured, read_set, write_measured

SCORES = {"sample.score": 20.0, "sample.intelligibility": 4.0}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """The toy does not know how to end: a quarter of a second is enough of it."""
    monkeypatch.setattr(speak, "_PATIENCE", 0.02)
    monkeypatch.setattr(speak, "_MORE_SECONDS", 0.2)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text("- {id: 'yes', text: Yes.}\n- {id: 'no', text: 'No.', seed: 4}\n")
    return path


@pytest.fixture
def speaking(make_trainer, speaking_base, prompts, tmp_path):
    """A trainer of a toy that speaks; `samples` are settings of that section, `section` others of ours."""
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs

    def make(output=None, samples=None, section=None, **more):
        settings = {"prompts": str(prompts), "measure": False, "other_languages": 1, **(samples or {})}
        section = GatekeeperConfig(**{"samples": SamplesConfig(**settings), **(section or {})})
        model_args = GPTArgs(**read_base(speaking_base).model_args())
        return make_trainer(output or tmp_path / "out", section, **{"epochs": 1, "model_args": model_args, **more})

    return make


def folder_of(trainer):
    return Path(trainer.output_path) / "gatekeeper" / SAMPLES


def sets(trainer):
    return {path.name: read_set(path) for path in folder_of(trainer).iterdir() if path.is_dir()}


class FakeWorker:
    """Measures at once, or when `hold` is let go; what the process beside training would write."""

    hold = False
    error = ""
    made: list = []

    def __init__(self, *told):
        type(self).made.append(self)
        self.told = told
        self.submitted, self.references, self.closed = [], None, 0

    def submit(self, folder, calibration, references):
        self.submitted.append(folder)
        self.references = references
        assert calibration == folder.parent / "calibration.json"

    def finished(self):
        if self.hold:
            return []
        done, self.submitted = self.submitted, []
        found = []
        for folder in done:
            if not self.error:
                files = [sample.file for sample in read_set(folder).samples]
                write_measured(folder, [Measured(file=file) for file in files], "fake", SCORES)
            found.append(type("Finished", (), {"folder": folder, "error": self.error})())
        return found

    def wait(self, seconds):
        return not self.hold

    def close(self, seconds=5.0):
        self.closed += 1


@pytest.fixture
def worker(monkeypatch):
    import xtts_gatekeeper.samples.worker as module

    class Worker(FakeWorker):
        made: list = []

    monkeypatch.setattr(module, "Worker", Worker)
    return Worker


# Training never notices

PLAIN = {"epochs": 2, "run_eval_steps": 3, "save_step": 3}
MIXED = {**PLAIN, "mixed_precision": True, "precision": "bf16", "grad_clip": 1.0, "start_with_eval": True}


@pytest.mark.parametrize("config", [PLAIN, MIXED], ids=["plain", "mixed"])
def test_training_with_samples_is_bit_identical_to_training_without(speaking, tmp_path, config):
    args = {"grad_accum_steps": 2, "start_with_eval": config.get("start_with_eval", False)}
    config = {key: value for key, value in config.items() if key != "start_with_eval"}
    silent = trace(speaking(tmp_path / "silent", {"every": 0}, args=args, **config))
    trainer = speaking(tmp_path / "spoken", args=args, **config)
    spoken = trace(trainer)
    assert len(sets(trainer)) >= 4 - args["start_with_eval"]
    assert len(spoken["losses"]) == 8 - 4 * args["start_with_eval"]
    for key in ("losses", "weights", "optimizer", "rng", "files"):
        assert same(silent[key], spoken[key]), key
    for name in silent["checkpoints"]:
        for key in ("model", "optimizer", "step", "epoch", "model_loss"):
            pair = [run["checkpoints"][name].get(key) for run in (silent, spoken)]
            assert same(*pair), (name, key)
    # And what was spoken is not the same at every step, which it would be if the weights were not those in training.
    assert len({made.digest for made in sets(trainer).values()}) == len(sets(trainer))


def test_modes_after_an_evaluation_within_an_epoch_are_those_of_a_run_without_samples(speaking, tmp_path):
    def modes(trainer):
        found = []
        stock = trainer.train_step

        def look(*args, **kwargs):
            found.append([module.training for module in trainer.model.modules()])
            return stock(*args, **kwargs)

        trainer.train_step = look
        trainer.fit()
        return found

    runs = [speaking(tmp_path / str(every), {"every": every}, run_eval_steps=1) for every in (0, 1)]
    assert modes(runs[0]) == modes(runs[1])


# What is there afterwards


def test_a_run_leaves_a_set_at_the_start_and_at_every_evaluation(speaking):
    trainer = speaking(epochs=2)
    trainer.fit()
    found = sets(trainer)
    assert sorted(found, key=int) == ["0", "4", "8"]
    for name, made in found.items():
        assert [(sample.prompt, sample.language, sample.own) for sample in made.samples] == [
            ("yes", "en", True),
            ("no", "en", True),
            ("es-plain", "es", False),
        ]
        assert (str(made.step), made.weights) == (name, "live")
        assert all((made.folder / sample.file).stat().st_size > 1000 for sample in made.samples)
    assert [found[name].epoch for name in ("0", "4", "8")] == [0, 0, 1]
    assert len({made.prompts for made in found.values()}) == 1
    assert len({(made.folder / "yes.wav").read_bytes() for made in found.values()}) == 3
    record = read_run(trainer.output_path)
    assert not record.incidents
    assert not record.sample_scores  # nobody has measured


def test_samples_are_spoken_every_so_many_evaluations_and_at_new_bests(speaking, monkeypatch):
    """The objective gets worse from the second on: of four evaluations two are a turn and one is the best."""
    from xtts_gatekeeper.monitors.losses import LossMeter

    stock = LossMeter.means
    worse = iter(range(10))

    def means(self, side, named):
        found = stock(self, side, named)
        return {**found, "eval.mel_ce": 7.0 + next(worse)} if side == "eval" else found

    monkeypatch.setattr(LossMeter, "means", means)
    trainer = speaking(samples={"every": 2}, epochs=4)
    trainer.fit()
    assert sorted(sets(trainer), key=int) == ["0", "4", "8", "16"]


def test_a_gate_that_comes_due_is_spoken_for(speaking, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nname: mine\nobjective: eval.objective\nminimum_evaluations: 1\n"
        "gates:\n  - {name: third, after_epochs: 3, rules: [{rule: finite, on_fail: stop}]}\n"
    )
    trainer = speaking(samples={"every": 100}, section={"policy": str(policy)}, epochs=4, lr=0.0)
    trainer.fit()
    assert sorted(sets(trainer), key=int) == ["0", "4", "12"]  # the best is the first


def test_a_model_whose_decoder_was_never_trained_does_not_speak(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, GatekeeperConfig(), epochs=1)
    trainer.fit()
    assert not folder_of(trainer).exists()
    assert not any("samples" in warning for warning in read_run(trainer.output_path).start.warnings)


def test_that_is_said_where_samples_were_asked_for(make_trainer, tmp_path):
    section = GatekeeperConfig(samples=SamplesConfig(takes=2))
    trainer = make_trainer(tmp_path, section, epochs=1)
    trainer.fit()
    (warning,) = [said for said in read_run(trainer.output_path).start.warnings if "samples" in said]
    assert "the decoder has no trained weights" in warning


def test_prompts_that_cannot_be_used_are_refused_before_training(speaking, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("- {id: a}")
    with pytest.raises(SystemExit) as refused:
        speaking(tmp_path / "refused", {"prompts": str(tmp_path / "bad.yaml")})
    assert refused.value.code == 2
    assert "has nothing to say" in capsys.readouterr().err
    assert not list((tmp_path / "refused").glob("toy*"))


def test_settings_that_make_no_sense_are_refused():
    for settings, sentence in (
        ({"every": -1}, r"samples\.every is -1"),
        ({"takes": 0}, r"samples\.takes is 0"),
        ({"threads": 0}, r"samples\.threads is 0"),
        ({"other_languages": -2}, r"samples\.other_languages is -2"),
        ({"seconds": 0.0}, r"samples\.seconds is 0"),
        ({"wait_seconds": float("nan")}, r"samples\.wait_seconds is nan"),
        ({"models": "/nowhere"}, r"samples\.models /nowhere is no folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            GatekeeperConfig(samples=SamplesConfig(**settings)).check()


# What goes wrong


def test_an_error_while_speaking_is_an_incident_and_training_goes_on(speaking, monkeypatch):
    trainer = speaking(epochs=2)

    def fail(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.model.xtts.gpt, "generate", fail)
    keys = list(trainer.model.state_dict())
    trainer.fit()
    assert list(trainer.model.state_dict()) == keys
    record = read_run(trainer.output_path)
    assert len(record.evaluations) == 2 and record.end.how == "finished"
    (incident,) = record.incidents  # once, not at every check
    assert (incident.code, incident.step) == ("sample_missing", 0)
    assert incident.message == "not spoken at step 0: yes and 2 more: out of memory"
    assert all(not sample.file and sample.skipped for made in sets(trainer).values() for sample in made.samples)


def test_a_disk_that_is_full_costs_the_samples_only(speaking, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(speak, "write_wav", full)
    trainer = speaking()
    trainer.fit()
    assert not list(folder_of(trainer).iterdir())
    record = read_run(trainer.output_path)
    assert len(record.evaluations) == 1
    assert {incident.code for incident in record.incidents} == {"gatekeeper_error"}


def test_sigterm_while_speaking_saves_and_leaves_no_inference_layers(speaking, monkeypatch):
    """It is a request: the samples are given up, the evaluation is recorded, training is left."""
    trainer = speaking(epochs=5)
    stock = trainer.model.xtts.gpt.generate
    keys = list(trainer.model.state_dict())

    def interrupted(*args, **kwargs):
        if trainer.total_steps_done == 4:
            signal.raise_signal(signal.SIGTERM)
        return stock(*args, **kwargs)

    monkeypatch.setattr(trainer.model.xtts.gpt, "generate", interrupted)
    monkeypatch.setattr("xtts_gatekeeper.signals.Requests.obey", lambda self: None)
    before = time.monotonic()
    trainer.fit()
    assert time.monotonic() - before < 120
    assert list(trainer.model.state_dict()) == keys
    assert list(sets(trainer)) == ["0"]
    record = read_run(trainer.output_path)
    assert len(record.evaluations) == 1 and record.end.how == "terminated"


# Measured and recorded


def test_scores_are_on_record_for_a_gate_before_its_evaluation(speaking, worker):
    trainer = speaking(samples={"measure": True, "threads": 3, "wait_seconds": 30.0}, epochs=2)
    trainer.fit()
    (made,) = worker.made
    assert made.told == (None, 3, False, "base") and made.closed == 1
    assert len(made.references) == 5
    record = read_run(trainer.output_path)
    scores = [event for event in record.events if isinstance(event, SampleScore)]
    assert [(score.step, score.epoch) for score in scores] == [(0, 0), (4, 0), (8, 1)]
    assert all(score.metrics == SCORES and score.by == "measures" for score in scores)
    assert [score.folder for score in scores] == [f"gatekeeper/samples/{step}" for step in (0, 4, 8)]
    assert scores[0].prompts == sets(trainer)["0"].prompts
    order = [(type(e).__name__, e.step) for e in record.events if isinstance(e, SampleScore | Evaluation)]
    assert order.index(("SampleScore", 0)) < order.index(("Evaluation", 4))
    assert not record.incidents


def test_the_samples_of_a_training_are_measured_by_the_real_process(speaking):
    """The toy makes noise: what counts is that it is heard as such, by a scale made of the real clips."""
    models = models_or_skip()
    trainer = speaking(samples={"measure": True, "models": str(models), "wait_seconds": 300.0})
    trainer.fit()
    record = read_run(trainer.output_path)
    assert not record.incidents
    assert [score.step for score in record.sample_scores] == [0, 4]
    for made in sets(trainer).values():
        assert len(made.measured) == len(made.samples) == 3
        assert made.scores["sample.score"] < 20
        assert all(one.faults for one in made.measured)
        # A quarter of a second of noise has neither words nor pitch; no measure lacks anything of its own.
        assert not [why for one in made.measured for why in one.missing.values() if "missing" in why or "Error" in why]
    scale = json.loads((folder_of(trainer) / "calibration.json").read_text(encoding="utf-8"))
    assert len(scale["clips"]) == 5


def test_what_is_measured_late_is_recorded_with_the_step_of_its_weights(speaking, worker):
    """Nothing waits for it but the end, which does not wait for long."""
    trainer = speaking(samples={"measure": True, "wait_seconds": 0.2}, epochs=3)
    worker.hold = True
    stock = trainer.train_step

    def let_go(*args, **kwargs):
        worker.hold = trainer.total_steps_done < 6
        return stock(*args, **kwargs)

    trainer.train_step = let_go
    trainer.fit()
    events = read_run(trainer.output_path).events
    order = [(type(e).__name__, e.step) for e in events if isinstance(e, SampleScore | Evaluation)]
    assert order[:3] == [("Evaluation", 4), ("SampleScore", 0), ("SampleScore", 4)]
    assert order.count(("SampleScore", 12)) == 1


def test_live_and_offline_verdicts_are_the_same_with_scores_that_come_late(speaking, worker):
    from xtts_gatekeeper.gates import evaluate, load_policy

    trainer = speaking(samples={"measure": True}, epochs=3)
    trainer.fit()
    record = read_run(trainer.output_path)
    policy = load_policy(Path(trainer.output_path) / "gatekeeper" / "policy.yaml")
    for evaluation, live in zip(record.evaluations, record.verdicts, strict=True):
        again = evaluate(record, policy, evaluation)
        assert again.verdict == live.verdict
        failed = [reason for reason in again.to_dict()["reasons"] if reason["status"] == "failed"]
        assert json.loads(json.dumps(failed)) == live.reasons


def test_measures_that_fail_are_one_incident(speaking, worker):
    worker.error = "the model whisper is not there"
    trainer = speaking(samples={"measure": True}, epochs=2)
    trainer.fit()
    record = read_run(trainer.output_path)
    assert [incident.code for incident in record.incidents] == ["samples_not_measured"]
    assert "the model whisper is not there" in record.incidents[0].message
    assert sorted(sets(trainer), key=int) == ["0", "4", "8"]
    assert len(record.evaluations) == 2 and not record.sample_scores


def test_audio_and_scores_are_on_the_dashboard(speaking, worker):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = speaking(samples={"measure": True})
    trainer.fit()
    found = EventAccumulator(str(trainer.output_path)).Reload()
    tags = found.Tags()
    assert {"Gatekeeper/sample.yes", "Gatekeeper/sample.no", "Gatekeeper/sample.es-plain"} <= set(tags["audio"])
    assert [event.step for event in found.Audio("Gatekeeper/sample.yes")] == [0, 4]
    assert [event.step for event in found.Scalars("Gatekeeper/sample.score")] == [0, 4]
    assert found.Audio("Gatekeeper/sample.yes")[0].sample_rate == 24000


# Going on


def test_a_run_that_is_gone_on_with_repeats_no_set_of_the_same_weights(speaking, worker, tmp_path, monkeypatch):
    first = speaking(samples={"measure": True, "wait_seconds": 0.2}, epochs=1)
    worker.hold = True
    first.fit()
    worker.hold = False
    record = read_run(first.output_path)
    assert not record.sample_scores
    kept = {
        name: (path / "samples.json").stat().st_mtime_ns for path in folder_of(first).iterdir() if (name := path.name)
    }
    run = str(first.output_path)
    second = speaking(
        samples={"measure": True}, epochs=2, flags=["--continue_path", run, "--coqpit.epochs", "2"], args=None
    )
    second.fit()
    assert str(second.output_path) == run
    found = sets(second)
    assert sorted(found, key=int) == ["0", "4", "8"]
    for name, time_ns in kept.items():
        assert (found[name].folder / "samples.json").stat().st_mtime_ns == time_ns
    record = read_run(run)
    assert sorted(score.step for score in record.sample_scores) == [0, 4, 8]  # what was not measured is taken up


def test_the_set_of_an_abandoned_stretch_is_replaced(speaking, worker):
    """The run crashes behind an evaluation, goes back, and comes to the same step with other weights."""
    keep = {"checkpoints": CheckpointsConfig(keep="latest:3, best:3")}
    first = speaking(samples={"measure": True}, section=keep)
    first.fit()
    run = Path(first.output_path)
    second = speaking(
        samples={"measure": True}, section=keep, args={"continue_path": str(run)}, flags=["--coqpit.epochs", "3"]
    )
    stock = second.train_step

    def crash(*args, **kwargs):
        if second.total_steps_done == 9:
            raise RuntimeError("a crash")
        return stock(*args, **kwargs)

    second.train_step = crash
    with pytest.raises(SystemExit):
        second.fit()
    for path in run.glob("*_8.pth"):
        path.unlink()
    old = sets(second)
    assert sorted(old, key=int) == ["0", "4", "8"]
    third = speaking(
        samples={"measure": True}, section=keep, args={"continue_path": str(run)}, flags=["--coqpit.epochs", "2"]
    )
    assert third.total_steps_done == 4
    with torch.no_grad():
        third.model.xtts.gpt.final_norm.bias.add_(1e-3)
    third.fit()
    new = sets(third)
    assert [old[name].digest == new[name].digest for name in ("0", "4", "8")] == [True, True, False]
    assert not list(folder_of(third).glob("*.old"))
    scores = [event.step for event in read_run(run).events if isinstance(event, SampleScore)]
    assert scores == [0, 4, 8, 8]
    assert [score.step for score in read_run(run).sample_scores] == [0, 4, 8]

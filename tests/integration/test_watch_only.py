"""Watching never changes training: the same run, stock and watched, is bit-identical."""

import pytest
import torch
from traces import same, trace

from xtts_gatekeeper import read_run
from xtts_gatekeeper.base import read_base
from xtts_gatekeeper.config import ActionsConfig, GatekeeperConfig, PhaseConfig

#: Values that are times, or the settings themselves: they differ between any two runs.
CLOCKS = ("avg_loader_time", "avg_step_time")
PLAIN = {"epochs": 2, "run_eval_steps": 3, "save_step": 3, "test_delay_epochs": 0}
#: Everything at once: bfloat16, clipping, samples spoken after each epoch, evaluations within it, accumulation.
MIXED = {**PLAIN, "epochs": 3, "mixed_precision": True, "precision": "bf16", "grad_clip": 1.0}
PHASES = [PhaseConfig(lr=5e-4, until_epoch=1), PhaseConfig(lr=1e-4)]
ACTIONS = ActionsConfig(stop=True, next_phase=True, lower_lr=True, rewind=True)
SECTIONS = {
    "watching, with phases and actions that are not to act": {"watch_only": True, "phases": PHASES, "actions": ACTIONS},
    "as it is by default, with phases and actions off": {},
}


@pytest.fixture(scope="module", params=["plain", "mixed"])
def run(request, clips, toy_base):
    """The kind of a run, and a function that makes its settings: a model writes into its own."""
    if request.param == "plain":
        return request.param, lambda: PLAIN
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs

    short = {**read_base(toy_base).model_args(), "gpt_max_audio_tokens": 90}  # it never stops by itself
    spoken = {"text": "It took me quite a long time.", "speaker_wav": [clips[1][0]["audio_file"]], "language": "en"}
    return request.param, lambda: {**MIXED, "test_sentences": [spoken], "model_args": GPTArgs(**short)}


@pytest.fixture(scope="module")
def stock(make_trainer, tmp_path_factory, run):
    return trace(make_trainer(tmp_path_factory.mktemp("stock"), args={"grad_accum_steps": 2}, **run[1]()))


@pytest.mark.parametrize("section", SECTIONS)
def test_a_watched_run_is_bit_identical_to_a_stock_one(make_trainer, tmp_path, run, stock, section):
    settings = run[1]()
    only = SECTIONS[section].get("watch_only", False)
    gatekeeper = GatekeeperConfig(**SECTIONS[section])
    trainer = make_trainer(tmp_path, gatekeeper, args={"grad_accum_steps": 2}, report=True, **settings)
    watched = trace(trainer)
    assert len(stock["losses"]) == 4 * settings["epochs"]
    for key in ("losses", "weights", "optimizer", "rng"):
        assert same(stock[key], watched[key]), key
    averages = [{k: v for k, v in of["printed_averages"].items() if k not in CLOCKS} for of in (stock, watched)]
    assert same(*averages)
    if only:
        assert stock["files"] == watched["files"]
    common = stock["checkpoints"].keys() & watched["checkpoints"].keys()
    assert any(name.startswith("checkpoint_") for name in common) if only else common
    for name in common:
        theirs, ours = stock["checkpoints"][name], watched["checkpoints"][name]
        model = {key: theirs["model"][key] for key in ours["model"]}  # a best of ours leaves out what is not trained
        assert same(model, ours["model"]) and len(model) > 100, name
        for key in ("optimizer", "scheduler", "scaler", "step", "epoch", "model_loss"):
            if only or (key in ours and key not in ("epoch", "model_loss")):
                assert same(theirs[key], ours[key]), (name, key)
    # It did watch: the logged loss is divided by the accumulation steps, ours is not.
    epoch = read_run(trainer.output_path).train_epochs[0]
    assert epoch.metrics["train.loss"] == pytest.approx(
        epoch.metrics["train.mel_ce"] + epoch.metrics["train.loss_text_ce"]
    )
    assert epoch.gradients["updates"] == 2 and epoch.gradients["norm_median"] > 0


@pytest.mark.parametrize("run", ["plain"], indirect=True)
def test_the_comparison_can_fail(make_trainer, tmp_path, run, stock):
    """The same run with its phases in effect differs."""
    section = GatekeeperConfig(phases=PHASES)
    acting = trace(make_trainer(tmp_path, section, args={"grad_accum_steps": 2}, **run[1]()))
    assert not same(stock["weights"], acting["weights"])
    assert stock["losses"][0] == acting["losses"][0]
    assert stock["losses"] != acting["losses"]


@pytest.mark.parametrize("run", ["plain"], indirect=True)
def test_one_random_number_more_is_seen(make_trainer, tmp_path, run, stock):
    """A callback that draws one number, once."""

    def draw(trainer):
        if trainer.total_steps_done == 5:
            torch.rand(1)

    disturbed = make_trainer(
        tmp_path, None, callbacks={"on_train_step_end": draw}, args={"grad_accum_steps": 2}, **run[1]()
    )
    assert not same(stock["rng"], trace(disturbed)["rng"])

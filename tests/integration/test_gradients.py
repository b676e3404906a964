"""Gradients that are no numbers never reach the weights, and somebody hears which clip it was."""

import json
import math
import random
import shutil

import numpy
import pytest
import soundfile
import torch
from lines import STEPS, Line, TwoLines, line_trainer, rates_at_updates, run_folder

from xtts_gatekeeper import read_run
from xtts_gatekeeper.config import ActionsConfig, CheckpointsConfig, GatekeeperConfig, GradientsConfig, PhaseConfig


def state_of(trainer):
    """Copies of weights and optimizer states."""
    model = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    optimizer = trainer.optimizer[0].state_dict()["state"]
    return model, {key: {k: torch.as_tensor(v).clone() for k, v in value.items()} for key, value in optimizer.items()}


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return all(map(same, one, other))
    return torch.equal(one, other)


def spoils(*steps):
    """Makes the gradient of the weight NaN at these steps, after the backward pass and with a finite loss."""

    def install(trainer):
        def hook(gradient):
            return gradient * math.nan if trainer.total_steps_done in steps else gradient

        trainer.model.layer.weight.register_hook(hook)

    return {"on_init_end": install}


def states_around(trainer):
    """Fills with the state before each update and after it, by step."""
    seen = {}
    trainer.optimizer[0].register_step_pre_hook(
        lambda o, args, kwargs: seen.update({trainer.total_steps_done: [state_of(trainer)]})
    )
    trainer.optimizer[0].register_step_post_hook(
        lambda o, args, kwargs: seen[trainer.total_steps_done].append(state_of(trainer))
    )
    return seen


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_an_update_with_nan_in_its_gradients_leaves_weights_and_optimizer_as_they_are(tmp_path, clip, optimizer):
    trainer = line_trainer(
        tmp_path, GatekeeperConfig(), callbacks=spoils(2, 5), optimizer=optimizer, grad_clip=clip, epochs=2
    )
    seen = states_around(trainer)
    trainer.fit()
    for step, (before, after) in seen.items():
        assert same(before, after) == (step in (2, 5)), step
    record = read_run(trainer.output_path)
    first, second = (epoch.gradients for epoch in record.train_epochs)
    assert (first["updates"], first["nonfinite_updates"], first["skipped_updates"]) == (4, 1, 1)
    assert second["skipped_updates"] == 1 and math.isfinite(second["norm_max"])
    bad = [batch for batch in record.bad_batches if batch.kind == "nonfinite_gradient"]
    assert [(batch.step, batch.files) for batch in bad] == [
        (2, ["8.wav", "9.wav", "10.wav", "11.wav"]),
        (5, ["4.wav", "5.wav", "6.wav", "7.wav"]),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_nan_in_gradients_of_random_updates_is_never_in_any_file(tmp_path, seed):
    """And what is trained is what a run trains that is never given those gradients."""
    steps = sorted(random.Random(seed).sample(range(5 * STEPS), 6))
    section = GatekeeperConfig(checkpoints=CheckpointsConfig(prune=False))
    trainer = line_trainer(
        tmp_path, section, callbacks=spoils(*steps), optimizer="AdamW", epochs=5, save_step=1, save_n_checkpoints=99
    )
    trainer.fit()
    record = read_run(trainer.output_path)
    assert sum(epoch.gradients["skipped_updates"] for epoch in record.train_epochs) == 6
    assert [batch.step for batch in record.bad_batches if batch.kind == "nonfinite_gradient"] == steps
    files = list(run_folder(trainer).glob("*.pth"))
    assert len(files) > 4 * STEPS
    for file in files:
        state = torch.load(file, weights_only=True)
        moments = [value for of in state["optimizer"][0]["state"].values() for value in of.values()]
        assert all(tensor.isfinite().all() for tensor in [*state["model"].values(), *moments]), file

    model = Line()
    x = torch.linspace(0.1, 1, 14).unsqueeze(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in range(5 * STEPS):
        rows = slice(4 * (step % STEPS), 4 * (step % STEPS) + 4)
        if step not in steps:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x[rows]), 2 * x[rows]).backward()
            optimizer.step()
    assert torch.allclose(model.layer.weight, trainer.model.layer.weight, rtol=1e-5)


def test_stock_steps_nan_into_the_weights_and_so_do_we_when_only_watching(tmp_path):
    stock = line_trainer(tmp_path, None, callbacks=spoils(2), epochs=1)
    stock.fit()
    assert stock.model.layer.weight.isnan().all()
    watched = line_trainer(tmp_path, GatekeeperConfig(watch_only=True), callbacks=spoils(2), epochs=1)
    watched.fit()
    assert watched.model.layer.weight.isnan().all()
    found = read_run(watched.output_path).train_epochs[0].gradients
    assert found["nonfinite_updates"] == 2 and found["skipped_updates"] == 0  # from the third of four on


def test_an_accumulated_update_names_the_clips_of_all_its_batches(tmp_path):
    trainer = line_trainer(tmp_path, GatekeeperConfig(), callbacks=spoils(1), args={"grad_accum_steps": 2}, epochs=1)
    before = state_of(trainer)
    seen = states_around(trainer)
    trainer.fit()
    assert list(seen) == [1, 3]
    assert same(before[0], seen[1][1][0])
    (bad,) = read_run(trainer.output_path).bad_batches
    assert bad.files == [f"{number}.wav" for number in range(8)]
    assert read_run(trainer.output_path).train_epochs[0].gradients["updates"] == 2


def test_the_norm_is_that_of_the_accumulated_gradient_before_clipping(tmp_path):
    wanted = []

    def watch(trainer):
        def clip(stock):
            def before():
                parameters = [p.grad.flatten() for p in trainer.model.parameters()]
                wanted.append(torch.cat(parameters).norm().item())
                return stock()

            return before

        trainer.model.before_gradient_clipping = clip(trainer.model.before_gradient_clipping)

    trainer = line_trainer(
        tmp_path,
        GatekeeperConfig(),
        callbacks={"on_init_end": watch},
        args={"grad_accum_steps": 2},
        grad_clip=0.01,
        epochs=1,
    )
    trainer.fit()
    lines = (run_folder(trainer) / "gatekeeper" / "steps.jsonl").read_text().splitlines()
    norms = [line["grad_norm"] for line in map(json.loads, lines) if "grad_norm" in line]
    assert norms == pytest.approx(wanted, rel=1e-6) and len(norms) == 2
    assert min(norms) > 0.01


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_the_norm_is_there_with_a_gradient_scaler_too(tmp_path, clip):
    """On a CPU the scaler does nothing, but the Trainer takes its way around it."""
    trainer = line_trainer(tmp_path, GatekeeperConfig(), use_grad_scaler=True, grad_clip=clip, epochs=1)
    trainer.fit()
    found = read_run(trainer.output_path).train_epochs[0].gradients
    assert found["updates"] == STEPS and found["norm_median"] > 0.01


def test_gradients_that_stay_no_numbers_end_in_a_stop(tmp_path):
    section = GatekeeperConfig(gradients=GradientsConfig(nonfinite_limit=3))
    trainer = line_trainer(tmp_path, section, callbacks=spoils(*range(5, 1000)), epochs=50, save_step=1)
    trainer.fit()
    assert trainer.total_steps_done == 8
    record = read_run(trainer.output_path)
    assert record.end.how == "stopped" and "3 updates in a row held NaN or infinity" in record.end.message
    assert [action.name for action in record.actions] == ["stop"]
    for file in run_folder(trainer).glob("*.pth"):
        state = torch.load(file, weights_only=True)
        assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_a_spike_is_recorded_with_its_clips(tmp_path):
    def loud(batch):
        if batch["filenames"][0] == "4.wav" and model.epoch == 8:
            batch["y"] = batch["y"] + torch.tensor([[0.0], [0.0], [1e6], [0.0]])

    model = Line()
    model.before = loud
    model.epoch = 0
    callbacks = {"on_epoch_start": lambda trainer: setattr(model, "epoch", model.epoch + 1)}
    trainer = line_trainer(tmp_path, GatekeeperConfig(), model, callbacks=callbacks, epochs=9, lr=1e-4)
    trainer.fit()
    record = read_run(trainer.output_path)
    kinds = {batch.kind: batch for batch in reversed(record.bad_batches)}  # the first; it has spoilt the rest
    assert kinds.keys() == {"loss_spike", "gradient_spike"}
    for batch in kinds.values():
        assert batch.files == ["4.wav", "5.wav", "6.wav", "7.wav"] and batch.step == 7 * STEPS + 1
        assert batch.value > 3 * batch.limit / 2
    assert record.train_epochs[7].gradients["spikes"] >= 1


def test_no_more_is_fetched_from_the_device_than_without_us(tmp_path, monkeypatch):
    """Each call that would wait for a device, counted over one step after a first one."""
    counted = []
    for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__"):
        stock = getattr(torch.Tensor, name)

        def count(tensor, *args, stock=stock, name=name, **kwargs):
            if counting:
                counted.append(name)
            return stock(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, count)
    counting = False
    totals = {}
    for kind, section in (("stock", None), ("watch", GatekeeperConfig(watch_only=True)), ("ours", GatekeeperConfig())):
        trainer = line_trainer(tmp_path, section, grad_clip=1.0, epochs=1)
        step = trainer.train_step

        def counting_step(*args, step=step, trainer=trainer, **kwargs):
            nonlocal counting
            counting = trainer.total_steps_done == 2
            try:
                return step(*args, **kwargs)
            finally:
                counting = False

        trainer.train_step = counting_step
        counted.clear()
        trainer.fit()
        totals[kind] = len(counted)
    assert totals["stock"] > 0
    assert totals["watch"] <= totals["stock"] and totals["ours"] <= totals["stock"], totals


# On the toy XTTS


@pytest.fixture(scope="module")
def spoilt_clips(clips, tmp_path_factory):
    """The clips, one of those to train on with NaN in its middle."""
    folder = tmp_path_factory.mktemp("spoilt")
    train, dev = ([dict(sample) for sample in part] for part in clips)
    audio, rate = soundfile.read(train[3]["audio_file"], dtype="float32")
    audio[len(audio) // 2 : len(audio) // 2 + 50] = numpy.nan
    bad = folder / "bad.wav"
    soundfile.write(bad, audio, rate, subtype="FLOAT")
    train[3]["audio_file"] = str(bad)
    return (train, dev), str(bad)


def test_one_clip_that_is_no_number_is_named_and_never_trained_on(make_trainer, tmp_path, spoilt_clips):
    samples, bad = spoilt_clips
    section = GatekeeperConfig(checkpoints=CheckpointsConfig(prune=False))  # the Trainer's own files, too
    args = {"grad_accum_steps": 2}
    trainer = make_trainer(tmp_path, section, samples=samples, epochs=3, save_step=3, args=args)
    trainer.fit()
    record = read_run(trainer.output_path)
    found = [batch for batch in record.bad_batches if batch.kind == "nonfinite_loss"]
    assert found, "three epochs draw it once at least"
    for batch in found:
        assert bad in batch.files and batch.suspects == [bad] * batch.files.count(bad)
    assert sum(epoch.gradients["skipped_updates"] for epoch in record.train_epochs) >= 1
    for file in run_folder(trainer).glob("*.pth"):
        state = torch.load(file, weights_only=True)
        assert all(tensor.isfinite().all() for tensor in state["model"].values() if tensor.is_floating_point()), file
    for epoch in record.train_epochs:
        assert all(map(math.isfinite, epoch.metrics.values()))
    shutil.rmtree(trainer.output_path)


def test_a_clip_whose_audio_is_fine_and_whose_loss_is_none_is_found_by_its_loss_alone(tmp_path):
    def broken(batch):
        rows = [number for number, name in enumerate(batch["filenames"]) if name == "6.wav"]
        if rows:
            batch["y"] = batch["y"].clone()
            batch["y"][rows[0]] = math.inf

    class Broken(Line):
        def train_step(self, batch, criterion, optimizer_idx=None):
            if len(batch["x"]) <= 4 and batch["filenames"][0] != "0.wav":
                broken(batch)
            return super().train_step(batch, criterion)

        def eval_step(self, batch, criterion, optimizer_idx=None):
            return Line.train_step(self, batch, criterion)

    trainer = line_trainer(tmp_path, GatekeeperConfig(), Broken(), epochs=1)
    trainer.fit()
    (bad,) = read_run(trainer.output_path).bad_batches
    assert bad.kind == "nonfinite_loss" and bad.suspects == ["6.wav"]
    assert {file for file, loss in bad.losses.items() if math.isfinite(loss)} == {"4.wav", "5.wav", "7.wav"}


# Rewind


def test_updates_that_stay_lost_rewind_to_the_best_where_that_is_enabled(tmp_path):
    lost = set(range(2 * STEPS + 2, 2 * STEPS + 5))
    section = GatekeeperConfig(
        phases=[PhaseConfig(name="only", lr=0.05)],
        gradients=GradientsConfig(nonfinite_limit=3),
        actions=ActionsConfig(rewind=True),
    )
    trainer = line_trainer(tmp_path, section, callbacks=spoils(*lost), epochs=4)
    trainer.fit()
    record = read_run(trainer.output_path)
    (rewind,) = record.actions
    assert rewind.name == "rewind" and rewind.values["file"] == f"best_model_{2 * STEPS}.pth"
    assert rewind.values["to_step"] == 2 * STEPS and rewind.values["lr_factor"] == 0.5
    assert trainer.total_steps_done == 4 * STEPS and record.end.how == "finished"
    assert record.train_epochs[-1].lr_end == [0.025]
    assert record.verdicts[-1].verdict == "continue"


# A gradient scaler, on the CPU


def scaled(trainer, scale=2.0**16):
    """Gives the trainer a scaler that works: the stock one needs CUDA."""
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    return trainer


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_the_norm_is_that_of_the_unscaled_gradient(tmp_path, clip):
    plain = line_trainer(tmp_path, GatekeeperConfig(), grad_clip=clip, epochs=1)
    plain.fit()
    trainer = scaled(line_trainer(tmp_path, GatekeeperConfig(), use_grad_scaler=True, grad_clip=clip, epochs=1))
    trainer.fit()
    wanted, found = (read_run(t.output_path).train_epochs[0].gradients for t in (plain, trainer))
    assert found["norm_max"] == pytest.approx(wanted["norm_max"], rel=1e-5)
    assert torch.allclose(plain.model.layer.weight, trainer.model.layer.weight, rtol=1e-5)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_scaler_that_looks_for_its_scale_is_counted_apart_and_does_not_end_the_run(tmp_path, clip):
    """It takes many updates until the scale is small enough for float32."""
    section = GatekeeperConfig(gradients=GradientsConfig(nonfinite_limit=3))
    trainer = scaled(line_trainer(tmp_path, section, use_grad_scaler=True, grad_clip=clip, epochs=9), scale=2.0**127)
    trainer.model.before = lambda batch: batch.update(y=batch["y"] * 2.0**8)
    trainer.fit()
    record = read_run(trainer.output_path)
    skips = [epoch.gradients["scaler_skips"] for epoch in record.train_epochs]
    assert skips[0] == STEPS and skips[-1] == 0 and sum(skips) > 3 * 2
    assert all(e.gradients["updates"] == STEPS and not e.gradients["skipped_updates"] for e in record.train_epochs)
    assert record.end.how == "finished" and record.actions == ()


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_scaler_that_finds_no_scale_ends_the_run(tmp_path, clip):
    section = GatekeeperConfig(gradients=GradientsConfig(nonfinite_limit=3))
    trainer = scaled(
        line_trainer(tmp_path, section, callbacks=spoils(*range(999)), use_grad_scaler=True, grad_clip=clip, epochs=50),
        scale=4.0,
    )
    trainer.fit()
    # 4, 2 and 1 are still a search; the scale is read before the scaler has lowered it.
    assert read_run(trainer.output_path).end.how == "stopped" and trainer.total_steps_done <= 7


# What a review found


def test_a_gradient_that_cannot_be_measured_does_not_end_the_training(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise NotImplementedError("no norm of this kind of tensor")

    trainer = line_trainer(tmp_path, GatekeeperConfig(), epochs=2)
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", broken)
    trainer.fit()
    record = read_run(trainer.output_path)
    assert record.end.how == "finished"
    (incident,) = record.incidents
    assert "gradients are not looked at any more: NotImplementedError" in incident.message
    assert record.verdicts[-1].verdict != "stop"


def test_sparse_gradients_are_measured(tmp_path):
    class Sparse(Line):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(20, 1, sparse=True)

        def forward(self, x):
            rows = (x[:, 0] * 10).long()
            return super().forward(x) + self.table(rows)

    trainer = line_trainer(tmp_path, GatekeeperConfig(), Sparse(), epochs=1)
    trainer.fit()
    record = read_run(trainer.output_path)
    assert record.end.how == "finished" and record.incidents == ()
    assert record.train_epochs[0].gradients["norm_median"] > 0


def test_one_of_several_optimizers_that_never_steps_ends_the_run(tmp_path):
    """A GAN whose generator gets NaN in every update, and whose discriminator does not."""
    section = GatekeeperConfig(gradients=GradientsConfig(nonfinite_limit=3))
    trainer = line_trainer(tmp_path, section, TwoLines(), callbacks=spoils(*range(99)), grad_clip=[0.0, 0.0], epochs=20)
    trainer.fit()
    assert read_run(trainer.output_path).end.how == "stopped" and trainer.total_steps_done == 3


def test_the_step_log_has_the_rate_of_each_update(tmp_path):
    trainer = line_trainer(
        tmp_path,
        GatekeeperConfig(),
        lr_scheduler="ExponentialLR",
        lr_scheduler_params={"gamma": 0.5},
        scheduler_after_epoch=False,
        epochs=1,
    )
    seen = rates_at_updates(trainer)
    trainer.fit()
    lines = (run_folder(trainer) / "gatekeeper" / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["lr"] for line in lines] == [rates[0] for _, rates in seen]

"""Out of memory in a step is a batch too large. The allocator's own refusal: more is asked of it than there is."""

import pytest
import torch
from lines import BATCH, CLIPS, STEPS, Line, TwoLines, line_trainer, run_folder

from xtts_gatekeeper import read_run
from xtts_gatekeeper.config import ActionsConfig, GatekeeperConfig, OutOfMemoryConfig
from xtts_gatekeeper.record.events import BatchParts


def exhaust():
    torch.empty(1 << 55, dtype=torch.float64)


class Hungry(Line):
    """Runs out of memory with more than `fits` clips, where `hungry(clips)` says so."""

    def __init__(self, fits, hungry=lambda names: True):
        super().__init__()
        self.fits = fits
        self.hungry = hungry
        self.parts = []

    def train_step(self, batch, criterion, optimizer_idx=None):
        if self.training:
            self.parts.append(list(batch["filenames"]))
            if len(batch["x"]) > self.fits and self.hungry(batch["filenames"]):
                exhaust()
        return super().train_step(batch, criterion)


class InBackward(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        exhaust()


def weights(trainer):
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def incidents(trainer):
    return [incident for incident in read_run(trainer.output_path).incidents if incident.code == "oom"]


def parts(trainer):
    return [event for event in read_run(trainer.output_path).events if isinstance(event, BatchParts)]


def test_stock_dies_of_it(tmp_path):
    with pytest.raises(SystemExit):
        line_trainer(tmp_path, None, Hungry(fits=2), epochs=1).fit()


@pytest.mark.parametrize("fits", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_batch_that_does_not_fit_is_trained_in_parts_and_the_update_stays_the_same(tmp_path, fits, accumulation):
    args = {"grad_accum_steps": accumulation}
    whole = line_trainer(tmp_path, GatekeeperConfig(), Line(), args=args, optimizer="AdamW", epochs=2)
    whole.fit()
    model = Hungry(fits)
    trainer = line_trainer(tmp_path, GatekeeperConfig(), model, args=args, optimizer="AdamW", epochs=2)
    trainer.fit()
    for one, other in zip(weights(whole), weights(trainer), strict=True):
        assert torch.allclose(one, other, rtol=1e-5)
    ours, theirs = (read_run(t.output_path).train_epochs for t in (trainer, whole))
    for one, other in zip(ours, theirs, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-5)
        assert one.gradients["norm_max"] == pytest.approx(other.gradients["norm_max"], rel=1e-4)
    # Said twice; from then on no batch is tried whole.
    assert len(incidents(trainer)) == 2
    (lowered,) = parts(trainer)
    assert (lowered.batch_size, lowered.whole) == (2 if fits == 3 else fits, BATCH * accumulation)
    assert lowered.batch_size * lowered.grad_accum_steps == lowered.whole
    tried_whole = [part for part in model.parts if len(part) == BATCH]
    assert len(tried_whole) == 2


def test_every_clip_is_trained_once_in_an_epoch_of_parts(tmp_path):
    model = Hungry(fits=2)
    trainer = line_trainer(tmp_path, GatekeeperConfig(out_of_memory=OutOfMemoryConfig(lower_after=1)), model, epochs=2)
    trainer.fit()
    second = model.parts[-(CLIPS // 2) :]
    assert sorted(name for part in second for name in part) == sorted(f"{number}.wav" for number in range(CLIPS))


def test_a_resumed_run_remembers_the_parts(tmp_path):
    first = line_trainer(tmp_path, GatekeeperConfig(), Hungry(fits=2), epochs=1)
    first.fit()
    model = Hungry(fits=2)
    args, flags = {"continue_path": str(first.output_path)}, ["--coqpit.epochs", "2"]
    second = line_trainer(tmp_path, GatekeeperConfig(), model, args=args, flags=flags)
    second.fit()
    assert max(map(len, model.parts)) == 2
    assert len(incidents(second)) == 2  # those of the first process


def test_a_clip_that_does_not_fit_alone_is_left_out_with_its_batch(tmp_path):
    model = Hungry(fits=0, hungry=lambda names: "9.wav" in names)
    trainer = line_trainer(tmp_path, GatekeeperConfig(), model, epochs=1)
    trainer.fit()
    record = read_run(trainer.output_path)
    assert record.end.how == "finished" and record.train_epochs[0].skipped_batches == 1
    said = [incident.message for incident in incidents(trainer)]
    assert "8.wav, 9.wav, 10.wav, 11.wav" in said[0] and said[-1].count("the batch is left out") == 1
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_memory_that_runs_out_in_the_backward_pass_leaves_nothing_behind(tmp_path):
    class Late(Hungry):
        def forward(self, x):
            out = super().forward(x)
            return InBackward.apply(out) if self.training and len(x) > 2 else out

    whole = line_trainer(tmp_path, GatekeeperConfig(), Line(), epochs=1)
    whole.fit()
    trainer = line_trainer(tmp_path, GatekeeperConfig(), Late(fits=99), epochs=1)
    trainer.fit()
    for one, other in zip(weights(whole), weights(trainer), strict=True):
        assert torch.allclose(one, other, rtol=1e-5)


def test_a_backward_pass_that_broke_into_gradients_that_waited_costs_that_update(tmp_path):
    """The bias has its gradient before the weight's breaks off: what was accumulated cannot be told from it."""

    class Half(Hungry):
        def forward(self, x):
            weight = self.layer.weight
            if self.training and self.breaks(x):
                weight = InBackward.apply(weight)
            return x @ weight.T + self.layer.bias

        def breaks(self, x):
            return float(x[0, 0]) == pytest.approx(0.1 + 0.9 * 4 / (CLIPS - 1))  # the batch that begins with clip 4

    trainer = line_trainer(tmp_path, GatekeeperConfig(), Half(fits=99), args={"grad_accum_steps": 4}, epochs=1)
    trainer.fit()
    (incident,) = incidents(trainer)
    assert "left out, with what was accumulated before it" in incident.message
    assert read_run(trainer.output_path).train_epochs[0].skipped_batches == 1


def test_it_is_left_out_where_the_batch_cannot_be_cut(tmp_path):
    class Two(TwoLines):
        def train_step(self, batch, criterion, optimizer_idx=None):
            if self.training and "0.wav" in batch["filenames"]:
                exhaust()
            return super().train_step(batch, criterion)

    trainer = line_trainer(tmp_path, GatekeeperConfig(), Two(), grad_clip=[0.0, 0.0], epochs=1)
    trainer.fit()
    assert read_run(trainer.output_path).train_epochs[0].skipped_batches == 1
    assert trainer.total_steps_done == STEPS - 1


def test_memory_that_runs_out_while_a_batch_is_prepared_costs_the_batch(tmp_path):
    class Early(Line):
        def format_batch(self, batch):
            if self.training and "4.wav" in batch["filenames"]:
                exhaust()
            return batch

    trainer = line_trainer(tmp_path, GatekeeperConfig(), Early(), epochs=1)
    trainer.fit()
    (incident,) = incidents(trainer)
    assert "(4.wav, 5.wav, 6.wav, 7.wav), the batch is left out" in incident.message
    assert read_run(trainer.output_path).train_epochs[0].skipped_batches == 1


def test_memory_that_runs_out_in_the_update_itself_ends_the_run_as_ever(tmp_path):
    def install(trainer):
        trainer.optimizer[0].register_step_pre_hook(lambda o, args, kwargs: exhaust())

    class After(Line):
        pass

    trainer = line_trainer(tmp_path, GatekeeperConfig(), After(), epochs=1)
    install(trainer)
    with pytest.raises(SystemExit):
        trainer.fit()


@pytest.mark.parametrize("section", [{"watch_only": True}, {"out_of_memory": OutOfMemoryConfig(retry=False)}])
def test_it_ends_the_run_where_we_only_watch_or_are_told_to(tmp_path, section):
    with pytest.raises(SystemExit):
        line_trainer(tmp_path, GatekeeperConfig(**section), Hungry(fits=2), epochs=1).fit()


def test_any_other_error_is_not_ours(tmp_path, capsys):
    class Wrong(Line):
        def train_step(self, batch, criterion, optimizer_idx=None):
            raise RuntimeError("shapes cannot be multiplied")

    trainer = line_trainer(tmp_path, GatekeeperConfig(), Wrong(), epochs=1)
    with pytest.raises(SystemExit):
        trainer.fit()
    assert "shapes cannot be multiplied" in capsys.readouterr().err


def test_often_out_of_memory_despite_parts_is_a_reason_to_stop(tmp_path):
    model = Hungry(fits=0, hungry=lambda names: "3.wav" in names or "7.wav" in names)
    section = GatekeeperConfig(actions=ActionsConfig(stop=True))
    trainer = line_trainer(tmp_path, section, model, epochs=20)
    trainer.fit()
    record = read_run(trainer.output_path)
    assert record.end.how == "stopped" and "out of memory" in record.end.message
    assert record.verdicts[-1].reasons[0]["code"] == "out_of_memory"
    assert run_folder(trainer).glob("checkpoint_*.pth")


def test_the_toy_xtts_trains_in_parts_as_it_does_whole(make_trainer, tmp_path, monkeypatch):
    """Near to it: its loss is the mean over a part's tokens, and of a batch only the last clip's prompt is masked."""
    from TTS.tts.layers.xtts.gpt import GPT

    stock, tried = GPT.forward, []

    def forward(self, text_inputs, *args, **kwargs):
        if self.training:
            tried.append(len(text_inputs))
            if len(text_inputs) > 1:
                exhaust()
        return stock(self, text_inputs, *args, **kwargs)

    monkeypatch.setattr(GPT, "forward", forward)
    trainer = make_trainer(tmp_path, GatekeeperConfig(), epochs=1)
    trainer.fit()
    record = read_run(trainer.output_path)
    assert record.end.how == "finished"
    (lowered,) = [event for event in record.events if isinstance(event, BatchParts)]
    assert (lowered.batch_size, lowered.grad_accum_steps) == (1, 3)
    assert tried.count(1) == 11 and tried.count(3) == 2
    assert record.train_epochs[0].batches == 4 and record.train_epochs[0].skipped_batches == 0
    assert record.evaluations[-1].metrics["eval.mel_ce"] < 7


# What a review found


def test_a_run_in_which_nothing_fits_ends(tmp_path):
    trainer = line_trainer(tmp_path, GatekeeperConfig(), Hungry(fits=0), epochs=50)
    trainer.fit()
    record = read_run(trainer.output_path)
    assert record.end.how == "stopped" and record.end.message == "10 batches in a row ran out of memory"


def test_a_batch_that_was_to_bring_the_update_takes_what_waited_with_it(tmp_path):
    """Else the next update would be of three batches, each divided by two."""
    norms = []

    def watch(trainer):
        trainer.optimizer[0].register_step_pre_hook(
            lambda o, args, kwargs: norms.append(float(trainer.model.layer.weight.grad.norm()))
        )

    def run(model):
        norms.clear()
        trainer = line_trainer(
            tmp_path,
            GatekeeperConfig(),
            model,
            callbacks={"on_init_end": watch},
            args={"grad_accum_steps": 2},
            epochs=1,
            lr=1e-9,
        )
        trainer.fit()
        return list(norms), trainer

    whole, _ = run(Line())
    left, trainer = run(Hungry(fits=0, hungry=lambda names: "4.wav" in names))  # of the first update's second batch
    assert left == pytest.approx(whole[1:], rel=1e-4)
    assert "with what was accumulated before it" in incidents(trainer)[-1].message


class OfItsOwn(Line):
    """Optimizes by itself, as GANs do."""

    where = "forward"

    def optimize(self, batch, trainer):
        self.steps = getattr(self, "steps", 0) + 1
        if self.where == "forward" and self.steps == 2:
            exhaust()
        loss = torch.nn.functional.mse_loss(self(batch["x"]), batch["y"])
        loss.backward()
        if self.where == "after the backward pass" and self.steps == 2:
            exhaust()
        trainer.optimizer[0].step()
        trainer.optimizer[0].zero_grad()
        return {"y": None}, {"loss": loss}


@pytest.mark.parametrize("where", ["forward", "after the backward pass"])
def test_a_model_with_an_optimization_of_its_own_loses_the_batch_and_nothing_else(tmp_path, where):
    model = OfItsOwn()
    model.where = where
    seen = []

    def watch(trainer):
        trainer.optimizer[0].register_step_pre_hook(
            lambda o, args, kwargs: seen.append(float(trainer.model.layer.weight.grad))
        )

    trainer = line_trainer(
        tmp_path, GatekeeperConfig(), model, callbacks={"on_init_end": watch}, epochs=1, lr=1e-9, optimizer="SGD"
    )
    trainer.fit()
    whole = OfItsOwn()
    whole.where = "nowhere"
    seen, kept = [], seen
    line_trainer(
        tmp_path, GatekeeperConfig(), whole, callbacks={"on_init_end": watch}, epochs=1, lr=1e-9, optimizer="SGD"
    ).fit()
    assert kept == pytest.approx(seen[:1] + seen[2:], rel=1e-4)


def test_a_model_with_an_optimization_of_its_own_that_runs_out_in_the_update_ends_the_run(tmp_path):
    trainer = line_trainer(tmp_path, GatekeeperConfig(), OfItsOwn(), epochs=1)
    trainer.model.where = "nowhere"
    trainer.optimizer[0].register_step_pre_hook(lambda o, args, kwargs: exhaust())
    with pytest.raises(SystemExit):
        trainer.fit()


def test_a_gradient_scaler_that_had_begun_begins_again(tmp_path):
    """Memory runs out after it has unscaled, while the gradients are clipped."""
    trainer = line_trainer(tmp_path, GatekeeperConfig(), use_grad_scaler=True, grad_clip=1.0, epochs=1)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    stock, tried = trainer.model.before_gradient_clipping, []

    def before_clipping():
        tried.append(trainer.total_steps_done)
        if tried.count(1) == 1 and trainer.total_steps_done == 1:
            exhaust()
        return stock()

    trainer.model.before_gradient_clipping = before_clipping
    trainer.fit()
    record = read_run(trainer.output_path)
    assert record.end.how == "finished" and len(incidents(trainer)) == 1
    assert record.train_epochs[0].skipped_batches == 0


def test_outputs_of_parts_are_let_go_of(tmp_path):
    import weakref

    alive, most = weakref.WeakSet(), []

    class Output(torch.Tensor):
        pass

    class Keeping(Hungry):
        def train_step(self, batch, criterion, optimizer_idx=None):
            _, losses = super().train_step(batch, criterion)
            most.append(len(alive))
            output = torch.zeros(1).as_subclass(Output)
            alive.add(output)
            return {"y": output}, losses

    trainer = line_trainer(tmp_path, GatekeeperConfig(), Keeping(fits=1), epochs=1)
    trainer.fit()
    assert max(most) <= 2  # that of the part before, and the whole batch's

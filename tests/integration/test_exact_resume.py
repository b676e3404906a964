"""A run that was interrupted and gone on with is, to the bit, the run that was not."""

import contextlib
import copy
import hashlib
import os
import random
import signal

import numpy
import psutil
import pytest
import torch
from lines import BATCH, STEPS, Line, line_trainer, run_folder

from xtts_gatekeeper import read_run
from xtts_gatekeeper.checkpoints.snapshot import tensors
from xtts_gatekeeper.config import ActionsConfig, CheckpointsConfig, GatekeeperConfig, GradientsConfig, PhaseConfig
from xtts_gatekeeper.record import Start
from xtts_gatekeeper.resume_point import read_point
from xtts_gatekeeper.starting import check_device
from xtts_gatekeeper.trainer_port import TrainerPort, random_states, set_random_states
from xtts_gatekeeper.trainer_port.position import RestOfEpoch


class Blow(Exception):
    """What ends a run in a test."""


class Dice(Line):
    """Draws its data from every generator, in the order of a random sampler, and trains with dropout."""

    workers = 0

    def get_data_loader(self, config, *, is_eval=False, samples=None, verbose=True):
        stock = super().get_data_loader(config, is_eval=is_eval)
        if is_eval:
            return stock
        rows = Drawn(stock.dataset)
        return torch.utils.data.DataLoader(
            rows, batch_size=BATCH, shuffle=True, collate_fn=self.collate, num_workers=self.workers
        )

    def forward(self, x):
        return self.layer(torch.nn.functional.dropout(x, 0.5, self.training))


class Drawn(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        noise = 0.01 * (random.random() + numpy.random.rand() + torch.rand(1).item())
        return {**row, "x": row["x"] + noise}


def trained(output, *, flags=(), blow_at=None, blow=None, workers=0, section=None, **config):
    """Train; what it trained on, what it logged, and how it ended. `blow_at` is the batch, by number, that blows."""
    model = Dice(size=6)
    model.workers = workers
    batches = []

    def before(batch):
        if len(batches) == blow_at:
            if blow is not None:
                blow(trainer)
            else:
                raise Blow
        batches.append((batch["filenames"], batch["x"].clone()))

    model.before = before
    config = {"epochs": 4, "save_step": 3, "optimizer": "AdamW", "lr": 0.05, **config}
    args = {"grad_accum_steps": config.pop("accumulation", 1), "start_with_eval": config.pop("start_with_eval", False)}
    trainer = line_trainer(output, section or GatekeeperConfig(), model, flags=flags, args=args, **config)
    with contextlib.suppress(SystemExit):
        trainer.fit()
    return trainer, batches


def digest(tensor):
    return hashlib.sha1(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


def losses(means):
    """Those of the Trainer's means that are no times."""
    return {name: value for name, value in means.items() if not name.endswith("_time")}


def compared(trainer):
    """What two runs must have in common."""
    record = read_run(run_folder(trainer))
    states = (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    return {
        "weights": {name: digest(value) for name, value in trainer.model.state_dict().items()},
        "optimizer": {name: digest(value) for name, value in tensors(trainer.optimizer[0].state_dict()["state"])},
        "random": states,
        "evaluations": [(e.step, e.epoch, e.mid_epoch, e.metrics, e.gap, losses(e.stock)) for e in record.evaluations],
        "epochs": [(e.step, e.epoch, e.batches, e.samples, e.metrics, losses(e.stock)) for e in record.train_epochs],
        "step": trainer.total_steps_done,
    }


def interrupted_at(tmp_path, step, **settings):
    """Interrupt at a batch, go on, and compare with a run that went through."""
    whole, all_batches = trained(tmp_path / "whole", **settings)
    through = compared(whole)
    first, before = trained(tmp_path / "cut", blow_at=step, **settings)
    run = run_folder(first)
    flags = ["--continue_path", str(run)]
    second, after = trained(tmp_path / "cut", flags=flags, **settings)
    found = compared(second)
    for key, value in through.items():
        assert found[key] == value, key
    start = read_run(run).start
    assert all(
        files == expected and torch.equal(x, expected_x)
        for (files, x), (expected, expected_x) in zip(after, all_batches[start.step :], strict=True)
    )
    assert len(before) == step
    return start


@pytest.mark.parametrize("step", range(4, 4 * STEPS))
def test_an_interrupted_run_is_bit_identical_wherever_it_was_interrupted(tmp_path, step):
    start = interrupted_at(tmp_path, step)
    assert step - 3 <= start.step <= step


@pytest.mark.parametrize("step", [5, 7, 9, 12, 13])
@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 2},
        {"accumulation": 3},
        {"run_eval_steps": 3},
        {"run_eval_steps": 2, "save_step": 4},
        {"run_eval_steps": 2, "save_step": 3, "epochs": 5},
        {"start_with_eval": True, "epochs": 5},
        {"lr_scheduler": "ExponentialLR", "lr_scheduler_params": {"gamma": 0.9}, "scheduler_after_epoch": False},
    ],
    ids=str,
)
def test_in_every_kind_of_run(tmp_path, step, settings):
    interrupted_at(tmp_path, step, **settings)


@pytest.mark.parametrize("step", [5, 8, 9, 13])
def test_with_phases_and_patience(tmp_path, step):
    phases = [
        PhaseConfig(name="a", lr=0.05, until_plateau=1, schedule="constant"),
        PhaseConfig(name="b", lr=0.02, until_step=13),
        PhaseConfig(name="c", lr=0.01),
    ]
    interrupted_at(tmp_path, step, section=GatekeeperConfig(phases=phases))


def test_sigterm_during_an_evaluation_leaves_that_evaluation_to_the_next_process(tmp_path):
    import os
    import signal

    whole, _ = trained(tmp_path / "whole")
    through = compared(whole)

    def asks(trainer):
        stock = trainer.eval_step

        def eval_step(*args, **kwargs):
            if trainer.total_steps_done == 2 * STEPS:
                os.kill(os.getpid(), signal.SIGTERM)
            return stock(*args, **kwargs)

        trainer.eval_step = eval_step

    previous = signal.getsignal(signal.SIGTERM)
    raised = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "raise_signal", raised.append)
        model_trainer = {}

        def at_start(trainer):
            model_trainer["it"] = trainer

        first = line_trainer(
            tmp_path / "cut",
            GatekeeperConfig(),
            Dice(size=6),
            callbacks={"on_init_end": at_start},
            epochs=4,
            save_step=3,
            optimizer="AdamW",
            lr=0.05,
        )
        asks(first)
        first.fit()
    assert raised == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is previous
    run = run_folder(first)
    assert read_run(run).end.how == "terminated"
    second, _ = trained(tmp_path / "cut", flags=["--continue_path", str(run)])
    found = compared(second)
    assert [e[:3] for e in found["evaluations"]] == [e[:3] for e in through["evaluations"]]
    assert found == through


def test_where_the_trainer_saves_by_itself_the_epoch_is_repeated(tmp_path):
    section = GatekeeperConfig(checkpoints=CheckpointsConfig(prune=False))
    first, _ = trained(tmp_path, blow_at=7, section=section)
    second, _ = trained(tmp_path, flags=["--continue_path", str(run_folder(first))], section=section)
    start = read_run(run_folder(second)).start
    assert start.epoch_batches is None and start.step == 7 and start.epoch == 1


@pytest.mark.parametrize("step", [4, 7])
def test_xtts_goes_on_with_the_clips_that_it_would_have_drawn(make_trainer, clips, tmp_path, step):
    """The real GPTTrainer: an epoch's end and the middle of one, with a clip that its dataset finds it cannot use."""
    import soundfile

    train, dev = copy.deepcopy(clips)
    audio, rate = soundfile.read(train[0]["audio_file"])
    soundfile.write(tmp_path / "short.wav", audio[: rate // 4], rate)  # XTTS wants half a second
    train[0]["audio_file"] = str(tmp_path / "short.wav")
    drawn = []

    def make(output, blow_at=None, **more):
        trainer = make_trainer(output, GatekeeperConfig(), samples=(train, dev), epochs=3, save_step=3, **more)
        stock = trainer.model.train_step

        def train_step(batch, criterion, *args, **kwargs):
            if trainer.total_steps_done == blow_at:
                raise Blow
            if torch.is_grad_enabled():  # an evaluation comes by here, too
                content = batch["text_inputs"].tolist() + batch["audio_codes"].tolist()
                drawn.append((trainer.total_steps_done, hash(str(content))))
            return stock(batch, criterion, *args, **kwargs)

        trainer.model.train_step = train_step
        return trainer

    whole = make(tmp_path / "whole")
    whole.fit()
    through, all_drawn = compared(whole), list(drawn)
    assert whole.train_loader.dataset.failed_samples
    cut = make(tmp_path / "cut", blow_at=step)
    with pytest.raises(SystemExit):
        cut.fit()
    run = str(run_folder(cut))
    del cut, drawn[:]
    second = make(tmp_path / "cut", flags=["--continue_path", run])
    start = read_run(run).start
    second.fit()
    assert drawn == all_drawn[start.step :] and len(all_drawn) == second.total_steps_done
    found = compared(second)
    for key, value in through.items():
        assert found[key] == value, key


def test_with_another_batch_size_as_many_clips_are_passed_over(tmp_path):
    first, _ = trained(tmp_path, blow_at=7, batch_size=4)  # step 4 begins an epoch; the file is of step 7
    run = run_folder(first)
    flags = ["--continue_path", str(run), "--coqpit.batch_size", "2"]
    second = line_trainer(tmp_path, GatekeeperConfig(), Dice(size=6), flags=flags, epochs=4)
    start = read_run(run).start
    assert (start.step, start.epoch, start.epoch_batches) == (7, 1, 6)
    assert second.config.batch_size == 2


def test_start_with_eval_is_not_repeated_by_a_resume(tmp_path):
    first, _ = trained(tmp_path, blow_at=6, start_with_eval=True)
    run = run_folder(first)
    before = len(read_run(run).evaluations)
    trained(tmp_path, flags=["--continue_path", str(run)], start_with_eval=True)
    evaluations = read_run(run).evaluations
    assert before == 2 and [e.step for e in evaluations] == [0, 4, 8, 12]  # the first of four epochs evaluates only


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_that_cannot_be_indexed_is_read_on_from_where_it_was(workers):
    loader = torch.utils.data.DataLoader(Stream(list(range(10))), batch_size=2, num_workers=workers)
    order = []
    rest = RestOfEpoch(loader, 3, lambda: order.append("begin"), lambda: order.append("go on"))
    assert [batch.tolist() for batch in rest] == [[6, 7], [8, 9]]
    assert order == ["begin", "go on"] and len(rest) == 5 and rest.batch_size == 2


def test_an_epoch_that_has_become_shorter_is_over():
    rest = RestOfEpoch([1, 2], 3, lambda: None, lambda: None)
    assert list(rest) == []


def test_random_states_are_put_back_to_the_bit():
    states = random_states()
    drawn = [random.random(), random.gauss(0, 1), numpy.random.rand(), numpy.random.randn(), torch.rand(1).item()]
    set_random_states(states)
    again = [random.random(), random.gauss(0, 1), numpy.random.rand(), numpy.random.randn(), torch.rand(1).item()]
    assert drawn == again


@pytest.mark.parametrize(
    "content",
    [{"model": {}}, {"gatekeeper": {}}, {"gatekeeper": {"resume_point": {"step": 3}}}, {"gatekeeper": 5}, [1, 2]],
    ids=str,
)
def test_a_file_without_a_point_that_this_version_knows_has_none(tmp_path, content):
    torch.save(content, tmp_path / "file.pth")
    assert read_point(tmp_path / "file.pth") is None
    (tmp_path / "file.pth").write_bytes(b"no file of torch's")
    assert read_point(tmp_path / "file.pth") is None


@pytest.mark.parametrize(("supervised", "said"), [(True, "No CUDA GPUs are available"), (False, "and this process")])
def test_a_run_that_has_lost_its_gpu_does_not_go_on_without_a_word(tmp_path, supervised, said):
    first, _ = trained(tmp_path, blow_at=7)
    trainer, _ = trained(tmp_path, flags=["--continue_path", str(run_folder(first))])
    port = TrainerPort(trainer)
    before = Start(step=7, epoch=1, device="cuda:0 (NVIDIA GeForce RTX 4070)")
    if supervised:
        with pytest.raises(RuntimeError, match=said):
            check_device(before, port, supervised=True)
    else:
        (sentence,) = check_device(before, port, supervised=False)
        assert said in sentence
    assert check_device(Start(step=7, epoch=1, device="cpu"), port, supervised=supervised) == []
    assert check_device(None, port, supervised=supervised) == []


def test_a_sigterm_that_ends_the_loader_workers_too_leaves_a_checkpoint(tmp_path):
    """As an engine sends it that ends every process of a job."""

    def everybody(trainer):
        for child in psutil.Process().children(recursive=True):
            child.send_signal(signal.SIGTERM)
            child.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    raised = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "raise_signal", raised.append)
        first, _ = trained(tmp_path, blow_at=6, blow=everybody, workers=2)
    run = run_folder(first)
    assert raised == [signal.SIGTERM] and read_run(run).end.how == "terminated"
    trained(tmp_path, flags=["--continue_path", str(run)], workers=2)
    whole, _ = trained(tmp_path / "whole", workers=2)
    evaluations = [[(e.step, e.metrics) for e in read_run(r).evaluations] for r in (run, run_folder(whole))]
    assert read_run(run).start.step in (6, 7) and evaluations[0] == evaluations[1]


@pytest.mark.parametrize("change", [(4, 1), (1, 4)], ids=str)
def test_a_phase_that_changes_the_accumulation_at_a_save(tmp_path, change):
    """The first step of the second phase saves; whether it was an update is decided by that phase."""
    phases = [
        PhaseConfig(name="a", lr=0.05, grad_accum_steps=change[0], until_step=9),
        PhaseConfig(name="b", lr=0.05, grad_accum_steps=change[1]),
    ]
    interrupted_at(tmp_path, 10, section=GatekeeperConfig(phases=phases), save_step=3)


def test_an_evaluation_that_is_made_again_counts_once_in_the_patience(tmp_path):
    phases = [PhaseConfig(name="a", lr=0.05, until_plateau=9), PhaseConfig(name="b", lr=0.001)]
    section = GatekeeperConfig(phases=phases)
    interrupted_at(tmp_path, 5, section=section, save_step=3, run_eval_steps=2, epochs=8)


def test_a_rewind_is_not_forgotten_by_a_crash_before_the_next_file(tmp_path):
    """Two updates of NaN lead to a rewind at a lower rate; its own checkpoint is the one to go on from."""
    phases = [PhaseConfig(name="a", lr=0.05, until_epoch=9), PhaseConfig(name="b", lr=0.01)]
    section = GatekeeperConfig(
        phases=phases, actions=ActionsConfig(rewind=True), gradients=GradientsConfig(nonfinite_limit=2)
    )
    settings = {"section": section, "epochs": 5, "save_step": 100}

    def poisoned(blow_at):
        done = []

        def poison(trainer):
            def before(batch):
                done.append(1)
                if len(done) in (10, 11):
                    batch["x"] = batch["x"] * float("nan")
                if len(done) == blow_at:
                    raise Blow

            trainer.model.before = before

        return poison

    trainer = line_trainer(
        tmp_path, section, Dice(size=6), callbacks={"on_init_end": poisoned(13)}, epochs=5, save_step=100, lr=0.05
    )
    with pytest.raises(SystemExit):
        trainer.fit()
    run = run_folder(trainer)
    (rewind,) = (action for action in read_run(run).actions if action.name == "rewind")
    trained(tmp_path, flags=["--continue_path", str(run)], **settings)
    record = read_run(run)
    assert record.start.step == rewind.step or record.start.step > rewind.step
    assert record.phases[-1].lr_factor == rewind.values["lr_factor"] < 1
    assert {rate for epoch in record.train_epochs[-1:] for rate in epoch.lr_end} == {0.05 * rewind.values["lr_factor"]}

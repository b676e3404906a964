"""The reader of console logs. All logs here are made up in the grammar; the real ones are read where they lie."""

import logging
import math
import re
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_gatekeeper.record.console import ConsoleParser
from xtts_gatekeeper.record.events import Start

LOGS = Path(__file__).parents[2] / "shared" / "logs"
RUN = "/data/runs/voice-May-01-2030_08+00AM-abc1234"


def environment(device="0", precision="float32"):
    gpu = f" | > Current device: {device}\n" if device else ""
    return f" > Training Environment:\n | > Backend: Torch\n | > Num. of CPUs: 2\n | > Precision: {precision}\n{gpu}"


def epoch(number, last=5, path=RUN):
    return f"\n\x1b[4m\x1b[1m > EPOCH: {number}/{last}\x1b[0m\n" + (f" --> {path}\n" if path else "")


def training(time="2030-05-01 08:00:00"):
    return f"\n\x1b[1m > TRAINING ({time}) \x1b[0m\n"


def value_lines(values):
    return "".join(f"     | > {key}: {value}\n" for key, value in values.items())


def step(s, n, g, time=None, new=False, **values):
    """A logged step; a value is what stands after the colon."""
    losses = values or {
        "loss_text_ce": "0.03  (0.02)",
        "loss_mel_ce": "3.97  (3.5)",
        "loss": "4.0  (3.52)",
    }
    rate = {"current_lr": "5e-06  (5e-06)"} if new else {"current_lr": "5e-06 "}
    timing = {"step_time": "0.3  (0.3)", "loader_time": "0.01  (0.01)"}
    lines = rate | losses | timing if new else losses | rate | timing
    stamp = f"TIME: {time} -- " if time else ""
    return f"\n\x1b[1m   --> {stamp}STEP: {s}/{n} -- GLOBAL_STEP: {g}\x1b[0m\n{value_lines(lines)}\n"


EVALUATION = "\n\x1b[1m > EVALUATION \x1b[0m\n\n"


def performance(mel=3.5, diff="+0", text=0.02, **more):
    """An EVAL PERFORMANCE block; `diff` stands in the brackets of every line."""
    values = {"avg_loader_time": 0.1, "avg_loss_text_ce": text, "avg_loss_mel_ce": mel, "avg_loss": mel + text} | more
    lines = "".join(f"     | > {key}:\x1b[92m {value} \x1b[0m({diff})\n" for key, value in values.items())
    return f"\n  \x1b[1m--> EVAL PERFORMANCE\x1b[0m\n{lines}\n"


def best(step_, path=RUN):
    return f" > BEST MODEL : {path}/best_model_{step_}.pth\n"


def old_run(epochs=2, n=10, last=5, start=0, path=RUN, mel=3.5):
    """A run of a Trainer before 0.3.0 that logs the first and the sixth step of every epoch."""
    text = ""
    for number in range(epochs):
        base = start + number * n
        text += epoch(number, last, path) + training()
        text += step(0, n, base) + step(5, n, base + 5)
        text += EVALUATION + performance(mel - number / 10, "+0" if number == 0 else "-0.1")
        text += best(base + n, path) if path else ""
    return text


def read(text, size=None, **options):
    parser = ConsoleParser(**options)
    data = text if isinstance(text, bytes) else text.encode()
    for begin in range(0, len(data), size or len(data) or 1):
        parser.feed(data[begin : begin + (size or len(data))])
    parser.close()
    return parser.records()


def one(text, **options):
    (record,) = read(text, **options)
    return record


def codes(record):
    return [note.code for note in record.notes]


# -- what a run is


def test_a_run_is_read():
    record = one(environment() + old_run())
    assert record.source == "console"
    assert record.name == "voice-May-01-2030_08+00AM-abc1234"
    assert [event.type for event in record.events] == ["start"] + ["train_epoch", "evaluation", "checkpoint"] * 2
    assert [e.step for e in record.evaluations] == [10, 20]
    assert [e.epoch for e in record.evaluations] == [0, 1]
    assert record.evaluations[0].metrics == {
        "eval.loss_text_ce": 0.02,
        "eval.loss_mel_ce": 3.5,
        "eval.loss": 3.52,
        "eval.mel_ce": 3.5,
        "eval.text_ce": 2.0,
    }
    assert record.train_epochs[0].metrics["train.mel_ce"] == 3.5
    assert record.train_epochs[0].lr_end == [5e-6]
    assert record.train_epochs[0].batches == 10
    assert record.notes == ()


def test_start_tells_what_is_known():
    start = one(environment() + old_run()).start
    assert (start.device, start.precision, start.lr) == ("cuda:0", "float32", [5e-6])
    assert (start.epochs_planned, start.grad_accum_steps, start.resume_mode) == (5, 1, "new")


def test_an_environment_without_a_gpu_is_the_cpu():
    assert one(environment(device="")).start.device == "cpu"


def test_a_run_that_died_before_its_first_step_is_a_run():
    record = one(environment() + f" > Start Tensorboard: tensorboard --logdir={RUN}\n")
    assert record.name.startswith("voice-May")
    assert [event.type for event in record.events] == ["start"]


def test_text_before_the_first_mark_is_ignored():
    noise = "Traceback (most recent call last):\nValueError: no\n > EVALUATION \n | > loss: 3\n > CHECKPOINT : x.pth\n"
    assert read(noise) == []
    record = one(noise + old_run(1))
    assert record.incidents == () and len(record.evaluations) == 1 and record.notes == ()


@pytest.mark.parametrize(
    "text",
    [environment(), epoch(0), "--> STEP: 1/5 -- GLOBAL_STEP: 1\n", "--> EVAL PERFORMANCE\n"],
    ids=["environment", "epoch", "step", "performance"],
)
def test_recognised_by_any_mark(text):
    parser = ConsoleParser()
    assert not parser.recognised
    parser.feed(b"nothing here\n")
    assert not parser.recognised
    parser.feed(text.encode())
    assert parser.recognised


def test_weights_can_be_named():
    record = one(old_run(1), weights={"loss_mel_ce": ("sound", 0.5)})
    assert record.evaluations[0].metrics["eval.sound"] == 7.0
    assert "eval.text_ce" not in record.evaluations[0].metrics


# -- steps and epochs


def test_new_trainers_print_the_last_numbers_not_how_many():
    text = epoch(0, 1) + training() + step(0, 9, 0, new=True) + step(9, 9, 9, new=True) + EVALUATION + performance()
    record = one(text)
    assert record.evaluations[0].step == 10
    assert record.train_epochs[0].batches == 10
    assert record.start.epochs_planned == 2


def test_the_name_of_the_best_model_is_trusted_over_the_count():
    text = epoch(0) + training() + step(5, 10, 5) + EVALUATION + performance() + best(8)
    record = one(text)
    assert record.evaluations[0].step == record.train_epochs[0].step == record.checkpoints[0].step == 8


def test_epochs_without_a_logged_step_go_on_counting():
    text = old_run(1) + "".join(epoch(n) + training() + EVALUATION + performance(3.5 - n, "-1") for n in (1, 2))
    assert [e.step for e in one(text).evaluations] == [10, 20, 30]
    assert [record.batches for record in one(text).train_epochs] == [10, 10, 10]


def test_without_any_number_epochs_are_counted():
    text = "".join(epoch(n) + training() + EVALUATION + performance(3.5 - n, "-1") for n in range(3))
    assert [e.step for e in one(text).evaluations] == [1, 2, 3]
    assert [(note.code, note.count) for note in one(text).notes] == [("steps_counted", 3)]


def test_counted_steps_are_corrected_by_the_first_number():
    blocks = "".join(epoch(n) + training() + EVALUATION + performance(3.5 - n / 9, "-1") for n in range(2))
    text = blocks + epoch(2) + training() + step(5, 10, 25) + EVALUATION + performance(3, "-1")
    assert [e.step for e in one(text).evaluations] == [10, 20, 30]
    assert [e.step for e in one(text).train_epochs] == [10, 20, 30]


def test_two_names_tell_the_length_of_an_epoch():
    text = ""
    for n in range(4):
        text += (
            epoch(n) + training() + EVALUATION + performance(3.5 - n / 9, "-1") + (best(7 * (n + 1)) if n < 2 else "")
        )
    assert [e.step for e in one(text).evaluations] == [7, 14, 21, 28]


def test_a_log_may_begin_in_the_middle_of_an_epoch():
    record = one(step(5, 10, 35) + EVALUATION + performance(3, "-0.1") + epoch(4) + training() + step(0, 10, 40))
    assert record.evaluations[0].epoch == record.train_epochs[0].epoch == 3
    assert record.evaluations[0].step == 40
    assert record.start.step == 30 and record.start.epoch == 3


def test_an_epoch_that_is_only_known_by_the_next_ones_header():
    record = one(performance(3, "-0.1") + epoch(8) + training() + step(0, 10, 80))
    assert record.evaluations[0].epoch == 7
    assert record.evaluations[0].step == 80


def test_start_with_eval_trains_nothing():
    text = epoch(0) + EVALUATION + performance(4) + epoch(1) + training() + step(0, 10, 0) + EVALUATION
    record = one(text + performance(3.9, "-0.1"))
    assert [(e.epoch, e.step) for e in record.evaluations] == [(0, 0), (1, 10)]
    assert [(e.epoch, e.step) for e in record.train_epochs] == [(1, 10)]


def test_evaluation_steps_are_no_training_steps():
    printed = "".join(
        f"\x1b[1m   --> STEP: {n}\x1b[0m\n     | > loss: nan  (nan)\n     | > loss_mel_ce: 9.0  (9.0)\n\n"
        for n in range(5)
    )
    text = epoch(0) + training() + step(5, 10, 5) + EVALUATION + printed + performance()
    record = one(text)
    assert record.train_epochs[0].nonfinite_batches == 0
    assert record.train_epochs[0].metrics["train.loss_mel_ce"] == 3.5
    assert record.evaluations[0].step == 10


def test_evaluations_in_the_middle_of_an_epoch_have_no_values():
    text = (
        epoch(0) + training() + step(0, 10, 0) + EVALUATION + step(5, 10, 5) + EVALUATION + EVALUATION + performance()
    )
    record = one(text)
    assert len(record.evaluations) == 1
    assert [(note.code, note.count) for note in record.notes] == [("evaluation_without_values", 2)]


def test_a_cut_off_epoch_is_no_epoch():
    record = one(old_run(1) + epoch(1) + training() + step(5, 10, 15))
    assert [e.epoch for e in record.train_epochs] == [0]


def test_an_epoch_is_trained_when_the_next_one_begins():
    record = one(epoch(0) + training() + step(5, 10, 5) + EVALUATION + epoch(1) + training() + step(5, 10, 15))
    assert [(e.epoch, e.step) for e in record.train_epochs] == [(0, 10)]
    assert codes(record) == ["evaluation_without_values"]


def test_lines_that_two_loggers_print_count_once():
    doubled = re.sub(r"(?m)^.*\n", lambda line: line[0] * 2, epoch(0)) + training() * 2
    text = doubled + step(5, 10, 5) * 2 + EVALUATION + performance() * 2
    assert len(one(text).evaluations) == 1
    assert len(one(text).train_epochs) == 1


def test_seconds_reach_from_the_training_line_to_the_extrapolated_end():
    text = epoch(0) + training("2030-05-01 08:00:00")
    text += (
        step(0, 100, 0, "2030-05-01 08:00:30") + step(50, 100, 50, "2030-05-01 08:02:10") + EVALUATION + performance()
    )
    assert one(text).train_epochs[0].seconds == pytest.approx(130 + 49 * 2)


def test_seconds_are_unknown_without_times():
    assert one(old_run(1)).train_epochs[0].seconds is None


def test_times_are_those_of_the_log():
    text = (
        epoch(0) + training("2030-05-01 08:00:00") + step(5, 10, 5, "2030-05-01 08:00:30") + EVALUATION + performance()
    )
    assert {event.time for event in one(text).events} == {"2030-05-01T08:00:00", "2030-05-01T08:00:30"}


# -- metrics of the training


def test_a_poisoned_average_is_replaced_by_the_mean_of_finite_values():
    text = epoch(0) + training()
    for s, mel in enumerate((3.0, 4.0, 5.0)):
        text += step(s, 10, s, loss_mel_ce=f"{mel}  (nan)", loss_text_ce="0.02  (0.03)", loss=f"{mel}  (nan)")
    record = one(text + EVALUATION + performance())
    (trained,) = record.train_epochs
    assert trained.metrics["train.loss_mel_ce"] == 4.0
    assert trained.metrics["train.loss_text_ce"] == 0.03  # its own average is fine
    assert (trained.nonfinite_batches, trained.longest_nonfinite_run) == (1, 1)
    assert codes(record) == ["train_average_poisoned"]


def test_logged_nan_batches_are_counted():
    text = epoch(0) + training()
    for s, mel in enumerate(("3.0", "nan", "inf", "4.0", "nan", "5.0")):
        text += step(s, 10, s, loss_mel_ce=f"{mel}  (nan)", loss=f"{mel}  (nan)")
    (trained,) = one(text + EVALUATION + performance()).train_epochs
    assert (trained.nonfinite_batches, trained.longest_nonfinite_run) == (3, 2)
    assert trained.metrics["train.loss"] == 4.0


def test_a_run_that_is_all_nan_stays_nan():
    text = epoch(0) + training() + step(0, 10, 0, loss_mel_ce="nan  (nan)", loss="nan  (nan)") + EVALUATION
    (trained,) = one(text + performance(math.nan, "+nan")).train_epochs
    assert math.isnan(trained.metrics["train.loss"])
    assert trained.nonfinite_batches == 1


def test_gradient_accumulation_is_undone():
    losses = {"loss_text_ce": "0.04  (0.02)", "loss_mel_ce": "3.96  (3.0)", "loss": "0.5  (0.3775)"}
    text = epoch(0) + training() + step(5, 10, 5, **losses) + EVALUATION + performance()
    record = one(text)
    assert record.start.grad_accum_steps == 8
    assert record.train_epochs[0].metrics["train.loss"] == pytest.approx(3.02)
    assert record.train_epochs[0].metrics["train.loss_mel_ce"] == 3.0


def test_losses_that_do_not_add_up_tell_no_accumulation():
    losses = {"loss_text_ce": "0.04  (0.02)", "loss_mel_ce": "3.96  (3.0)", "loss": "1.7  (1.7)"}
    record = one(epoch(0) + training() + step(5, 10, 5, **losses) + EVALUATION + performance())
    assert record.start.grad_accum_steps is None
    assert record.train_epochs[0].metrics["train.loss"] == 1.7


def test_times_rates_and_norms_are_no_metrics():
    losses = {
        "loss": "4.0  (3.0)",
        "amp_scaler": "16384.0  (16384.0)",
        "grad_norm": "tensor(9.2, device='cuda:0')  (0)",
    }
    text = epoch(0) + training() + step(5, 10, 5, **losses) + EVALUATION + performance()
    assert set(one(text).train_epochs[0].metrics) == {"train.loss"}


def test_values_without_averages_give_their_mean():
    text = epoch(0) + training() + step(0, 10, 0, loss="4.00000") + step(5, 10, 5, loss="3.00000") + EVALUATION
    assert one(text + performance()).train_epochs[0].metrics == {"train.loss": 3.5}


def test_old_trainers_print_the_performance_of_the_training():
    block = "\n   --> TRAIN PERFORMACE -- EPOCH TIME: 8.25 sec -- GLOBAL_STEP: 74\n     | > avg_loss: -0.5\n"
    block += "     | > avg_step_time: 1.0\n     | > avg_loader_time: 0.1\n\n"
    record = one(epoch(0, 900, None) + training() + block + EVALUATION + performance())
    (trained,) = record.train_epochs
    assert (trained.metrics, trained.seconds, trained.step) == ({"train.loss": -0.5}, 8.25, 74)
    assert record.evaluations[0].step == 74


def test_without_evaluations_the_block_holds_training_averages():
    text = epoch(0) + training() + step(5, 10, 5) + performance(3.25, avg_step_time=0.3, avg_current_lr=5e-6)
    record = one(text)
    assert record.evaluations == ()
    assert record.train_epochs[0].metrics["train.mel_ce"] == 3.25
    assert "train.current_lr" not in record.train_epochs[0].metrics
    assert codes(record) == ["performance_of_training"]


def test_a_block_alone_is_an_evaluation():
    record = one(performance(3.25))
    assert record.evaluations[0].metrics["eval.mel_ce"] == 3.25


def test_a_piece_of_a_run_without_evaluations_is_told_by_its_keys():
    record = one(step(5, 10, 5) + performance(3.25, avg_step_time=0.3))
    assert record.evaluations == ()
    assert one(step(5, 10, 5) + performance(3.25)).evaluations != ()


# -- evaluations


def test_previous_is_the_value_less_the_printed_difference():
    second = one(old_run(2)).evaluations[1]
    assert second.previous["eval.mel_ce"] == pytest.approx(3.5)
    assert second.previous["eval.text_ce"] == pytest.approx(12)


@pytest.mark.parametrize("zero", ["+0", "+0.0"])
def test_the_first_evaluation_has_nothing_before_it(zero):
    assert one(performance(3.5, zero)).evaluations[0].previous == {}


def test_a_frozen_model_differs_by_zero_from_what_was_before():
    text = old_run(1) + epoch(1) + training() + EVALUATION + performance(3.5, "+0.0")
    assert one(text).evaluations[1].previous["eval.mel_ce"] == 3.5


def test_nothing_but_zeros_and_other_values_is_another_process():
    text = old_run(1) + epoch(1) + training() + step(5, 10, 15) + EVALUATION + performance(3.4, "+0.0")
    record = one(text)
    assert [e.step for e in record.events if isinstance(e, Start)] == [0, 10]
    assert [e.step for e in record.evaluations] == [10, 20]


def test_a_process_that_is_known_by_its_zeros_takes_its_training_along():
    trained = "--> TRAIN PERFORMACE -- EPOCH TIME: 8.25 sec -- GLOBAL_STEP: 22\n     | > avg_loss: 3.0\n\n"
    text = old_run(1) + epoch(1) + training() + trained + EVALUATION + performance(3.4, "+0.0") + best(23)
    record = one(text)
    assert [event.type for event in record.events][-4:] == ["start", "train_epoch", "evaluation", "checkpoint"]
    assert [e.step for e in record.evaluations] == [e.step for e in record.train_epochs] == [10, 23]


def test_a_difference_without_its_bracket_is_none():
    text = performance(3.0, "-0.1").replace("3.02 \x1b[0m(-0.1)", "3.02 (-0.0")
    evaluation = one(text).evaluations[0]
    assert evaluation.metrics["eval.loss"] == 3.02
    assert "eval.loss" not in evaluation.previous and "eval.mel_ce" in evaluation.previous


def test_a_number_that_is_cut_off_at_the_end_is_not_taken():
    record = one(performance(3.0).rstrip() + "\n     | > avg_loss_dur: 1.9")
    assert "eval.loss_dur" not in record.evaluations[0].metrics


def test_the_eval_set_is_named_after_its_size():
    clips = " > Filtering invalid eval samples!!\n > Total eval samples after filtering: 41\n"
    record = one(epoch(0) + training() + step(5, 10, 5) + clips + EVALUATION + performance())
    assert record.evaluations[0].eval_set == record.start.eval_set == "41 samples"
    assert record.start.eval_clips == 41
    assert one(performance()).evaluations[0].eval_set is None


def test_an_evaluation_shows_when_its_block_is_over():
    parser = ConsoleParser()
    block = performance()
    parser.feed((epoch(0) + training() + step(5, 10, 5) + EVALUATION + block.rstrip("\n") + "\n").encode())
    assert parser.records()[0].evaluations == ()
    parser.feed(b"\n")
    assert len(parser.records()[0].evaluations) == 1


# -- several processes and runs


def test_another_folder_is_another_run():
    first, second = read(environment() + old_run(path="/runs/a") + environment() + old_run(path="/runs/b"))
    assert (first.name, second.name) == ("a", "b")
    assert len(second.evaluations) == 2


def test_a_run_that_goes_on_in_another_folder_holds_both():
    text = old_run(path="/runs/a") + environment() + old_run(1, path="/runs/b", start=21, mel=3.3)
    first, second = read(text)
    assert len(first.evaluations) == 2
    assert [(e.epoch, e.step) for e in second.evaluations] == [(0, 10), (1, 20), (2, 31)]


def test_a_resume_goes_back_to_its_checkpoint():
    text = environment() + old_run(3) + environment() + epoch(2) + training() + step(0, 10, 11, new=True)
    record = one(text)
    starts = [event for event in record.events if isinstance(event, Start)]
    assert [(s.step, s.resume_mode) for s in starts] == [(0, "new"), (11, "continue")]
    assert [e.step for e in record.evaluations] == [10]


def test_a_resume_without_its_environment_is_told_by_the_step_that_goes_back():
    text = old_run(3, path=None) + epoch(3, path=None) + training() + step(0, 10, 21)
    assert [s.step for s in one(text).events if isinstance(s, Start)] == [0, 21]


def test_epochs_that_count_from_zero_again_count_on():
    text = environment() + old_run(3) + environment() + old_run(2, start=31, mel=3.1)
    record = one(text)
    assert [e.epoch for e in record.evaluations] == [0, 1, 2, 3, 4]
    assert [record.epochs_done(e) for e in record.evaluations] == [1, 2, 3, 4, 5]


def test_new_trainers_repeat_the_epoch_of_the_checkpoint():
    def new(number, base, mel, diff):
        block = epoch(number, 9) + training() + step(0, 9, base, new=True) + step(9, 9, base + 9, new=True)
        return block + EVALUATION + performance(mel, diff)

    text = environment() + new(0, 0, 3.5, "+0.0") + new(1, 10, 3.4, "-0.1") + environment() + new(1, 21, 3.3, "+0.0")
    record = one(text)
    assert [(e.epoch, e.step) for e in record.evaluations] == [(0, 10), (1, 20), (1, 31)]
    assert record.epochs_done(record.evaluations[-1]) == 2


def test_a_piece_that_begins_at_zero_is_another_run():
    assert len(read(old_run(2, path=None) + old_run(1, path=None))) == 2


def test_another_model_is_another_run():
    glow = "--> EVAL PERFORMANCE\n | > avg_loss: 1.5 (-0.1)\n | > avg_log_mle: 0.5 (-0.1)\n\n"
    first, second = read(old_run(1, path=None) + epoch(7, 5, None) + epoch(2, 5, None) + EVALUATION + glow)
    assert "eval.mel_ce" in first.metrics and "eval.mel_ce" not in second.metrics


def test_the_checkpoint_of_a_resume_is_named():
    text = old_run(2) + environment() + " > Continuing from checkpoint_15.pth ...\n > Model restored from step 15\n"
    record = one(text + epoch(1) + training() + step(4, 10, 20))
    assert record.start.resumed_from == "checkpoint_15.pth"
    assert record.start.step == 16


def test_a_resume_that_evaluates_first_begins_where_its_best_model_says():
    text = environment() + old_run(3) + environment() + epoch(3) + EVALUATION + performance(3.2, "+0.0") + best(31)
    record = one(text + epoch(4) + training() + step(9, 10, 40) + EVALUATION + performance(3.1, "-0.1"))
    assert [e.step for e in record.evaluations] == [10, 20, 30, 31, 41]
    assert [e.step for e in record.train_epochs] == [10, 20, 30, 41]
    assert record.start.step == 31


# -- files


@pytest.mark.parametrize("folder", ["/data/runs/a/", "C:\\runs\\a\\", "./a/"])
def test_a_checkpoint_is_its_file_name(folder):
    record = one(epoch(0) + training() + step(5, 10, 5) + f"\n > CHECKPOINT : {folder}checkpoint_5.pth\n")
    (checkpoint,) = record.checkpoints
    assert (checkpoint.kind, checkpoint.path, checkpoint.step, checkpoint.intact) == (
        "latest",
        "checkpoint_5.pth",
        6,  # it was saved inside step 5 and holds its update
        None,
    )


@pytest.mark.parametrize(("encoding", "name"), [("utf-8", "hlas-č"), ("cp1250", "hlas-č")])
def test_paths_in_other_letters(encoding, name):
    assert one(epoch(0, path=f"/běhy/{name}").encode(encoding)).name == name


# -- trouble and the end


def trace(last, frame='File "/venv/trainer/trainer.py", line 1800, in fit'):
    return f"Traceback (most recent call last):\n  {frame}\n    self._fit()\n{last}\n"


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 MiB", "oom"),
        ("RuntimeError: CUDA error: device-side assert triggered", "cuda_error"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("ValueError: odd", "error"),
    ],
)
def test_an_exception_in_training_is_a_crash(last, code):
    record = one(epoch(0) + training() + step(5, 10, 5) + " ! Run is removed from /data\n" + trace(last))
    assert [(i.code, i.message) for i in record.incidents] == [(code, last)]
    assert (record.end.how, record.end.message) == ("crashed", last)


def test_a_chain_of_exceptions_is_one_incident():
    text = trace("TypeError: real") + "\nDuring handling of the above exception, another exception occurred:\n\n"
    record = one(epoch(0) + training() + step(5, 10, 5) + text + trace("PermissionError: [WinError 32] hidden", "x"))
    assert [i.message for i in record.incidents] == ["TypeError: real; then: PermissionError: [WinError 32] hidden"]
    assert record.end.how == "crashed"


def test_an_error_in_a_notebook_is_a_crash():
    shown = [
        "\\u001b[0;31mRuntimeError\\u001b[0m     Traceback (most recent call last)",
        "File \\u001b[0;32m/venv/trainer/trainer.py:1833\\u001b[0m, in \\u001b[0;36mTrainer.fit\\u001b[0;34m(self)",
        "\\u001b[0;31mRuntimeError\\u001b[0m: CUDA out of memory.",
    ]
    text = epoch(0) + training() + step(5, 10, 5) + "".join(f'      "{line}",\n' for line in shown)
    record = one(text)
    assert [(i.code, i.message) for i in record.incidents] == [("oom", "RuntimeError: CUDA out of memory.")]
    assert record.end.how == "crashed"


def test_the_mark_of_a_crash_without_a_traceback():
    record = one(epoch(0) + training() + step(5, 10, 5) + f" ! Run is kept in {RUN}\n")
    assert record.end.how == "crashed"


def test_an_interrupt_is_no_crash():
    record = one(old_run(1) + f" > Keyboard interrupt detected.\n ! Run is kept in {RUN}\n")
    assert record.end.how == "interrupted"


def test_an_error_after_the_last_planned_epoch_is_the_users_own():
    record = one(
        old_run(2, last=2) + "Training finished!\n" + trace("KeyError: 'mine'", 'File "my.py", line 3, in main')
    )
    assert [i.message for i in record.incidents] == ["KeyError: 'mine'"]
    assert record.end.how == "finished"


def test_a_crash_while_the_last_best_model_is_saved_is_a_crash():
    record = one(old_run(2, last=2) + trace("OSError: [Errno 28] No space left on device"))
    assert record.end.how == "crashed"


def test_all_planned_epochs_done_is_finished():
    assert one(old_run(2, last=2)).end.how == "finished"
    assert one(old_run(2, last=3)).end is None


def test_an_error_that_training_survives_is_no_end():
    record = one(epoch(0) + training() + step(0, 10, 0) + "ValueError: skipped a clip\n" + step(5, 10, 5))
    assert len(record.incidents) == 1 and record.end is None


def test_a_thousand_incidents_are_not_kept():
    text = epoch(0) + training() + step(0, 10, 0) + "".join(f"ValueError: {n}\n" for n in range(1000))
    record = one(text)
    assert len(record.incidents) == 100
    assert [(n.code, n.count) for n in record.notes] == [("more_incidents", 900)]


# -- formats

PLAIN = environment() + old_run(3) + "\nTraining done\n"


def without_time(records):
    return [(r.name, r.events, r.notes) for r in records]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: re.sub("\x1b\\[\\d+m", "", text),
        lambda text: text.replace("\x1b", ""),
        lambda text: re.sub("(?m)^ +", "", text),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(
            "GLOBAL_STEP: 5\x1b[0m\n", "GLOBAL_STEP: 5\x1b[0m\n 3%|# | 1/9\r 6%|# | 2/9\r\nUserWarning: x\n"
        ),
        lambda text: text.replace(" > BEST", " **> BEST").replace(".pth", ".pth**"),
        lambda text: re.sub(
            r"loss: 4.0  \(3.52\)", "loss: tensor(4.0, device='cuda:0')  (tensor(3.52, device='cuda:0'))", text
        ),
    ],
    ids=["no colours", "no escapes", "no indentation", "CRLF", "progress bars", "Markdown", "tensors"],
)
def test_the_same_run_in_another_dress(change):
    assert change(PLAIN) != PLAIN
    assert read(change(PLAIN)) == read(PLAIN)


def test_a_notebook_as_it_lies_on_disk():
    import json

    lines = [line + "\n" for line in PLAIN.split("\n")]
    cell = {"cell_type": "code", "outputs": [{"output_type": "stream", "text": lines}], "source": ["trainer.fit()"]}
    assert read(json.dumps({"cells": [cell]}, indent=1)) == read(PLAIN)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1.99e-06", 1.99e-6),
        ("-0.59861", -0.59861),
        ("tensor(15.6, device='cuda:0')", 15.6),
        ("inf", math.inf),
        ("7", 7),
    ],
)
def test_forms_of_a_value(text, number):
    record = one(f"--> EVAL PERFORMANCE\n | > avg_loss: {text} (+0)\n")
    assert record.evaluations[0].metrics["eval.loss"] == number


def test_values_that_cannot_be_read_are_counted():
    record = one("--> EVAL PERFORMANCE\n | > avg_loss: 3.5 (+0)\n | > avg_loss_a: ??? (+0)\n | > avg_loss_b: 1.2.3\n\n")
    assert record.evaluations[0].metrics == {"eval.loss": 3.5}
    assert ("unreadable_value", 2) in [(n.code, n.count) for n in record.notes]


@pytest.mark.parametrize(
    "piece", [b"| > a: 1", b'"\\\\n', b"--> STEP: 1 ", b"trainer.py in ", b"A.", b"[1;", b"\\r", b"> "]
)
def test_lines_made_to_be_slow_are_not(piece):
    text = SEED + b"Traceback (most recent call last)\n" + piece * (900_000 // len(piece))
    began = time.perf_counter()
    read(text)
    read(SEED + performance().rstrip().encode() + piece * (900_000 // len(piece)) + b"\n")
    assert time.perf_counter() - began < 10


def test_a_line_without_end_is_passed_over():
    parser = ConsoleParser()
    tracemalloc.start()
    for _ in range(64):
        parser.feed(b"\xff" * (1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    parser.feed(b"\n" + performance().encode())
    parser.close()
    assert len(parser.records()[0].evaluations) == 1


# -- long logs


def long_run(steps, n=500, bad=()):
    parts = []
    for g in range(steps):
        s = g % n
        if s == 0:
            parts.append(epoch(g // n, steps // n + 5) + training())
        mel = "nan" if g in bad else repr(3 + (g * 7919 % 1000) / 1000)
        parts.append(
            step(
                s, n, g, f"2030-05-01 08:{g // 60 % 60:02}:{g % 60:02}", loss_mel_ce=f"{mel}  (nan)", loss="4.0  (3.5)"
            )
        )
        if s == n - 1:
            parts.append(EVALUATION + performance(3.5 - g / 1e6, "-0.1"))
    return "".join(parts)


def test_whole_steps_and_single_lines_tell_the_same():
    text = long_run(2000, bad={3, 40, 41, 42, 1999})
    assert read(text) == read(text, 1000)
    (record,) = read(text)
    assert [e.step for e in record.evaluations] == [500, 1000, 1500, 2000]
    assert [(t.nonfinite_batches, t.longest_nonfinite_run) for t in record.train_epochs] == [
        (4, 3),
        (1, 1),
        (1, 1),
        (1, 1),
    ]
    values = [3 + (g * 7919 % 1000) / 1000 for g in range(500, 1000)]
    assert record.train_epochs[1].metrics["train.mel_ce"] == pytest.approx(sum(values) / 500)


def test_memory_does_not_grow_with_steps():
    def peak(steps):
        parser = ConsoleParser()
        tracemalloc.start()
        for begin in range(0, steps, 1000):
            text = "".join(step(g, 10**6, g) for g in range(begin, begin + 1000))
            parser.feed(text.encode())
            del text
        parser.records()
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(1000)  # regexes are compiled once
    assert peak(20_000) < 1.5 * peak(4_000)


# -- any bytes, any chunks

SEED = (
    environment()
    + old_run(2, last=2)
    + trace("ValueError: x")
    + environment()
    + old_run(1, start=11)
    + step(0, 9, 40, new=True)
    + performance(3, "nan")
    + " > CHECKPOINT : C:\\a\\checkpoint_7.pth\n"
    + "--> TRAIN PERFORMACE -- EPOCH TIME: 1.0 sec -- GLOBAL_STEP: 60\n | > avg_loss: 1\n\n"
    + " > Keyboard interrupt detected.\n"
).encode()


@given(st.binary(max_size=2000))
def test_random_bytes_raise_nothing(data):
    read(data)


@st.composite
def spliced(draw):
    """The seed with pieces cut out, doubled, moved, and bytes changed."""
    data = SEED
    for _ in range(draw(st.integers(1, 6))):
        begin, end, at = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 3)))
        kind = draw(st.sampled_from(["cut", "move", "double", "bytes", "digits"]))
        if kind == "cut":
            data = data[:begin] + data[end:]
        elif kind == "move":
            data = data[:begin] + data[end:at] + data[begin:end] + data[at:]
        elif kind == "double":
            data = data[:end] + data[begin:end] + data[end:]
        elif kind == "bytes":
            data = data[:begin] + draw(st.binary(max_size=8)) + data[begin:]
        else:
            data = data[:begin] + draw(st.sampled_from([b"9" * 30, b"0", b"-", b"\r", b"nan", b"\\n"])) + data[begin:]
    return data


def plain(records):
    """Comparable although NaN is not equal to itself."""
    return repr(records)


@settings(max_examples=150, deadline=None)
@given(spliced(), st.integers(1, 300))
def test_however_spliced_and_cut_the_same_is_read(data, size):
    assert plain(read(data)) == plain(read(data, size))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_long_logs_are_read_alike_however_cut(data):
    text = long_run(60, n=20, bad={7}).encode()
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + data.draw(st.sampled_from([b"", b"\n", b"\r", b"(", b"7", b"x\n", b" | > loss: 1\n"]))
            + text[at + 1 :]
        )
    assert plain(read(text)) == plain(read(text, 1500))


def test_byte_by_byte_is_as_at_once():
    assert plain(read(SEED, 1)) == plain(read(SEED))


# -- the real thing


def test_what_the_real_logger_prints(capsys):
    pytest.importorskip("trainer")
    from trainer.logging.console_logger import ConsoleLogger

    lines = []

    class Collect(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage() + "\n")

    logger, handler = logging.getLogger("trainer"), Collect()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        console = ConsoleLogger()
        for number, mel in enumerate((3.5, 3.25)):
            console.print_epoch_start(number, 2, RUN)
            console.print_train_start()
            for s in (0, 5):
                losses = {"current_lr": 5e-6, "loss_text_ce": 0.02, "loss_mel_ce": 3.98, "loss": 1.0, "step_time": 0.1}
                averages = {f"avg_{key}": value for key, value in losses.items()}
                console.print_train_step(10, s, number * 10 + s, losses, averages)
            console.print_eval_start()
            console.print_eval_step(0, {"loss": 9.0}, {"avg_loss": 9.0})
            console.print_epoch_end(number, {"avg_loader_time": 0.1 + number, "avg_loss_mel_ce": mel, "avg_loss": mel})
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    record = one("".join(lines))
    assert [e.step for e in record.evaluations] == [10, 20]
    assert [e.metrics["eval.mel_ce"] for e in record.evaluations] == [3.5, 3.25]
    assert record.evaluations[0].previous == {}
    assert record.evaluations[1].previous["eval.mel_ce"] == 3.5
    assert (record.start.epochs_planned, record.start.grad_accum_steps) == (2, 4)
    assert [t.metrics["train.loss"] for t in record.train_epochs] == [4.0, 4.0]
    assert record.end.how == "finished"


real = pytest.mark.skipif(not LOGS.is_dir(), reason="the folder with real logs is not here")


def log(number):
    (path,) = LOGS.glob(f"{number}_*")
    return read(path.read_bytes())


def mels(record):
    return [round(e.metrics["eval.mel_ce"], 3) for e in record.evaluations]


def best_steps(record):
    return {c.step for c in record.checkpoints if c.kind == "best"}


@real
def test_real_log_02():
    (record,) = log("02")
    assert mels(record) == [4.114, 4.065, 4.017, 4.0, 3.973, 3.953, 3.949]
    assert [e.epoch for e in record.evaluations] == [1, 2, 3, 4, 5, 6, 7]
    assert {e.step for e in record.evaluations} == best_steps(record)
    assert all(3.8 < t.metrics["train.mel_ce"] < 4.4 and t.nonfinite_batches == 1 for t in record.train_epochs)
    assert record.start.grad_accum_steps == 48 and record.start.epochs_planned == 8
    assert all(abs(t.metrics["train.loss"] - t.metrics["train.mel_ce"]) < 0.2 for t in record.train_epochs)
    assert record.end.how == "finished" and len(record.incidents) == 1
    assert [(n.code, n.count) for n in record.notes] == [("train_average_poisoned", 7)]


@real
def test_real_log_06():
    (record,) = log("06")
    assert [event.type for event in record.events] == ["start"]
    assert record.name == "xtts_finetune-February-09-2026_05+51PM-14df766"


@real
def test_real_log_11():
    (record,) = log("11")
    assert mels(record) == [3.453, 3.344, 3.282, 3.272, 3.252, 3.265]
    assert [e.step for e in record.evaluations] == [117, 234, 351, 468, 585, 702]
    assert best_steps(record) == {117, 234, 351, 468, 585}
    assert record.train_epochs[-1].metrics["train.mel_ce"] == pytest.approx(2.8728, abs=1e-4)
    assert {e.eval_set for e in record.evaluations} == {"41 samples"}
    assert record.end.how == "finished" and record.notes == ()


@real
def test_real_log_14():
    (record,) = log("14")
    assert mels(record) == [4.225, 4.077]
    assert {e.step for e in record.evaluations} == best_steps(record) == {4, 8}
    assert record.end.how == "finished"


@real
def test_real_log_16():
    (record,) = log("16")
    assert len(record.evaluations) == 217
    assert [e.step for e in record.evaluations] == [11 * (n + 1) for n in range(217)]
    assert [e.epoch for e in record.evaluations] == list(range(217))
    assert best_steps(record) <= {e.step for e in record.evaluations}
    assert record.epochs_done(record.evaluations[-1]) == 217
    best_at = min(record.evaluations, key=lambda e: e.metrics["eval.loss"])
    assert best_at.epoch == 213 and best_at.metrics["eval.loss"] == pytest.approx(0.171, abs=5e-4)
    # No evaluation is missing from the chain of printed differences.
    for before, after in zip(record.evaluations, record.evaluations[1:], strict=False):
        assert after.previous["eval.loss"] == pytest.approx(before.metrics["eval.loss"], abs=1e-9)
    assert record.end is None and record.notes == ()


@real
def test_real_log_23():
    records = log("23")
    assert [len(r.evaluations) for r in records] == [1, 1, 0, 1, 0]
    assert records[1].evaluations[0].step == 16
    assert records[3].evaluations[0].step == 29144
    assert records[3].train_epochs[0].metrics["train.loss"] == -0.59861
    assert "eval.loss" not in records[0].evaluations[0].previous


@real
def test_real_log_24():
    (record,) = log("24")
    assert record.evaluations == () and record.end.how == "crashed"
    assert record.start.grad_accum_steps == 252
    assert "WinError 32" in record.incidents[0].message


@real
@pytest.mark.parametrize("name", sorted(path.name for path in LOGS.glob("*.txt")) if LOGS.is_dir() else [])
def test_real_logs_are_read_alike_however_cut(name):
    data = (LOGS / name).read_bytes()
    assert plain(read(data)) == plain(read(data, 1700)) == plain(read(data, 63))

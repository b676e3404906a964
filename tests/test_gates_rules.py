"""The rules that count and look up; those that read a curve have files of their own."""

from statistics import median

import pytest
import records
from records import curve, evaluated, flat, incident, saved, start, trained

from xtts_gatekeeper.gates.rules.checkpoint_intact import CheckpointIntact
from xtts_gatekeeper.gates.rules.finite import Finite
from xtts_gatekeeper.gates.rules.learning_rate import LearningRate
from xtts_gatekeeper.gates.rules.memory import Memory
from xtts_gatekeeper.gates.rules.nan_repeated import NanRepeated
from xtts_gatekeeper.gates.rules.no_leak import NoLeak
from xtts_gatekeeper.gates.rules.out_of_memory import OutOfMemory
from xtts_gatekeeper.gates.rules.runtime import Runtime

MEL = "eval.mel_ce"


NAN, INF = float("nan"), float("inf")


def record_of(*parts, **values):
    return records.record_of(flat(parts), **values)


def status(rule, *parts, **values):
    return rule.check(record_of(*parts, **values)).status


# finite, nan_repeated


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], "too_early"),
        ([trained(0, mel=2.0)], "passed"),
        ([evaluated(0, 2.0)], "passed"),
        ([evaluated(0, NAN)], "failed"),
        ([evaluated(0, INF)], "failed"),
        ([evaluated(0, -INF)], "failed"),
        ([evaluated(0, 2.0, nonfinite_batches=1)], "passed"),  # a bad clip of the eval set
        ([evaluated(0, 2.0, nonfinite_batches=1), evaluated(1, 1.9, nonfinite_batches=1)], "passed"),
        ([evaluated(0, 2.0, nonfinite_batches=1), evaluated(1, 1.9, nonfinite_batches=2)], "failed"),
        ([evaluated(0, 2.0), evaluated(1, 1.9, nonfinite_batches=1)], "failed"),
        ([evaluated(0, 2.0, nonfinite_batches=3)], "failed"),  # of four
        ([evaluated(0, nonfinite_batches=4)], "failed"),
        ([evaluated(0, 2.0, metrics={MEL: 2.0, "eval.text_ce": NAN})], "failed"),
        ([evaluated(0, NAN), evaluated(1, 2.0)], "passed"),
        ([trained(0, nonfinite_batches=2, longest_nonfinite_run=2), evaluated(0, 2.0)], "passed"),
        ([trained(0, nonfinite_batches=3, longest_nonfinite_run=3), evaluated(0, 2.0)], "failed"),
        ([trained(0, nonfinite_batches=9, longest_nonfinite_run=1), evaluated(0, 2.0)], "passed"),
        ([trained(0, longest_nonfinite_run=3), trained(1), evaluated(1, 2.0)], "passed"),
    ],
)
def test_finite_fails_on_a_nan_evaluation_or_three_nan_batches_in_a_row(parts, expected):
    assert status(Finite(consecutive=3), parts) == expected


@pytest.mark.parametrize(("consecutive", "expected"), [(2, "failed"), (3, "passed")])
def test_how_many_nan_batches_in_a_row_are_too_many_can_be_chosen(consecutive, expected):
    parts = [trained(0, nonfinite_batches=2, longest_nonfinite_run=2), evaluated(0, 2.0)]
    assert status(Finite(consecutive), parts) == expected


def test_isolated_nan_batches_are_mentioned():
    finding = Finite().check(record_of(trained(0, nonfinite_batches=5, longest_nonfinite_run=1), evaluated(0, 2.0)))
    assert finding.status == "passed"
    assert "5 isolated NaN batches" in finding.message
    assert finding.evidence == {"isolated_nonfinite_batches": 5}


def test_a_training_loss_that_is_nan_beside_a_finite_evaluation_is_not_called_finite():
    finding = Finite().check(record_of(trained(0, mel=NAN), evaluated(0, 2.0), source="table"))
    assert finding.status == "passed"
    assert "train.mel_ce of the last epoch gave NaN" in finding.message


def test_finite_names_the_batches_or_the_metrics():
    batches = Finite().check(record_of(evaluated(0, 2.0, nonfinite_batches=3)))
    assert "3 of 4 batches" in batches.message
    metric = Finite().check(record_of(evaluated(0, NAN)))
    assert MEL in metric.message
    assert metric.evidence["metrics"] == [MEL]


BROKEN = {"nonfinite_batches": 3, "longest_nonfinite_run": 3}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([start(), trained(0, **BROKEN)], "passed"),
        ([start(), trained(0, **BROKEN), evaluated(0, NAN)], "passed"),
        ([start(), trained(0, **BROKEN), start(), trained(0, **BROKEN)], "failed"),
        ([start(), evaluated(0, NAN), start(), evaluated(0, NAN)], "failed"),
        ([start(), trained(0, **BROKEN), start(), evaluated(0, NAN)], "failed"),
        ([start(), curve(2.0, NAN), start(step=10), curve(1.9, first=1)], "passed"),
        ([start(), curve(2.0, NAN), start(step=10), curve(1.9, first=1), start(20), curve(NAN, first=2)], "failed"),
        ([start(), curve(2.0), start(step=10), curve(1.9, NAN, first=1)], "passed"),
        ([start(), trained(0, nonfinite_batches=5, longest_nonfinite_run=2), start(), trained(0, **BROKEN)], "passed"),
        ([curve(NAN, NAN)], "passed"),
        ([curve(NAN), start(), curve(NAN)], "failed"),
    ],
)
def test_nan_repeated_fails_on_nan_in_two_processes_of_a_run(parts, expected):
    assert status(NanRepeated(), parts) == expected


def test_nan_repeated_names_the_step_at_which_each_process_broke():
    record = record_of(start(), curve(2.0, NAN, NAN), start(step=10), curve(1.9, NAN, first=1))
    finding = NanRepeated().check(record)
    assert finding.evidence == {"steps": [20, 30]}
    assert "steps 20 and 30" in finding.message


# memory, out_of_memory, checkpoint_intact, learning_rate, runtime, no_leak


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("", "not_measured"),
        ("high high", "too_early"),
        ("high high high", "failed"),
        ("high critical high", "failed"),
        ("high moderate critical", "passed"),
        ("low high high high", "failed"),
        ("high high high low", "passed"),
    ],
)
def test_memory_fails_only_when_it_was_high_in_every_one_of_the_last_epochs(states, expected):
    assert status(Memory(3), [trained(n, memory_state=state) for n, state in enumerate(states.split())]) == expected


def test_memory_that_no_epoch_tells_is_not_measured():
    assert status(Memory(1), [trained(n, memory_state=None) for n in range(5)], source="console") == "not_measured"


@pytest.mark.parametrize(("allowed", "expected"), [(0, "failed"), (1, "failed"), (2, "passed"), (3, "passed")])
def test_out_of_memory_fails_beyond_what_is_allowed(allowed, expected):
    parts = [incident(5, "oom"), incident(6, "something"), start(step=5), incident(7, "oom")]
    finding = OutOfMemory(allowed).check(record_of(parts))
    assert finding.status == expected
    assert finding.evidence == {"steps": [5, 7]}
    assert status(OutOfMemory(0), curve(2.0)) == "passed"


@pytest.mark.parametrize(
    ("parts", "source", "expected"),
    [
        ([], "journal", "too_early"),
        ([], "console", "not_measured"),
        ([saved(1)], "journal", "passed"),
        ([saved(1, intact=None)], "console", "not_measured"),
        ([saved(1), saved(2, intact=False, reason="disk full")], "journal", "failed"),
        ([saved(1, intact=False), saved(2)], "journal", "passed"),
    ],
)
def test_checkpoint_intact_looks_at_the_newest_file(parts, source, expected):
    assert status(CheckpointIntact(), parts, source=source) == expected


def test_the_cause_of_a_failed_save_is_told():
    assert "disk full" in CheckpointIntact().check(record_of(saved(2, intact=False, reason="disk full"))).message


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([start()], "passed"),
        ([start(), incident(1, "lr_not_as_planned", "rate 2 is not 1")], "failed"),
        ([start(), incident(1, "another")], "passed"),
        ([start(), incident(1, "lr_not_as_planned"), start(step=2)], "passed"),
        ([start(), start(step=2), incident(3, "lr_not_as_planned")], "failed"),
    ],
)
def test_learning_rate_fails_on_a_wrong_update_since_this_process_started(parts, expected):
    assert status(LearningRate(), parts) == expected


def test_only_a_journal_knows_the_learning_rate_that_was_asked_for():
    assert status(LearningRate(), [start()], source="console") == "not_measured"


@pytest.mark.parametrize(
    ("seconds", "epochs", "expected"),
    [
        ([], 30, "too_early"),
        ([None], 30, "too_early"),
        ([3600], None, "not_measured"),
        ([3600], 11, "failed"),
        ([3600], 10, "passed"),
        ([60, 7200, 60], 30, "passed"),
        ([7200, 60, 7200], 30, "failed"),
        ([None, 3600], 11, "failed"),
    ],
)
def test_runtime_takes_the_median_epoch_times_the_plan(seconds, epochs, expected):
    parts = [start(epochs_planned=epochs), *(trained(n, seconds=s) for n, s in enumerate(seconds))]
    finding = Runtime(max_hours=10).check(record_of(parts))
    assert finding.status == expected
    if expected in ("passed", "failed"):
        known = [s for s in seconds if s is not None]
        assert finding.evidence["hours"] == pytest.approx(median(known) / 3600 * epochs)


def test_runtime_without_a_start_is_not_measured():
    assert status(Runtime(1), [trained(0)], source="table") == "not_measured"


@pytest.mark.parametrize(("leaked", "expected"), [(None, "not_measured"), (0, "passed"), (1, "failed"), (20, "failed")])
def test_no_leak_fails_on_a_single_eval_clip_that_is_trained_on(leaked, expected):
    assert status(NoLeak(), [start(eval_clips_trained_on=leaked)]) == expected


def test_no_leak_goes_by_the_latest_start_and_needs_one():
    assert status(NoLeak(), [start(eval_clips_trained_on=3), start(step=10, eval_clips_trained_on=0)]) == "passed"
    assert status(NoLeak(), curve(2.0), source="console") == "not_measured"

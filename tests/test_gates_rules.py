from random import Random
from statistics import median

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from records import curve, evaluated, incident, record_of, saved, start, trained

from xtts_gatekeeper.gates import RULES
from xtts_gatekeeper.gates.rules import (
    CheckpointIntact,
    Finite,
    Improved,
    LearningRate,
    Memory,
    NotWorsening,
    Runtime,
    Target,
    Trend,
)
from xtts_gatekeeper.series import median_slope, scatter

MEL = "eval.mel_ce"
NAN, INF = float("nan"), float("inf")
losses = st.lists(st.floats(0.01, 100), min_size=1, max_size=8)


def status(rule, *parts):
    finding = rule.check(record_of(*parts))
    assert finding.message
    assert "\n" not in finding.message
    return finding.status


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([evaluated(0, 2.0)], "passed"),
        ([evaluated(0, NAN)], "failed"),
        ([evaluated(0, INF)], "failed"),
        ([evaluated(0, 2.0, nonfinite_batches=1)], "failed"),
        ([evaluated(0, nonfinite_batches=4)], "failed"),
        ([evaluated(0, NAN), evaluated(1, 2.0)], "passed"),
        ([trained(0, nonfinite_batches=2, longest_nonfinite_run=2), evaluated(0, 2.0)], "passed"),
        ([trained(0, nonfinite_batches=3, longest_nonfinite_run=3), evaluated(0, 2.0)], "failed"),
        ([trained(0, nonfinite_batches=9, longest_nonfinite_run=1), evaluated(0, 2.0)], "passed"),
        ([trained(0, longest_nonfinite_run=3), trained(1), evaluated(1, 2.0)], "passed"),
    ],
)
def test_finite_fails_on_a_nan_evaluation_or_three_nan_batches_in_a_row(parts, expected):
    assert status(Finite(consecutive=3), *parts) == expected


def test_isolated_nan_batches_are_mentioned():
    finding = Finite().check(record_of(trained(0, nonfinite_batches=5, longest_nonfinite_run=1), evaluated(0, 2.0)))
    assert finding.status == "passed"
    assert "5 isolated NaN batches" in finding.message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 3.1, 3.2], "too_early"),
        ([3.0, 3.1, 3.2, 3.3], "failed"),
        ([9.0, 3.0, 3.1, 3.2, 3.3], "failed"),
        ([3.0, 3.1, 3.2, 3.3, 3.2], "passed"),
        ([3.0, 3.1, 3.1, 3.2], "passed"),
        ([3.0, 3.001, 3.002, 3.003], "passed"),
        ([3.0, 3.001, 3.002, 3.0061], "failed"),
        ([3.0, 2.0, 1.0, 0.5], "passed"),
        ([3.0, NAN, 3.2, 3.3], "passed"),
        ([3.0, 3.1, 3.2, INF], "failed"),
    ],
)
def test_not_worsening_fails_on_three_rises_in_a_row_beyond_the_noise(values, expected):
    assert status(NotWorsening(MEL, checks=3, tolerance=0.002), curve(*values)) == expected


@given(losses, st.integers(1, 4), st.floats(0, 0.1))
def test_not_worsening_never_fails_unless_the_latest_is_the_highest_of_the_last_checks(values, checks, tolerance):
    if status(NotWorsening(MEL, checks, tolerance), curve(*values)) == "failed":
        last = values[-checks - 1 :]
        assert len(last) == checks + 1
        assert last == sorted(set(last))
        assert last[-1] > last[0] * (1 + tolerance) * (1 - 1e-12)


@given(losses, st.integers(1, 4))
def test_not_worsening_passes_any_curve_whose_latest_is_no_rise(values, checks):
    assert status(NotWorsening(MEL, checks), curve(*values, min(values))) != "failed"


@pytest.mark.parametrize(
    ("values", "require", "window", "expected"),
    [
        ([3.0, 2.9], "flat_to_down", 3, "too_early"),
        ([3.0, 2.9, 2.8], "flat_to_down", 3, "passed"),
        ([3.0, 3.0, 3.0], "flat_to_down", 3, "passed"),
        ([3.0, 3.01, 3.02], "flat_to_down", 3, "passed"),
        ([3.0, 3.02, 3.04], "flat_to_down", 3, "failed"),
        ([3.0, 3.1, 3.2], "flat_to_down", 3, "failed"),
        ([9.0, 3.0, 3.1, 3.2], "flat_to_down", 3, "failed"),
        ([3.0, 2.9, 2.8], "down", 3, "passed"),
        ([3.0, 3.0, 3.0], "down", 3, "failed"),
        ([3.0, 3.01, 2.99], "down", 3, "failed"),
        ([3.0, 2.9], "down", 0, "too_early"),
        ([5.0, 4.0, 3.0, 3.1, 3.2], "down", 3, "failed"),
        ([5.0, 4.0, 3.0, 3.1, 3.2], "down", 0, "passed"),
        ([3.0, 2.9, 99.0, 2.8, 2.7], "down", 0, "passed"),
        ([3.0, NAN, 2.0], "flat_to_down", 3, "failed"),
        ([NAN, 3.0, 2.9, 2.8], "flat_to_down", 3, "passed"),
    ],
)
def test_trend_says_rise_flat_or_fall_of_the_window(values, require, window, expected):
    assert status(Trend(MEL, window=window, noise=0.01, require=require), curve(*values)) == expected


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=8), st.floats(0.001, 1000))
def test_trend_does_not_depend_on_the_unit_of_the_metric(values, factor):
    """Losses of another size, the same shape: the same finding, unless the change is as large as the allowance."""
    finding = Trend(MEL, window=0).check(record_of(curve(*values)))
    assume(abs(abs(finding.evidence["change"]) - finding.evidence["noise_allowance"]) > 1e-6)
    assert status(Trend(MEL, window=0), curve(*(value * factor for value in values))) == finding.status


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), st.floats(-5, 5), st.floats(-100, 100))
def test_median_slope_finds_a_line_and_turns_with_the_values(values, slope, offset):
    line = [offset + slope * x for x in range(len(values))]
    assert median_slope(line) == pytest.approx(slope, abs=1e-9)
    assert median_slope([-value for value in values]) == pytest.approx(-median_slope(values))
    assert median_slope(values[::-1]) == pytest.approx(-median_slope(values))


def test_one_wild_point_does_not_turn_a_long_trend():
    falling = [10 - 0.1 * x for x in range(20)]
    wild = [*falling[:7], 500.0, *falling[8:]]
    assert median_slope(wild) == pytest.approx(median_slope(falling), rel=0.05)


@pytest.mark.parametrize(
    ("values", "by", "expected"),
    [
        ([3.0], 0.0, "too_early"),
        ([3.0, 2.9], 0.0, "passed"),
        ([3.0, 3.0], 0.0, "failed"),
        ([3.0, 3.1], 0.0, "failed"),
        ([3.0, 1.0, 3.1], 0.0, "failed"),
        ([3.0, 9.0, 2.9], 0.0, "passed"),
        ([4.0, 3.8], 0.1, "failed"),
        ([4.0, 3.5], 0.1, "passed"),
        ([3.0, NAN], 0.0, "failed"),
    ],
)
def test_improved_compares_the_latest_with_the_first(values, by, expected):
    assert status(Improved(MEL, by), curve(*values)) == expected


@pytest.mark.parametrize(
    ("values", "expected"), [([], "too_early"), ([2.6], "passed"), ([2.4], "failed"), ([2.4, 2.6], "passed")]
)
def test_target_fails_when_the_latest_is_below_it(values, expected):
    assert status(Target(MEL, 2.5), curve(*values)) == expected


@pytest.mark.parametrize(
    ("states", "expected"),
    [
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


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], "too_early"),
        ([saved(1)], "passed"),
        ([saved(1), saved(2, intact=False, reason="disk full")], "failed"),
        ([saved(1, intact=False), saved(2)], "passed"),
    ],
)
def test_checkpoint_intact_looks_at_the_newest_file(parts, expected):
    assert status(CheckpointIntact(), *parts) == expected


def test_the_cause_of_a_failed_save_is_told():
    assert "disk full" in CheckpointIntact().check(record_of(saved(2, intact=False, reason="disk full"))).message


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([start()], "passed"),
        ([start(), incident(1, "lr_not_as_planned")], "failed"),
        ([start(), incident(1, "another")], "passed"),
        ([start(), incident(1, "lr_not_as_planned"), start(step=2)], "passed"),
        ([start(), start(step=2), incident(3, "lr_not_as_planned")], "failed"),
    ],
)
def test_learning_rate_fails_on_a_wrong_update_since_this_process_started(parts, expected):
    assert status(LearningRate(), *parts) == expected


@pytest.mark.parametrize(
    ("seconds", "epochs", "expected"),
    [
        ([], 30, "too_early"),
        ([3600], 30, "failed"),
        ([3600], 10, "passed"),
        ([60, 7200, 60], 30, "passed"),
        ([7200, 60, 7200], 30, "failed"),
    ],
)
def test_runtime_takes_the_median_epoch_times_the_plan(seconds, epochs, expected):
    parts = [start(epochs_planned=epochs), *(trained(n, seconds=float(s)) for n, s in enumerate(seconds))]
    finding = Runtime(max_hours=10).check(record_of(parts))
    assert finding.status == expected
    if seconds:
        assert finding.evidence["hours"] == pytest.approx(median(seconds) / 3600 * epochs)


@pytest.mark.parametrize("rule", [NotWorsening(MEL), Trend(MEL), Improved(MEL), Target(MEL, 2.5)])
def test_a_metric_that_was_never_measured_is_too_early_not_an_error(rule):
    assert status(rule, [evaluated(n) for n in range(6)]) == "too_early"


@pytest.mark.parametrize("rule", [NotWorsening(MEL), Trend(MEL), Improved(MEL)])
def test_evaluations_of_another_eval_set_are_not_compared(rule):
    other = curve(1.0, 1.1, 1.2, 1.3, eval_set="other")
    assert status(rule, other) == "failed"
    assert status(rule, other, curve(5.0, first=4)) == "too_early"


def test_training_losses_go_on_when_the_eval_set_changes():
    record = record_of(curve(1.0, 1.1, eval_set="other"), curve(1.2, first=2))
    assert record.series("train.loss").values == (1.0, 1.1, 1.2)
    assert record.series(MEL).values == (1.2,)


EXAMPLES = {
    "finite": Finite(),
    "not_worsening": NotWorsening(MEL),
    "trend": Trend(MEL),
    "improved": Improved(MEL),
    "target": Target(MEL, 2.5),
    "memory": Memory(),
    "checkpoint_intact": CheckpointIntact(),
    "learning_rate": LearningRate(),
    "runtime": Runtime(100),
}


@pytest.mark.parametrize("name", RULES)
@given(st.lists(st.floats() | st.none(), min_size=1, max_size=6))
def test_every_rule_judges_any_record_without_an_error_and_without_changing_it(name, values):
    record = record_of(
        start(), saved(1), [e for n, v in enumerate(values) for e in (trained(n, mel=v), evaluated(n, v))]
    )
    before = repr(record)
    finding = EXAMPLES[name].check(record)
    assert finding.status in ("passed", "failed", "too_early")
    assert finding.message
    assert repr(record) == before


# Noise


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 1.0), st.floats(-0.5, 0.5))
def test_scatter_measures_the_noise_and_not_the_trend(seed, noise, slope):
    random = Random(seed)
    values = [10 + slope * i + random.gauss(0, noise) for i in range(200)]
    assert scatter(values) == pytest.approx(noise, rel=0.4)


def test_scatter_ignores_a_bend_and_an_outlier():
    falling = [3.0, 1.1] + [1.0 - 0.01 * i for i in range(16)]
    assert scatter(falling) < 0.001
    falling[6] += 5
    assert scatter(falling) < 0.001


def test_a_noisy_flat_curve_is_not_told_to_tune_as_often_as_by_a_fixed_allowance():
    """Training losses of a small set wobble by 3 %: three points of them say nothing."""
    random = Random(0)
    flat = [1.0 + random.gauss(0, 0.03) for _ in range(400)]
    rule = Trend(MEL, window=3, noise=0.01)
    told = [status(rule, curve(*flat[i : i + 12])) for i in range(388)]
    fixed = [median_slope(flat[i + 9 : i + 12]) * 2 > 0.01 for i in range(388)]
    assert told.count("failed") < 0.4 * sum(fixed)


def test_a_real_rise_in_a_noisy_curve_is_told():
    values = [1.0, 1.02, 0.98, 1.01, 0.99, 1.02, 1.0, 1.2, 1.4, 1.6]
    assert status(Trend(MEL, window=3, noise=0.01), curve(*values)) == "failed"
    assert status(NotWorsening(MEL), curve(*values)) == "failed"

import math
import random

import pytest
from records import curve, evaluated, record_of, start, trained

from xtts_gatekeeper.gates.projection import project

METRIC = "eval.mel_ce"


def measured(values, step=100, seconds=None, first=0):
    """A run with an evaluation every `step` steps; a training epoch between each two takes `seconds`."""
    events = [start()]
    for epoch, value in enumerate(values, first):
        events += [trained(epoch, (epoch + 1) * step, seconds=seconds), evaluated(epoch, value, (epoch + 1) * step)]
    return record_of(events)


def exponential(x):
    return 2.0 + 2.0 * math.exp(-0.08 * x)


def power(x):
    return 2.0 + 2.0 * (1 + x / 3) ** -0.5


@pytest.mark.parametrize(
    ("values", "target"),
    [([3.0, 2.4], 2.5), ([2.5], 2.5), ([3.0, 2.8, 2.6, 2.4, 2.3, 2.2, 2.1], 2.5), ([-0.2, -1.0], -1.0)],
)
def test_a_target_that_is_reached_needs_no_more_steps(values, target):
    found = project(measured(values), METRIC, target)
    assert (found.status, found.steps, found.latest, found.points) == ("reached", 0, values[-1], len(values))
    assert "is at the target" in found.message


@pytest.mark.parametrize("count", range(6))
def test_fewer_than_six_evaluations_are_too_few_to_project(count):
    found = project(measured([4.0 - 0.1 * n for n in range(count)]), METRIC, 2.0)
    assert (found.status, found.points, found.steps, found.steps_interval) == ("too_few_points", count, None, None)
    assert project(measured([4.0 - 0.1 * n for n in range(6)]), METRIC, 3.0).status != "too_few_points"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("noise", [0.0, 0.005])
@pytest.mark.parametrize("curve_of", [exponential, power])
def test_the_interval_holds_the_truth_of_a_curve_of_its_kinds(curve_of, noise, seed):
    random.seed(seed)
    seen, truth = 20, 30
    values = [curve_of(x) + random.gauss(0, noise) for x in range(1, seen + 1)]
    found = project(measured(values), METRIC, curve_of(truth))
    assert found.status == "expected"
    low, high = found.steps_interval
    expected = (truth - seen) * 100
    assert low <= expected * 1.01
    assert high is None or high >= expected * 0.99
    assert low <= found.steps
    assert high is None or found.steps <= high
    if not noise:
        assert found.steps == pytest.approx(expected, rel=0.3)
    assert f"in about {found.steps} steps" in found.message


def test_a_target_below_the_curves_floor_is_not_at_this_trend():
    found = project(measured([2.0 + 2.0 * math.exp(-0.4 * x) for x in range(20)]), METRIC, 1.0)
    assert (found.status, found.steps, found.steps_interval) == ("not_at_this_trend", None, None)
    assert found.floor == pytest.approx(2.0, abs=0.2)
    assert "will not reach 1 at this trend" in found.message


@pytest.mark.parametrize(
    "values",
    [
        [4.0 - 0.1 * n for n in range(10)] + [3.1, 3.2, 3.3],  # it has turned
        [4.0 - 0.1 * n for n in range(10)] + [3.11, 3.12],  # two rises at the end
        [3.0] * 10,
        [3.0 + 0.1 * n for n in range(10)],
    ],
)
def test_an_end_that_does_not_fall_is_not_at_this_trend(values):
    found = project(measured(values), METRIC, 2.5)
    assert (found.status, found.steps) == ("not_at_this_trend", None)
    assert "do not fall" in found.message


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 7, 19])
def test_a_value_that_is_no_number_is_left_out(bad, at):
    values = [exponential(x) for x in range(1, 21)]
    values[at] = bad
    found = project(measured(values), METRIC, exponential(30))
    assert (found.status, found.points) == ("expected", 19)
    ahead = 1100 if at == 19 else 1000  # counted from the latest value that is a number
    low, high = found.steps_interval
    assert low <= ahead
    assert high is None or ahead <= high
    assert math.isfinite(found.latest)


def test_nothing_but_nan_is_too_few_points():
    assert project(measured([math.nan] * 8), METRIC, 2.0).status == "too_few_points"


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_the_time_is_that_of_the_training_epochs_so_far(seconds):
    found = project(measured([exponential(x) for x in range(1, 21)], seconds=seconds), METRIC, exponential(30))
    assert found.status == "expected"
    if seconds is None:
        assert (found.seconds, found.seconds_interval) == (None, None)
        return
    low, high = found.steps_interval
    assert found.seconds == pytest.approx(found.steps * 0.6)
    assert found.seconds_interval[0] == pytest.approx(low * 0.6)
    assert found.seconds_interval[1] == (None if high is None else pytest.approx(high * 0.6))


def test_one_slow_epoch_does_not_change_the_time():
    events = list(measured([exponential(x) for x in range(1, 21)], seconds=60.0).events)
    even = project(record_of(events), METRIC, exponential(30))
    events[1] = trained(0, 100, seconds=9000.0)
    assert project(record_of(events), METRIC, exponential(30)).seconds == even.seconds


def test_only_comparable_evaluations_are_projected():
    before = curve(*[9.0] * 10, eval_set="old")
    after = [exponential(x) for x in range(1, 21)]
    mixed = record_of(start(), before, list(measured(after, step=10, first=10).events))
    found = project(mixed, METRIC, exponential(30))
    assert found.points == 20
    assert found.steps == project(measured(after, step=10), METRIC, exponential(30)).steps


def test_a_role_is_projected_under_its_own_name():
    assert project(measured([3.0]), "eval.objective", 2.0).metric == METRIC


def test_many_evaluations_at_one_step_are_no_trend():
    record = record_of(start(), [evaluated(n, 4.0 - n / 10, step=10) for n in range(8)])
    assert project(record, METRIC, 2.0).status == "not_at_this_trend"


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_unit_of_the_metric_does_not_matter(scale):
    values = [exponential(x) for x in range(1, 21)]
    plain = project(measured(values), METRIC, exponential(30))
    scaled = project(measured([scale * v for v in values]), METRIC, scale * exponential(30))
    assert (scaled.status, scaled.steps) == (plain.status, plain.steps)

"""Values that stand out from those before them."""

import doctest
import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtts_gatekeeper.monitors import spikes as module
from xtts_gatekeeper.monitors.spikes import Spikes


def standing_out(values, **settings):
    """The positions of the values that stand out."""
    spikes = Spikes(**settings)
    return [position for position, value in enumerate(values) if spikes.limit(value) is not None]


def lognormal(seed, count, sigma=0.3, level=1.0):
    random = Random(seed)
    return [level * random.lognormvariate(0, sigma) for _ in range(count)]


def test_the_example_in_the_docstring_runs():
    results = doctest.testmod(module)
    assert results.attempted >= 3
    assert results.failed == 0


seeds = st.integers(0, 10**6)


@given(seeds, st.integers(40, 199), st.sampled_from([1e-2, 1.0, 1e3]))
def test_a_spike_in_lognormal_noise_is_found_whatever_the_level(seed, at, level):
    values = lognormal(seed, 200, level=level)
    values[at] = 60 * level
    assert at in standing_out(values)


def test_noise_alone_seldom_stands_out():
    found = [len(standing_out(lognormal(seed, 1000, sigma))) for seed in range(10) for sigma in (0.1, 0.3, 0.6, 1.0)]
    assert sum(found) / (1000 * len(found)) < 1e-4


def test_a_spike_that_was_seen_does_not_hide_the_next_one():
    values = lognormal(1, 200)
    for at in (60, 61, 62, 90, 140):
        values[at] = 60.0
    assert standing_out(values) == [60, 61, 62, 90, 140]


@pytest.mark.parametrize("level", [1e-3, 1.0, 7.5, 1e6])
def test_a_constant_series_has_none(level):
    assert standing_out([level] * 500) == []


def test_a_slow_rise_or_fall_has_none():
    assert standing_out([1.01**step for step in range(1000)]) == []
    assert standing_out([0.99**step for step in range(1000)]) == []


def test_only_what_lies_above_stands_out():
    assert standing_out([1.0] * 50 + [0.001] + [1.0] * 10) == []


@pytest.mark.parametrize("window", [40, 41, 100])
@pytest.mark.parametrize("times_as_high", [4.0, 1000.0])
def test_a_series_at_a_new_level_stops_standing_out_after_half_of_the_window(window, times_as_high):
    old, new = [1.0] * (2 * window), [times_as_high] * (2 * window)
    found = standing_out(old + new, window=window)
    assert found == list(range(len(old), len(old) + math.ceil(window / 2)))


def test_a_noisy_series_at_a_new_level_stops_standing_out_by_then():
    found = standing_out(lognormal(3, 300) + lognormal(4, 300, level=100.0))
    assert found[:20] == list(range(300, 320))
    assert max(found) <= 350


@pytest.mark.parametrize("least", [1, 5, 20, 50])
def test_with_too_few_values_nothing_stands_out(least):
    for before in range(least):
        assert standing_out([1.0] * before + [1e9], least=least) == []
    assert standing_out([1.0] * least + [1e9], least=least) == [least]


@pytest.mark.parametrize(
    ("factor", "value", "limit"),
    [
        (3.0, 2.99, None),
        (3.0, 3.01, 3.0),
        (3.0, 1e6, 3.0),
        (2.0, 1.99, None),
        (2.0, 2.01, 2.0),
    ],
)
def test_where_nothing_scatters_the_factor_is_the_limit(factor, value, limit):
    spikes = Spikes(factor=factor)
    for _ in range(30):
        spikes.limit(1.0)
    assert spikes.limit(value) == (limit if limit is None else pytest.approx(limit))


@pytest.mark.parametrize(("value", "limit"), [(7.9, None), (476.0, None), (476.5, 476.258), (1e9, 476.258)])
def test_where_values_scatter_the_limit_is_six_times_their_scaled_deviation(value, limit):
    """Half of them 1/2, half of them 2: the median of their logarithms is 0, and the deviation log 2."""
    assert math.exp(6 * 1.4826 * math.log(2)) == pytest.approx(476.258)
    spikes = Spikes()
    for _ in range(50):
        spikes.limit(0.5)
        spikes.limit(2.0)
    assert spikes.limit(value) == (limit if limit is None else pytest.approx(limit))


@pytest.mark.parametrize("nothing", [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, -5.0])
def test_what_is_no_positive_number_is_passed_over(nothing):
    values = lognormal(5, 100)
    with_nothing = [x for value in values for x in (value, nothing)]
    ours, clean = Spikes(), Spikes()
    assert [ours.limit(x) for x in with_nothing[1::2]] == [None] * 100
    for value in values:
        assert (ours.limit(value), ours.limit(nothing)) == (clean.limit(value), None)
    assert ours.limit(60.0) == clean.limit(60.0) is not None


def test_values_that_are_no_numbers_do_not_count_towards_the_least():
    assert standing_out([float("nan")] * 100 + [1.0] * 19 + [1e9]) == []


@given(st.lists(st.floats(1e-3, 1e9), max_size=150), st.floats(1e-3, 1e12))
def test_a_limit_lies_below_what_went_beyond_it_and_above_the_usual(before, value):
    spikes = Spikes()
    for other in before:
        spikes.limit(other)
    limit = spikes.limit(value)
    if limit is not None:
        recent = sorted(before[-100:])
        assert recent[(len(recent) - 1) // 2] < limit <= value + 1e-6


@given(seeds, st.floats(1e-2, 1e6))
def test_what_stands_out_does_not_depend_on_the_unit(seed, unit):
    values = lognormal(seed, 120)
    values[100] = 60.0
    assert standing_out([unit * value for value in values]) == standing_out(values)


@pytest.mark.parametrize("level", [1e-9, 2e-7])
def test_the_limit_of_a_series_of_small_values_is_told_as_exactly_as_that_of_a_large_one(level):
    spikes = Spikes()
    for _ in range(30):
        spikes.limit(level)
    assert spikes.limit(3.5 * level) == pytest.approx(3 * level, rel=1e-3)

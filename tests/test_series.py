import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_gatekeeper.series import MEMORY, Outlook, level, median_slope, noise, noise_allowance, outlook, scatter

NAN = float("nan")


@given(st.integers(2, 30), st.floats(-5, 5), st.floats(-100, 100))
def test_median_slope_finds_a_line(count, slope, offset):
    assert median_slope([offset + slope * x for x in range(count)]) == pytest.approx(slope, abs=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_median_slope_turns_its_sign_with_the_values_and_with_time(values):
    assert median_slope([-value for value in values]) == pytest.approx(-median_slope(values))
    assert median_slope(values[::-1]) == pytest.approx(-median_slope(values))


def test_one_wild_point_does_not_turn_a_long_trend():
    falling = [10 - 0.1 * x for x in range(20)]
    wild = [*falling[:7], 500.0, *falling[8:]]
    assert median_slope(wild) == pytest.approx(median_slope(falling), rel=0.05)


def test_the_slope_over_steps_is_per_step_and_passes_over_pairs_at_one_step():
    assert median_slope([5.0, 4.0, 2.0], [0, 100, 300]) == pytest.approx(-0.01)
    assert median_slope([5.0, 4.0, 9.0], [0, 100, 100]) == pytest.approx((-0.01 + 0.04) / 2)
    assert median_slope([5.0, 4.0], [7, 7]) == median_slope([5.0]) == median_slope([]) == 0.0


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_thinning_a_long_series_does_not_change_its_slope(share):
    """A flat stretch, then a rise: of 150 points all pairs are looked at, of 6000 only some, from end to end."""

    def bent(count):
        return [max(0.0, x / count - share) for x in range(count)]

    assert median_slope(bent(6000)) * 6000 == pytest.approx(median_slope(bent(150)) * 150, rel=0.05)


def test_a_long_line_has_its_slope_and_a_long_rise_after_a_flat_start_too():
    assert median_slope([2.0 * x for x in range(5000)]) == pytest.approx(2.0)
    assert median_slope([0.0] * 1000 + [float(x) for x in range(4000)]) == 1.0  # that of 64 % of all pairs
    assert median_slope([2.0 * x for x in range(5000)], [3 * x for x in range(5000)]) == pytest.approx(2 / 3)


@given(st.integers(0, 199), st.floats(0.001, 1.0), st.floats(-0.5, 0.5))
def test_scatter_and_noise_measure_the_noise_and_not_the_trend(seed, sd, slope):
    random = Random(seed)
    values = [10 + slope * i + random.gauss(0, sd) for i in range(200)]
    assert scatter(values) == pytest.approx(sd, rel=0.4)
    assert noise(values) == pytest.approx(sd, rel=0.7)


def test_scatter_ignores_a_bend_and_an_outlier():
    falling = [3.0, 1.1] + [1.0 - 0.01 * i for i in range(16)]
    assert scatter(falling) < 0.001
    falling[6] += 5
    assert scatter(falling) < 0.001


def test_below_seven_points_scatter_does_not_guess_and_noise_takes_the_largest_bend():
    assert scatter([1.0, 2.0, 1.0, 2.0, 1.0, 2.0]) == 0.0
    assert scatter([1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]) > 0
    assert noise([3.0, 1.0]) == 0.0
    assert noise([3.0, 3.0, 3.0, 4.0]) == pytest.approx(1 / math.sqrt(6))


def test_noise_sees_waves_that_hide_from_neighbours():
    waves = [math.sin(2 * math.pi * i / 10) for i in range(40)]
    assert noise(waves) > 2 * scatter(waves)


def test_noise_forgets_what_is_longer_ago_than_its_memory():
    random = Random(0)
    wild = [random.gauss(0, 5.0) for _ in range(100)]
    assert noise([*wild, *([1.0] * MEMORY)]) == 0.0
    assert noise([*wild, *([1.0] * (MEMORY // 2))]) > 0.1


@pytest.mark.parametrize(
    ("values", "expected"),
    [([2.0, 4.0, 3.0], 3.0), ([-2.0, -4.0, -3.0], 3.0), ([2.0, 0.0, -2.0], 4.0), ([0.1, 0.0, 5.0], 5.0), ([0.0], 0.0)],
)
def test_the_level_is_the_size_or_the_range_where_the_sign_changes(values, expected):
    assert level(values) == expected


def test_the_allowance_is_a_share_of_the_recent_level_or_twice_the_scatter():
    calm = [8.0] * 9 + [2.0] * 3
    assert noise_allowance(calm, 0.01) == pytest.approx(0.08)
    assert noise_allowance(calm, 0.01, calm[-3:]) == pytest.approx(0.02)
    random = Random(1)
    wobbly = [1.0 + random.gauss(0, 0.1) for _ in range(30)]
    assert noise_allowance(wobbly, 0.001) == pytest.approx(2 * scatter(wobbly))
    assert noise_allowance([NAN, *calm], 0.01) == noise_allowance(calm, 0.01)
    assert noise_allowance([NAN], 0.01) == 0.0


def test_the_outlook_of_a_clean_line_is_its_slope():
    assert outlook([10 - 0.5 * x for x in range(6)], asked=0.1, window=5) == Outlook(pytest.approx(0.5), 5, 0.0)


def test_the_outlook_needs_as_many_evaluations_as_its_window_or_its_share_of_the_run():
    line = [10 - 0.5 * x for x in range(12)]
    assert outlook(line[:4], asked=0.1, window=5) == 5
    assert outlook(line, asked=0.1, window=3, share=0.5).window == 6
    assert outlook([1 - 1e-4 * x for x in range(500)], asked=1e-5, window=3, share=0.5).window == MEMORY


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.3))
def test_the_noisier_a_curve_the_longer_the_outlook_takes(seed, sd):
    random = Random(seed)
    values = [5 - 0.1 * i + random.gauss(0, sd) for i in range(MEMORY)]
    view = outlook(values, asked=0.05, window=3)
    assert isinstance(view, Outlook)
    assert view.noise * math.sqrt(12 / view.window**3) <= 0.05 / 2 * (1 + 1e-9)
    calmer = outlook([5 - 0.1 * i + (v - 5 + 0.1 * i) / 10 for i, v in enumerate(values)], asked=0.05, window=3)
    assert calmer.window <= view.window


def test_noise_that_hides_the_answer_for_good_is_said_so():
    random = Random(2)
    assert outlook([1 + random.gauss(0, 0.3) for _ in range(MEMORY)], asked=1e-4, window=3) > MEMORY


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12), st.floats(1e-320, 1e300))
def test_no_numbers_however_large_are_an_error(values, asked):
    view = outlook(values, asked, 3)
    assert isinstance(view, Outlook | int)
    assert noise_allowance(values, 0.01) >= 0

"""The rules that read a curve; those on its progress are in `test_gates_rules_progress.py`."""

import math
from random import Random
from statistics import median

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from records import curve, evaluated, flat, logged, record_of, scored, trained

from xtts_gatekeeper.gates.rules.divergence import Divergence
from xtts_gatekeeper.gates.rules.improved import Improved
from xtts_gatekeeper.gates.rules.not_regressed import NotRegressed
from xtts_gatekeeper.gates.rules.not_worsening import NotWorsening
from xtts_gatekeeper.gates.rules.overfit import Overfit
from xtts_gatekeeper.gates.rules.plateau import Plateau
from xtts_gatekeeper.gates.rules.slowing import Slowing
from xtts_gatekeeper.gates.rules.spike import Spike
from xtts_gatekeeper.gates.rules.target import Target
from xtts_gatekeeper.gates.rules.threshold import Threshold
from xtts_gatekeeper.gates.rules.trend import Trend
from xtts_gatekeeper.series import median_slope

MEL, SCORE = "eval.mel_ce", "sample.score"


NAN, INF = float("nan"), float("inf")


losses = st.lists(st.floats(0.01, 100), min_size=1, max_size=8)


def judged(rule, values):
    """What `rule` finds in a run with these values of its metric."""
    if rule.metric == SCORE:
        return rule.check(record_of(curve(*[2.0] * len(values)), [scored(n, value) for n, value in enumerate(values)]))
    return rule.check(record_of(curve(*values)))


def status(rule, values):
    return judged(rule, values).status


CURVES = [
    Divergence, NotWorsening, Trend, Improved, NotRegressed, Plateau, Slowing, Spike,
    lambda metric: Target(metric, 2.5), lambda metric: Threshold(metric, 2.5),
]  # fmt: skip


@pytest.mark.parametrize("rule", CURVES)
def test_a_metric_that_was_never_measured_is_not_measured(rule):
    finding = rule("eval.loss_dur").check(record_of(curve(3.0, 2.9, 2.8, 2.7, 2.6, 2.5)))
    assert finding.status == "not_measured"
    assert "eval.loss_dur" in finding.message
    assert rule(SCORE).check(record_of(curve(3.0, 2.9))).status == "not_measured"
    assert rule(MEL).check(record_of([evaluated(n) for n in range(6)])).status == "not_measured"


@pytest.mark.parametrize(
    ("rule", "need"),
    [
        (Divergence(MEL), 3),
        (NotWorsening(MEL, checks=3), 4),
        (NotWorsening(MEL, checks=1), 2),
        (Trend(MEL, window=3), 3),
        (Trend(MEL, window=5), 5),
        (Trend(MEL, window=0), 3),
        (Improved(MEL), 2),
        (NotRegressed(MEL), 2),
        (Plateau(MEL, window=10), 10),
        (Slowing(MEL, window=5), 5),
        (Spike(MEL, window=5), 6),
        (Target(MEL, 1.0), 1),
        (Threshold(MEL, maximum=99.0), 1),
    ],
)
def test_below_the_points_that_a_rule_needs_it_is_too_early_and_from_then_on_not(rule, need):
    line = [10 - 0.1 * n for n in range(need)]
    assert status(rule, line) == "passed"
    if need > 1:
        early = judged(rule, line[:-1])
        assert (early.status, early.evidence) == ("too_early", {"have": need - 1, "need": need})


@pytest.mark.parametrize(
    "rule", [NotWorsening(MEL), Trend(MEL), Improved(MEL), NotRegressed(MEL), Divergence(MEL, 0.1)]
)
def test_evaluations_of_another_eval_set_are_not_compared(rule):
    other = curve(1.0, 1.2, 1.4, 1.6, eval_set="other")
    assert rule.check(record_of(other)).status == "failed"
    assert rule.check(record_of(other, curve(5.0, first=4))).status == "too_early"


def test_training_losses_go_on_when_the_eval_set_changes():
    record = record_of(curve(1.0, 1.1, eval_set="other"), curve(1.2, first=2))
    assert record.series("train.loss").values == (1.0, 1.1, 1.2)
    assert record.series(MEL).values == (1.2,)


def test_scores_of_other_prompts_are_not_compared():
    scores = [scored(0, 25, prompts="easy"), scored(1, 15), scored(2, 16)]
    assert NotRegressed(SCORE).check(record_of(scores)).status == "passed"
    assert NotRegressed(SCORE).check(record_of([scored(0, 25), *scores[1:]])).status == "failed"


def test_a_role_finds_the_metric_of_the_model_and_names_it():
    finding = Improved("eval.objective").check(record_of(curve(3.0, 2.0)))
    assert finding.status == "passed"
    assert finding.message.startswith(MEL)


# divergence


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0, 9.0, 9.0], "failed"),
        ([2.0, 8.0, 8.0], "passed"),
        ([2.0, 8.01, 8.02], "failed"),
        ([2.0, 9.0, 8.9], "passed"),
        ([2.0, 50.0, 2.0], "passed"),
        ([2.0, 2.0, 50.0], "passed"),
        ([2.0, 1.0, 9.0, 9.5], "failed"),
        ([2.0, 9.0, 9.5, 3.0, 3.1], "passed"),
        ([0.01, 0.02, 0.03], "passed"),
        ([-1.0, -1.5, 1.9, 1.95], "passed"),
        ([-1.0, -1.5, 2.1, 2.2], "failed"),
        ([0.01, -5.0, 10.0, 12.0], "passed"),
        ([0.01, -5.0, 16.0, 17.0], "failed"),
        ([0.0, 0.0, 0.0], "passed"),
        ([NAN, 2.0, 9.0, 9.5], "failed"),
        ([2.0, 9.0, NAN, 9.5], "failed"),
        ([2.0, NAN, NAN], "passed"),
        ([2.0, 9.0, INF], "passed"),
    ],
)
def test_divergence_takes_two_values_that_left_the_first_behind_and_rise(values, expected):
    assert status(Divergence(MEL), values) == expected


@pytest.mark.parametrize(("times", "expected"), [(1.0, "failed"), (1.6, "passed")])
def test_how_far_is_divergence_can_be_chosen(times, expected):
    assert status(Divergence(MEL, times), [2.0, 5.0, 5.0]) == expected


def test_divergence_says_where_it_began_and_is_now():
    assert judged(Divergence(MEL), [2.0, 9.0, 9.5]).message == "eval.mel_ce has exploded: 9.5 where it began at 2"


# not_worsening


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 3.1, 3.2, 3.3], "failed"),
        ([9.0, 3.0, 3.1, 3.2, 3.3], "passed"),  # below seven points the largest bend counts as noise
        ([9.0, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5], "failed"),
        ([3.0, 2.9, 2.8, 2.7, 2.6, 2.7, 2.8, 2.9], "failed"),
        ([3.0, 2.9, 2.8, 2.7, 2.6, 2.7, 2.8, 2.5], "passed"),
        ([3.0, 2.9, 2.8, 2.7, 2.6, 2.7, 2.8], "passed"),
        ([3.0, 2.0, 1.0, 0.5], "passed"),
        ([2.0] * 10 + [2.01] * 3, "failed"),
        ([2.0] * 10 + [2.003] * 3, "passed"),
        ([2.0] * 10 + [9.0] * 3, "failed"),
        ([2.0] * 10 + [9.0, 9.0, 2.0], "passed"),
        ([2.0] * 10 + [9.0, 5.0, 3.0], "passed"),
        ([2.0] * 10 + [3.0, 5.0, 9.0], "failed"),
        ([-1.0] * 10 + [-0.9, -0.8, -0.7], "failed"),
        ([-1.0] * 10 + [-1.1, -1.2, -1.3], "passed"),
        ([0.2, 0.1, 0.0, -0.1, -0.2, -0.3, -0.1, 0.1, 0.3], "failed"),
        ([0.3, 0.2, 0.1, 0.0, -0.1, -0.2, -0.3], "passed"),
        ([3.0, 2.5, 2.0, 2.3, 2.7, 3.2], "passed"),
        ([2.0, 2.0, NAN, 2.0, 2.1, NAN, 2.2, 2.3], "failed"),
        ([NAN, 2.0, NAN, NAN], "passed"),
        ([2.0, 2.1, 2.2, NAN, INF], "passed"),
    ],
)
def test_not_worsening_fails_on_a_clear_climb_above_the_best(values, expected):
    assert status(NotWorsening(MEL), values) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (NotWorsening(MEL, noises=0, tolerance=0.04), "failed"),
        (NotWorsening(MEL, noises=0, tolerance=0.05), "passed"),
        (NotWorsening(MEL, checks=4), "passed"),
        (NotWorsening(MEL, checks=1), "failed"),
    ],
)
def test_how_many_checks_and_how_much_is_worsening_can_be_chosen(rule, expected):
    assert status(rule, [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.1, 2.1, 2.1]) == expected


def test_more_noises_let_a_noisier_climb_pass():
    values = [1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 1.2, 1.3, 1.4]
    assert status(NotWorsening(MEL, noises=0.5), values) == "failed"
    assert status(NotWorsening(MEL, noises=20), values) == "passed"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([20.0] * 8 + [15.0, 14.0, 13.0], "failed"), ([15.0] * 8 + [20.0, 21.0, 22.0], "passed")],
)
def test_of_a_score_it_is_the_fall_that_is_worsening(values, expected):
    finding = judged(NotWorsening(SCORE), values)
    assert finding.status == expected
    assert "fallen" in finding.message
    assert "risen" not in finding.message


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([3.0, 2.9, 2.8, 2.7, 2.6], "has not risen for 3 checks in a row"),
        ([3.0, 2.5, 2.0, 2.3, 2.7, 3.2], "has risen to 3.2 from its best of 2, but its last 3 checks are within"),
        ([2.0] * 10 + [9.0, 5.0, 3.0], "has risen to 3 from its best of 2, but was at 9 and is coming back"),
        ([3.0, 3.1, 3.2, 3.3], "has risen to 3.3 from its best of 3, by more than its noise"),
    ],
)  # fmt: skip
def test_the_sentence_about_worsening_is_true(values, said):
    assert said in judged(NotWorsening(MEL), values).message


@given(st.lists(st.floats(0.01, 100), min_size=5, max_size=9), st.integers(1, 4))
def test_not_risen_is_said_exactly_where_the_best_is_among_the_last_checks(values, checks):
    finding = judged(NotWorsening(MEL, checks), values)
    assert ("has not risen" in finding.message) == (min(values[-checks:]) <= min(values))


@given(losses, st.integers(1, 4), st.floats(0, 0.1))
def test_not_worsening_never_fails_unless_all_of_the_last_checks_are_above_the_best(values, checks, tolerance):
    finding = judged(NotWorsening(MEL, checks, noises=0, tolerance=tolerance), values)
    if finding.status == "failed":
        last, before = values[-checks:], values[:-checks]
        assert min(last) > min(before)
        assert median(last) > min(before) + tolerance * median(last) * (1 - 1e-9)


@given(losses, st.integers(1, 4))
def test_not_worsening_passes_any_curve_whose_latest_is_its_best(values, checks):
    assert status(NotWorsening(MEL, checks), [*values, min(values)]) != "failed"


def test_a_flat_noisy_curve_seldom_counts_as_worsening():
    random = Random(0)
    told = [status(NotWorsening(MEL), [1 + random.gauss(0, 0.03) for _ in range(30)]) for _ in range(300)]
    assert told.count("failed") <= 0.05 * 300


def test_a_clear_rise_in_a_noisy_curve_is_always_told_before_it_has_gone_far():
    random = Random(1)
    for _ in range(60):
        before = [1 + random.gauss(0, 0.03) for _ in range(20)]
        rise = [1 + 0.06 * n + random.gauss(0, 0.03) for n in range(1, 9)]
        assert "failed" in [status(NotWorsening(MEL), before + rise[:n]) for n in range(3, 9)]


# trend


@pytest.mark.parametrize(
    ("values", "require", "window", "expected"),
    [
        ([3.0, 2.9, 2.8], "flat_to_down", 3, "passed"),
        ([3.0, 3.0, 3.0], "flat_to_down", 3, "passed"),
        ([3.0, 3.01, 3.02], "flat_to_down", 3, "passed"),
        ([3.0, 3.02, 3.04], "flat_to_down", 3, "failed"),
        ([3.0, 3.1], "flat_to_down", 2, "failed"),
        ([9.0, 3.0, 3.1, 3.2], "flat_to_down", 3, "failed"),
        ([3.0, 2.9, 2.8], "down", 3, "passed"),
        ([3.0, 2.99, 2.98], "down", 3, "failed"),
        ([3.0, 2.98, 2.96], "down", 3, "passed"),
        ([3.0, 3.0, 3.0], "down", 3, "failed"),
        ([5.0, 4.0, 3.0, 3.1, 3.2], "down", 3, "failed"),
        ([5.0, 4.0, 3.0, 3.1, 3.2], "down", 0, "passed"),
        ([3.0, 2.9, 99.0, 2.8, 2.7], "down", 0, "passed"),
        ([-1.0, -1.1, -1.2], "down", 3, "passed"),
        ([-1.2, -1.1, -1.0], "flat_to_down", 3, "failed"),
        ([0.1, 0.0, -0.1], "down", 3, "passed"),
        ([-0.1, 0.0, 0.1], "flat_to_down", 3, "failed"),
        ([3.0, NAN, 2.0], "flat_to_down", 3, "passed"),
        ([NAN, 3.0, 2.9, 2.8], "flat_to_down", 3, "passed"),
    ],
)
def test_trend_says_rise_flat_or_fall_of_the_window(values, require, window, expected):
    assert status(Trend(MEL, window=window, noise=0.01, require=require), values) == expected


@pytest.mark.parametrize(
    ("values", "require", "expected", "word"),
    [
        ([15.0, 17.0, 19.0], "flat_to_down", "passed", "rises"),
        ([15.0, 17.0, 19.0], "down", "passed", "rises"),
        ([19.0, 17.0, 15.0], "flat_to_down", "failed", "falls"),
        ([17.0, 17.0, 17.0], "down", "failed", "flat"),
    ],
)
def test_for_a_score_up_and_down_change_places(values, require, expected, word):
    finding = judged(Trend(SCORE, require=require), values)
    assert finding.status == expected
    assert word in finding.message


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=8), st.floats(0.001, 1000))
def test_trend_does_not_depend_on_the_unit_of_the_metric(values, factor):
    """Losses of another size, the same shape: the same finding, unless the change is as large as the allowance."""
    finding = judged(Trend(MEL, window=0), values)
    assume(abs(abs(finding.evidence["change"]) - finding.evidence["noise_allowance"]) > 1e-6)
    assert status(Trend(MEL, window=0), [value * factor for value in values]) == finding.status


def test_a_noisy_flat_curve_is_not_told_to_tune_as_often_as_by_a_fixed_allowance():
    """Training losses of a small set wobble by 3 %: three points of them say nothing."""
    random = Random(0)
    level = [1.0 + random.gauss(0, 0.03) for _ in range(400)]
    told = [status(Trend(MEL, window=3, noise=0.01), level[i : i + 12]) for i in range(388)]
    fixed = [median_slope(level[i + 9 : i + 12]) * 2 > 0.01 for i in range(388)]
    assert told.count("failed") < 0.4 * sum(fixed)


def test_a_real_rise_in_a_noisy_curve_is_told():
    values = [1.0, 1.02, 0.98, 1.01, 0.99, 1.02, 1.0, 1.2, 1.4, 1.6]
    assert status(Trend(MEL, window=3, noise=0.01), values) == "failed"
    assert status(NotWorsening(MEL), values) == "failed"


@pytest.mark.parametrize(
    ("fall", "wobble", "count", "expected"),
    [
        (0.0, 0.0, 8, "failed"),
        (0.0, 0.001, 8, "failed"),
        (0.0, 0.1, 40, "failed"),
        (0.01, 0.1, 8, "too_early"),
        (0.01, 0.1, 40, "too_early"),
        (0.02, 0.1, 40, "passed"),
        (-0.1, 0.1, 20, "failed"),
    ],
)
def test_down_waits_where_noise_hides_whether_there_is_a_fall(fall, wobble, count, expected):
    values = [3 - fall * n + wobble * (-1) ** n for n in range(count)]
    assert status(Trend(MEL, window=0, require="down"), values) == expected
    assert status(Trend(MEL, window=0), values) == ("failed" if fall < 0 else "passed")


# overfit


def both(train, measured):
    metrics = ({"train.mel_ce": t, "eval.mel_ce": e} for t, e in zip(train, measured, strict=True))
    return record_of(*(logged(10 * n, {k: v for k, v in m.items() if v is not None}) for n, m in enumerate(metrics, 1)))


DOWN = [3.0, 2.8, 2.6, 2.4]


@pytest.mark.parametrize(
    ("train", "measured", "expected"),
    [
        (DOWN, [2.0, 2.0, 2.0, 2.0], "failed"),
        (DOWN, [2.0, 2.1, 2.2, 2.3], "failed"),
        (DOWN, [2.0, 1.985, 1.97, 1.955], "passed"),
        (DOWN, [2.0, 1.975, 1.95, 1.925], "passed"),
        (DOWN, DOWN, "passed"),
        ([3.0] * 4, [2.0, 2.1, 2.2, 2.3], "passed"),
        ([3.0, 2.995, 2.99, 2.985], [2.0, 2.1, 2.2, 2.3], "passed"),
        (DOWN[::-1], [2.0, 2.1, 2.2, 2.3], "passed"),
        ([-1.0, -1.2, -1.4, -1.6], [-1.0] * 4, "failed"),
        ([-1.0, -1.2, -1.4, -1.6], [-1.0, -1.1, -1.2, -1.3], "passed"),
        ([0.3, 0.1, -0.1, -0.3], [0.1] * 4, "failed"),
        (DOWN, [2.0, NAN, 2.0, 2.0], "passed"),
        ([3.0, NAN, 2.6, 2.4], [2.0] * 4, "passed"),
        (DOWN[:3], [2.0] * 3, "too_early"),
        (DOWN, [None] * 4, "not_measured"),
        ([None] * 4, [2.0] * 4, "not_measured"),
        ([3.0, None, None, None], [2.0] * 4, "too_early"),
        ([3.0, 2.8, None, None, None, 2.6], [2.0] * 6, "too_early"),
        ([5.0, 3.0, 3.0, 3.0, 3.0], [2.0] * 5, "passed"),
        ([3.0, *DOWN], [9.0, 2.0, 2.0, 2.0, 2.0], "failed"),
    ],
)
def test_overfit_fails_where_train_falls_and_eval_does_not_follow(train, measured, expected):
    assert Overfit().check(both(train, measured)).status == expected


@pytest.mark.parametrize(("share", "expected"), [(0.1, "passed"), (0.2, "failed")])
def test_how_much_eval_must_follow_can_be_chosen(share, expected):
    train, measured = [3 - 0.2 * n for n in range(8)], [2 - 0.025 * n for n in range(8)]
    assert Overfit(share=share).check(both(train, measured)).status == expected


def test_a_new_best_is_no_overfitting_while_the_noise_cannot_be_told():
    train = [3 - 0.2 * n for n in range(8)]
    for count, expected in ((4, "passed"), (6, "passed"), (7, "failed")):
        assert Overfit().check(both(train[:count], [2 - 0.001 * n for n in range(count)])).status == expected


def test_overfit_compares_paces_however_seldom_the_run_is_evaluated():
    """Both fall by the same pace per step, one measured every epoch and one every second."""
    epochs = [trained(n, mel=3 - 0.1 * n) for n in range(16)]
    for pace, expected in ((0.1, "passed"), (0.02, "passed"), (0.005, "failed"), (0.0, "failed")):
        seldom = [evaluated(n, 2 - pace * n) for n in range(1, 16, 2)]
        finding = Overfit().check(record_of(sorted([*epochs, *seldom], key=lambda event: event.step)))
        assert finding.status == expected
        assert finding.evidence["steps"] == [100, 160]
        assert finding.evidence["train_gain_per_step"] == pytest.approx(0.01)
        assert finding.evidence["eval_gain_per_step"] == pytest.approx(pace / 10)


def test_the_epoch_before_the_first_of_the_evaluations_is_no_part_of_the_fall():
    assert Overfit().check(both([9.0, 3.0, 3.0, 3.0], [2.0] * 4)).status == "passed"


# spike


@pytest.mark.parametrize(
    ("before", "latest", "expected"),
    [
        ([2.0, 2.01, 1.99, 2.0, 2.0], 2.19, "passed"),
        ([2.0, 2.01, 1.99, 2.0, 2.0], 2.21, "failed"),
        ([2.0, 2.2, 1.8, 2.1, 1.9], 2.85, "passed"),
        ([2.0, 2.2, 1.8, 2.1, 1.9], 2.95, "failed"),
        ([2.0] * 5, 0.1, "passed"),
        ([2.0] * 5, INF, "failed"),
        ([2.0] * 5 + [9.0], 2.0, "passed"),
        ([9.0, 2.0, 2.0, 2.0, 2.0], 3.0, "passed"),
        ([9.0] + [2.0] * 5, 3.0, "failed"),
        ([-2.0] * 5, -1.85, "passed"),
        ([-2.0] * 5, -1.75, "failed"),
        ([0.5, 0.2, -0.1, -0.3, -0.5], 2.0, "passed"),
        ([0.5, 0.2, -0.1, -0.3, -0.5], 3.0, "failed"),
        ([2.0, NAN, 2.0, NAN, 2.0], 3.0, "failed"),
        ([2.0, NAN, NAN, NAN, 2.0], 9.0, "passed"),
    ],
)
def test_spike_fails_when_the_latest_stands_out_from_the_points_before_it(before, latest, expected):
    assert status(Spike(MEL), [*before, latest]) == expected


@pytest.mark.parametrize(("latest", "expected"), [(25, "passed"), (18.5, "passed"), (17, "failed")])
def test_a_score_spikes_downwards_and_is_told_as_it_is(latest, expected):
    finding = judged(Spike(SCORE), [20] * 5 + [latest])
    assert finding.status == expected
    assert (finding.evidence["median"], finding.evidence["limit"]) == (20, 18)


# all of them


@settings(max_examples=40)
@given(st.lists(st.floats(0.5, 50) | st.just(NAN), min_size=11, max_size=14), st.booleans())
def test_a_score_is_judged_as_the_loss_that_mirrors_it(values, exact):
    """The rules see the score's loss; only sentences turn its sign."""
    values = [round(value) if exact and math.isfinite(value) else value for value in values]
    for rule in CURVES[:8]:
        assert status(rule(SCORE), values) == status(rule(MEL), [-value for value in values])


def test_the_helpers_keep_the_order_of_events():
    assert [event.step for event in flat([curve(2.0), [trained(1)]])] == [10, 10, 20]

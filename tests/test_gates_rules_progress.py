"""The rules that ask whether a curve still gets anywhere."""

import math
from dataclasses import replace
from random import Random

import pytest
from records import curve, evaluated, record_of, scored, start, trained

from xtts_gatekeeper.gates.rules.base import When
from xtts_gatekeeper.gates.rules.ears_agree import EarsAgree
from xtts_gatekeeper.gates.rules.improved import Improved
from xtts_gatekeeper.gates.rules.not_regressed import NotRegressed
from xtts_gatekeeper.gates.rules.not_worsening import NotWorsening
from xtts_gatekeeper.gates.rules.overfit import Overfit
from xtts_gatekeeper.gates.rules.plateau import Plateau
from xtts_gatekeeper.gates.rules.slowing import Slowing
from xtts_gatekeeper.gates.rules.spike import Spike
from xtts_gatekeeper.gates.rules.target import Target
from xtts_gatekeeper.gates.rules.threshold import Threshold

MEL, SCORE = "eval.mel_ce", "sample.score"


NAN, INF = float("nan"), float("inf")


def judged(rule, values):
    """What `rule` finds in a run with these values of its metric."""
    if rule.metric == SCORE:
        return rule.check(record_of(curve(*[2.0] * len(values)), [scored(n, value) for n, value in enumerate(values)]))
    return rule.check(record_of(curve(*values)))


def status(rule, values):
    return judged(rule, values).status


# improved, not_regressed


@pytest.mark.parametrize(
    ("values", "since", "by", "expected"),
    [
        ([3.0, 2.9], "first", 0.0, "passed"),
        ([3.0, 3.0], "first", 0.0, "failed"),
        ([3.0, 3.1], "first", 0.0, "failed"),
        ([3.0, 1.0, 3.1], "first", 0.0, "failed"),
        ([3.0, 1.0, 2.9], "first", 0.0, "passed"),
        ([3.0, 1.0, 2.9], "previous", 0.0, "failed"),
        ([3.0, 1.0, 2.9], "best", 0.0, "failed"),
        ([2.0, 9.0, 2.5], "previous", 0.0, "passed"),
        ([2.0, 9.0, 2.5], "best", 0.0, "failed"),
        ([2.0, 9.0, 1.9], "best", 0.0, "passed"),
        ([4.0, 3.8], "first", 0.1, "failed"),
        ([4.0, 3.5], "first", 0.1, "passed"),
        ([-1.0, -1.2], "first", 0.0, "passed"),
        ([-1.0, -0.9], "first", 0.0, "failed"),
        ([-1.0, -1.05], "first", 0.1, "failed"),
        ([-1.0, -1.15], "first", 0.1, "passed"),
        ([0.1, -0.1], "first", 0.5, "passed"),
        ([0.0, -1.0], "first", 0.5, "passed"),
        ([0.0, 0.0], "first", 0.0, "failed"),
        ([0.0, NAN, -1.0], "first", 0.0, "passed"),
        ([3.0, NAN], "first", 0.0, "too_early"),
        ([NAN, 3.0, 2.9], "first", 0.0, "passed"),
        ([3.0, NAN, 2.9], "previous", 0.0, "passed"),
        ([2.8, NAN, 2.9], "previous", 0.0, "failed"),
        ([NAN, 2.0, 2.9], "best", 0.0, "failed"),
        ([NAN, NAN], "best", 0.0, "too_early"),
    ],
)
def test_improved_is_better_than_then_by_more_than_asked(values, since, by, expected):
    assert status(Improved(MEL, since, by), values) == expected


@pytest.mark.parametrize(
    ("values", "window", "expected"),
    [
        ([3.0, 2.5, 2.4, 9.0], 3, "passed"),
        ([3.0, 2.5, 2.4, 9.0], 1, "failed"),
        ([3.0, 3.5, 3.4, 2.9], 3, "passed"),  # a new best speaks for itself
        ([3.0, 2.0, 3.4, 3.3, 2.9], 3, "failed"),
        ([3.0, 3.5, 3.4, 1.0], 1, "passed"),
        ([3.0, 2.9], 3, "passed"),
        ([3.0, 2.9, 9.0, 9.0], 9, "failed"),
        ([3.0, 2.5, NAN, 2.4], 3, "passed"),
        ([3.0, 2.5, 2.4, NAN], 3, "too_early"),
        ([3.0, NAN, 3.5, NAN], 3, "too_early"),
        ([3.0, NAN, NAN, NAN], 3, "too_early"),
    ],
)
def test_with_a_window_one_wild_evaluation_decides_no_improvement(values, window, expected):
    assert status(Improved(MEL, window=window), values) == expected
    assert status(Improved(SCORE, window=window), [-value for value in values]) == expected


def test_the_median_of_a_window_is_called_one():
    assert (
        "to 2.5, the median of the last 3, at step 40" in judged(Improved(MEL, window=3), [3.0, 2.5, 2.4, 9.0]).message
    )


@pytest.mark.parametrize(("values", "expected"), [([15, 18], "passed"), ([18, 15], "failed"), ([15, 15], "failed")])
def test_a_score_improves_upwards(values, expected):
    assert status(Improved(SCORE), values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 2.0, 2.5], "failed"),
        ([3.0, 2.0, 1.0, 1.9], "passed"),
        ([2.0, 3.0, 2.5], "passed"),
        ([3.0, 2.0], "not_measured"),
    ],
)
def test_previous_gate_compares_with_the_evaluation_at_which_it_came_due(values, expected):
    finding = judged(Improved(MEL, "previous_gate", gate=When("epochs", 2)), values)
    assert finding.status == expected
    if expected != "not_measured":
        assert finding.evidence["previous_gate_step"] == 20


def test_improved_says_from_where_to_where():
    assert judged(Improved(MEL), [4.0, 3.0]).message == (
        "eval.mel_ce improved since the first measurement: 4 at step 10 to 3 at step 20 (-25.0%)"
    )
    assert judged(Improved(MEL), [0.0, 0.0]).message.endswith("0 at step 10 to 0 at step 20")


@pytest.mark.parametrize(
    ("values", "by", "expected"),
    [
        ([2.0, 2.0], 0.0, "passed"),
        ([2.0, 2.1], 0.0, "failed"),
        ([2.0, 2.1], 0.2, "passed"),
        ([2.0, 2.3], 0.2, "failed"),
        ([2.0, 3.0, 2.5], 0.0, "failed"),
        ([3.0, 2.5, 2.4], 0.0, "passed"),
        ([-2.0, -1.9], 0.0, "failed"),
        ([-2.0, -1.9], 0.2, "passed"),
        ([-0.1, 0.2], 0.2, "failed"),
        ([NAN, 2.0, 3.0], 0.0, "failed"),
        ([2.0, INF, 1.9], 0.0, "passed"),
    ],
)
def test_not_regressed_compares_with_the_best_before(values, by, expected):
    assert status(NotRegressed(MEL, by), values) == expected


@pytest.mark.parametrize(
    ("values", "by", "expected"),
    [([20, 19], 1, "passed"), ([20, 18], 1, "failed"), ([20, 15, 19], 1, "passed"), ([15, 20, 18], 1, "failed")],
)
def test_a_score_regresses_downwards(values, by, expected):
    assert status(NotRegressed(SCORE, by), values) == expected


@pytest.mark.parametrize(
    "rule", [NotRegressed(MEL), Spike(MEL, window=3), Target(MEL, 1.0), Overfit(window=3), NotWorsening(MEL)]
)
def test_nan_is_left_to_the_rule_finite_and_nothing_else_is_claimed(rule):
    finding = rule.check(record_of(curve(2.0, NAN, NAN, NAN, NAN)))
    assert finding.status == "passed"
    assert "see the rule finite" in finding.message


# plateau, slowing


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 2.5, 2.2] + [2.0] * 20, "failed"),
        ([3.0 - 0.05 * n for n in range(20)], "passed"),
        ([4.0] + [2 - 0.0014 * n for n in range(11)], "failed"),
        ([4.0] + [2 - 0.0017 * n for n in range(11)], "passed"),
        ([2.0 + 0.1 * n for n in range(20)], "passed"),
        ([2.0] * 20, "passed"),
        ([3.0, 2.5, 2.2] + [2.0] * 20 + [2.0 - 0.05 * n for n in range(20)], "passed"),
        ([-1.0, -1.5, -1.8] + [-2.0] * 20, "failed"),
        ([1.0, 0.0, -1.0] + [-2.0] * 20, "failed"),
        ([1.0, 0.5] + [0.0] * 20, "failed"),
        ([1.0] + [-0.001 - 0.0029 * n for n in range(11)], "failed"),
        ([1.0] + [-0.001 - 0.0032 * n for n in range(11)], "passed"),
        ([3.0, 2.5, NAN, 2.2] + [2.0] * 20, "failed"),
        ([NAN] * 12, "passed"),
    ],
)
def test_plateau_fails_where_one_more_evaluation_promises_nearly_nothing_of_the_gain(values, expected):
    assert status(Plateau(MEL), values) == expected


def test_what_share_of_the_gain_is_worth_it_can_be_chosen():
    values = [4.0] + [2 - 0.0017 * n for n in range(11)]
    assert status(Plateau(MEL, worth=0.01), values) == "failed"
    assert status(Plateau(MEL, worth=0.001), values) == "passed"


def test_noise_delays_the_word_plateau_and_hides_it_for_good_in_the_end():
    random = Random(3)
    waves = [4.0, 3.0] + [2 + random.gauss(0, 0.01) for _ in range(10)]
    early = judged(Plateau(MEL), waves)
    assert early.status == "too_early"
    assert early.evidence["need"] > early.evidence["have"] == 12
    wild = judged(Plateau(MEL), [4.0, 3.0] + [2 + random.gauss(0, 0.5) for _ in range(80)])
    assert wild.status == "passed"
    assert "too noisy" in wild.message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 2.5, 2.2] + [2.0] * 8, "failed"),
        ([3.0 - 0.05 * n for n in range(12)], "passed"),
        ([3.0] + [2 - 0.009 * n for n in range(9)], "failed"),
        ([3.0] + [2 - 0.011 * n for n in range(9)], "passed"),
        ([2.0 + 0.1 * n for n in range(12)], "passed"),
        ([1.0, 0.0] + [-1.0] * 10, "failed"),
        ([1.0 - 0.1 * n for n in range(20)], "passed"),
        ([3.0, 2.5, 2.2, NAN] + [2.0] * 8, "failed"),
        ([NAN, 2.0, NAN, NAN, NAN], "passed"),
    ],
)
def test_slowing_fails_below_a_share_of_the_average_gain_and_of_the_level(values, expected):
    assert status(Slowing(MEL), values) == expected


def test_slowing_comes_before_plateau_and_never_on_a_line():
    halving = [2 + 0.7**n for n in range(40)]
    first = {
        kind: next(n for n in range(len(halving)) if status(kind(MEL), halving[:n]) == "failed")
        for kind in (Slowing, Plateau)
    }
    assert first[Slowing] < first[Plateau]


@pytest.mark.parametrize("rule", [Plateau(SCORE), Slowing(SCORE)])
def test_a_score_levels_off_upwards(rule):
    assert status(rule, [10, 15, 18] + [20] * 12) == "failed"
    assert status(rule, [10 + n for n in range(15)]) == "passed"
    assert status(rule, [20 - n for n in range(15)]) == "passed"


def test_a_plateau_lasts_until_a_clearly_better_best():
    random = Random(3)
    values = [3 + math.exp(-n / 3) + random.gauss(0, 0.01) for n in range(60)]
    said = [status(Plateau(MEL), values[:n]) for n in range(10, 61)]
    assert "failed" in said
    assert set(said[said.index("failed") :]) == {"failed"}
    better = [values[-1] - 0.05 * n for n in range(1, 12)]
    assert status(Plateau(MEL), values + better) == "passed"


# target, threshold


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        (Target(MEL, 2.5), [2.6], "passed"),
        (Target(MEL, 2.5), [2.5], "failed"),
        (Target(MEL, 2.5), [2.4], "failed"),
        (Target(MEL, 2.5), [2.4, 2.6], "passed"),
        (Target(MEL, -1.0), [-0.9], "passed"),
        (Target(MEL, -1.0), [-1.1], "failed"),
        (Target(SCORE, 20), [19], "passed"),
        (Target(SCORE, 20), [21], "failed"),
        (Threshold(MEL, maximum=2.5), [2.5], "passed"),
        (Threshold(MEL, maximum=2.5), [2.51], "failed"),
        (Threshold(MEL, maximum=2.5), [2.51, 2.0], "passed"),
        (Threshold(MEL, minimum=1.0), [1.0], "passed"),
        (Threshold(MEL, minimum=1.0), [0.99], "failed"),
        (Threshold(MEL, maximum=2.0, minimum=1.0), [1.5], "passed"),
        (Threshold(MEL, maximum=-1.0), [-0.9], "failed"),
        (Threshold(MEL, maximum=2.5), [NAN], "failed"),
        (Threshold(MEL, maximum=2.5), [INF], "failed"),
        (Threshold(SCORE, minimum=20), [20], "passed"),
        (Threshold(SCORE, minimum=20), [19], "failed"),
    ],
)
def test_a_target_is_reached_and_a_threshold_kept_by_the_latest_value(rule, values, expected):
    assert status(rule, values) == expected


# What listeners and measures of samples add


def heard(losses, scores, **values):
    """The finding of `ears_agree` on a run with these evaluations and, at the same steps, these scores of samples."""
    events = [
        event
        for n, (loss, score) in enumerate(zip(losses, scores, strict=True))
        for event in (trained(n), *([] if score is None else [scored(n, score)]), evaluated(n, loss))
    ]
    return EarsAgree(**values).check(record_of(start(), events))


@pytest.mark.parametrize(
    ("losses", "scores", "expected"),
    [
        ([3.0, 2.9, 2.8], [20.0, 18.0, 18.0], "failed"),
        ([3.0, 2.9, 2.8], [20.0, 18.6, 18.0], "passed"),  # one of the two is worse by less than 1.5
        ([3.0, 2.9, 2.8, 2.7], [20.0, 18.0, 20.0, 18.0], "passed"),  # once is not twice in a row
        ([3.0, 2.9, 2.8], [18.0, 19.0, 20.0], "passed"),
        ([3.0, 3.1, 3.2], [20.0, 18.0, 18.0], "passed"),  # both say worse: other rules see to that
        ([3.0, 2.99, 2.99], [20.0, 18.0, 18.0], "passed"),  # the loss stood still
        ([3.0, 2.9, 2.8, 2.7, 2.6], [20.0, 17.0, 20.5, 18.5, 18.4], "passed"),  # within its own noise
        ([3.0, 2.9, 2.8, 2.7], [20.5, None, 18.0, 18.0], "failed"),
        ([3.0, 2.9, 2.8], [None, 20.0, 18.0], "too_early"),
        ([3.0, 2.9, 2.8], [None, None, None], "not_measured"),
        ([3.0, 2.9, 2.8, 2.7], [20.0, NAN, 18.0, 18.0], "failed"),
        ([3.0, NAN, 2.8], [20.0, 18.0, 18.0], "failed"),
        ([NAN, NAN, NAN], [20.0, 18.0, 18.0], "passed"),
    ],
)
def test_a_loss_that_falls_while_the_samples_become_worse_is_a_disagreement(losses, scores, expected):
    assert heard(losses, scores).status == expected


def test_the_samples_of_the_base_model_are_older_than_the_first_evaluation():
    events = [event for n, mel in enumerate((3.0, 2.5)) for event in (trained(n), scored(n, 18.0), evaluated(n, mel))]
    finding = EarsAgree().check(record_of(start(), scored(0, 21.0, step=0), events))
    assert finding.status == "failed"
    assert finding.evidence["best_step"] == 0
    assert finding.evidence["gain"] == pytest.approx(0.5 / 2.75)


@pytest.mark.parametrize(
    ("values", "since", "expected"),
    [
        ([4.0, 4.5, 3.2], "best", "failed"),
        ([4.0, 4.5, 3.2], "first", "passed"),
        ([4.0, 4.5, 2.9], "first", "failed"),
        ([NAN, 4.0, 2.9], "first", "failed"),
        ([4.0], "first", "too_early"),
        ([], "first", "not_measured"),
    ],
)
def test_a_step_back_is_one_from_the_best_or_from_the_first(values, since, expected):
    scores = [scored(n, other_languages=value) for n, value in enumerate(values)]
    record = record_of(curve(*[2.0] * 3), scores)
    assert NotRegressed("sample.other_languages", 1.0, since).check(record).status == expected


@pytest.mark.parametrize(
    ("metric", "values", "enough", "expected"),
    [
        (SCORE, [23.0, 22.6], 22.5, "passed"),
        (SCORE, [23.0, 22.5], 22.5, "passed"),
        (SCORE, [23.0, 22.4], 22.5, "failed"),
        (SCORE, [20.0, 21.0], 22.5, "passed"),
        (MEL, [1.9, 2.0], 2.0, "passed"),
        (MEL, [1.9, 2.1], 2.0, "failed"),
    ],
)
def test_what_is_good_enough_need_not_improve(metric, values, enough, expected):
    assert status(Improved(metric, enough=enough), values) == expected


def listened(epoch, score, low, high):
    """Listeners judged the samples of an epoch."""
    return replace(
        scored(epoch, score, pronunciation=score / 5),
        by="listeners",
        intervals={"sample.score": [low, high], "sample.pronunciation": [low / 5, high / 5]},
    )


def test_scores_of_listeners_are_judged_with_how_sure_they_are():
    """They outrank the measures, which say the opposite here."""
    record = record_of(start(), scored(0, 10), scored(1, 24), listened(0, 20, 19, 21), listened(1, 15, 13, 17))
    found = NotRegressed("sample.score", by=1).check(record)
    assert found.status == "failed"
    assert found.message == "sample.score regressed from 20 to 15 (95 %: 13 to 17)"
    assert found.evidence["best_interval"] == [19, 21]
    assert found.evidence["latest_interval"] == [13, 17]
    better = Improved("sample.score").check(record_of(start(), listened(0, 15, 13, 17), listened(1, 20, 19, 21)))
    assert better.status == "passed"
    assert "to 20 (95 %: 19 to 21) at step 20" in better.message


def test_measures_have_no_interval_and_none_is_said():
    found = NotRegressed("sample.score", by=1).check(record_of(start(), scored(0, 20), scored(1, 15)))
    assert found.message == "sample.score regressed from 20 to 15"
    assert "latest_interval" not in found.evidence

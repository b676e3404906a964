"""Two sets of samples of the same prompts against each other."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_sets import SPREAD, measured, sample_set, spoken, uniform

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.journal import to_json
from xtts_gatekeeper.samples.comparison import FEWEST, MODEST, RISK, compare
from xtts_gatekeeper.samples.paired import EXACT, chance, interval
from xtts_gatekeeper.samples.score import ROWS
from xtts_gatekeeper.samples.sets import Measured

WORSE = {"deletions": 2.0, "wer": 0.2}


def against(before, after, **values):
    return compare(before, after, SPREAD, **values)


def change(comparison, name):
    return next(c for c in comparison.changes if c.name == name)


# What is decided


def test_equal_sets_are_the_same():
    found = against(uniform([{}, WORSE] * 6), uniform([{}, WORSE] * 6, step=200))
    assert found.verdict == "same"
    assert all(c.difference == 0 and (c.low, c.high) == (0, 0) for c in found.changes)
    assert [c.p for c in found.changes if c.p is not None] == [1.0, 1.0]
    assert found.message.startswith("no difference that can be shown; score 23.0 to 23.0 of 25 (+0.0, 95 % interval ")


@pytest.mark.parametrize("prompts", [FEWEST, 8, 12, 30])
def test_words_lost_at_every_prompt_are_a_regression_and_their_return_an_improvement(prompts):
    whole, cut = uniform([{}] * prompts), uniform([WORSE] * prompts, step=200)
    assert against(whole, cut).verdict == "regressed"
    assert against(cut, whole).verdict == "improved"
    assert "worse in what is said" in against(whole, cut).message
    assert "better in what is said" in against(cut, whole).message


@pytest.mark.parametrize(("worse", "verdict"), [(3, "same"), (4, "regressed"), (6, "regressed")])
def test_four_prompts_that_are_worse_while_none_is_better_are_enough(worse, verdict):
    assert against(uniform([{}] * 12), uniform([WORSE] * worse + [{}] * (12 - worse), step=200)).verdict == verdict


def test_one_prompt_that_fails_wholly_is_no_regression_of_the_checkpoint():
    samples = [spoken(f"p{n}", error="out of memory" if n == 3 else "") for n in range(12)]
    broken = sample_set(samples, [measured(s) for s in samples if not s.error], step=200)
    found = against(uniform([{}] * 12), broken)
    assert found.verdict == "same"
    assert found.come == {"not_spoken": 1}
    assert found.prompts[3].score_after == 5.0


def test_noise_at_every_prompt_is_a_regression_of_the_sound_alone():
    found = against(uniform([{}] * 8), uniform([{"dnsmos": 2.5}] * 8, step=200))
    assert found.verdict == "regressed"
    assert "worse in how it sounds" in found.message
    assert not change(found, "said").shown


def test_one_side_better_and_the_other_worse_is_neither_and_says_both():
    found = against(uniform([WORSE] * 8), uniform([{"dnsmos": 2.5}] * 8, step=200))
    assert found.verdict == "same"
    assert "better in what is said; worse in how it sounds" in found.message


def test_a_sure_difference_too_small_to_hear_is_none():
    small = {"dnsmos": 3.1 - 1.5 * (MODEST - 0.01) / 4}
    found = against(uniform([{}] * 12), uniform([small] * 12, step=200))
    assert change(found, "sound").p < RISK["sound"]
    assert found.verdict == "same"


def test_with_too_few_prompts_nothing_is_shown_and_that_is_said():
    found = against(uniform([{}] * (FEWEST - 1)), uniform([WORSE] * (FEWEST - 1), step=200))
    assert found.verdict == "same"
    assert found.notes == (f"with fewer than {FEWEST} prompts no difference can be shown, however large",)


def test_several_takes_count_as_one_prompt():
    def three(values, step):
        samples = [spoken(f"p{n}", take=take) for n in range(FEWEST - 1) for take in range(3)]
        return sample_set(samples, [measured(s, **values) for s in samples], step=step)

    assert against(three({}, 100), three(WORSE, 200)).verdict == "same"


def test_other_languages_are_listed_and_do_not_decide():
    def both(values, step):
        samples = [spoken(f"p{n}") for n in range(6)] + [spoken(f"de{n}", own=False, language="de") for n in range(6)]
        found = [measured(s, **(values if not s.own else {})) for s in samples]
        return sample_set(samples, found, step=step)

    found = against(both({}, 100), both(WORSE, 200))
    assert found.verdict == "same"
    assert [p.own for p in found.prompts] == [True] * 6 + [False] * 6
    assert found.prompts[-1].score_after < found.prompts[-1].score_before


def test_without_a_recogniser_the_sound_is_compared_all_the_same():
    deaf = dict.fromkeys(["wer", "cer", "insertions", "deletions", "words"])
    found = against(uniform([deaf] * 8), uniform([{**deaf, "dnsmos": 2.5}] * 8, step=200))
    assert found.verdict == "regressed"
    assert "score" not in {c.name for c in found.changes}
    assert found.notes == tuple(
        f"{row} was not measured of enough prompts in both sets" for row in ("intelligibility", "pronunciation")
    )
    late = against(uniform([deaf] * 8), uniform([{**deaf, "duration_ratio": 0.9}] * 8, step=200))
    assert "worse in what is said" in late.message  # by where it stops


# What is told


def test_faults_that_came_and_went_are_named_with_their_prompts():
    samples = [spoken(f"p{n}") for n in range(8)]
    before = sample_set(samples, [measured(s, ["noisy"] if n < 2 else []) for n, s in enumerate(samples)])
    after = sample_set(samples, [measured(s, ["skipped"] if n < 3 else []) for n, s in enumerate(samples)], step=200)
    found = against(before, after)
    assert (found.come, found.gone) == ({"skipped": 3}, {"noisy": 2})
    assert found.prompts[0].come == ("skipped",)
    assert found.prompts[2].gone == ()
    assert found.message.endswith("new: skipped at 3 prompts; gone: noisy at 2 prompts")
    assert change(found, "faults").before == 0.25


def test_plain_measures_are_shown_where_both_sets_have_them():
    found = against(uniform([{"likeness": None}] * 8), uniform([{"wer": 0.1}] * 8, step=200))
    shown = {c.name for c in found.changes}
    assert {"wer", "cer", "dnsmos", "naturalness"} < shown
    assert "likeness" not in shown
    wer = change(found, "wer")
    assert (wer.before, wer.after, wer.p, wer.shown) == (0.0, pytest.approx(0.1), None, False)


def test_the_document_is_json():
    document = json.loads(to_json(against(uniform([{}] * 8), uniform([WORSE] * 8, step=200)).to_dict()))
    assert document["verdict"] == "regressed"
    assert document["changes"][0]["name"] == "score"
    assert document["changes"][0]["difference"] < 0
    assert document["prompts"][0]["files_after"] == ["p0-0.wav"]


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (uniform([{}]), uniform([{}], prompts="others"), "not samples of the same prompts"),
        (uniform([{}]), sample_set([spoken("p0")], [None], step=200, measured_as=""), "have not been measured"),
        (sample_set([], []), uniform([{}]), "holds no samples"),
        (uniform([{}]), uniform([{}], measured_as="other measures"), "were measured differently"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(before, after, sentence):
    with pytest.raises(UserError, match=sentence):
        against(before, after)


# How sure it is

ROW_VALUES = st.fixed_dictionaries(
    {
        "wer": st.sampled_from([0.0, 0.1, 0.2, 0.5]),
        "deletions": st.sampled_from([0.0, 1.0, 2.0]),
        "naturalness": st.floats(2.0, 4.6),
        "dnsmos": st.floats(1.5, 3.4) | st.none(),
    }
)
SETS = st.integers(1, 14).flatmap(
    lambda n: st.tuples(st.lists(ROW_VALUES, min_size=n, max_size=n), st.lists(ROW_VALUES, min_size=n, max_size=n))
)


@settings(deadline=None, max_examples=60)
@given(SETS)
def test_the_comparison_the_other_way_round_says_the_opposite(values):
    one, other = uniform(values[0]), uniform(values[1], step=200)
    there, back = against(one, other, resamples=200), against(other, one, resamples=200)
    opposite = {"improved": "regressed", "regressed": "improved", "same": "same"}
    assert back.verdict == opposite[there.verdict]
    for a, b in zip(there.changes, back.changes, strict=True):
        assert (a.name, a.p) == (b.name, b.p)
        assert a.difference == pytest.approx(-b.difference)
        if a.low is not None:
            assert (a.low, a.high) == (pytest.approx(-b.high, abs=1e-9), pytest.approx(-b.low, abs=1e-9))


@settings(deadline=None, max_examples=60)
@given(SETS)
def test_a_set_against_itself_is_the_same(values):
    found = against(uniform(values[0]), uniform(values[0], step=200), resamples=200)
    assert found.verdict == "same"
    assert all(c.difference == 0 for c in found.changes)


@settings(deadline=None, max_examples=60)
@given(SETS, st.randoms(use_true_random=False))
def test_the_order_of_the_prompts_does_not_matter(values, shuffled):
    order = list(range(len(values[0])))
    shuffled.shuffle(order)
    samples = [spoken(f"p{n}") for n in order]
    after = sample_set(samples, [measured(s, **values[1][n]) for n, s in zip(order, samples, strict=True)], step=200)
    plain = against(uniform(values[0]), uniform(values[1], step=200), resamples=200)
    assert against(uniform(values[0]), after, resamples=200) == plain


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=EXACT + 3))
def test_chance_is_a_probability_and_the_same_for_either_direction(differences):
    p = chance(differences)
    assert 0 < p <= 1
    assert chance([-d for d in differences]) == p


@pytest.mark.parametrize(("differences", "p"), [([1.0] * 6, 1 / 64), ([1.0] * 3 + [0.0] * 9, 1 / 8), ([0.0] * 5, 1.0)])
def test_chance_of_changes_that_are_all_alike(differences, p):
    assert chance(differences) == pytest.approx(p)


@pytest.mark.parametrize("prompts", [8, 12, 20])
def test_chance_calls_noise_a_difference_as_often_as_it_says(prompts):
    draw = random.Random(5)
    found = [chance([draw.gauss(0, 1) for _ in range(prompts)]) for _ in range(400)]
    assert sum(p <= 0.05 for p in found) == pytest.approx(20, abs=3 * math.sqrt(19))


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    draw = random.Random(6)
    bounds = [interval([draw.gauss(1, 2) for _ in range(8)], seed=n, resamples=500) for n in range(300)]
    held = sum(low <= 1 <= high for low, high in bounds)
    assert held >= 0.90 * len(bounds)
    assert interval([1.0, 2.0]) is None


def test_rows_of_a_prompt_are_none_where_they_were_not_measured():
    found = against(uniform([{}] * 6), uniform([{"naturalness": None}] + [{}] * 5, step=200))
    first = found.prompts[0]
    assert first.rows["prosody"] == (5.0, None)
    assert (first.score_before, first.score_after) == (25.0, None)
    assert set(first.rows) == set(ROWS)


def test_silent_audio_is_compared_as_bad():
    samples = [spoken(f"p{n}") for n in range(6)]
    silent = sample_set(samples, [Measured(file=s.file, error="it is silent") for s in samples], step=200)
    assert against(uniform([{}] * 6), silent).verdict == "regressed"

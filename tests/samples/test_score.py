"""Marks of a set of samples, out of what was measured."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_sets import GOOD, SPREAD, fault, measured, sample_set, spoken, uniform

from xtts_gatekeeper.record.models import HIGHER_IS_BETTER, known_metrics
from xtts_gatekeeper.samples.calibration import GENERAL, Spread
from xtts_gatekeeper.samples.score import LOSSES, MAIN, ROW_OF, ROWS, by_prompt, fault_counts, rows, scores
from xtts_gatekeeper.samples.sets import Measured

SAMPLE = spoken("p0")


def marks(faults=(), **values):
    """The rows of one sample that measures `values` and is good otherwise."""
    return rows(SAMPLE, measured(SAMPLE, faults, **values), SPREAD)


def test_what_measures_as_the_speakers_own_clips_has_full_marks():
    assert scores(uniform([{}] * 4), SPREAD) == {
        **{f"sample.{row}": 5.0 for row in ROWS},
        "sample.score": 25.0,
        "sample.faults": 0.0,
    }


@pytest.mark.parametrize(
    ("row", "values"),
    [
        ("intelligibility", {"wer": 0.25}),
        ("intelligibility", {"wer": 0.0, "cer": 0.165, "insertions": None}),
        ("pronunciation", {"deletions": 1.65}),
        ("pronunciation", {"insertions": 1.65}),
        ("stopping", {"trailing_silence_seconds": 1.4}),
        ("stopping", {"duration_ratio": -0.25 - 2 * 1.4826 * 0.05}),
        ("stopping", {"duration_ratio": 0.25 + 2 * 1.4826 * 0.05}),
        ("prosody", {"naturalness": 3.3}),
        ("prosody", {"likeness": 0.6 - 2 * 1.4826 * 0.05}),
        ("artifacts", {"dnsmos": 2.35}),
        ("artifacts", {"dnsmos_signal": 2.65}),
        ("artifacts", {"dnsmos_background": 3.25}),
        ("artifacts", {"clipped_runs": 120.0}),
    ],
)
def test_half_way_to_what_is_of_no_use_costs_two_marks_of_its_row(row, values):
    found = marks(**values)
    assert found[row] == pytest.approx(3.0)
    spared = {"pronunciation"} if "cer" in values else set()
    assert all(found[other] == 5.0 for other in ROWS if other not in {row, *spared})


@pytest.mark.parametrize("kind", ROW_OF)
def test_a_fault_takes_its_severity_off_its_row(kind):
    for severity, mark in ((1.0, 4.0), (2.5, 2.5), (99.0, 1.0)):
        found = rows(SAMPLE, Measured(file=SAMPLE.file, values=GOOD, faults=(fault(kind, severity),)), SPREAD)
        assert found == {**dict.fromkeys(ROWS, 5.0), ROW_OF[kind]: mark}


def test_the_worst_of_several_flaws_counts_and_they_do_not_add_up():
    assert marks(faults=["noisy", "clipped"], dnsmos=2.35)["artifacts"] == pytest.approx(3.0)


def test_every_fault_and_every_measure_belongs_to_a_row():
    from xtts_gatekeeper.samples.faults import KINDS

    assert set(ROW_OF) == set(KINDS)
    assert {loss.row for loss in LOSSES.values()} == set(ROWS) == set(MAIN)
    assert all(name in LOSSES for names in MAIN.values() for name in names)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_without_its_main_measures_is_left_out_and_then_there_is_no_total(row):
    missing = dict.fromkeys(MAIN[row])
    if row in ("intelligibility", "pronunciation"):
        missing = dict.fromkeys(["wer", "cer", "deletions", "insertions"])
    found = scores(uniform([missing] * 3), SPREAD)
    assert f"sample.{row}" not in found
    assert "sample.score" not in found
    assert found["sample.faults"] == 0.0


@pytest.mark.parametrize(("blind", "there"), [(2, True), (3, False)])
def test_a_row_that_less_than_half_of_the_prompts_have_is_left_out(blind, there):
    found = scores(uniform([{"naturalness": None}] * blind + [{}] * 2), SPREAD)
    assert ("sample.prosody" in found) == there


def test_what_cannot_be_spoken_is_bad_and_not_missing():
    good, broken = spoken("p0"), spoken("p1", error="out of memory")
    found = scores(sample_set([good, broken], [measured(good)]), SPREAD)
    assert found["sample.score"] == 15.0
    assert found["sample.faults"] == 0.5


def test_audio_that_is_none_is_bad():
    empty = spoken("p0")
    found = scores(sample_set([empty], [Measured(file=empty.file, error="it is silent")]), SPREAD)
    assert (found["sample.score"], found["sample.faults"]) == (5.0, 1.0)


def test_a_sample_that_was_cut_has_found_no_end():
    cut = spoken("p0", cut=True)
    found = rows(cut, measured(cut), SPREAD)
    assert found == {**dict.fromkeys(ROWS, 5.0), "stopping": 1.0}
    assert rows(cut, None, SPREAD) == {"stopping": 1.0}
    assert fault_counts(sample_set([cut], [measured(cut)])) == {"late_stop": 1}


def test_what_was_skipped_for_want_of_time_says_nothing():
    good, skipped = spoken("p0"), spoken("p1", error="no time left", skipped=True)
    found = scores(sample_set([good, skipped], [measured(good)]), SPREAD)
    assert (found["sample.score"], found["sample.faults"]) == (25.0, 0.0)
    assert fault_counts(sample_set([good, skipped], [measured(good)])) == {}


def test_nothing_measured_gives_no_marks_rather_than_full_ones():
    assert scores(sample_set([SAMPLE], [None]), SPREAD) == {}
    assert scores(sample_set([], []), SPREAD) == {}


def test_takes_are_averaged_and_in_pronunciation_the_worst_counts_once_more():
    takes = [spoken("p0", take=n) for n in range(2)]
    found = [measured(takes[0]), measured(takes[1], naturalness=2.3, deletions=9.0)]
    assert by_prompt(sample_set(takes, found), SPREAD)["p0"] == {
        "intelligibility": 5.0,
        "prosody": 3.0,
        "pronunciation": 2.0,  # 5 and 1: the mean of 3 and of 1
        "stopping": 5.0,
        "artifacts": 5.0,
    }


def test_other_languages_have_a_mark_of_their_own_and_do_not_count_in_the_total():
    own, other = spoken("p0"), spoken("de", own=False, language="de")
    found = scores(
        sample_set([own, other], [measured(own), measured(other, ["noisy"], wer=0.25, likeness=0.1)]), SPREAD
    )
    assert found["sample.score"] == 25.0
    assert found["sample.faults"] == 0.0
    assert found["sample.other_languages"] == pytest.approx((3 + 5 + 5) / 3)


def test_a_speaker_whose_own_clips_are_noisy_is_not_blamed_for_the_noise():
    spread = {**SPREAD, "dnsmos": Spread(median=2.0, mad=0.1, count=20), "wer": Spread(median=0.25, mad=0.1, count=20)}
    assert rows(SAMPLE, measured(SAMPLE, dnsmos=2.0, wer=0.25), spread) == dict.fromkeys(ROWS, 5.0)


def test_without_clips_of_the_speaker_real_speech_in_general_is_the_scale():
    usual = {name: GENERAL[name].median for name in GOOD if name in GENERAL}
    assert scores(uniform([usual] * 2), {})["sample.score"] == 25.0
    nothing = {name: Spread(median=math.nan, mad=math.nan, count=0) for name in GENERAL}
    assert scores(uniform([usual] * 2), nothing)["sample.score"] == 25.0


def test_a_value_that_is_no_number_counts_as_not_measured():
    assert "prosody" not in marks(naturalness=math.nan)
    assert marks(dnsmos=math.inf)["artifacts"] == 5.0  # the other two were measured


def test_the_names_are_those_that_the_gates_know():
    own, other = spoken("p0"), spoken("de", own=False, language="de")
    found = scores(sample_set([own, other], [measured(own), measured(other)]), SPREAD)
    assert set(found) <= known_metrics()
    assert set(found) - HIGHER_IS_BETTER == {"sample.faults"}


VALUES = st.dictionaries(st.sampled_from(sorted(GOOD)), st.floats(-1e6, 1e6) | st.none(), max_size=8)


@given(st.lists(VALUES, min_size=1, max_size=5), st.sampled_from([SPREAD, {}]))
def test_marks_stay_on_the_scale_whatever_is_measured(values, spread):
    found = scores(uniform(values), spread)
    assert all(1.0 <= found[f"sample.{row}"] <= 5.0 for row in ROWS if f"sample.{row}" in found)
    assert 5.0 <= found.get("sample.score", 5.0) <= 25.0


@given(st.sampled_from(sorted(set(LOSSES) & set(GOOD))), st.floats(0, 10), st.floats(0, 10))
def test_what_is_further_from_real_speech_never_has_better_marks(name, near, far):
    near, far = sorted((near, far))
    side = LOSSES[name].side or 1
    row = LOSSES[name].row
    assert marks(**{name: GOOD[name] + side * far})[row] <= marks(**{name: GOOD[name] + side * near})[row]

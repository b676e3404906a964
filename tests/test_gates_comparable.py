"""The rule `comparable`, and the segments of a record that it tells of."""

import pytest
import records
from records import curve, evaluated, flat, start

from xtts_gatekeeper.gates.rules.comparable import Comparable

MEL = "eval.mel_ce"


NAN, INF = float("nan"), float("inf")


def record_of(*parts, **values):
    return records.record_of(flat(parts), **values)


def status(rule, *parts, **values):
    return rule.check(record_of(*parts, **values)).status


def segments_of(*parts, **values):
    return [[e.step for e in segment.evaluations] for segment in record_of(*parts, **values).segments]


def test_a_changed_fingerprint_ends_a_segment():
    parts = [curve(2.0, 1.9, eval_set="a"), curve(1.8, first=2, eval_set="b")]
    assert segments_of(parts) == [[10, 20], [30]]
    finding = Comparable().check(record_of(parts))
    assert finding.status == "failed"
    assert finding.evidence["breaks"][0]["step"] == 30
    assert "a to b" in finding.message
    assert "only what came after is compared" in finding.message


def test_another_number_of_clips_in_a_log_ends_a_segment():
    parts = [curve(2.0, 1.9, eval_set="12 samples"), curve(1.8, first=2, eval_set="13 samples")]
    assert segments_of(parts, source="console") == [[10, 20], [30]]
    assert status(Comparable(), parts, source="console") == "failed"


def test_an_eval_set_that_comes_back_is_still_a_segment_of_its_own():
    parts = [curve(2.0, eval_set="a"), curve(1.9, first=1, eval_set="b"), curve(1.8, first=2, eval_set="a")]
    assert segments_of(parts) == [[10], [20], [30]]
    assert len(Comparable().check(record_of(parts)).evidence["breaks"]) == 2


FALLING = curve(3.0, 2.9, 2.8, 2.7, eval_set=None)


@pytest.mark.parametrize(
    ("value", "cut"),
    [(2.6, False), (2.48, False), (2.46, True), (2.2, True), (1.0, True), (2.9, False), (3.18, False), (3.2, True)],
)
def test_a_jump_at_a_resume_ends_a_segment_only_when_training_cannot_explain_it(value, cut):
    parts = [start(), FALLING, start(step=40), curve(value, first=4, eval_set=None)]
    record = record_of(parts, source="console")
    assert [len(segment.evaluations) for segment in record.segments] == ([4, 1] if cut else [5])
    finding = Comparable().check(record)
    assert finding.status == ("failed" if cut else "passed")
    assert ("with a resume in between" in finding.message) == cut


def test_the_same_jump_without_a_resume_is_the_model_and_ends_no_segment():
    assert segments_of(start(), FALLING, curve(1.0, first=4, eval_set=None), source="console") == [[10, 20, 30, 40, 50]]


def test_only_the_first_evaluation_after_a_resume_can_end_a_segment():
    parts = [start(), FALLING, start(step=40), curve(2.65, 1.0, first=4, eval_set=None)]
    assert segments_of(parts, source="console") == [[10, 20, 30, 40, 50, 60]]


def test_more_steps_between_explain_a_larger_fall():
    later = [start(), FALLING, start(step=40), evaluated(9, 2.2, eval_set=None)]
    assert segments_of(later, source="console") == [[10, 20, 30, 40, 100]]


def test_the_faster_of_the_latest_pace_and_that_of_the_whole_run_counts():
    parts = [start(), curve(*[3.0] * 6, 2.9, 2.8, 2.7, 2.6, eval_set=None), start(step=100)]
    assert len(record_of(parts, curve(2.43, first=10, eval_set=None), source="console").segments) == 1


def test_below_three_evaluations_there_is_no_pace_and_no_cut():
    parts = [start(), curve(3.0, 2.9, eval_set=None), start(step=20), curve(1.0, first=2, eval_set=None)]
    assert segments_of(parts, source="console") == [[10, 20, 30]]


@pytest.mark.parametrize(
    ("source", "eval_set", "cut"), [("journal", "dev", False), ("journal", None, True), ("console", "12 samples", True)]
)
def test_a_known_fingerprint_is_trusted_and_a_count_of_clips_is_not(source, eval_set, cut):
    parts = [start(), curve(3.0, 2.9, 2.8, 2.7, eval_set=eval_set), start(step=40)]
    record = record_of(parts, curve(1.0, first=4, eval_set=eval_set), source=source)
    assert len(record.segments) == (2 if cut else 1)


def test_an_abandoned_stretch_is_not_compared():
    parts = [start(), curve(3.0, 2.9, 2.8, 9.0, eval_set=None), start(step=30), curve(2.7, first=3, eval_set=None)]
    record = record_of(parts, source="console")
    assert [e.metrics[MEL] for e in record.evaluations] == [3.0, 2.9, 2.8, 2.7]
    assert Comparable().check(record).status == "passed"


@pytest.mark.parametrize(
    ("printed", "expected"),
    [({MEL: 1.9}, "passed"), ({MEL: 1.90001}, "passed"), ({MEL: 1.8}, "failed"), ({}, "passed")],
)
def test_an_evaluation_is_missing_where_the_printed_difference_leads_elsewhere(printed, expected):
    parts = [evaluated(0, 2.0), evaluated(1, 1.9), evaluated(2, 1.7, previous=printed)]
    finding = Comparable().check(record_of(parts, source="console"))
    assert finding.status == expected
    assert finding.evidence["evaluations_missing_before"] == ([30] if expected == "failed" else [])


@pytest.mark.parametrize("parts", [[], [evaluated(0)], [evaluated(0, NAN), evaluated(1, 2.0, previous={MEL: 1.0})]])
def test_what_cannot_be_compared_breaks_no_chain(parts):
    assert status(Comparable(), parts, source="console") == "passed"

import math

import pytest
from records import curve, evaluated, phase, record_of, start, trained

from xtts_gatekeeper.gates.analysis import analysis

OBJECTIVE = "eval.objective"


def table(*points, eval_set=None):
    return [evaluated(i, value, step=step, eval_set=eval_set) for i, (step, value) in enumerate(points)]


def test_the_reports_numbers_of_phase_1():
    found = analysis(record_of(table((0, 5.046), (1500, 3.507)), source="table"), OBJECTIVE, 2.5)
    overall = found["overall"]
    assert (found["objective"], found["target"]) == ("eval.mel_ce", 2.5)
    assert overall["rate_per_step"] == pytest.approx(-0.001026)
    assert round(overall["change_share"], 3) == -0.305
    assert (overall["from"], overall["from_step"], overall["to"], overall["to_step"]) == (5.046, 0, 3.507, 1500)
    assert found["distance"] == pytest.approx(1.007)


def test_a_phase_ends_at_its_best_and_tells_its_latest_too():
    points = ((1500, 3.507), (1900, 3.008), (1901, 2.971), (1950, 2.971), (2000, 2.978), (2050, 2.995))
    (only,) = analysis(record_of(table(*points), source="table"), OBJECTIVE)["phases"]
    assert (only["name"], only["to"], only["to_step"]) == ("run", 2.971, 1901)
    assert (only["latest"], only["latest_step"]) == (2.995, 2050)
    assert only["rate_per_step"] == pytest.approx((2.971 - 3.507) / 401)


def test_phases_of_ours_begin_at_the_last_value_before_them():
    events = [start(), phase("one", 0), *curve(5.0, 4.0), phase("two", 20, index=1), *curve(3.5, 3.4, first=2)]
    found = analysis(record_of(events), OBJECTIVE, 2.5)
    one, two = found["phases"]
    assert (one["name"], one["from"], one["to"], one["from_step"], one["to_step"]) == ("one", 5.0, 4.0, 10, 20)
    assert (two["name"], two["from"], two["to"], two["from_step"], two["to_step"]) == ("two", 4.0, 3.4, 20, 40)
    assert two["change"] == pytest.approx(-0.6)
    assert two["change_share"] == pytest.approx(-0.15)
    assert two["rate_per_step"] == pytest.approx(-0.03)
    assert found["overall"]["change"] == pytest.approx(-1.6)
    assert found["distance"] == pytest.approx(0.9)


def test_a_resume_inside_a_phase_is_still_that_phase():
    events = [start(), phase("one", 0), *curve(5.0, 4.0, 3.9)]
    resumed = [start(step=20, epoch=2), phase("one", 20), *curve(3.8, 3.7, first=2)]
    (only,) = analysis(record_of(events, resumed), OBJECTIVE)["phases"]
    assert (only["name"], only["from"], only["to"], only["to_step"]) == ("one", 5.0, 3.7, 40)


def test_a_resume_that_goes_back_before_a_phase_takes_that_phase_away_until_it_begins_again():
    events = [start(), phase("one", 0), *curve(5.0, 4.0), phase("two", 20, index=1), *curve(3.0, first=2)]
    resumed = [start(step=10, epoch=1), phase("one", 10), *curve(4.5, 4.4, first=1), phase("two", 30, index=1)]
    found = analysis(record_of(events, resumed, curve(4.2, first=3)), OBJECTIVE)
    assert [(p["name"], p["from"], p["to"]) for p in found["phases"]] == [("one", 5.0, 4.4), ("two", 4.4, 4.2)]


def test_without_phases_of_ours_each_process_is_one():
    events = [start(), *curve(5.0, 4.0), start(step=20, epoch=2), *curve(3.5, first=2)]
    found = analysis(record_of(events), OBJECTIVE)
    assert [(p["name"], p["from"], p["to"]) for p in found["phases"]] == [
        ("process 1", 5.0, 4.0),
        ("process 2", 4.0, 3.5),
    ]


def test_what_crosses_a_change_of_the_eval_set_is_not_compared():
    events = [start(), *curve(5.0, 4.0, eval_set="old"), start(step=20, epoch=2), *curve(1.0, 0.9, first=2)]
    found = analysis(record_of(events), OBJECTIVE, 0.5)
    first, second = found["phases"]
    assert (first["comparable"], first["change"]) == (True, pytest.approx(-1.0))
    for crossing in (second, found["overall"]):
        assert not crossing["comparable"]
        assert crossing["change"] is crossing["change_share"] is crossing["rate_per_step"] is None
        assert (crossing["to"], crossing["latest"]) == (0.9, 0.9)
    assert found["distance"] == pytest.approx(0.4)


def test_a_phase_that_made_nothing_better_has_gained_nothing():
    (only,) = analysis(record_of(start(), curve(3.0, 3.5, 4.0)), OBJECTIVE)["phases"]
    assert (only["change"], only["change_share"], only["rate_per_step"], only["latest"]) == (0.0, 0.0, None, 4.0)


def test_a_phase_of_one_value_has_no_rate():
    found = analysis(record_of(start(), curve(3.0)), OBJECTIVE)
    assert (found["overall"]["change"], found["overall"]["rate_per_step"]) == (0.0, None)
    assert found["distance"] is None


@pytest.mark.parametrize("events", [[], [start()], [start(), trained(0, loss=3.0)], [start(), evaluated(0)]])
def test_a_run_without_the_objective_has_no_phases(events):
    found = analysis(record_of(events), OBJECTIVE, 2.5)
    assert (found["phases"], found["overall"], found["distance"], found["target"]) == ([], None, None, 2.5)


def test_a_share_of_nothing_is_none_and_nan_is_never_the_best():
    found = analysis(record_of(start(), curve(0.0, math.nan, -1.0)), OBJECTIVE)["overall"]
    assert (found["change"], found["change_share"], found["to"]) == (-1.0, None, -1.0)


def test_a_phase_with_nothing_but_nan_does_not_hide_the_others():
    events = [start(), phase("one", 0), *curve(5.0, 4.0), phase("two", 20, index=1), *curve(math.nan, first=2)]
    one, two = analysis(record_of(events), OBJECTIVE)["phases"]
    assert one["to"] == 4.0
    assert math.isnan(two["latest"])

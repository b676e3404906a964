"""Which sets of samples stand side by side, and what is said of each; and how long tables are cut."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import evaluated, judged, record_of, start
from sample_sets import sample_set, uniform

from xtts_gatekeeper.gates import load_policy
from xtts_gatekeeper.report.sample_view import chosen, sample_view
from xtts_gatekeeper.report.sheets import Column, Sheet
from xtts_gatekeeper.report.shortening import evenly, shortened
from xtts_gatekeeper.report.table import tracking_rows
from xtts_gatekeeper.report.timeline import Stretch, stretches
from xtts_gatekeeper.samples.sets import write_measured, write_spoken


def sets(*scores):
    return [
        sample_set([], [], step=10 * number, scores={} if score is None else {"sample.score": score})
        for number, score in enumerate(scores)
    ]


def test_a_single_set_is_the_first_the_best_and_the_latest():
    assert chosen(sets(20.0), None, 6) == {0: ("first", "best", "latest")}


def test_the_best_is_that_of_the_best_weights_else_of_the_highest_score():
    assert chosen(sets(18.0, 22.0, 20.0), None, 6)[1] == ("best",)
    assert chosen(sets(18.0, 22.0, 20.0), 0, 6)[0] == ("first", "best")
    assert chosen(sets(18.0, 22.0, 20.0), 15, 6)[1] == ("best",)  # no samples of the best weights
    assert "best" not in {word for words in chosen(sets(None, None), None, 6).values() for word in words}


@given(st.integers(1, 60), st.integers(2, 8), st.integers(0, 59))
def test_few_of_many_are_chosen_evenly_with_first_best_and_latest(count, most, best):
    found = chosen(sets(*[20.0] * count), 10 * min(best, count - 1), most)
    assert len(found) == min(count, most)
    assert list(found) == sorted(found)
    assert {0, count - 1} <= set(found) or most < 2
    assert most < 3 or min(best, count - 1) in found


def written(run, step, values, **more):
    made = replace(uniform(values, step=step), folder=run / "gatekeeper" / "samples" / f"{step}", **more)
    made.folder.mkdir(parents=True)
    write_spoken(made)
    write_measured(made.folder, made.measured, made.measured_as, {"sample.score": 20.0})
    return made


def test_a_run_without_samples_has_none_to_show(tmp_path):
    assert sample_view(tmp_path, None, "few", str) is None


def test_sets_stand_in_the_order_of_their_steps_with_what_is_measured_of_each(tmp_path):
    pytest.importorskip("scipy")
    written(tmp_path, 20, [{"wer": 0.0}, {"wer": 0.1}])
    written(tmp_path, 10, [{"wer": 0.25}, {"wer": 0.5}])
    view = sample_view(tmp_path, 20, "few", lambda path: path.name)
    assert [(column.step, column.shown_as) for column in view.columns] == [(10, ("first",)), (20, ("best", "latest"))]
    assert [row.prompt for row in view.rows] == ["p0", "p1"]
    assert [cell.sound for (cell,) in view.rows[0].cells] == ["p0-0.wav", "p0-0.wav"]
    assert dict(view.rows[1].cells[0][0].measures)["Word error rate"] == "0.500"
    (comparison,) = view.comparisons
    assert (comparison["before"], comparison["after"]) == ("step 10", "step 20")


def test_sets_of_other_prompts_are_left_out_and_counted(tmp_path):
    written(tmp_path, 10, [{}], prompts="old")
    written(tmp_path, 20, [{}])
    view = sample_view(tmp_path, None, "few", lambda path: None)
    assert [column.step for column in view.columns] == [20]
    assert view.notes == ("1 set of other prompts, voice or settings is left out.",)


def test_sets_that_were_measured_differently_are_not_compared_and_that_is_said(tmp_path):
    written(tmp_path, 10, [{}], measured_as="other")
    written(tmp_path, 20, [{}])
    view = sample_view(tmp_path, None, "few", lambda path: None)
    assert view.comparisons == ()
    assert "were measured differently" in view.notes[0]


# Long tables


@given(st.integers(1, 500), st.integers(2, 40))
def test_evenly_keeps_the_ends(count, most):
    found = evenly(range(count), most)
    assert len(found) == min(count, most)
    assert (found[0], found[-1]) == (0, count - 1)
    gaps = [b - a for a, b in pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def table(count):
    return Sheet("k", "T", (Column("n", True),), tuple((str(n),) for n in range(count)), "A note.")


def test_a_short_table_is_whole():
    assert shortened(table(10), most=10) == table(10)


def test_a_long_table_keeps_its_ends_and_what_is_to_be_kept():
    short = shortened(table(1000), keep=[500, 501], most=20)
    shown = [int(cell) for (cell,) in short.rows]
    assert shown == sorted(shown)
    assert {0, 500, 501, 999} <= set(shown)
    assert len(shown) <= 20
    assert short.note == f"A note. {len(shown)} of 1,000 rows; xtts-gatekeeper status --json has all."


def test_neighbours_of_one_name_are_one_stretch():
    points = [(0, "a"), (10, "a"), (20, "b"), (30, "a")]
    assert stretches(points, 40) == (Stretch("a", 0, 20), Stretch("b", 20, 30), Stretch("a", 30, 40))
    assert stretches([], 40) == ()


def test_some_evaluations_of_a_long_run_are_judged_and_of_the_others_the_live_verdict_is_told():
    evaluations = [evaluated(epoch, 3 - 0.1 * epoch) for epoch in range(10)]
    record = record_of(start(), evaluations[:4], judged(evaluations[3], "tune"), evaluations[4:])
    rows = tracking_rows(record, load_policy("checklist"), judged=2)
    assert [bool(row["decision"]) for row in rows] == [False] * 3 + [True, True] + [False] * 4 + [True]
    assert rows[3]["decision"] == "tune"
    assert rows[-1]["decision"] == tracking_rows(record, load_policy("checklist"))[-1]["decision"]

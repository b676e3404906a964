"""Scores against numbers made by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from test_trials import KEYS, session_of

from xtts_gatekeeper.listening.answers import Answer
from xtts_gatekeeper.listening.crossed import crossed_interval
from xtts_gatekeeper.listening.scores import results_of, to_events
from xtts_gatekeeper.listening.session import REAL
from xtts_gatekeeper.listening.sheets import Ballot, Rating, Sheet, consistency_of, sheet_of
from xtts_gatekeeper.listening.table import in_words
from xtts_gatekeeper.listening.trials import trials_for
from xtts_gatekeeper.samples.paired import interval
from xtts_gatekeeper.samples.score import ROWS

A, B = "system-0", "system-1"


def marks(*values):
    """Row -> mark; one value is that of all rows."""
    return dict(zip(ROWS, values * 5 if len(values) == 1 else values, strict=True))


def rating(group, source, *values, faults=(), repeat=False):
    return Rating(f"prompt-{group}", source, marks(*values), frozenset(faults), repeat)


def ballot(group, preferred, sources=(A, B), repeat=False):
    return Ballot(f"prompt-{group}", sources, preferred, repeat)


def sheet(name, a, b, votes=(), extra=()):
    """What somebody said of two systems: the mark of all rows, prompt by prompt."""
    ratings = [rating(group, source, value) for source, found in ((A, a), (B, b)) for group, value in enumerate(found)]
    return Sheet(name, (*ratings, *extra), tuple(ballot(group, vote) for group, vote in enumerate(votes)))


def scored(session, *sheets):
    return results_of(session, sheets)


# Marks


def test_a_score_is_the_mean_of_the_totals_and_rows_are_means_of_marks():
    ratings = [rating(0, A, 1, 2, 3, 4, 5), rating(1, A, 5, 5, 5, 5, 5)]
    (system,) = scored(session_of(1, 2), Sheet("Anna", tuple(ratings), ())).systems
    assert system.score == (15 + 25) / 2
    assert system.rows == dict(zip(ROWS, (3, 3.5, 4, 4.5, 5), strict=True))
    assert system.prompts == 2
    assert system.metrics["sample.score"].low is None  # two prompts tell no interval


def test_what_was_heard_twice_counts_once_by_its_mean():
    extra = [rating(0, A, 5, repeat=True)]
    results = scored(session_of(2, 2), sheet("Anna", (3, 1), (2, 2), extra=extra))
    assert results.systems[0].score == (20 + 5) / 2


def test_a_sample_that_could_not_be_spoken_has_one_in_every_row_and_a_fault():
    session = session_of(2, 3, missing={(0, 0)})
    groups = (replace(session.groups[0], failed=(A,)), *session.groups[1:])
    found = tuple(rating(group, source, 4) for group in range(3) for source in (A, B) if (group, source) != (0, A))
    failing, other = scored(replace(session, groups=groups), Sheet("Anna", found, ())).systems
    assert failing.score == pytest.approx((5 + 20 + 20) / 3)
    assert failing.metrics["sample.faults"].mean == pytest.approx(1 / 3)
    assert failing.faults == {"not_spoken": 1}
    assert (other.score, other.faults) == (20, {})


def test_a_sample_that_nobody_could_hear_for_want_of_time_is_not_counted():
    session = session_of(2, 3, missing={(0, 0)})
    found = tuple(rating(group, source, 4) for group in range(3) for source in (A, B) if (group, source) != (0, A))
    assert [one.prompts for one in scored(session, Sheet("Anna", found, ())).systems] == [2, 3]


def test_the_interval_of_one_listener_is_over_prompts():
    values = (1, 2, 3, 4, 5, 5, 4, 3)
    results = scored(session_of(2, 8), sheet("Anna", values, values))
    estimate = results.systems[0].metrics["sample.score"]
    assert (estimate.low, estimate.high) == interval([5 * value for value in values])
    assert estimate.low < estimate.mean < estimate.high


def test_of_several_listeners_the_mean_is_over_all_of_them():
    results = scored(session_of(2, 2), sheet("Anna", (5, 5), (1, 1)), sheet("Ben", (3, 1), (1, 3)))
    assert [system.score for system in results.systems] == [(25 + 10) / 2, (5 + 10) / 2]
    assert [listener.name for listener in results.listeners] == ["Anna", "Ben"]


def test_two_sheets_under_one_name_are_of_one_person():
    results = scored(
        session_of(2, 2), sheet("Anna", (5, 5), (1, 1)), sheet("ANNA", (3, 3), (1, 1)), sheet("Ben", *2 * [(1, 1)])
    )
    assert len(results.listeners) == 2
    assert results.systems[0].score == (20 + 5) / 2


def test_real_clips_are_marked_beside_the_systems():
    session = session_of(2, 2, matched=1, alone=1)
    extra = [rating(0, REAL, 5), Rating("real/0", REAL, marks(4))]
    results = scored(session, sheet("Anna", (3, 3), (3, 3), extra=extra))
    assert (results.real.score, results.real.prompts, results.real.name) == (22.5, 2, "real clips")
    assert scored(session_of(2, 2), sheet("Anna", (3, 3), (3, 3))).real is None


# Faults


def test_the_share_of_faults_and_their_kinds():
    heard = [rating(0, A, 3, faults=("skipped", "late_stop")), rating(1, A, 3, faults=("skipped",)), rating(2, A, 3)]
    (system,) = scored(session_of(1, 3), Sheet("Anna", tuple(heard), ())).systems
    assert system.metrics["sample.faults"].mean == pytest.approx(2 / 3)
    assert system.faults == {"skipped": 2, "late_stop": 1}


def test_a_fault_is_one_where_at_least_half_of_the_listeners_heard_it():
    def heard(name, *kinds):
        return Sheet(name, tuple(rating(n, A, 3, faults=kind) for n, kind in enumerate(kinds)), ())

    anna = heard("Anna", ("skipped",), ("repeated",))
    ben, cem = heard("Ben", ("skipped",), ()), heard("Cem", (), ())
    (system,) = scored(session_of(1, 2), anna, ben, cem).systems
    assert system.faults == {"skipped": 1}
    assert system.metrics["sample.faults"].mean == pytest.approx((1 + 0.5 + 0) / 3)
    (system,) = scored(session_of(1, 2), anna, cem).systems
    assert system.faults == {"repeated": 1, "skipped": 1}


# Preference


def test_preference_is_counted_by_prompts_and_tested_by_signs():
    votes = (B, B, B, B, B, B, A, None)
    flat = (3,) * 8
    (pair,) = scored(session_of(2, 8), sheet("Anna", flat, flat, votes)).preferences
    assert (pair.first, pair.second) == (B, A)  # the later set against the earlier one
    assert (pair.votes, pair.prompts) == ((6, 1, 1), (6, 1))
    assert pair.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert pair.share.mean == pytest.approx(6 / 7)
    # Wilson's interval of 6 of 7, by his formula.
    z = 1.959964
    centre, half = (6 + z**2 / 2) / (7 + z**2), z / (7 + z**2) * math.sqrt(6 * 1 / 7 + z**2 / 4)
    assert (pair.share.low, pair.share.high) == pytest.approx((centre - half, centre + half), abs=1e-4)
    assert "preferred at 6 of 7 prompts (p = 0.12, sign test" in in_words(pair)


def test_several_listeners_are_one_vote_a_prompt():
    """Ten people who agree on two prompts say something about two prompts."""
    people = [sheet(f"listener {n}", (3, 3), (3, 3), (A, B)) for n in range(10)]
    (pair,) = scored(session_of(2, 2), *people).preferences
    assert (pair.votes, pair.prompts, pair.p) == ((10, 10, 0), (1, 1), 1.0)


def test_a_repeat_is_no_vote_more():
    once = sheet("Anna", (3, 3), (3, 3), (A, A))
    twice = replace(once, ballots=(*once.ballots, ballot(0, B, repeat=True)))
    assert scored(session_of(2, 2), twice).preferences == scored(session_of(2, 2), once).preferences


def test_who_prefers_the_real_clip_says_nothing_of_the_systems():
    session = session_of(2, 1, matched=1)
    found = replace(sheet("Anna", (3,), (3,), extra=[rating(0, REAL, 5)]), ballots=(ballot(0, REAL, (A, B, REAL)),))
    results = scored(session, found)
    (pair,) = results.preferences
    assert (pair.votes, pair.share, pair.p) == ((0, 0, 1), None, 1.0)
    assert results.real.preferred == 1
    assert "neither was preferred" in in_words(pair)


def test_each_pair_of_three_systems_is_compared():
    sources = ("system-0", "system-1", "system-2")
    ratings = tuple(rating(0, source, n + 1) for n, source in enumerate(sources))
    results = scored(session_of(3, 1), Sheet("Anna", ratings, (ballot(0, "system-2", sources),)))
    found = {(one.first, one.second): one for one in results.preferences}
    assert set(found) == {("system-2", "system-1"), ("system-2", "system-0"), ("system-1", "system-0")}
    assert found["system-2", "system-0"].votes == (1, 0, 0)
    assert found["system-1", "system-0"].votes == (0, 0, 1)
    assert found["system-2", "system-0"].difference.mean == 10


def test_a_difference_is_made_prompt_by_prompt_over_those_that_both_have():
    session = session_of(2, 4, missing={(0, 0)})
    found = tuple(rating(n, A, 2) for n in (1, 2, 3)) + tuple(rating(n, B, v) for n, v in enumerate((5, 3, 3, 3)))
    (pair,) = scored(session, Sheet("Anna", found, ())).preferences
    assert pair.difference.mean == pair.difference.low == pair.difference.high == 5


# How sure


def test_an_interval_over_listeners_and_prompts_is_wider_than_over_prompts_where_listeners_differ():
    random = np.random.default_rng(1)
    prompts = random.normal(15, 2, 8)
    alike = [list(prompts + random.normal(0, 0.1, 8)) for _ in range(4)]
    strict = [[value + shift for value in row] for row, shift in zip(alike, (-4, -1, 1, 4), strict=True)]
    one, many, apart = (crossed_interval(values) for values in (alike[:1], alike, strict))
    assert apart[1] - apart[0] > many[1] - many[0] > 0.8 * (one[1] - one[0])
    assert crossed_interval([row[:2] for row in alike]) is None


@pytest.mark.parametrize(
    ("listeners", "strictness", "least"), [(2, 0.0, 0.9), (2, 3.0, 0.8), (5, 1.0, 0.93), (10, 3.0, 0.9)]
)
def test_an_interval_holds_the_truth_about_as_often_as_it_says(listeners, strictness, least):
    """Of other listeners and other prompts: in 200 made-up tests with 8 prompts, the truth being 0."""
    random = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        values = (
            random.normal(0, strictness, (listeners, 1)) + random.normal(0, 2, 8) + random.normal(0, 2, (listeners, 8))
        )
        low, high = crossed_interval(values.tolist(), resamples=500)
        held += low <= 0 <= high
    assert held / 200 >= least


def test_an_interval_is_the_same_every_time_and_holds_the_mean():
    values = [[1.0, 2.0, 5.0, 4.0], [2.0, 2.0, 4.0, 4.0]]
    low, high = crossed_interval(values)
    assert (low, high) == crossed_interval(values)
    assert low < 3.0 < high


# Consistency


def test_consistency_compares_the_first_and_the_second_hearing():
    extra = [rating(0, A, 3, 3, 3, 3, 5, repeat=True), rating(0, B, 4, repeat=True)]
    found = sheet("Anna", (3, 3), (5, 5), (A, B), extra)
    found = replace(found, ballots=(*found.ballots, ballot(0, B, repeat=True)))
    consistency = consistency_of([found])
    assert (consistency.repeats, consistency.difference) == (2, (2 + 5) / 2)
    assert consistency.row_difference == pytest.approx((2 + 5) / 10)
    assert consistency.same_preference == 0.0
    assert "somewhat otherwise" in consistency.sentence
    assert "3.5 of 25" in consistency.sentence


def test_what_never_came_twice_tells_no_consistency():
    assert consistency_of([sheet("Anna", (3,), (3,), (A,))]) is None


@pytest.mark.parametrize(("again", "word"), [(3, "much alike"), (5, "little can be built")])
def test_consistency_in_words(again, word):
    (listener,) = scored(
        session_of(2, 1), sheet("Anna", (3,), (3,), extra=[rating(0, A, again, repeat=True)])
    ).listeners
    assert word in listener.consistency.sentence
    assert "One sample came twice" in listener.consistency.sentence


# From tokens to samples


def test_tokens_are_resolved_to_the_samples_that_were_heard():
    session = session_of(2, 8, matched=2, alone=1)
    trials = trials_for(session, KEYS[0])
    mark = {A: 2, B: 4, REAL: 5}
    answers = {
        trial.id: Answer(
            marks={shown.token: dict.fromkeys(ROWS, mark[shown.source]) for shown in trial.shown},
            faults={shown.token: ["skipped"] for shown in trial.shown if shown.source == A},
            preferred=next(s.token for s in trial.shown if s.source in (B, REAL)) if trial.preference else None,
        )
        for trial in trials
    }
    results = scored(session, sheet_of("Anna", trials, answers))
    assert [system.score for system in results.systems] == [10, 20]
    assert results.real.score == 25
    assert [system.faults for system in results.systems] == [{"skipped": 8}, {}]
    assert results.systems[0].preferred == 0
    assert results.systems[1].preferred + results.real.preferred == 8
    assert results.listeners[0].consistency.difference == 0


def test_nobody_better_is_a_vote_for_nobody():
    session = session_of(2, 1)
    (trial,) = trials_for(session, KEYS[0])
    answer = Answer(marks={s.token: dict.fromkeys(ROWS, 3) for s in trial.shown}, preferred="none")
    assert sheet_of("Anna", [trial], {trial.id: answer}).ballots[0].preferred is None


# Into the journal


def test_events_say_of_which_weights_and_how_sure():
    values = (1, 2, 3, 4, 5)
    results = scored(session_of(2, 5), sheet("Anna", values, (5,) * 5), sheet("Ben", values, (5,) * 5))
    first, second = to_events(results, {A: 3, B: 4}, "gatekeeper/samples", "now")
    assert (first.step, first.epoch, first.by, first.prompts) == (0, 3, "listeners", "p")
    assert (first.folder, first.listeners) == ("gatekeeper/samples/system-0", 2)
    assert first.metrics == {"sample.score": 15, **{f"sample.{row}": 3 for row in ROWS}, "sample.faults": 0}
    low, high = first.intervals["sample.score"]
    assert low < 15 < high
    assert second.intervals["sample.score"] == [25, 25]


def test_without_an_interval_none_is_told():
    (first, _) = to_events(scored(session_of(2, 2), sheet("Anna", (1, 2), (3, 4))), {A: 0, B: 0}, "f", "now")
    assert first.intervals == {}

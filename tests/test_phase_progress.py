"""Where a run stands in its phases: patience, what ends a phase, and how it is found again."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import TIME, evaluated, record_of, scored, start

from xtts_gatekeeper.phases.plan import Phase, PhasePlan
from xtts_gatekeeper.phases.progress import LEAST_GAIN, Patience, Progress, loss_of, progress_at
from xtts_gatekeeper.record.events import Action, PhaseStart, Start

MEL = "eval.mel_ce"
NAN, INF = float("nan"), float("inf")

# Patience


@pytest.mark.parametrize(
    ("before", "loss", "eval_set", "after"),
    [
        # The first value is the best.
        (Patience(), 3.0, "dev", Patience(3.0, 0, "dev")),
        (Patience(), 3.0, None, Patience(3.0, 0, None)),
        (Patience(), 0.0, "dev", Patience(0.0, 0, "dev")),
        (Patience(None, 2, None), 3.0, "dev", Patience(3.0, 0, "dev")),
        # Better by a thousandth of the best, or not.
        (Patience(3.0, 1, "dev"), 2.9, "dev", Patience(2.9, 0, "dev")),
        (Patience(1.0, 1, "dev"), 0.9989, "dev", Patience(0.9989, 0, "dev")),
        (Patience(1.0, 1, "dev"), 0.9991, "dev", Patience(1.0, 2, "dev")),
        (Patience(3.0, 1, "dev"), 3.0, "dev", Patience(3.0, 2, "dev")),
        (Patience(3.0, 1, "dev"), 9.0, "dev", Patience(3.0, 2, "dev")),
        (Patience(-1.0, 1, "dev"), -1.0009, "dev", Patience(-1.0, 2, "dev")),
        (Patience(-1.0, 1, "dev"), -1.0011, "dev", Patience(-1.0011, 0, "dev")),
        (Patience(0.0, 1, "dev"), -1e-9, "dev", Patience(-1e-9, 0, "dev")),
        # What is no number is better than nothing, and not even the first.
        (Patience(), NAN, "dev", Patience(None, 1, None)),
        (Patience(), INF, "dev", Patience(None, 1, None)),
        (Patience(), -INF, "dev", Patience(None, 1, None)),
        (Patience(3.0, 1, "dev"), NAN, "dev", Patience(3.0, 2, "dev")),
        (Patience(3.0, 1, "dev"), INF, "dev", Patience(3.0, 2, "dev")),
        # Another eval set: it begins anew, but not with a value that is no number.
        (Patience(3.0, 2, "dev"), 5.0, "other", Patience(5.0, 0, "other")),
        (Patience(3.0, 2, "dev"), 1.0, "other", Patience(1.0, 0, "other")),
        (Patience(3.0, 2, None), 5.0, "dev", Patience(5.0, 0, "dev")),
        (Patience(3.0, 2, "dev"), 5.0, None, Patience(5.0, 0, None)),
        (Patience(3.0, 2, "dev"), NAN, "other", Patience(3.0, 3, "dev")),
    ],
)
def test_patience_counts_evaluations_without_one_that_is_a_thousandth_better(before, loss, eval_set, after):
    assert before.after(loss, eval_set) == after


def test_minus_infinity_is_no_better_than_a_number_and_reaches_no_target():
    patience = Patience(3.0, 1, "dev").after(-INF, "dev")
    assert patience == Patience(3.0, 2, "dev")
    assert Progress(patience=patience).ended(Phase("one", 1e-5, until_target=2.0)) == ""


finite = st.floats(-1e6, 1e6)
evaluations = st.lists(
    st.tuples(finite | st.sampled_from([NAN, INF]), st.sampled_from(["dev", "other", None])), max_size=30
)


@given(evaluations)
def test_the_best_only_falls_within_one_eval_set_and_waiting_is_counted_one_by_one(values):
    patience = Patience()
    for loss, eval_set in values:
        before, patience = patience, patience.after(loss, eval_set)
        assert patience.waited in (0, before.waited + 1)
        assert (patience.waited == 0) == (patience != replace(before, waited=before.waited + 1))
        if before.best is not None:
            assert patience.best is not None
            assert patience.best <= before.best or patience.eval_set != before.eval_set
        if patience.waited == 0:
            assert (patience.best, patience.eval_set) == (loss, eval_set)


@given(st.lists(finite, min_size=1, max_size=30))
def test_the_best_is_within_a_thousandth_of_the_lowest_value(losses):
    patience = Patience()
    for loss in losses:
        patience = patience.after(loss, "dev")
    lowest = min(losses)
    assert lowest <= patience.best <= lowest + 1.000001 * LEAST_GAIN * abs(patience.best)
    assert losses[len(losses) - 1 - patience.waited] == patience.best


# What a checkpoint carries


progresses = st.builds(
    Progress,
    index=st.integers(0, 9),
    name=st.text(max_size=5),
    began_step=st.integers(0, 10**6),
    began_epoch=st.floats(0, 1e4),
    lr_factor=st.floats(1e-6, 1.0),
    step_offset=st.integers(0, 10**6),
    epoch_offset=st.integers(0, 10**4),
    patience=st.builds(
        Patience, best=st.none() | finite, waited=st.integers(0, 99), eval_set=st.none() | st.text(max_size=5)
    ),
)


@given(progresses, st.integers(0, 10**6), st.integers(0, 10**4))
def test_a_carried_progress_goes_on_at_the_plans_step_and_epoch_of_its_checkpoint(progress, step, epoch):
    carried = progress.to_dict(step, epoch)
    expected = replace(progress, step_offset=progress.step_offset + step, epoch_offset=progress.epoch_offset + epoch)
    assert Progress.restored(carried) == expected
    assert Progress.restored(json.loads(json.dumps(carried))) == expected


def test_a_plan_that_is_carried_on_twice_counts_all_the_steps_before():
    first = Progress(1, "two", began_step=30, began_epoch=3.0)
    second = Progress.restored(first.to_dict(50, 5))
    third = Progress.restored(second.to_dict(20, 2))
    assert (third.step_offset, third.epoch_offset) == (70, 7)
    assert replace(third, step_offset=0, epoch_offset=0) == first


GOOD = Progress(1, "two", patience=Patience(2.5, 1, "dev")).to_dict(10, 1)


def test_what_a_newer_version_adds_is_passed_over():
    newer = {**GOOD, "progress": {**GOOD["progress"], "momentum": 0.9}, "version": 2}
    assert Progress.restored(newer) == Progress.restored(GOOD)


def test_what_an_older_version_did_not_know_has_its_default():
    older = {**GOOD, "progress": {"index": 1, "name": "two", "patience": {}}}
    assert Progress.restored(older) == Progress(1, "two", step_offset=10, epoch_offset=1)


@pytest.mark.parametrize(
    "carried",
    [
        None,
        [],
        "progress",
        7,
        {},
        {"progress": GOOD["progress"]},
        {**GOOD, "progress": None},
        {**GOOD, "progress": "two"},
        {**GOOD, "progress": [1, 2]},
        {**GOOD, "progress": {}},
        {**GOOD, "progress": {"index": 1}},
        {**GOOD, "progress": {"index": 1, "patience": None}},
        {**GOOD, "progress": {"index": 1, "patience": 3}},
        {**GOOD, "progress": {"index": 1, "patience": {"hope": 1}}},
        {**GOOD, "step": None},
        {**GOOD, "step": "soon"},
        {**GOOD, "epoch": NAN},
        {**GOOD, "epoch": []},
    ],
)
def test_what_cannot_be_read_is_no_progress(carried):
    assert Progress.restored(carried) is None


@pytest.mark.parametrize(
    "carried",
    [
        {**GOOD, "step": INF},
        {**GOOD, "progress": {**GOOD["progress"], "index": "first"}},
        {**GOOD, "progress": {**GOOD["progress"], "index": None}},
        {**GOOD, "progress": {**GOOD["progress"], "lr_factor": "half"}},
        {**GOOD, "progress": {**GOOD["progress"], "patience": {"best": "low"}}},
    ],
)
def test_values_of_the_wrong_kind_are_no_progress_either(carried):
    assert Progress.restored(carried) is None


PLAN = PhasePlan((Phase("one", 1e-5, until_step=100), Phase("two", 1e-6)))


@pytest.mark.parametrize(
    ("progress", "fits"),
    [
        (Progress(0, "one"), True),
        (Progress(1, "two"), True),
        (Progress(0, "two"), False),
        (Progress(1, "one"), False),
        (Progress(2, "two"), False),
        (Progress(), False),
    ],
)
def test_a_progress_fits_a_plan_that_has_its_phase_at_the_same_place(progress, fits):
    assert progress.fits(PLAN) is fits


# What ends a phase


@pytest.mark.parametrize(
    ("ends", "patience", "verdict", "why"),
    [
        ({}, Patience(0.0, 99), "tune", ""),
        ({"until_step": 1, "until_epoch": 1}, Patience(0.0, 99), "tune", ""),  # not a matter of evaluations
        ({"until_target": 2.0}, Patience(), None, ""),
        ({"until_target": 2.0}, Patience(2.1), None, ""),
        ({"until_target": 2.0}, Patience(2.0), None, "the target 2 is reached"),
        ({"until_target": 2.0}, Patience(1.9, 4), None, "the target 2 is reached"),
        ({"until_target": 0.0}, Patience(-0.1), None, "the target 0 is reached"),
        ({"until_plateau": 3}, Patience(2.0, 2), None, ""),
        ({"until_plateau": 3}, Patience(2.0, 3), None, "3 evaluations without a better one"),
        ({"until_plateau": 3}, Patience(2.0, 5), None, "5 evaluations without a better one"),
        ({"until_plateau": 3}, Patience(None, 3), None, "3 evaluations without a better one"),
        ({"until_tune": True}, Patience(), None, ""),
        ({"until_tune": True}, Patience(), "continue", ""),
        ({"until_tune": True}, Patience(), "stop", ""),
        ({"until_tune": True}, Patience(), "tune", "the verdict is tune"),
        ({"until_tune": False}, Patience(), "tune", ""),
        ({"until_target": 2.0, "until_plateau": 3, "until_tune": True}, Patience(1.9, 3), "tune", "the target 2"),
        ({"until_target": 2.0, "until_plateau": 3, "until_tune": True}, Patience(2.1, 3), "tune", "3 evaluations"),
        ({"until_target": 2.0, "until_plateau": 3, "until_tune": True}, Patience(2.1, 2), "tune", "the verdict"),
        ({"until_target": 2.0, "until_plateau": 3, "until_tune": True}, Patience(2.1, 2), None, ""),
    ],
)
def test_the_first_end_that_the_evaluations_reach_ends_the_phase(ends, patience, verdict, why):
    said = Progress(patience=patience).ended(Phase("one", 1e-5, **ends), verdict)
    assert said.startswith(why) and bool(said) == bool(why)


# The objective of an evaluation


@pytest.mark.parametrize(
    ("events", "objective", "expected"),
    [
        ([evaluated(0, 2.5)], MEL, (MEL, 2.5)),
        ([evaluated(0, 2.5)], "eval.objective", (MEL, 2.5)),
        ([evaluated(0, 2.5), evaluated(1)], MEL, None),
        ([evaluated(0, 2.5)], "eval.nothing_of_the_kind", None),
        ([evaluated(0)], "eval.objective", None),
        ([scored(0, 20.0), evaluated(0, metrics={"sample.score": 20.0})], "sample.score", ("sample.score", -20.0)),
    ],
)
def test_the_objective_has_the_sign_that_makes_lower_better(events, objective, expected):
    assert loss_of(record_of(*events), objective, events[-1]) == expected


# What a journal tells


def begins(index, step, epoch=0, **values):
    """The phase of this index begins, or goes on."""
    return PhaseStart(step=step, epoch=epoch, time=TIME, name=f"phase {index + 1}", index=index, lr=1e-6, **values)


def lowered(step, factor, name="lower_lr"):
    """An action multiplied the planned rates; `factor` is the product of all so far."""
    return Action(step=step, epoch=0, time=TIME, name=name, message="because", values={"lr_factor": factor})


def found(*parts, step=10**9, objective=MEL):
    return progress_at(record_of(*parts), Start(step=step, epoch=10**6), objective)


def where(*parts, step=10**9):
    """Index, best and waited at a step."""
    progress = found(*parts, step=step)
    return None if progress is None else (progress.index, progress.patience.best, progress.patience.waited)


@pytest.mark.parametrize(
    "events",
    [[], [start()], [start(), evaluated(0, 3.0)], [start(), lowered(5, 0.5)], [start(), evaluated(0, 3.0), start(5)]],
)
def test_a_run_without_phases_has_no_progress(events):
    assert found(*events) is None


def test_before_its_first_phase_a_run_has_no_progress():
    assert found(start(step=20), begins(0, 20), step=19) is None
    assert found(start(step=20), begins(0, 20), step=20).index == 0


RUN = [
    start(),
    begins(0, 0),
    evaluated(0, 3.0),
    evaluated(1, 2.0),
    evaluated(2, 2.0),
    begins(1, 30, epoch=3),
    evaluated(3, 2.0),
    evaluated(4, 2.1),
    evaluated(5, 2.1),
]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, (0, None, 0)),
        (9, (0, None, 0)),
        (10, (0, 3.0, 0)),
        (20, (0, 2.0, 0)),
        (29, (0, 2.0, 0)),
        (30, (1, None, 0)),  # the phase that ended at its last step has waited once
        (39, (1, None, 0)),
        (40, (1, 2.0, 0)),
        (60, (1, 2.0, 2)),
        (999, (1, 2.0, 2)),
    ],
)
def test_a_progress_is_that_of_the_moment_that_is_asked_for(step, expected):
    assert where(RUN, step=step) == expected


def test_a_phase_began_where_its_event_says_or_at_the_event():
    new = found(start(), begins(1, 35, epoch=3, step_offset=100, epoch_offset=10))
    assert (new.began_step, new.began_epoch, new.step_offset, new.epoch_offset) == (135, 13, 100, 10)
    goes_on = found(start(), begins(1, 35, epoch=3, step_offset=100, epoch_offset=10, began_step=90, began_epoch=8.5))
    assert (goes_on.began_step, goes_on.began_epoch) == (90, 8.5)
    at_zero = found(start(), begins(0, 35, epoch=3, began_step=0, began_epoch=0.0))
    assert (at_zero.began_step, at_zero.began_epoch) == (0, 0.0)


@pytest.mark.parametrize(
    ("back_to", "expected"),
    [
        (60, (1, 2.0, 2)),
        (50, (1, 2.0, 1)),
        (40, (1, 2.0, 0)),
        (35, (1, None, 0)),
        (29, (0, 2.0, 0)),
        (10, (0, 3.0, 0)),
        (5, (0, None, 0)),
    ],
)
def test_a_resume_takes_back_what_happened_after_the_step_it_goes_back_to(back_to, expected):
    assert where(RUN, start(step=back_to)) == expected


def test_a_run_that_goes_back_before_its_switch_may_switch_elsewhere_and_go_back_again():
    once = [*RUN, start(step=20), evaluated(2, 1.5), evaluated(3, 1.4), begins(1, 40, epoch=4), evaluated(4, 1.3)]
    assert where(once) == (1, 1.3, 0)
    assert found(once).began_step == 40
    twice = [*once, start(step=30)]
    assert where(twice) == (0, 1.5, 0)
    assert where(twice, step=25) == (0, 2.0, 0)
    assert where(twice, evaluated(3, 1.6)) == (0, 1.5, 1)
    assert where(twice, start(step=10)) == (0, 3.0, 0)
    assert where(twice, start(step=10), begins(1, 10), evaluated(1, 7.0)) == (1, 7.0, 0)


def test_a_resume_before_the_first_phase_leaves_none():
    assert found(start(step=20), begins(0, 20), start(step=10)) is None


def test_actions_set_the_factor_on_the_rates_until_they_are_taken_back():
    run = [start(), begins(0, 0), evaluated(0, 3.0), lowered(10, 0.5), evaluated(1, 2.0), lowered(20, 0.25, "rewind")]
    assert [found(run, step=step).lr_factor for step in (0, 9, 10, 19, 20)] == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert [found(run, start(step=step)).lr_factor for step in (20, 15, 5)] == [0.25, 0.5, 1.0]
    assert found(run, begins(1, 30)).lr_factor == 1.0
    assert found(run, begins(1, 30, lr_factor=0.25)).lr_factor == 0.25
    assert where(run) == (0, 2.0, 0)


def test_an_action_that_is_not_about_the_rate_changes_nothing():
    stop = Action(step=20, epoch=1, time=TIME, name="stop", message="because")
    assert found(RUN[:4], stop) == found(RUN[:4])


def test_the_patience_that_a_phase_brings_along_goes_on():
    goes_on = begins(0, 20, best=2.0, waited=3, eval_set="dev")
    assert where(start(step=20), goes_on) == (0, 2.0, 3)
    assert where(start(step=20), goes_on, evaluated(2, 2.0)) == (0, 2.0, 4)
    assert where(start(step=20), goes_on, evaluated(2, 1.9)) == (0, 1.9, 0)
    assert where(start(step=20), goes_on, evaluated(2, 5.0, eval_set="other")) == (0, 5.0, 0)


def test_an_evaluation_without_the_objective_is_not_waited_for():
    assert where(RUN[:4], evaluated(2, metrics={"eval.loss": 9.0})) == (0, 2.0, 0)
    assert where(RUN[:4], evaluated(2, NAN)) == (0, 2.0, 1)


@given(st.data())
def test_whatever_is_resumed_the_journal_tells_what_a_process_that_did_only_that_would_know(data):
    """Beside the journal goes the plain list of what a process knew at each step, cut at every resume."""
    events = [start(), begins(0, 0)]
    known = [Progress(0, "phase 1")]  # by the number of epochs done
    for _ in range(data.draw(st.integers(1, 20))):
        done, now = len(known) - 1, known[-1]
        kind = data.draw(st.sampled_from(["epoch", "epoch", "epoch", "switch", "resume", "action"]))
        if kind == "epoch":
            loss = data.draw(st.sampled_from([1.0, 2.0, 3.0, NAN]))
            events.append(evaluated(done, loss))
            known.append(replace(now, patience=now.patience.after(loss, "dev")))
        elif kind == "switch":
            events.append(begins(now.index + 1, 10 * done, epoch=done))
            known[-1] = Progress(now.index + 1, f"phase {now.index + 2}", began_step=10 * done, began_epoch=done)
        elif kind == "action":
            known[-1] = replace(now, lr_factor=now.lr_factor / 2)
            events.append(lowered(10 * done, known[-1].lr_factor))
        else:
            back = data.draw(st.integers(0, done))
            events.append(start(step=10 * back))
            del known[back + 1 :]
    assert [found(events, step=10 * done) for done in range(len(known))] == known


def test_the_waiting_that_a_journal_tells_ends_the_phase():
    phase = Phase("phase 1", 1e-5, until_plateau=2)
    run = [*RUN[:5], evaluated(3, 1.9999)]
    assert [found(run, step=step).ended(phase) for step in (10, 20, 30)] == ["", "", ""]
    assert found(run, step=40).ended(phase) == "2 evaluations without a better one"

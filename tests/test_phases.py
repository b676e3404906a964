import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.phases.plan import Phase, PhasePlan, matches

TWO = PhasePlan((Phase("one", 1e-5, until_step=100), Phase("two", 1e-6)))
BY_EPOCH = PhasePlan((Phase("one", 1e-5, until_epoch=5), Phase("two", 1e-6)))
MIXED = PhasePlan((Phase("a", 3e-5, until_epoch=2), Phase("b", 2e-5, until_step=100), Phase("c", 1e-6)))
ONE = PhasePlan((Phase("one", 1e-6),))


@pytest.mark.parametrize(
    ("plan", "step", "epoch", "index"),
    [
        (ONE, 0, 0, 0),
        (ONE, 10**9, 999, 0),
        (TWO, 0, 0, 0),
        (TWO, 99, 50, 0),
        (TWO, 100, 0, 1),
        (TWO, 101, 0, 1),
        (BY_EPOCH, 10**6, 4, 0),
        (BY_EPOCH, 0, 5, 1),
        (BY_EPOCH, 0, 6, 1),
        (MIXED, 50, 1, 0),
        (MIXED, 50, 2, 1),
        (MIXED, 100, 1, 0),
        (MIXED, 100, 2, 2),
        (MIXED, 100, 9, 2),
    ],
)
def test_the_phase_in_effect_follows_from_step_and_epoch(plan, step, epoch, index):
    assert plan.at(step, epoch) == index


ends = st.lists(st.integers(1, 500), min_size=1, max_size=5, unique=True).map(sorted)


@given(ends, st.integers(0, 600), st.integers(0, 600))
def test_training_never_goes_back_to_an_earlier_phase(steps, one, other):
    plan = PhasePlan((*(Phase("", 1e-6, until_step=step) for step in steps), Phase("", 1e-6)))
    assert plan.at(min(one, other), 0) <= plan.at(max(one, other), 0)
    assert plan.at(one, 0) == sum(step <= one for step in steps)


@pytest.mark.parametrize(
    ("plan", "step", "epoch", "reached"),
    [
        (ONE, 500, 9, 0),
        (TWO, 0, 0, 0),
        (TWO, 50, 1, 0),
        (TWO, 100, 1, 0),
        (TWO, 101, 1, 0),
        (TWO, 500, 9, 1),
        (TWO, 50, 1, 1),
        (BY_EPOCH, 0, 5, 0),
        (BY_EPOCH, 999, 9, 1),
        (MIXED, 50, 2, 0),
        (MIXED, 500, 9, 2),
    ],
)
def test_a_plan_may_start_in_a_phase_that_it_reached_or_reaches_just_now(plan, step, epoch, reached):
    plan.check_start(step, epoch, reached)


@pytest.mark.parametrize(
    ("plan", "step", "epoch", "reached", "end"),
    [
        (TWO, 102, 1, 0, "one at step 100"),
        (TWO, 5000, 0, 0, "one at step 100"),
        (BY_EPOCH, 0, 6, 0, "one at epoch 5"),
        (MIXED, 500, 9, 0, "a at epoch 2"),
        (MIXED, 500, 9, 1, "b at step 100"),
    ],
)
def test_a_switch_that_lies_before_the_start_is_refused(plan, step, epoch, reached, end):
    with pytest.raises(UserError, match=f"the end of {end} lies before the start of this run at step {step}"):
        plan.check_start(step, epoch, reached)


@pytest.mark.parametrize(
    ("plan", "epochs", "never"),
    [(ONE, 1, []), (TWO, 1, []), (BY_EPOCH, 6, []), (BY_EPOCH, 5, ["two"]), (BY_EPOCH, 3, ["two"]), (MIXED, 2, ["b"])],
)
def test_a_phase_that_begins_after_the_last_epoch_is_told(plan, epochs, never):
    told = plan.never_reached(epochs)
    assert [sentence.split(" never begins")[0] for sentence in told] == never
    assert all(f"the run has {epochs}" in sentence for sentence in told)


@pytest.mark.parametrize(
    ("in_effect", "equal"),
    [([1e-6], True), ([1e-6, 1e-6 * (1 + 1e-12)], True), ([1e-6, 1.01e-6], False), ([0.0], False)],
)
def test_every_group_must_have_the_planned_learning_rate(in_effect, equal):
    assert matches(in_effect, [1e-6] * len(in_effect)) == equal


# The config's phases make a plan


def check(*phases):
    config = pytest.importorskip("xtts_gatekeeper.config", reason="the train extra is not installed")
    config.check_phases([config.PhaseConfig(**phase) for phase in phases])


STEP_100 = {"lr": 1e-5, "until_step": 100}
LAST = {"lr": 1e-6}


@pytest.mark.parametrize(
    "phases",
    [
        [],
        [LAST],
        [STEP_100, LAST],
        [STEP_100, {"lr": 1e-6, "until_step": 101}, LAST],
        [STEP_100, {"lr": 1e-6, "until_epoch": 1}, {"lr": 1e-7, "until_step": 200}, LAST],
        [{"lr": 1e-6, "until_epoch": 1}, {"lr": 1e-5, "until_epoch": 2}, LAST],
    ],
)
def test_a_plan_with_rising_ends_and_an_open_last_phase_is_taken(phases):
    check(*phases)


@pytest.mark.parametrize(
    ("phases", "sentence"),
    [
        ([{"lr": 0.0}], "phase 1 has the learning rate 0.0"),
        ([{}], "phase 1 has the learning rate 0.0"),
        ([{"lr": -1e-6}], "-1e-06"),
        ([{"lr": float("nan")}], "nan"),
        ([STEP_100, {"lr": float("inf")}], "phase 2 has the learning rate inf"),
        ([STEP_100], "phase 1 is the last and has an end .until_step 100."),
        ([{"lr": 1e-5, "name": "warm"}, LAST], "warm needs an end.*none"),
        ([STEP_100, STEP_100, LAST], "phase 2 ends at until_step 100, which is not after 100"),
        ([STEP_100, {"lr": 1e-6, "until_step": 50}, LAST], "phase 2 ends at until_step 50"),
        ([STEP_100, {"lr": 1e-6, "until_epoch": 5}, {"lr": 1e-6, "until_step": 99}, LAST], "phase 3 .*until_step 99"),
        ([{"lr": 1e-6, "until_step": 0}, LAST], "until_step 0"),
        ([{"lr": 1e-6, "until_epoch": -1}, LAST], "until_epoch -1"),
    ],
)
def test_phases_that_make_no_plan_are_refused_naming_the_phase(phases, sentence):
    with pytest.raises(UserError, match=sentence):
        check(*phases)

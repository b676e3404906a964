"""The learning rate within a phase, and which phase is in effect where evaluations may end one."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtts_gatekeeper.phases.plan import SCHEDULES, Phase, PhasePlan

LR = 1e-3

#: Rates are compared with torch's to this share: torch gets to a rate from the one before, we at once.
ACCURACY = 1e-9


def rates(phase, length):
    """The rates of all `length` steps of a phase."""
    return [phase.lr_at(done, length) for done in range(length)]


# The same as torch's


def torchs_rates(make, steps):
    """The rates that a scheduler of torch gives to `steps` steps."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return found


@pytest.mark.parametrize("lr_end", [None, 0.0, 1e-5, LR])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 100, 1001])
def test_cosine_has_the_rates_of_torchs_cosine_annealing(length, lr_end):
    ours = rates(Phase("", LR, "cosine", lr_end=lr_end), length)
    theirs = torchs_rates(
        lambda schedulers, optimizer: schedulers.CosineAnnealingLR(optimizer, T_max=length, eta_min=lr_end or 0.0),
        length,
    )
    assert ours == pytest.approx(theirs, rel=ACCURACY, abs=1e-12 * LR)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 9, 10, 20, 33, 100, 1001])
def test_one_cycle_has_the_rates_of_torchs_one_cycle(length):
    theirs = torchs_rates(
        lambda schedulers, optimizer: schedulers.OneCycleLR(
            optimizer, max_lr=LR, total_steps=length, cycle_momentum=False
        ),
        length,
    )
    assert rates(Phase("", LR, "one_cycle"), length) == pytest.approx(theirs, rel=ACCURACY)


@pytest.mark.parametrize("lr_end", [1e-9, 1e-5, LR / 25])
@pytest.mark.parametrize("length", [2, 10, 77])
def test_one_cycle_ends_at_lr_end_as_torchs_does_with_that_divisor(length, lr_end):
    theirs = torchs_rates(
        lambda schedulers, optimizer: schedulers.OneCycleLR(
            optimizer, max_lr=LR, total_steps=length, cycle_momentum=False, final_div_factor=LR / 25 / lr_end
        ),
        length,
    )
    ours = rates(Phase("", LR, "one_cycle", lr_end=lr_end), length)
    assert ours == pytest.approx(theirs, rel=ACCURACY)
    assert ours[-1] == pytest.approx(lr_end)


@pytest.mark.parametrize("warmup", [1, 2, 5, 100])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_warm_up_has_the_rates_of_torchs_linear_one(schedule, warmup):
    theirs = torchs_rates(
        lambda schedulers, optimizer: (
            schedulers.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
            if warmup > 1
            else schedulers.ConstantLR(optimizer, factor=1.0)
        ),
        warmup,
    )
    ours = [Phase("", LR, schedule, warmup_steps=warmup).lr_at(done, 1000) for done in range(warmup)]
    assert ours == pytest.approx(theirs, rel=ACCURACY)


def test_cosine_after_a_warm_up_is_a_cosine_over_the_steps_that_are_left():
    warmed = rates(Phase("", LR, "cosine", warmup_steps=20, lr_end=1e-5), 120)
    assert warmed[20:] == pytest.approx(rates(Phase("", LR, "cosine", lr_end=1e-5), 100))
    assert warmed[19] == warmed[20] == max(warmed) == LR


# Edges


@pytest.mark.parametrize(
    ("phase", "done", "length", "share"),
    [
        (Phase("", LR), 0, 0, 1.0),
        (Phase("", LR), 0, 1, 1.0),
        (Phase("", LR), 10**9, 1, 1.0),
        (Phase("", LR), 0, math.inf, 1.0),
        # The warm-up: the first step takes its share.
        (Phase("", LR, warmup_steps=1), 0, 100, 1.0),
        (Phase("", LR, warmup_steps=4), 0, 100, 0.25),
        (Phase("", LR, warmup_steps=4), 3, 100, 1.0),
        (Phase("", LR, warmup_steps=4), 4, 100, 1.0),
        (Phase("", LR, warmup_steps=4), 0, 0, 0.25),
        (Phase("", LR, warmup_steps=4), 0, math.inf, 0.25),
        # One that is longer than the phase: the rate never gets to the top.
        (Phase("", LR, warmup_steps=100), 9, 10, 0.1),
        (Phase("", LR, warmup_steps=100), 50, 10, 0.11),
        (Phase("", LR, "cosine", warmup_steps=100), 9, 10, 0.1),
        (Phase("", LR, "cosine", warmup_steps=10), 9, 10, 1.0),
        (Phase("", LR, "cosine", warmup_steps=10, lr_end=1e-4), 10, 10, 0.1),
        # Cosine.
        (Phase("", LR, "cosine"), 0, 1, 1.0),
        (Phase("", LR, "cosine"), 0, math.inf, 1.0),
        (Phase("", LR, "cosine"), 50, 100, 0.5),
        (Phase("", LR, "cosine", lr_end=2e-4), 50, 100, 0.6),
        (Phase("", LR, "cosine"), 100, 100, 0.0),
        (Phase("", LR, "cosine", lr_end=2e-4), 100, 100, 0.2),
        (Phase("", LR, "cosine", lr_end=2e-4), 10**6, 100, 0.2),
        (Phase("", LR, "cosine", lr_end=2e-4), 0, 0, 0.2),
        (Phase("", LR, "cosine", lr_end=LR), 77, 100, 1.0),
        # One cycle.
        (Phase("", LR, "one_cycle"), 0, math.inf, 1 / 25),
        (Phase("", LR, "one_cycle"), 0, 100, 1 / 25),
        (Phase("", LR, "one_cycle"), 29, 100, 1.0),
        (Phase("", LR, "one_cycle"), 99, 100, 1 / 250_000),
        (Phase("", LR, "one_cycle"), 100, 100, 1 / 250_000),
        (Phase("", LR, "one_cycle"), 10**6, 100, 1 / 250_000),
        (Phase("", LR, "one_cycle"), 0, 1, 1 / 250_000),
        (Phase("", LR, "one_cycle"), 0, 0, 1 / 250_000),
        (Phase("", LR, "one_cycle", lr_end=1e-4), 99, 100, 0.1),
        (Phase("", LR, "one_cycle", lr_end=0.0), 99, 100, 0.0),
        (Phase("", LR, "one_cycle", lr_end=1e-4), 10**6, 100, 0.1),
    ],
)
def test_the_rate_at_the_edges_of_a_phase(phase, done, length, share):
    assert phase.lr_at(done, length) == pytest.approx(share * LR, rel=ACCURACY, abs=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_step_before_the_phase_has_the_rate_of_its_first(schedule):
    phase = Phase("", LR, schedule, warmup_steps=0 if schedule == "one_cycle" else 3)
    assert phase.lr_at(-5, 100) == phase.lr_at(0, 100)


# What holds for all of them


@st.composite
def schedules(draw):
    """A phase that the config accepts."""
    schedule = draw(st.sampled_from(SCHEDULES))
    lr = draw(st.floats(1e-9, 1.0))
    return Phase(
        "",
        lr,
        schedule,
        warmup_steps=0 if schedule == "one_cycle" else draw(st.integers(0, 300)),
        lr_end=None if schedule == "constant" else draw(st.none() | st.floats(1e-12, 1.0).map(lambda s: s * lr)),
    )


lengths = st.integers(1, 300) | st.integers(1, 10**6)


@given(schedules(), lengths, st.data())
def test_every_step_of_a_phase_has_a_rate_above_zero_and_never_more_than_its_lr(phase, length, data):
    rate = phase.lr_at(data.draw(st.integers(0, length - 1)), length)
    assert 0 < rate <= phase.lr * (1 + 1e-12)


@pytest.mark.parametrize(("warmup", "done"), [(1, 0.5), (10, 9.5)])
def test_in_the_middle_of_a_step_the_rate_is_not_more_than_its_lr_either(warmup, done):
    """Steps are fractions where an epoch has got another length since the phase began."""
    assert Phase("", LR, "cosine", warmup_steps=warmup).lr_at(done, 100) <= LR


@given(schedules(), st.floats(-10, 1e7) | st.integers(-10, 10**7), st.integers(-10, 10**6) | st.just(math.inf))
def test_no_rate_is_nan_or_negative_wherever_the_phase_is_asked(phase, done, length):
    rate = phase.lr_at(done, length)
    assert math.isfinite(rate) and rate >= 0


@given(schedules(), lengths)
def test_a_rate_rises_to_one_top_and_falls_from_there(phase, length):
    """Looked at where it turns, and at a hundred steps from end to end."""
    seen = {round(i * (length - 1) / 99) for i in range(100)} | {*range(min(length, 320))}
    found = [phase.lr_at(done, length) for done in sorted(seen)]
    top = found.index(max(found))
    slack = 1e-9 * phase.lr
    assert all(b >= a - slack for a, b in pairwise(found[: top + 1]))
    assert all(b <= a + slack for a, b in pairwise(found[top:]))


@given(schedules(), lengths, st.integers(1, 1000))
def test_beyond_its_length_a_phase_keeps_its_last_rate(phase, length, more):
    assert phase.lr_at(length + more, length) == phase.lr_at(length, length)


# The phase in effect


PLATEAU = PhasePlan((Phase("a", 1e-5, until_plateau=3), Phase("b", 1e-6, until_step=100), Phase("c", 1e-7)))
EITHER = PhasePlan((Phase("a", 1e-5, until_plateau=3, until_epoch=5), Phase("b", 1e-6)))
BOTH = PhasePlan((Phase("a", 1e-5, until_step=100, until_epoch=5), Phase("b", 1e-6)))


@pytest.mark.parametrize(
    ("plan", "step", "epoch", "reached", "index"),
    [
        # Step and epoch alone never end a phase that evaluations end.
        (PLATEAU, 10**9, 999, 0, 0),
        (PLATEAU, 10, 1, 1, 1),
        (PLATEAU, 99, 1, 1, 1),
        (PLATEAU, 100, 1, 1, 2),
        (PLATEAU, 10, 1, 2, 2),
        # A phase with both kinds ends at the latest by its count.
        (EITHER, 10**9, 4, 0, 0),
        (EITHER, 0, 5, 0, 1),
        (EITHER, 0, 0, 1, 1),
        # The first of two counts is enough.
        (BOTH, 100, 0, 0, 1),
        (BOTH, 0, 5, 0, 1),
        (BOTH, 99, 4, 0, 0),
    ],
)
def test_the_phase_in_effect_is_never_one_before_that_which_was_reached(plan, step, epoch, reached, index):
    assert plan.at(step, epoch, reached) == index


phases = st.builds(
    Phase,
    name=st.just("phase"),
    lr=st.just(1e-6),
    until_step=st.none() | st.integers(1, 300),
    until_epoch=st.none() | st.integers(1, 30),
    until_plateau=st.none() | st.integers(1, 5),
)
plans = st.lists(phases, min_size=1, max_size=6).map(tuple).map(PhasePlan)


@given(plans, st.integers(0, 400), st.integers(0, 40), st.data())
def test_from_the_phase_that_was_reached_every_one_is_passed_that_is_over_and_no_other(plan, step, epoch, data):
    last = len(plan.phases) - 1
    reached = data.draw(st.integers(0, last))
    index = plan.at(step, epoch, reached)
    assert reached <= index <= last
    assert all(phase.over(step, epoch) for phase in plan.phases[reached:index])
    assert index == last or not plan.phases[index].over(step, epoch)
    assert plan.at(step, epoch, index) == index


@pytest.mark.parametrize(
    ("ends", "epochs", "told"),
    [
        ({"until_epoch": 5}, 5, True),
        ({"until_epoch": 5}, 6, False),
        ({"until_step": 10**9}, 1, False),
        # It may end before its epoch.
        ({"until_epoch": 5, "until_plateau": 3}, 5, False),
        ({"until_epoch": 5, "until_target": 2.0}, 5, False),
        ({"until_epoch": 5, "until_target": 0.0}, 5, False),
        ({"until_epoch": 5, "until_tune": True}, 5, False),
        ({"until_plateau": 3}, 1, False),
        ({"until_target": 2.0}, 1, False),
        ({"until_tune": True}, 1, False),
    ],
)
def test_a_phase_is_only_said_to_never_begin_where_nothing_but_the_epoch_ends_the_one_before(ends, epochs, told):
    sentences = PhasePlan((Phase("one", 1e-5, **ends), Phase("two", 1e-6))).never_reached(epochs)
    assert sentences == [f"two never begins: one lasts until epoch 5 and the run has {epochs}"] * told


def test_a_phase_that_a_step_may_end_before_its_epoch_does_not_keep_the_next_one_from_beginning():
    plan = PhasePlan((Phase("one", 1e-5, until_epoch=10, until_step=100), Phase("two", 1e-6)))
    assert plan.at(step=100, epoch=2) == 1
    assert plan.never_reached(epochs=5) == []


@pytest.mark.parametrize(
    ("ends", "counted"),
    [
        ({}, False),
        ({"until_epoch": 5}, True),
        ({"until_step": 5}, True),
        ({"until_plateau": 5}, False),
        ({"until_target": 5.0}, False),
        ({"until_tune": True}, False),
        ({"until_tune": True, "until_step": 5}, True),
    ],
)
def test_only_a_step_or_an_epoch_is_an_end_that_is_known_beforehand(ends, counted):
    phase = Phase("", 1e-6, **ends)
    assert phase.counted is counted
    assert phase.over(10**9, 10**9) is counted

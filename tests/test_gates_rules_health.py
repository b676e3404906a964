"""The rules about the process rather than the curve: gradients, memory that is not given back, and time."""

import pytest
import records
from hypothesis import given
from hypothesis import strategies as st
from records import evaluated, flat, gradients, memory, start, trained

from xtts_gatekeeper.gates.rules.gradients import Gradients
from xtts_gatekeeper.gates.rules.memory_growth import MemoryGrowth
from xtts_gatekeeper.gates.rules.runtime import Runtime, duration

GB = 10**9


def find(rule, *parts, **values):
    return rule.check(records.record_of(flat(parts), **values))


# gradients


def epochs_with(*measured):
    """Epochs with these findings of the gradient monitor."""
    return [trained(epoch, gradients=found) for epoch, found in enumerate(measured)]


@pytest.mark.parametrize(
    ("measured", "status", "said"),
    [
        ([], "not_measured", "not measured"),
        ([{}], "not_measured", "not measured"),
        ([gradients(updates=0)], "not_measured", "not measured"),
        ([gradients()], "passed", "gradients are finite"),
        ([gradients(norm=None)], "passed", "gradients are finite"),
        # Updates that were lost: more than one, and more than a twentieth.
        ([gradients(1)], "passed", "finite but for 1 of 30 updates"),
        ([gradients(2)], "failed", "the gradients of 2 of 30 updates up to step 10 held NaN or infinity"),
        ([gradients(1, updates=1, norm=None)], "passed", "finite but for 1 of 1 updates"),
        ([gradients(2, updates=2, norm=None)], "failed", "2 of 2 updates"),
        ([gradients(5, updates=100)], "passed", "5 of 100"),
        ([gradients(6, updates=100)], "failed", "6 of 100"),
        # Those that the gradient scaler left out while it looked for its scale are not.
        ([gradients(9, scaler_skips=9)], "passed", "gradients are finite"),
        ([gradients(9, scaler_skips=8)], "passed", "but for 1 of 30"),
        ([gradients(9, scaler_skips=7)], "failed", "2 of 30"),
        # Only the latest epoch counts, of those that had updates.
        ([gradients(30), gradients()], "passed", "gradients are finite"),
        ([gradients(), gradients(30)], "failed", "30 of 30 updates up to step 20"),
        ([gradients(30), gradients(updates=0)], "failed", "30 of 30 updates up to step 10"),
        ([gradients(30), {}], "failed", "30 of 30"),
        # Norms: ten times the median of the epochs before.
        ([gradients(norm=1.0), gradients(norm=10.0)], "passed", "their norm is 10 (1 before)"),
        ([gradients(norm=1.0), gradients(norm=10.5)], "failed", "the gradient norm is 10.5 in the median, 10 times"),
        ([gradients(norm=1.0), gradients(norm=4000.0)], "failed", "4000 times what it was before"),
        ([gradients(norm=n) for n in (1.0, 500.0, 1.0, 9.0)], "passed", "(1 before)"),
        ([gradients(norm=n) for n in (1.0, 2.0, 3.0, 21.0)], "failed", "the gradient norm is 21"),
        ([gradients(norm=n) for n in (50.0, 1.0)], "passed", "their norm is 1 (50 before)"),
        ([gradients(norm=n) for n in (100.0, 0.0)], "passed", "their norm is 0"),
        # An epoch without a finite norm, or with one of 0, is nothing to compare with.
        ([gradients(norm=n) for n in (None, 500.0)], "passed", "gradients are finite"),
        ([gradients(norm=n) for n in (0.0, 500.0)], "passed", "gradients are finite"),
        ([gradients(norm=n) for n in (None, 1.0, 0.0, 500.0)], "failed", "500 times"),
        ([gradients(norm=1.0), gradients(1, norm=None)], "passed", "but for 1 of 30 updates"),
        (
            [gradients(norm=1.0), gradients(1, norm=2.0)],
            "passed",
            "but for 1 of 30 updates, their norm is 2 (1 before)",
        ),
    ],
)
def test_gradients_fail_when_updates_are_lost_or_the_norm_is_ten_times_what_it_was(measured, status, said):
    finding = find(Gradients(), epochs_with(*measured))
    assert finding.status == status
    assert said in finding.message


@pytest.mark.parametrize(
    ("rule", "measured", "status"),
    [
        (Gradients(lost=0.0), [gradients(1)], "passed"),  # one is never too many
        (Gradients(lost=0.0), [gradients(2, updates=10**6)], "failed"),
        (Gradients(lost=0.5), [gradients(15)], "passed"),
        (Gradients(lost=0.5), [gradients(16)], "failed"),
        (Gradients(times=2.0), [gradients(norm=1.0), gradients(norm=2.0)], "passed"),
        (Gradients(times=2.0), [gradients(norm=1.0), gradients(norm=2.1)], "failed"),
    ],
)
def test_how_many_updates_may_be_lost_and_how_far_the_norm_may_grow_can_be_chosen(rule, measured, status):
    assert find(rule, epochs_with(*measured)).status == status


def test_gradients_give_the_numbers_they_stand_on():
    lost = find(Gradients(), epochs_with(gradients(), gradients(9, scaler_skips=2)))
    assert lost.evidence == {"step": 20, "updates": 30, "nonfinite_updates": 7}
    grown = find(Gradients(), epochs_with(gradients(norm=2.0), gradients(norm=4.0), gradients(norm=60.0)))
    assert grown.evidence == {"step": 30, "updates": 30, "nonfinite_updates": 0, "norm": 60, "usual": 3, "times": 20}


def test_epochs_that_a_resume_took_back_are_no_measure():
    parts = [start(), epochs_with(gradients(norm=1.0), gradients(norm=500.0)), start(step=10)]
    assert find(Gradients(), parts).status == "passed"
    assert find(Gradients(), parts, trained(1, gradients=gradients(norm=2.0))).status == "passed"


# memory_growth


def grown(*own_gb, first=0, total=32, **values):
    """Epochs that leave so many GB of this process behind, of so many in all."""
    return [
        trained(epoch, memory=memory(round(own * GB), total=total * GB, **values))
        for epoch, own in enumerate(own_gb, first)
    ]


def rising(count, by, at=2.0, **values):
    return grown(*(at + by * n for n in range(count)), **values)


NO_GROWTH = "memory of the process does not grow"


@pytest.mark.parametrize(
    ("parts", "status", "said"),
    [
        ([start()], "not_measured", "not measured"),
        ([start(), [trained(n) for n in range(9)]], "not_measured", "not measured"),
        ([rising(9, 1.0)], "not_measured", "not measured"),  # nobody knows when the plan ends
        ([start(epochs_planned=None), rising(9, 1.0)], "not_measured", "not measured"),
        ([start(), rising(4, 1.0)], "too_early", "has 4 of the 5 points"),
        ([start(), rising(5, 0.0)], "passed", NO_GROWTH),
        ([start(), rising(5, -0.2)], "passed", NO_GROWTH),
        ([start(), rising(5, 0.001)], "passed", NO_GROWTH),  # within the noise: a hundredth
        ([start(), grown(2.0, 2.1, 2.0, 2.1, 2.0, 2.1, 2.0, 2.1)], "passed", NO_GROWTH),
        # After five epochs 25 are to come, and 95 % of 32 GB are 30.4 GB: 3.1 GB and 29 epochs' growth are there then.
        ([start(), rising(5, 1.0)], "failed", "grows by 1000 MB an epoch: in the 25 epochs to come it runs out"),
        ([start(), rising(5, 0.95)], "failed", "grows by 950 MB an epoch"),
        ([start(), rising(5, 0.93)], "passed", "grows by 930 MB an epoch, which the 25 epochs to come have room for"),
        ([start(), rising(5, 0.5)], "passed", "grows by 500 MB an epoch, which the 25 epochs to come have room for"),
        ([start(epochs_planned=10), rising(5, 1.0)], "passed", "which the 5 epochs to come have room for"),
        ([start(epochs_planned=100), rising(5, 0.5)], "failed", "in the 95 epochs to come"),
        # The plan is at its end.
        ([start(epochs_planned=5), rising(5, 1.0)], "passed", "the 0 epochs to come"),
        ([start(epochs_planned=3), rising(5, 1.0)], "passed", "the 0 epochs to come"),
    ],
)
def test_memory_growth_fails_when_the_plan_would_not_end_before_the_memory(parts, status, said):
    finding = find(MemoryGrowth(), parts)
    assert finding.status == status
    assert said in finding.message


def test_one_jump_is_no_growth_by_the_median_of_all_slopes():
    assert find(MemoryGrowth(), start(), grown(2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 9.0)).message == NO_GROWTH
    assert find(MemoryGrowth(), start(), grown(1.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0)).message == NO_GROWTH


@pytest.mark.parametrize(
    ("rule", "parts", "status"),
    [
        (MemoryGrowth(epochs=3), rising(3, 1.0), "failed"),
        (MemoryGrowth(epochs=8), rising(7, 1.0), "too_early"),
        (MemoryGrowth(full=0.5), rising(5, 0.5), "failed"),
        (MemoryGrowth(full=1.0), rising(5, 0.5), "passed"),
    ],
)
def test_how_many_epochs_it_takes_and_how_full_is_too_full_can_be_chosen(rule, parts, status):
    assert find(rule, start(), parts).status == status


def test_what_others_take_counts_for_how_full_it_gets_and_not_for_the_growth():
    """The process leaks 500 MB an epoch; something else on the machine takes 20 GB."""
    quiet = find(MemoryGrowth(), start(), rising(5, 0.5, used=5 * GB))
    crowded = find(MemoryGrowth(), start(), rising(5, 0.5, used=25 * GB))
    assert (quiet.status, crowded.status) == ("passed", "failed")
    assert quiet.evidence["bytes_per_epoch"] == crowded.evidence["bytes_per_epoch"] == pytest.approx(0.5 * GB)


def test_a_new_process_begins_with_clean_memory():
    first = rising(6, 1.0)
    assert find(MemoryGrowth(), start(), first).status == "failed"
    assert find(MemoryGrowth(), start(), first, start(step=60, epoch=6)).status == "too_early"
    rest = [trained(n, memory=memory(2 * GB, total=32 * GB)) for n in range(6, 11)]
    assert find(MemoryGrowth(), start(), first, start(step=60, epoch=6), rest[:3]).evidence == {"have": 3, "need": 5}
    assert find(MemoryGrowth(), start(), first, start(step=60, epoch=6), rest).message == NO_GROWTH


def test_memory_growth_gives_the_numbers_it_stands_on():
    evidence = find(MemoryGrowth(), start(), rising(5, 1.0, used=7 * GB)).evidence
    assert evidence == {"bytes_per_epoch": GB, "epochs_left": 25, "share_at_the_end": pytest.approx(1.0)}


@given(st.integers(5, 40), st.floats(0.01, 2.0), st.integers(1, 200), st.integers(8, 128))
def test_a_steady_leak_fails_exactly_where_it_fills_the_memory_before_the_plan_ends(count, by, more, total):
    """By the arithmetic of a line: what is used now, and so much more for every epoch to come."""
    at_the_end = (2.0 + by * (count - 1) + (1 << 30) / GB + by * more) / total
    finding = find(MemoryGrowth(), start(epochs_planned=count + more), rising(count, by, total=total))
    assert finding.evidence["share_at_the_end"] == pytest.approx(at_the_end, rel=1e-6)
    if by * (count - 1) > 0.011 * (2.0 + by * count / 2) and abs(at_the_end - 0.95) > 1e-6:
        assert finding.status == ("failed" if at_the_end > 0.95 else "passed")


# runtime


def run(seconds, *, planned=30, evaluation=0.0):
    """Epochs and evaluations that take so long, of so many that are planned."""
    return [
        start(epochs_planned=planned),
        [
            part
            for epoch, s in enumerate(seconds)
            for part in (trained(epoch, seconds=s), evaluated(epoch, 2.0, seconds=evaluation))
        ],
    ]


@pytest.mark.parametrize(
    ("parts", "max_hours", "status", "said"),
    [
        ([trained(0)], 1, "not_measured", "not known"),
        (run([60], planned=None), 1, "not_measured", "not known"),
        (run([]), 1, "too_early", "epoch time has 0 of the 1 points"),
        (run([None, None]), 1, "too_early", "epoch time"),
        (run([60]), 1, "passed", "the whole plan of 30 epochs takes about 30 min (29 min to come), within the 1 h"),
        (run([60]), 0.5, "passed", "within the 0.5 h allowed"),
        (run([61]), 0.5, "failed", "more than the 0.5 h allowed"),
        (run([3600, 3600]), 10, "failed", "about 30.0 h (28.0 h to come), more than the 10 h allowed"),
        (run([60] * 30), 1, "passed", "takes about 30 min, within"),  # nothing is left to come
        (run([60] * 40), 1, "passed", "takes about 30 min, within"),
        # The evaluation of an epoch is a part of its time, one within the epoch is in the epoch's own.
        (run([60], evaluation=60.0), 0.5, "failed", "takes about 1.0 h"),
        (run([60], evaluation=None), 0.5, "passed", "takes about 30 min"),
        ([*run([60]), evaluated(0, 2.0, seconds=600.0, mid_epoch=True)], 0.5, "passed", "takes about 30 min"),
        ([start(), trained(0, seconds=60), evaluated(1, 2.0, seconds=900.0)], 0.5, "passed", "takes about 30 min"),
    ],
)
def test_runtime_is_an_epoch_and_its_evaluation_times_the_plan(parts, max_hours, status, said):
    finding = find(Runtime(max_hours), parts)
    assert finding.status == status
    assert said in finding.message


def test_runtime_gives_the_numbers_it_stands_on():
    evidence = find(Runtime(1.0), run([40, 50, 900], evaluation=10.0)).evidence
    assert evidence == {
        "hours": pytest.approx(0.5),
        "hours_left": pytest.approx(27 / 60),
        "seconds_per_epoch": 60.0,
        "epochs": 30,
        "max_hours": 1.0,
    }


@pytest.mark.parametrize(
    ("hours", "said"), [(0.0, "0 min"), (0.5, "30 min"), (0.99, "59 min"), (1.0, "1.0 h"), (26.25, "26.2 h")]
)
def test_a_duration_is_told_in_minutes_or_hours(hours, said):
    assert duration(hours) == said


# What is refused


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Gradients(lost=-0.1), "lost"),
        (lambda: Gradients(lost=1.0), "lost"),
        (lambda: Gradients(lost=float("nan")), "lost"),
        (lambda: Gradients(times=1.0), "times"),
        (lambda: Gradients(times=float("inf")), "times"),
        (lambda: Gradients(times=float("nan")), "times"),
        (lambda: MemoryGrowth(epochs=2), "epochs"),
        (lambda: MemoryGrowth(full=0.0), "full"),
        (lambda: MemoryGrowth(full=1.1), "full"),
        (lambda: Runtime(0.0), "max_hours"),
        (lambda: Runtime(-1.0), "max_hours"),
        (lambda: Runtime(float("nan")), "max_hours"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_its_name(make, field):
    with pytest.raises(ValueError, match=f"^{field} is "):
        make()

"""How the metrics of an epoch are added up, and the memory states."""

import math
from fractions import Fraction

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtts_gatekeeper.monitors.batch import batch_size
from xtts_gatekeeper.monitors.losses import LossMeter
from xtts_gatekeeper.monitors.memory import memory_state

one_batch = st.tuples(st.floats(-1e6, 1e6) | st.sampled_from([float("nan"), float("inf")]), st.integers(1, 8))


@given(st.lists(one_batch | st.none(), max_size=20))
def test_a_mean_is_the_exact_mean_over_clips_and_bad_batches_are_left_out_and_counted(batches):
    meter = LossMeter()
    for batch in batches:
        meter.add(*({"loss": batch[0]}, batch[1]) if batch else (None, 3))
    clips = [Fraction(loss) for loss, size in filter(None, batches) if math.isfinite(loss) for _ in range(size)]
    assert meter.means("eval", {}).keys() == ({"eval.loss"} if clips else set())
    if clips:
        tolerance = 1e-12 * max(map(abs, clips))
        assert meter.means("eval", {})["eval.loss"] == pytest.approx(float(sum(clips) / len(clips)), abs=tolerance)
    assert meter.samples == len(clips)
    assert meter.batches == len(batches)
    assert meter.skipped_batches == batches.count(None)
    bad = "".join("x" if math.isinf(loss) or math.isnan(loss) else "." for loss, _ in filter(None, batches))
    assert meter.nonfinite_batches == bad.count("x")
    assert meter.longest_nonfinite_run == max(map(len, bad.split(".")))


def test_one_nan_leaves_the_whole_batch_out_of_every_mean():
    meter = LossMeter()
    meter.add({"loss_mel_ce": 2.0, "loss_text_ce": 0.02}, 3)
    meter.add({"loss_mel_ce": float("nan"), "loss_text_ce": 9.0}, 3)
    named = {"loss_mel_ce": ("mel_ce", 1.0), "loss_text_ce": ("text_ce", 0.01)}
    assert meter.means("train", named) == {
        "train.loss_mel_ce": 2.0,
        "train.loss_text_ce": 0.02,
        "train.mel_ce": 2.0,
        "train.text_ce": 2.0,
    }


def test_what_is_no_loss_is_left_out_and_the_division_by_the_accumulation_is_undone():
    meter = LossMeter()
    meter.add(
        {"loss": 0.5, "current_lr_0": 1e-6, "grad_norm": float("inf"), "step_time": 3.0, "outputs": "text"},
        2,
        {"loss": 4.0},
    )
    assert meter.means("train", {}) == {"train.loss": 2.0}
    assert meter.nonfinite_batches == 0


@pytest.mark.parametrize(
    ("used", "state"), [(0.0, "low"), (0.64, "low"), (0.7, "moderate"), (0.8, "high"), (0.95, "critical")]
)
def test_memory_states_of_a_gpu(used, state):
    assert memory_state("cuda", used) == state


@pytest.mark.parametrize("device", ["cuda", "mps", "cpu"])
def test_more_memory_in_use_is_never_a_better_state(device):
    order = ["low", "moderate", "high", "critical"]
    found = [order.index(memory_state(device, share / 100)) for share in range(101)]
    assert found == sorted(found)
    assert set(found) == {0, 1, 2, 3}


def test_a_device_the_checklist_does_not_know_is_judged_like_a_cpu():
    assert memory_state("xpu", 0.75) == memory_state("cpu", 0.75) == "moderate"


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        ({"text": ["a", "b"], "wav": numpy.zeros((5, 1))}, 2),
        ({"scalar": numpy.float32(1), "wav": numpy.zeros((5, 1))}, 5),
        ([numpy.zeros((4, 2)), "x"], 4),
        (numpy.zeros((3, 7)), 3),
        ({}, 1),
        (None, 1),
    ],
)
def test_a_batch_counts_as_many_samples_as_its_first_sized_value(batch, size):
    assert batch_size(batch) == size


def test_numpy_losses_count_and_empty_batches_do_not_divide_by_zero():
    meter = LossMeter()
    meter.add({"loss": numpy.float32(2.0)}, 3)
    assert meter.means("train", {}) == {"train.loss": 2.0}
    empty = LossMeter()
    empty.add({"loss": 2.0}, 0)
    assert empty.means("train", {}) == {}

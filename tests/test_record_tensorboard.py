import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.event_file import masked_crc
from xtts_gatekeeper.record.events import Start
from xtts_gatekeeper.record.tensorboard import TensorBoardParser, looks_like_events

NAN, INF = float("nan"), float("inf")
BEGUN = 1_700_000_000.0


def varint(value):
    value %= 1 << 64
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def framed(data):
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def event(step, *values, wall=BEGUN):
    body = struct.pack("<Bd", 0x09, wall) + (b"\x10" + varint(step) if step else b"")
    return framed(body + message(5, b"".join(message(1, value) for value in values)))


def simple(tag, value):
    return message(1, tag.encode()) + struct.pack("<Bf", 0x15, value)


def scalar(tag, value, step, wall=BEGUN):
    return event(step, simple(tag, value), wall=wall)


VERSION = framed(struct.pack("<Bd", 0x09, BEGUN) + message(3, b"brain.Event:2"))


def scalars(prefix, step, seconds=0.0, **values):
    return b"".join(scalar(prefix + key, value, step, BEGUN + seconds) for key, value in values.items())


def iteration(step, seconds=0.0, lr=1e-6, **losses):
    return scalars("TrainIterStats/", step, seconds, current_lr=lr, **losses, step_time=0.5)


def train_epoch(step, seconds=0.0, **losses):
    return scalars("TrainEpochStats/", step, seconds, epoch_time=50.0, **{f"avg_{k}": v for k, v in losses.items()})


def evaluation(step, seconds=0.0, **losses):
    return scalars("EvalStats/", step, seconds, avg_loader_time=0.1, **{f"avg_{k}": v for k, v in losses.items()})


def parser_fed(*files, metrics=None, chunk=1 << 20):
    parser = TensorBoardParser(metrics=metrics)
    for file in files:
        parser.next_file()
        for start in range(0, len(file), chunk):
            parser.feed(file[start : start + chunk])
    parser.close()
    return parser


def read(*files, **options):
    records = parser_fed(*files, **options).records()
    assert len(records) <= 1
    return records[0] if records else None


def codes(record):
    return {note.code for note in record.notes}


def said(record):
    return repr(record and (record.events, record.notes))


def values(record, metric):
    return [(e.step, pytest.approx(e.metrics[metric], rel=1e-6)) for e in record.evaluations]


def coqui_run(epochs=3, steps=4):
    data = VERSION
    for epoch in range(epochs):
        for i in range(steps):
            step = epoch * steps + i
            data += iteration(step, step, loss_text_ce=0.03, loss_mel_ce=4 - step / 10, loss=4.0)
        end = (epoch + 1) * steps
        data += train_epoch(end, end, loss_text_ce=0.03, loss_mel_ce=4 - end / 10, loss=4.0)
        data += evaluation(end, end + 0.5, loss_text_ce=0.0282, loss_mel_ce=4.2 - end / 10, loss=4.2)
    return data


def test_crc32c_of_known_vectors():
    # RFC 3720, B.4: 32 zero bytes have 0x8a9136aa; masked as TFRecord does.
    crc = 0x8A9136AA
    assert masked_crc(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_coqui_run_has_its_epochs_evaluations_learning_rates_and_times():
    record = read(coqui_run())
    assert record.source == "tensorboard"
    assert [(e.step, e.epoch, e.mid_epoch) for e in record.evaluations] == [
        (4, 0, False),
        (8, 1, False),
        (12, 2, False),
    ]
    assert [record.epochs_done(e) for e in record.evaluations] == [1, 2, 3]
    assert values(record, "eval.loss_text_ce") == [(4, 0.0282), (8, 0.0282), (12, 0.0282)]
    assert values(record, "eval.text_ce") == [(4, 2.82), (8, 2.82), (12, 2.82)]
    assert values(record, "eval.mel_ce") == [(4, 3.8), (8, 3.4), (12, 3.0)]
    assert set(record.evaluations[0].metrics) == {
        "eval.loss", "eval.loss_mel_ce", "eval.loss_text_ce", "eval.mel_ce", "eval.text_ce",
    }  # fmt: skip
    assert [e.metrics["train.mel_ce"] for e in record.train_epochs] == pytest.approx([3.6, 3.2, 2.8], rel=1e-6)
    assert [e.lr_end for e in record.train_epochs] == [[pytest.approx(1e-6)]] * 3
    assert [e.seconds for e in record.train_epochs] == [50.0] * 3
    assert [e.seconds for e in record.evaluations] == [0.5] * 3
    assert record.evaluations[0].time.startswith("2023-11-1")
    assert codes(record) == {"epochs_counted"}


def test_an_evaluation_before_and_one_inside_an_epoch_are_told_from_those_after_it():
    data = VERSION + evaluation(0, loss=5.0) + iteration(0, loss=4.0) + evaluation(2, loss=4.5) + iteration(3, loss=4.0)
    data += evaluation(4, loss=4.3) + train_epoch(4, loss=4.0) + evaluation(4, loss=4.2)
    data += iteration(4, loss=4.0) + evaluation(6, loss=4.1)
    record = read(data)
    assert [(e.step, e.epoch, e.mid_epoch) for e in record.evaluations] == [
        (0, 0, False), (2, 0, True), (4, 0, True), (4, 0, False), (6, 1, True),
    ]  # fmt: skip
    order = [e.type for e in record.events]
    assert order == ["evaluation", "evaluation", "evaluation", "train_epoch", "evaluation", "evaluation"]


def test_a_poisoned_average_is_replaced_by_the_mean_of_the_finite_logged_steps():
    data = VERSION
    for step, loss in enumerate([NAN, 4.0, 2.0, INF, NAN, 3.0]):
        data += iteration(step, loss=loss, loss_mel_ce=loss)
    data += train_epoch(6, loss=NAN, loss_mel_ce=NAN, loss_other=NAN) + evaluation(6, loss=3.0)
    data += iteration(6, loss=1.0) + train_epoch(7, loss=1.0)
    record = read(data)
    first, second = record.train_epochs
    assert first.metrics["train.loss"] == first.metrics["train.mel_ce"] == 3.0
    assert math.isnan(first.metrics["train.loss_other"])
    assert (first.nonfinite_batches, first.longest_nonfinite_run) == (3, 2)
    assert (second.nonfinite_batches, second.longest_nonfinite_run, second.metrics["train.loss"]) == (0, 0, 1.0)
    assert "train_average_poisoned" in codes(record)


def test_nan_in_an_evaluation_stays():
    record = read(VERSION + train_epoch(4, loss=1.0) + evaluation(4, loss=NAN))
    assert math.isnan(record.evaluations[0].metrics["eval.loss"])


def test_times_and_our_own_tags_are_no_metrics():
    data = VERSION + evaluation(4) + scalar("Gatekeeper/eval.loss", 1.0, 4) + scalar("Gatekeeper/val_x", 1.0, 0)
    record = read(data + train_epoch(4, current_lr=1e-6, grad_norm=3.0))
    assert not record.evaluations
    assert record.train_epochs[0].metrics == {}
    assert codes(record) == {"epochs_counted"}


def test_a_resume_in_a_second_file_gives_up_what_lay_beyond():
    first = coqui_run(3)
    second = VERSION + iteration(8, loss=4.0) + train_epoch(12, loss_mel_ce=2.0) + evaluation(12, loss_mel_ce=2.5)
    for record in (read(first, second), read(first + second)):
        (start,) = [e for e in record.events if isinstance(e, Start)]
        assert (start.step, start.epoch, start.resume_mode) == (8, 2, "continue")
        assert [(e.step, e.epoch) for e in record.evaluations] == [(4, 0), (8, 1), (12, 2)]
        assert record.evaluations[-1].metrics["eval.mel_ce"] == 2.5
        assert [e.epoch for e in record.train_epochs] == [0, 1, 2]


def test_a_resume_whose_steps_were_not_logged_is_seen_by_its_first_average():
    first = coqui_run(3)
    for step, kept in ((12, [4, 8]), (8, [4])):
        record = read(first, VERSION + train_epoch(step, loss_mel_ce=2.0) + evaluation(step, loss_mel_ce=2.5))
        assert [e.step for e in record.evaluations] == [*kept, step]
        assert [e.epoch for e in record.train_epochs] == list(range(len(kept) + 1))


def test_a_file_that_goes_on_is_a_resume_that_gives_up_nothing():
    record = read(coqui_run(2), VERSION + iteration(8, loss=4.0) + train_epoch(12, loss=3.0) + evaluation(12, loss=3.0))
    assert [(e.step, e.epoch) for e in record.evaluations] == [(4, 0), (8, 1), (12, 2)]
    assert [e.step for e in record.events if isinstance(e, Start)] == [8]


def checklist_epoch(step, total, val_first=False):
    train = scalar("loss/train_total_epoch", total, step) + scalar("loss/train_mel_epoch", total / 2, step)
    val = b"".join(
        scalar(tag, total + 1, step)
        for tag in ("loss/val_total_epoch", "loss/val_mel_epoch", "loss/val_pitch", "metrics/val_f0_rmse")
    )
    return val + train if val_first else train + val


@pytest.mark.parametrize("val_first", [False, True])
def test_the_checklists_trainer_comes_out_by_role_and_train_before_val(val_first):
    data = VERSION
    for epoch in range(3):
        for step in range(epoch * 5, epoch * 5 + 5):
            data += scalar("loss/total", NAN if step in (6, 7) else 9.0, step)
            data += scalar("loss/mel", 8.0, step) + scalar("stats/grad_norm", 1.0, step)
            data += scalar("stats/learning_rate", 1e-4 * (step + 1), step)
        data += checklist_epoch(5 * epoch + 4, 3.0 - epoch, val_first)
    record = read(data)
    assert [(e.type, e.step, e.epoch) for e in record.events] == [
        (kind, 5 * epoch + 4, epoch) for epoch in range(3) for kind in ("train_epoch", "evaluation")
    ]
    assert record.train_epochs[0].metrics == {"train.loss_total": 3.0, "train.loss_mel": 1.5}
    assert record.evaluations[1].metrics == {
        "eval.loss_total": 3.0, "eval.loss_mel": 3.0, "eval.loss_pitch": 3.0, "eval.f0_rmse": 3.0,
    }  # fmt: skip
    assert [e.lr_end for e in record.train_epochs] == [[pytest.approx(x)] for x in (5e-4, 1e-3, 1.5e-3)]
    assert [e.longest_nonfinite_run for e in record.train_epochs] == [0, 2, 0]
    assert [record.epochs_done(e) for e in record.evaluations] == [1, 2, 3]
    (unused,) = [note for note in record.notes if note.code == "tags_not_used"]
    assert all(tag in unused.message for tag in ("loss/total", "loss/mel", "stats/grad_norm"))


def test_metrics_override_what_a_tag_means():
    data = VERSION + checklist_epoch(5, 3.0) + scalar("quality", 7.0, 5)
    record = read(data, metrics={"eval.mel": "loss/val_mel_epoch", "eval.q": "quality", "train.x": "no/such"})
    assert record.evaluations[0].metrics["eval.mel"] == 4.0
    assert record.evaluations[0].metrics["eval.q"] == 7.0
    assert "eval.loss_mel" not in record.evaluations[0].metrics
    assert "metric_not_found" in codes(record)
    with pytest.raises(UserError, match=r"mel.*must begin with"):
        TensorBoardParser(metrics={"mel": "loss/val_mel_epoch"})


def test_train_values_by_step_are_merged_and_few_of_them_are_epochs():
    data = VERSION
    for step in range(1, 41):
        data += scalar("train/loss", float(step), step)
        if step % 20 == 0:
            data += scalar("eval/loss", 1.0, step)
    record = read(data)
    assert [(e.step, e.metrics) for e in record.train_epochs] == [
        (20, {"train.loss": 10.5}),
        (40, {"train.loss": 30.5}),
    ]
    assert "train_values_merged" in codes(record)
    few = read(VERSION + b"".join(scalar("train/loss", 1.0, s) for s in (1, 2)) + scalar("eval/loss", 1.0, 2))
    assert [e.epoch for e in few.train_epochs] == [0, 1]


def test_memory_does_not_grow_with_the_steps():
    parser = TensorBoardParser()
    parser.feed(VERSION)
    for step in range(3000):
        parser.feed(iteration(step, loss=1.0) + scalar("loss/total", 1.0, step) + scalar("train/loss", 1.0, step))
    held = [parser._steps, parser._train_values, parser._pending, parser._not_used]
    assert len(repr(held)) < 3000


def test_scalars_as_tensors_of_float_and_double():
    def tensor(tag, dtype, field, shape=b"", plugin=b"scalars"):
        content = varint(1 << 3) + varint(dtype) + message(2, shape) + field
        return message(1, tag.encode()) + message(9, message(1, message(1, plugin))) + message(8, content)

    one = message(2, varint(1 << 3) + varint(1))
    data = VERSION + event(
        5,
        tensor("val/a", 1, message(4, struct.pack("<f", 1.5))),
        tensor("val/b", 2, message(4, struct.pack("<d", 0.1))),
        tensor("val/c", 1, message(5, struct.pack("<f", 2.5)), one),
        tensor("val/d", 1, varint(5 << 3 | 5) + struct.pack("<f", 3.5)),
        tensor("val/two", 1, message(4, struct.pack("<ff", 1, 2)), message(2, varint(8) + varint(2))),
        tensor("val/text", 7, message(8, b"words"), plugin=b"text"),
        tensor("val/other", 1, message(4, struct.pack("<f", 1.5)), plugin=b"hparams"),
        simple("val/e", 4.5),
    )
    record = read(data)
    assert record.evaluations[0].metrics == {
        "eval.a": 1.5, "eval.b": 0.1, "eval.c": 2.5, "eval.d": 3.5, "eval.e": 4.5,
    }  # fmt: skip


def test_a_long_record_is_passed_over_wherever_the_chunks_end():
    audio = framed(
        struct.pack("<Bd", 0x09, BEGUN) + message(5, message(1, message(1, b"a") + message(6, bytes(3 << 20))))
    )
    data = coqui_run(1) + audio + evaluation(9, loss=1.0)
    for chunk in (100_000, 1 << 20, len(data)):
        record = read(data, chunk=chunk)
        assert [e.step for e in record.evaluations] == [4, 9]
        assert codes(record) == {"epochs_counted"}
    assert codes(read(data[: len(data) // 2])) >= {"truncated_events"}


def test_cut_at_any_byte_what_is_whole_is_read():
    data = coqui_run(2)
    whole = read(data)
    ends = {0}
    position = 0
    while position < len(data):
        position += 16 + struct.unpack_from("<Q", data, position)[0]
        ends.add(position)
    for cut in range(len(data)):
        record = read(data[:cut])
        found = record.evaluations if record else ()
        assert len(found) <= 2
        for a, b in zip(found, whole.evaluations, strict=False):
            assert a.metrics.items() <= b.metrics.items()
        assert (record is not None and "truncated_events" in codes(record)) == (cut not in ends)


def test_a_flipped_bit_anywhere_costs_a_note_and_never_changes_an_evaluation():
    data = coqui_run(2)
    whole = read(data)
    good = {(e.step, name, value) for e in whole.evaluations for name, value in e.metrics.items()}
    lost = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        record = read(bytes(damaged))
        found = {(e.step, name, value) for e in record.evaluations for name, value in e.metrics.items()}
        assert found <= good
        if found != good:
            lost += 1
            assert codes(record) & {"damaged_events", "truncated_events"}
        assert len(good - found) <= 5
    assert lost > 100


def test_damage_in_the_middle_is_passed_over_to_the_next_record():
    head, tail = coqui_run(1), evaluation(9, loss=1.0) + evaluation(10, loss=1.0)
    for garbage in (b"garbage", bytes(5000), b"\xff" * 300, scalar("val/x", 1.0, 1)[5:]):
        record = read(head + garbage + tail)
        assert [e.step for e in record.evaluations] == [4, 9, 10]
        assert "damaged_events" in codes(record)


def test_a_killed_file_before_the_next_one_costs_nothing_of_the_next():
    first = coqui_run(2)[:-20]
    second = VERSION + iteration(8, loss=4.0) + train_epoch(12, loss_mel_ce=2.0) + evaluation(12, loss_mel_ce=2.5)
    record = read(first, second)
    assert [e.step for e in record.evaluations] == [4, 8, 12]
    assert {"truncated_events"} <= codes(record)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 700), st.integers(-1, 2000))
def test_chunks_make_no_difference_damaged_or_not(chunk, damage):
    data = bytearray(coqui_run(2))
    if damage >= 0:
        data[damage % len(data)] ^= 0x10
    assert said(read(bytes(data), chunk=chunk)) == said(read(bytes(data)))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(framed), st.just(VERSION)), max_size=8))
def test_no_bytes_make_it_fail(parts):
    read(coqui_run(1) + b"".join(parts) + evaluation(7, loss=1.0))
    read(b"".join(parts))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["EvalStats/avg_loss", "TrainEpochStats/avg_loss", "TrainIterStats/loss", "val/x", "train/x"]
            ),
            st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9),
            st.floats(width=32),
            st.floats(),
        ),
        max_size=30,
    )
)
def test_no_scalars_make_it_fail(events):
    read(VERSION + b"".join(scalar(tag, value, step, wall) for tag, step, value, wall in events))


def test_event_files_are_told_from_other_files():
    assert looks_like_events(coqui_run(1)[:64])
    assert not any(map(looks_like_events, (b"", VERSION[:12], b"epoch,loss\n" * 9, bytes(64), b"\x89PNG" + bytes(90))))


def test_files_of_torchs_writer_agree_with_event_accumulator(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    numpy = pytest.importorskip("numpy")
    writer = tensorboard.SummaryWriter(str(tmp_path))
    for step in range(0, 300, 3):
        for key in ("loss_mel_ce", "loss_text_ce", "loss"):
            writer.add_scalar(f"TrainIterStats/{key}", 1 / (step + 1), step)
        if step % 30 == 0:
            writer.add_histogram("layer/param", numpy.arange(500.0), step)
            writer.add_audio("EvalAudios/x", numpy.zeros((1, 3000)), step, sample_rate=22050)
            writer.add_text("val/text", "epoch", step)
            for prefix in ("TrainEpochStats", "EvalStats"):
                for key in ("loss_mel_ce", "loss_text_ce", "loss"):
                    writer.add_scalar(f"{prefix}/avg_{key}", len(prefix) / (step + 1), step)
            writer.add_scalar("val/new_style", step / 7, step, new_style=True)
            writer.add_scalar("val/double", step / 7, step, new_style=True, double_precision=True)
    writer.close()
    (file,) = Path(tmp_path).glob("events*")
    data = file.read_bytes()
    assert looks_like_events(data[:64])
    record = read(data, chunk=1000)
    theirs = accumulator.EventAccumulator(str(file), size_guidance={"scalars": 0, "tensors": 0})
    theirs.Reload()
    for key in ("loss_mel_ce", "loss_text_ce", "loss"):
        expected = [(e.step, e.value) for e in theirs.Scalars(f"EvalStats/avg_{key}")]
        assert [(e.step, e.metrics[f"eval.{key}"]) for e in record.evaluations] == expected
        expected = [(e.step, e.value) for e in theirs.Scalars(f"TrainEpochStats/avg_{key}")]
        assert [(e.step, e.metrics[f"train.{key}"]) for e in record.train_epochs] == expected
    for name, exact in (("new_style", 1e-6), ("double", 0)):
        found = [e.metrics[f"eval.{name}"] for e in record.evaluations]
        assert found == pytest.approx([step / 7 for step in range(0, 300, 30)], rel=exact)

import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.events import Start
from xtts_gatekeeper.record.table import TableParser, looks_like_table
from xtts_gatekeeper.record.table_cells import Numbers, index_value

SHARED = Path(__file__).parents[2] / "shared"
REPORTED = sorted(SHARED.glob("logs/*_reported_*.txt"))
SEEDS = sorted(SHARED.glob("seeds/*"))

MARKDOWN = """# Report of an invented run

Some prose | with a bar, and a table of something else:

| Model | Mel CE | Quality |
| --- | --- | --- |
| Base | 6.100 | 3/10 |

## Progress

| Step               | Mel CE    | Text CE | Change     | State |
| ------------------ | --------: | ------- | ---------- | ----- |
| 700 (warm-up end)  | 3.900     | 2.1     | -          | start |
| **1,400 (BEST!)**  | **3.100** | 2.0     | **-20.5%** | ✅ ok |
| 2100               | 3.250 ⭐  | n/a     | -16.7%     | ✅    |
| later              | 3.300     | 1.9     | -15.4%     | ❌    |

Done.
"""


def parser_fed(text, metrics=None, chunk=1 << 20):
    data = text.encode() if isinstance(text, str) else text
    parser = TableParser(metrics=metrics)
    for start in range(0, len(data), chunk):
        parser.feed(data[start : start + chunk])
    parser.close()
    return parser


def read_all(text, **options):
    return parser_fed(text, **options).records()


def read(text, **options):
    (record,) = read_all(text, **options)
    assert record.source == "table"
    return record


def codes(record):
    return {note.code for note in record.notes}


def values(record, metric="eval.loss"):
    return [(e.step, e.metrics[metric]) for e in record.evaluations if metric in e.metrics]


def done(record):
    return [record.epochs_done(e) for e in record.evaluations]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", ", "])
def test_delimited_by_commas_semicolons_or_tabs(delimiter):
    rows = [["epoch", "train_loss", "val_loss", "lr"], ["0", "2.5", "3.5", "1e-05"], ["1", "2.25", "nan", "1.5e-6"]]
    text = "\r\n".join(delimiter.join(row) for row in rows)
    record = read("\ufeff" + text)
    assert record.evaluations[0].metrics == {"eval.loss": 3.5}
    assert math.isnan(record.evaluations[1].metrics["eval.loss"])
    assert [e.metrics for e in record.train_epochs] == [{"train.loss": 2.5}, {"train.loss": 2.25}]
    assert [e.lr_end for e in record.train_epochs] == [[1e-5], [1.5e-6]]
    assert [(e.step, e.epoch) for e in record.evaluations] == [(0, 0), (1, 1)]
    assert done(record) == [1, 2]
    assert codes(record) == {"epoch_numbering", "no_steps"}
    assert looks_like_table(text)


def test_a_markdown_report_with_prose_and_another_table():
    record = read(MARKDOWN)
    assert values(record, "eval.mel_ce") == [(700, 3.9), (1400, 3.1), (2100, 3.25)]
    assert values(record, "eval.text_ce") == [(700, 2.1), (1400, 2.0)]
    assert not record.train_epochs
    assert [e.epoch for e in record.evaluations] == [0, 0, 0]
    notes = {note.code: note.message for note in record.notes}
    assert notes.keys() == {"table_not_used", "columns_not_used", "side_assumed", "unreadable_row"}
    assert "Model | Mel CE" in notes["table_not_used"]
    assert "Change, State" in notes["columns_not_used"]
    assert "Mel CE, Text CE" in notes["side_assumed"]
    assert looks_like_table(MARKDOWN)


def test_tables_of_the_same_columns_are_one_run_and_others_are_another():
    one = "| Epoch | Val loss |\n|---|---|\n| 1 | 4 |\n| 2 | 3 |\n"
    more = "| Epoch | Val loss |\n|:-:|--:|\n| 3 | 2 |\n"
    other = "Epoch | Eval mel\n--- | ---\n1 | 9\n"
    first, second = read_all(f"{one}\ntext\n\n{more}\n{other}")
    assert values(first) == [(1, 4), (2, 3), (3, 2)]
    assert values(second, "eval.mel") == [(1, 9)]
    assert first.name != second.name
    again = "\n| Epoch | Val loss |\n|---|---|\n| 2 | 3 |\n"
    assert [values(r) for r in read_all(one + again)] == [[(1, 4), (2, 3)]]  # a best row, shown twice
    restarted = "\n| Epoch | Val loss |\n|---|---|\n| 1 | 5 |\n"
    assert [values(r) for r in read_all(one + restarted)] == [[(1, 4), (2, 3)], [(1, 5)]]


def test_the_checklists_own_table_filled_in():
    text = """
| Epoch | Train total | Train mel | Val mel/objective | LR (end) | Mem state | Sample score (/25) | Decision |
|---|---:|---:|---:|---:|---|---:|---|
| 2 | 3.1 | 2.1 | 2.5 | 1e-4 | Low | 11/25 | Continue |
| 3 | 3.0 | 2.0 | 2.4 | 2e-4 | high | 12 | |
| 5 (Gate A) | 2.9 | 1.9 |  | 3e-4 |  |  | Continue / Tune |
| 6 |  |  |  |  |  |  |  |
"""
    record = read(text)
    assert [e.metrics for e in record.evaluations] == [{"eval.mel": 2.5}, {"eval.mel": 2.4}]
    assert done(record) == [2, 3]
    assert [e.epoch for e in record.evaluations] == [1, 2]
    assert [e.epoch for e in record.train_epochs] == [0, 1, 2, 3, 4]
    assert record.train_epochs[-1].metrics == {"train.total": 2.9, "train.mel": 1.9}
    assert [e.memory_state for e in record.train_epochs if e.metrics] == ["low", "high", None]
    scores = [(e.step, e.metrics) for e in record.events if e.type == "sample_score"]
    assert scores == [(2, {"sample.score": 11.0}), (3, {"sample.score": 12.0})]
    (numbering,) = [note for note in record.notes if note.code == "epoch_numbering"]
    assert "finished" in numbering.message


def test_an_empty_form_is_recognised_and_has_no_evaluations():
    parser = parser_fed("| Epoch | Val mel | Decision |\n|---|---|---|\n| 5 (Gate A) |  | Continue / Tune |\n")
    assert parser.recognised
    assert not any(record.events for record in parser.records())
    assert parser_fed("epoch,val_loss\n").recognised
    assert not parser_fed("# Report\n\nNo table in here, but an epoch, a loss and a step.\n").recognised
    assert parser_fed("").records() == []


def test_sparse_epochs_count_those_between():
    record = read("epoch,val_loss\n0,5\n5,4\n10,3\n")
    assert done(record) == [1, 6, 11]
    assert [record.epochs_done(e) for e in read("epoch,val_loss\n1,5\n5,4\n10,3\n").evaluations] == [1, 5, 10]
    with_steps = read("epoch,global_step,val_loss\n0,100,5\n5,600,4\n")
    assert done(with_steps) == [1, 6]
    assert [e.step for e in with_steps.evaluations] == [100, 600]
    far = read("epoch,val_loss\n0,5\n1,4\n90000000,4\n")
    assert len(far.train_epochs) < 10
    assert codes(far) >= {"epochs_not_counted"} or codes(far) >= {"epochs_look_like_steps"}


def test_steps_within_an_epoch_are_evaluations_in_its_middle():
    record = read("epoch,step,train_loss,val_loss\n0,50,9,5\n0,100,8,4\n1,150,7,3\n1,200,6,2\n")
    assert [(e.step, e.epoch, e.mid_epoch) for e in record.evaluations] == [
        (50, 0, False), (100, 0, False), (150, 1, True), (200, 1, False),
    ]  # fmt: skip
    assert done(record) == [0, 1, 1, 2]
    assert [e.metrics["train.loss"] for e in record.train_epochs] == [8, 6]


def test_train_and_eval_of_one_place_in_two_rows():
    record = read("epoch,step,train_loss,val_loss\n0,99,9,\n0,99,,5\n1,199,8,\n1,199,,4\n")
    assert values(record) == [(99, 5), (199, 4)]
    assert [e.metrics for e in record.train_epochs] == [{"train.loss": 9}, {"train.loss": 8}]


def test_fractional_epochs_are_finished_ones():
    record = read("epoch,step,eval_loss\n0.5,50,5\n1.0,100,4\n1.5,150,3\n2.0,200,2\n")
    assert done(record) == [0, 1, 1, 2]
    assert [e.mid_epoch for e in record.evaluations] == [False, False, True, False]


def test_a_table_of_steps_claims_no_epochs():
    record = read("step,train_loss,eval_loss\n100,1,5\n200,1,4\n")
    assert values(record) == [(100, 5), (200, 4)]
    assert not record.train_epochs
    assert codes(record) == {"train_without_epochs"}


def test_keras_names_the_train_loss_without_a_side():
    record = read("epoch,accuracy,loss,val_accuracy,val_loss\n0,0.5,2.0,0.4,3.0\n")
    assert record.train_epochs[0].metrics == {"train.loss": 2.0, "train.accuracy": 0.5}
    assert record.evaluations[0].metrics == {"eval.loss": 3.0, "eval.accuracy": 0.4}
    assert "side_assumed" not in codes(record)
    assert "side_assumed" in codes(read("epoch,loss\n0,2.0\n"))


COMMENTED = """# SOURCE: invented, with a word about epoch and loss
# run A: lr 5e-6, 3 epochs
# columns: epoch train_loss eval_avg_loss
A 0 0.6 3.4
A 1 0.1 4.7
# run B: loss, with its parts
# columns: epoch train_loss eval_loss eval_text_ce eval_mel_ce
B 0 0.5 4.565 0.092 4.473
B 1 0.4 4.524 0.063 4.460
B 3 0.3 4.674 0.056 4.618
"""


def test_columns_below_a_comment_with_labels_that_the_header_does_not_name():
    a, b = read_all(COMMENTED)
    assert (a.name, b.name) == ("A", "B")
    assert values(a) == [(0, 3.4), (1, 4.7)]
    assert [e.metrics for e in a.train_epochs] == [{"train.loss": 0.6}, {"train.loss": 0.1}]
    assert done(b) == [1, 2, 4]
    assert looks_like_table(COMMENTED)


def test_text_ce_that_adds_up_to_the_loss_is_the_weighted_one():
    b = read_all(COMMENTED)[1]
    assert b.evaluations[0].metrics == {
        "eval.loss": 4.565,
        "eval.loss_text_ce": 0.092,
        "eval.loss_mel_ce": 4.473,
        "eval.mel_ce": 4.473,
        "eval.text_ce": pytest.approx(9.2),
    }
    unweighted = read("epoch,eval_loss,eval_text_ce,eval_mel_ce\n0,4.565,9.2,4.473\n")
    assert unweighted.evaluations[0].metrics == {"eval.loss": 4.565, "eval.text_ce": 9.2, "eval.mel_ce": 4.473}
    logged = read("epoch,eval_loss_text_ce\n0,0.03\n")
    assert logged.evaluations[0].metrics == {"eval.loss_text_ce": 0.03, "eval.text_ce": 3.0}


def test_labels_are_runs_and_one_that_goes_on_continues_the_run_before_it():
    text = "# columns: step mel_ce\nR1 0 5\nR1 100 4\nR2 0 6\nR2 1500 3.5\nR3 1900 3.0\n"
    r1, r2, r3 = read_all(text)
    assert [r.name for r in (r1, r2, r3)] == ["R1", "R2", "R3"]
    assert values(r1, "eval.mel_ce") == [(0, 5), (100, 4)]
    assert values(r2, "eval.mel_ce") == [(0, 6), (1500, 3.5)]
    assert values(r3, "eval.mel_ce") == [(0, 6), (1500, 3.5), (1900, 3.0)]
    assert [(e.step, e.resume_mode) for e in r3.events if isinstance(e, Start)] == [(1500, "continue")]
    named = read_all("run,epoch,val_loss\nx,0,3\ny,0,4\nx,1,2\ny,1,1\n")
    assert [(r.name, values(r)) for r in named] == [("x", [(0, 3), (1, 2)]), ("y", [(0, 4), (1, 1)])]


def test_an_epoch_column_full_of_steps_is_taken_for_steps():
    text = "# columns: epoch mel_ce\nR1 0 5\nR1 5 4\nR2 0 6\nR2 700 5\nR2 1135 4\nR2 1500 3.5\nR3 1900 3.0\n"
    r1, r2, r3 = read_all(text)
    assert done(r1) == [1, 6]
    assert done(r2) == [0] * 4
    assert done(r3) == [0] * 5
    assert "epochs_look_like_steps" in codes(r2) & codes(r3)


def test_a_table_appended_to_after_a_resume():
    record = read("step,epoch,val_loss\n100,0,5\n200,1,4\n300,2,3\n200,1,4.5\n300,2,3.5\n")
    assert values(record) == [(100, 5), (200, 4.5), (300, 3.5)]
    assert done(record) == [1, 2, 3]
    first, second = read_all("epoch,val_loss\n0,5\n1,4\n0,6\n1,5\n")
    assert (values(first), values(second)) == ([(0, 5), (1, 4)], [(0, 6), (1, 5)])
    newest = read("step,val_loss\n300,3\n200,4\n100,5\n")
    assert values(newest) == [(100, 5), (200, 4), (300, 3)]
    assert "newest_first" in codes(newest)


def test_the_table_of_a_hugging_face_model_card():
    text = """
| Training Loss | Epoch | Step | Validation Loss | Wer    |
|:-------------:|:-----:|:----:|:---------------:|:------:|
| No log        | 1.0   | 50   | 3.5             | 0.9    |
| 3.1           | 2.0   | 100  | 3.25            | 0.8    |
| 3.0           | 3.0   | 150  | 3.125           | 0.7    |
"""
    record = read(text)
    assert values(record) == [(50, 3.5), (100, 3.25), (150, 3.125)]
    assert done(record) == [1, 2, 3]
    assert [e.metrics for e in record.train_epochs] == [{}, {"train.loss": 3.1}, {"train.loss": 3.0}]


def test_a_data_frame_with_its_index_and_empty_cells():
    record = read(",epoch,step,train_loss,val_loss\n0,0,10,2.0,\n1,0,20,1.5,3.0\n2,1,30,,\n3,1,40,1.0,2.5\n")
    assert values(record) == [(20, 3.0), (40, 2.5)]
    assert [e.metrics["train.loss"] for e in record.train_epochs] == [1.5, 1.0]


def test_whitespace_columns_under_a_plain_header():
    for text in (
        "epoch train_loss eval_loss\n0 2 3\n1 1 2\n",
        "  Epoch   Train loss   Eval loss\n      0   2            3\n      1   1            2\n",
        "# epoch train_loss eval_loss\n0 2 3\n1 1 2\n",
        "+---+---+\n| epoch | train loss | eval loss |\n+===+===+\n| 0 | 2 | 3 |\n+---+---+\n| 1 | 1 | 2 |\n",
    ):
        record = read(text)
        assert values(record) == [(0, 3), (1, 2)]
        assert [e.metrics for e in record.train_epochs] == [{"train.loss": 2}, {"train.loss": 1}]


def test_metrics_override_what_a_column_means():
    text = "epoch,Objektiv,val_loss,MOS\n0,4.5,3,18\n"
    record = read(text, metrics={"eval.mel_ce": "objektiv", "sample.score": "MOS", "train.x": "no such"})
    assert record.evaluations[0].metrics == {"eval.loss": 3, "eval.mel_ce": 4.5}
    assert [e.metrics for e in record.events if e.type == "sample_score"] == [{"sample.score": 18}]
    assert "metric_not_found" in codes(record)
    with pytest.raises(UserError, match=r"'mel'.*must begin with"):
        TableParser(metrics={"mel": "x"})


def test_percentages_times_and_second_columns_of_a_metric_are_no_metrics():
    record = read("epoch,val_loss,eval loss,gain,time,step_time\n0,3,4,5%,60,1.5\n1,2,3,4%,60,1.5\n")
    assert record.evaluations[0].metrics == {"eval.loss": 3}
    (note,) = [n for n in record.notes if n.code == "columns_not_used"]
    assert all(name in note.message for name in ("eval loss", "gain", "time", "step_time"))


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("**2.971**", 2.971), ("`1.5e-6`", 1.5e-6), ("2.971 (best)", 2.971), ("⭐ 2.5", 2.5), ("\u22120.5", -0.5),
        ("0,971", 0.971), ("2,97", 2.97), ("1,234.5", 1234.5), ("1.234,5", 1234.5), ("1 234.5", 1234.5),
        ("inf", math.inf), ("-inf", -math.inf), ("", None), (" - ", None), ("n/a", None), ("2,971", None),
        (".5", 0.5), ("_3_", 3.0),
    ],
)  # fmt: skip
def test_numbers_in_cells(cell, value):
    assert Numbers().value(cell) == value


@pytest.mark.parametrize(
    "cell", ["-14.2%", "5.046 → 3.507", "good", "7.5/10", "< 3", "3.0s", "1 2", "v2", "2025-10-04"]
)
def test_cells_that_are_no_numbers(cell):
    with pytest.raises(ValueError, match="no number"):
        Numbers().value(cell)


def test_a_comma_means_what_it_must_mean_elsewhere_in_the_table():
    record = read("Epoch;Val loss\n0;2,97\n1;2,971\n")
    assert values(record) == [(0, 2.97), (1, 2.971)]
    assert values(read('step,val_loss\n"1,500","2,971.5"\n')) == [(1500, 2971.5)]
    unclear = read("Epoch;Val loss\n0;2,971\n1;\n")
    assert "ambiguous_number" in codes(unclear) or not unclear.evaluations


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1901 (BEST!)", 1901), ("**1,901**", 1901), ("3/30", 3), ("Epoch 3", 3), ("step: 12 500", 12500), ("0.5", 0.5),
        ("R1", None), ("", None), ("last", None), ("5%", None), ("12 of them", None), ("1e400", None),
        ("9" * 400, None),
    ],
)  # fmt: skip
def test_indices_in_cells(cell, value):
    assert index_value(cell) == value


@pytest.mark.parametrize(
    "text",
    [
        " > EPOCH: 0/9\n\x1b[1m   --> STEP: 0/20 -- GLOBAL_STEP: 0\x1b[0m\n     | > loss: 3.1  (3.1)\n",
        "     | > avg_loss: 3.1 (-0.1)\nepoch,loss\n1,2\n",
        "Traceback (most recent call last):\n  File x, line 3, in epoch\nloss, step, ValueError\n",
        "At every step, the loss, and the epoch\nwere printed, 5, 6\n",
        '{"type": "start", "step": 0, "epoch": 0}\n',
        "",
    ],
)
def test_logs_and_prose_are_no_tables(text):
    assert not looks_like_table(text)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 90), st.sampled_from([MARKDOWN, COMMENTED]))
def test_chunks_make_no_difference(chunk, text):
    assert repr(read_all(text, chunk=chunk)) == repr(read_all(text))


words = st.sampled_from(
    [
        *(
            "epoch",
            "step",
            "val_loss",
            "loss",
            "train_loss",
            "mel_ce",
            "run",
            "lr",
            "sample score",
            "Mem state",
            "|",
            "|---|---|",
        ),
        *(
            "---",
            ",",
            ";",
            "\t",
            "\n",
            "\n",
            "\n",
            " ",
            "  ",
            "# columns: ",
            '"',
            "nan",
            "inf",
            "1e999",
            "-",
            "%",
            "```",
            "é",
        ),
        *("**3**", "2,971", "1.5", "0", "7", "99999999999999999999", "(Gate A)", "\0", "\ufeff", "0.5", "3000"),
    ]
)


@settings(deadline=None, max_examples=400)
@given(st.lists(words, max_size=60).map("".join))
def test_no_text_makes_it_fail(text):
    for record in read_all(text):
        assert len(record.events) < 10_000
    looks_like_table(text)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(words.filter(lambda w: "\n" not in w), min_size=2, max_size=4), max_size=8))
def test_no_rows_make_it_fail(rows):
    read_all("epoch,step,val_loss,train_loss\n" + "\n".join(",".join(row) for row in rows))
    read_all("|Epoch|Val mel|LR|Mem state|\n|---|---|---|---|\n" + "\n".join("|".join(["", *row, ""]) for row in rows))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail(data):
    read_all(b"epoch,val_loss\n0,1\n" + data)


@pytest.mark.parametrize("part", ["1,", "-", "|", "| -", "\n", " ", "(", "epoch,", "1.", "[0m", "<", '"', "1 "])
def test_no_text_takes_the_square_of_its_length(part):
    text = "| epoch | val_loss |\n" + part * (120_000 // len(part)) + "x!\n"
    began = time.perf_counter()
    read_all(text)
    looks_like_table(text)
    assert time.perf_counter() - began < 5  # 120,000 squared would be minutes


def test_an_endless_line_is_dropped():
    record = read("epoch,val_loss\n0,1\n" + "x," * 2_000_000 + "\n1,2\n", chunk=1 << 16)
    assert values(record) == [(0, 1), (1, 2)]


@pytest.mark.skipif(len(REPORTED) < 2, reason="the published logs are not here")
def test_the_tables_that_people_published():
    amharic, hungarian = (read_all(path.read_bytes()) for path in REPORTED)
    assert [(r.name, len(r.evaluations)) for r in amharic] == [("A", 10), ("B", 6)]
    assert [(r.name, len(r.evaluations)) for r in hungarian] == [("R1", 7), ("R2", 11), ("R3", 13)]
    a, b = amharic
    assert min(a.evaluations, key=lambda e: e.metrics["eval.loss"]).epoch == 0
    assert min(b.evaluations, key=lambda e: e.metrics["eval.mel_ce"]).epoch == 1
    assert done(a)[-1] == 91
    r1, _, r3 = hungarian
    assert min(values(r1, "eval.mel_ce"), key=lambda point: point[1]) == (15, 4.28)
    assert values(r3, "eval.mel_ce")[-3:] == [(1500, 3.511), (1900, 3.008), (2000, 2.999)]


@pytest.mark.skipif(len(SEEDS) < 2, reason="the seeds are not here")
def test_the_reports_that_this_project_began_with():
    found = [parser_fed(path.read_bytes()) for path in SEEDS]
    assert all(parser.recognised for parser in found)
    counts = [[len(record.evaluations) for record in parser.records()] for parser in found]
    assert sorted(map(sum, counts)) == [0, 6]

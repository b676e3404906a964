"""What is printed: the table, the verdict, several runs, the replay, and what was not measured."""

import io
from pathlib import Path

import pytest
from records import curve, ended, evaluated, incident, phase, record_of, saved, scored, start, trained
from rich.console import Console

from xtts_gatekeeper.gates import evaluate, load_policy
from xtts_gatekeeper.gates.replay import replay
from xtts_gatekeeper.report.console import print_gate, print_status, print_table, print_verdict, status_text
from xtts_gatekeeper.report.table import COLUMNS, format_cell, status, tracking_rows

POLICY = load_policy()


def printed(how, *arguments, width=80):
    """What a function of `report.console` prints."""
    text = io.StringIO()
    how(Console(file=text, width=width, highlight=False, no_color=True), *arguments)
    return text.getvalue()


def told(*parts):
    """What `status` says of a run with these events."""
    return status_text(status(Path("run"), record_of(*parts), POLICY))


def rows(*parts):
    return tracking_rows(record_of(*parts), POLICY)


def test_the_table_has_the_columns_of_the_checklist_in_its_order():
    assert list(COLUMNS) == [
        "Epoch",
        "Step",
        "Train total",
        "Train mel",
        "Val mel/objective",
        "LR (end)",
        "Mem state",
        "Sample score (/25)",
        "Decision",
    ]
    assert all(row.keys() >= set(COLUMNS.values()) for row in rows(start(), curve(3.0, 2.0)))


def test_a_row_holds_what_the_epoch_its_evaluation_and_its_samples_measured():
    (row,) = rows(start(), trained(0, loss=3.1, mel=3.0), evaluated(0, 2.9), scored(0, 17))
    assert row["epochs_done"] == 1
    assert (row["train_total"], row["train_mel"], row["objective"]) == (3.1, 3.0, 2.9)
    assert (row["lr_end"], row["memory_state"], row["sample_score"]) == ([1e-6], "low", 17)


def test_rows_stand_in_order_of_time_whatever_was_evaluated():
    amid = evaluated(1, 2.8, step=15, mid_epoch=True)
    found = rows(start(), evaluated(0, 4.0, step=0), curve(3.0), amid, trained(1), trained(2), evaluated(2, 2.0))
    assert [(row["label"], row["step"]) for row in found] == [("0", 0), ("1", 10), ("1+", 15), ("2", 20), ("3", 30)]
    assert [row["objective"] for row in found] == [4.0, 3.0, 2.8, None, 2.0]


def test_what_was_not_measured_is_a_dash():
    text = printed(print_table, rows(start(), trained(0, memory_state=None, lr_end=[])))
    assert text.split()[-9:] == ["1", "10", *"–––––––"]
    assert "None" not in text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("lr_end", [1e-6, 1e-6], "1e-06"),
        ("lr_end", [1e-6, 2e-6], "1e-06, 2e-06"),
        ("lr_end", None, "–"),
        ("objective", 2.0, "2.0000"),
        ("objective", float("nan"), "nan"),
        ("step", 0, "0"),
        ("decision", "", "–"),
    ],
)
def test_a_cell_is_short_and_exact(key, value, text):
    assert format_cell(key, value) == text


def test_a_table_of_many_epochs_fits_80_columns_uncut():
    found = rows(start(), curve(*(3 - n / 100 for n in range(12))))
    text = printed(print_table, found)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "5 (Gate A)" in text and "10 (Gate B)" in text


def test_status_leaves_out_what_the_source_does_not_tell():
    bare = start(device="cpu", precision=None, scheduler=None, train_clips=None)
    text = told(bare, curve(3.0))
    assert "cpu; new" in text
    assert "None" not in text


def test_status_says_phases_warnings_incidents_and_how_it_ended():
    text = told(
        start(warnings=["a [warning]"]),
        phase("coarse", 0, 1e-5),
        curve(3.0, 2.5),
        phase("fine", 20, 1e-6, 1),
        curve(2.4, first=2),
        incident(25, message="a [bold]word[/]"),
        saved(30),
        ended(30, "stopped"),
    )
    for words in (
        "Run run: stopped",
        "warning: a [warning]",
        "coarse: LR 1e-05 from step 0",
        "fine: LR 1e-06 from step 20",
        "coarse: 3.0000 at step 10 to 2.5000 at step 20",
        "fine: 2.5000 at step 20 to 2.4000 at step 30, -0.1000 (-4.0%), -1.00e-02 a step",
        "overall: 3.0000 at step 10 to 2.4000 at step 30",
        "Incident at step 25: a [bold]word[/]",
    ):
        assert words in text


def test_a_gain_across_another_eval_set_is_not_compared():
    text = told(start(), phase("one", 0), curve(3.0), phase("two", 10), curve(2.0, 1.9, first=1, eval_set="other"))
    assert "not comparable: the eval set changed in between" in text


def test_the_verdict_says_the_deciding_reason_first_and_what_to_do():
    text = printed(print_verdict, evaluate(record_of(start(), curve(3.0, float("nan"))), POLICY).to_dict())
    first, reason, *_ = text.splitlines()
    assert first.startswith("Verdict: stop  (policy checklist ")
    assert reason.lstrip().startswith("stop ")
    assert "best: eval.mel_ce 3.0000 after 1 epochs, step 10" in text
    assert "latest: eval.mel_ce nan after 2 epochs, step 20" in text
    assert "\n  next: " in text


def test_reasons_and_names_are_printed_as_they_are():
    document = evaluate(record_of(start(), curve(3.0)), POLICY).to_dict() | {"runs": []}
    document["reasons"][0]["message"] = "[red]odd[/red] and " + "long " * 40
    document["policy"] = "a[/b]"
    text = printed(print_gate, document)
    assert "[red]odd[/red] and " + "long " * 40 in text
    assert "policy a[/b] " in text


def test_a_replay_shows_each_verdict_and_what_the_first_stop_saves():
    record = record_of(start(), curve(3.0, 2.0, float("nan"), 1.5, 1.0))
    document = evaluate(record, POLICY).to_dict() | {"runs": [], "replay": replay(record, POLICY)}
    text = printed(print_gate, document, width=120)
    assert "Epochs Step eval.mel_ce Verdict" in text
    assert (
        "First stop after 3 epochs, step 30: 2 epochs and 2 evaluations saved; the best after it is 1.0000 lower."
        in text
    )


def test_a_replay_without_a_stop_says_so():
    record = record_of(start(), curve(3.0, 2.0))
    document = evaluate(record, POLICY).to_dict() | {"runs": [], "replay": replay(record, POLICY)}
    assert "No evaluation said stop." in printed(print_gate, document)


def test_status_and_status_text_are_the_same_words():
    document = status(Path("run"), record_of(start(), curve(3.0, 2.0)), POLICY)
    assert printed(print_status, document, width=100).split() == status_text(document).split()

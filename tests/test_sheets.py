"""The tables of a run as text cells, and `status --markdown`."""

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from records import TIME, curve, evaluated, incident, phase, pruned, record_of, saved, scored, start, write_run

from xtts_gatekeeper.cli import cli
from xtts_gatekeeper.gates import load_policy
from xtts_gatekeeper.record.events import Crash, DataCheck
from xtts_gatekeeper.record.sources import read_run
from xtts_gatekeeper.report.sheets import markdown, sheets
from xtts_gatekeeper.report.table import COLUMNS, status

ROOT = Path(__file__).parent.parent
POLICY = load_policy()
GOAL = load_policy(ROOT / "recipes/gates.yaml")


def made(*parts, policy=POLICY, run=Path("no such run")):
    return {sheet.key: sheet for sheet in sheets(status(run, record_of(*parts), policy))}


def test_the_tracking_table_has_the_checklists_columns_and_a_row_an_evaluation():
    sheet = made(start(), curve(3.0, 2.9, 2.8), scored(2, 17.5))["tracking"]
    assert [column.name for column in sheet.columns] == list(COLUMNS)
    assert len(sheet.rows) == 3
    assert dict(zip(COLUMNS, sheet.rows[-1], strict=True)) == {
        "Epoch": "3",
        "Step": "30",
        "Train total": "2.8000",
        "Train mel": "2.8000",
        "Val mel/objective": "2.8000",
        "LR (end)": "1e-06",
        "Mem state": "low",
        "Sample score (/25)": "17.5",
        "Decision": "continue",
    }


def test_the_phase_2_reports_tables_come_out_with_its_numbers():
    """5.046 to 3.507 in 1500 steps, then 2.971: -30.5 %, -15.3 %, -41.1 % and the distance to 2.5."""
    parts = [
        start(),
        phase("phase 1", 0),
        evaluated(0, 5.046, step=0),
        evaluated(0, 3.507, step=1500),
        phase("phase 2", 1500, index=1),
        evaluated(1, 2.971, step=1650),
    ]
    found = made(*parts, policy=GOAL)
    names = ("name", "was", "at", "now", "to", "change", "share", "pace")
    first, second, overall = (dict(zip(names, row, strict=True)) for row in found["improvement"].rows)
    assert (first["change"], first["share"], first["pace"]) == ("-1.5390", "-30.5", "-1.03e-03")
    assert (second["change"], second["share"], second["pace"]) == ("-0.5360", "-15.3", "-3.57e-03")
    assert (overall["name"], overall["share"]) == ("overall", "-41.1")
    assert found["improvement"].note == "A step of phase 2 gained 3.5 times what one of phase 1 did."
    assert ("Distance", "+0.4710 (+15.9%)") in found["distance"].rows


def test_what_cannot_be_compared_has_no_change():
    parts = start(), curve(3.0, 2.5), evaluated(2, 2.0, eval_set="other")
    rows = made(*parts, start(step=30, epoch=3, eval_set="other"), evaluated(3, 1.9, eval_set="other"))[
        "improvement"
    ].rows
    assert any("another eval set" in row for row in rows)
    assert all(row[6:] == ("–", "–") for row in rows if "another eval set" in row)


def test_files_say_what_was_measured_of_them_and_what_they_are_good_for(tmp_path):
    run = write_run(tmp_path / "run", start(), curve(3.0, 2.9, 2.95), scored(1, 20))
    for name, size in (("best_model_20.pth", 1_800_000), ("checkpoint_30.pth", 5_400_000)):
        (run / name).write_bytes(bytes(size))
    os.link(run / "best_model_20.pth", run / "best_model.pth")
    files = saved(20, "best", bytes=1_800_000, resumable=False), saved(30, bytes=5_400_000, resumable=True)
    sheet = made(start(), curve(3.0, 2.9, 2.95), scored(1, 20), *files, pruned(30, "checkpoint_20.pth"), run=run)[
        "files"
    ]
    assert sheet.rows == (
        ("best_model_20.pth", "20", "2.9000", "20.0", "2", "the best, weights alone"),
        ("checkpoint_30.pth", "30", "2.9500", "–", "5", "going on"),
    )
    assert sheet.note == "0.00 GB more were freed by pruning. In all 0.01 GB."


def test_crashes_incidents_and_actions_stand_together_by_step():
    crash = Crash(step=10, epoch=0, time=TIME, kind="oom", message="Out of memory.", decision="restart", why="Again.")
    rows = made(start(), curve(3.0, 2.9), incident(20, "disk_low"), crash)["incidents"].rows
    assert [(row[0], row[2]) for row in rows] == [("10", "Crash"), ("20", "Incident")]
    assert rows[0][3] == "Out of memory. Again."


def test_the_configuration_tells_the_data_the_phases_and_the_versions():
    data = DataCheck(step=0, epoch=0, time=TIME, clips=311, seconds=2382.0)
    rows = dict(
        made(start(versions={"torch": "2.8"}), data, phase("coarse", 0, lr=1.5e-6), curve(3.0))["configuration"].rows
    )
    assert rows["Audio"] == "39.7 min in 311 clips"
    assert rows["Phase coarse"] == "LR 1.5e-06 from step 0"
    assert rows["Version of torch"] == "2.8"
    assert rows["Batch size"] == "3"
    assert "How it began" not in rows


def test_markdown_is_a_document_whose_tables_have_as_many_cells_as_columns():
    text = "\n".join(
        markdown(status(Path("no such run"), record_of(start(), curve(3.0, 2.9), pruned(10, "x.pth")), GOAL))
    )
    tables = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    assert len(tables) >= 3
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert text.startswith("## Run no such run: ")


def test_what_markdown_says_can_be_judged_again(tmp_path):
    """The checklist's table goes back and forth: what is in an issue can be held against the rules, too."""
    record = record_of(start(), curve(3.0, 2.9, 2.8, 2.7, 2.6))
    (tmp_path / "issue.md").write_text("\n".join(markdown(status(Path("run"), record, POLICY))))
    again = read_run(tmp_path / "issue.md")
    assert [(e.step, e.metrics["eval.mel"]) for e in again.evaluations] == [
        (e.step, e.metrics["eval.mel_ce"]) for e in record.evaluations
    ]


@pytest.mark.parametrize(
    "said", ["a | b", "<script>alert(1)</script>", "**bold**", "`code`", "[link](http://x)", "@someone", "two\nlines"]
)
def test_no_text_of_the_run_becomes_markup(said):
    text = "\n".join(markdown(status(Path("run"), record_of(start(), curve(3.0), incident(10, message=said)), POLICY)))
    row = next(line for line in text.splitlines() if line.startswith("| 10 | 2025"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert "<" not in row
    assert not re.search(r"(?<!\\)[*`\[]|@\w", row)


def test_the_verb_prints_markdown_and_refuses_two_forms_at_once(tmp_path):
    run = write_run(tmp_path / "run", start(), curve(3.0, 2.9))
    printed = CliRunner().invoke(cli, ["status", str(run), "--markdown"])
    assert printed.exit_code == 0
    assert "| 1 | 10 |" in printed.output
    from xtts_gatekeeper.errors import UserError

    refused = CliRunner().invoke(cli, ["status", str(run), "--markdown", "--json"])
    assert isinstance(refused.exception, UserError)

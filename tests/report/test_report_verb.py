"""The verb `report`: where the page goes, what is said of it, and how it follows a run that is being trained."""

import json
import os
import signal
import subprocess
import sys

import pytest
from records import curve, ended, record_of, start, write_run

from xtts_gatekeeper.cli import main
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import Journal, journal_path
from xtts_gatekeeper.record.events import Crash, End
from xtts_gatekeeper.report.verb import run_report
from xtts_gatekeeper.report.watching import follow, over

pytest.importorskip("bokeh")

TABLE = "step,eval_mel_ce\n100,3.0\n200,2.9\n300,2.8\n"


def test_a_run_gets_its_report_beside_its_journal(tmp_path, capsys):
    run = write_run(tmp_path / "run", start(), curve(3.0, 2.9, 2.8, 2.7))
    assert run_report(run) == 0
    file = run / "gatekeeper" / "report.html"
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert capsys.readouterr().out.startswith(f"{file}: continue, ")


def test_a_lone_table_gets_its_report_in_the_current_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "run.csv").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    run_report(tmp_path / "run.csv", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == "report.html"
    assert told["bytes"] == (tmp_path / "report.html").stat().st_size
    assert told["verdict"] == "continue"
    assert told["seconds"] > 0


def test_a_stock_run_folder_gets_a_folder_of_ours_for_it(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text(TABLE)
    run_report(tmp_path / "run")
    assert (tmp_path / "run" / "gatekeeper" / "report.html").is_file()
    run_report(tmp_path / "run")  # and is the same run all the same


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", start(), curve(3.0))
    monkeypatch.setattr("xtts_gatekeeper.report.page.build", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(UserError, match="does not exist; make it or name another file"):
        run_report(run, tmp_path / "nowhere" / "x.html")
    with pytest.raises(UserError, match="name another file with -o"):
        run_report(run, tmp_path)


def test_a_missing_package_is_named_with_the_extra_that_has_it(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", start(), curve(3.0))
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(UserError, match=r"'bokeh' is missing; run: pip install 'xtts-gatekeeper\[report\]'"):
        run_report(run)


def test_what_was_there_stays_when_the_page_cannot_be_built(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", start(), curve(3.0))
    run_report(run)
    before = (run / "gatekeeper" / "report.html").read_bytes()

    def fails(*_, **__):
        raise UserError("no")

    monkeypatch.setattr("xtts_gatekeeper.report.page.build", fails)
    with pytest.raises(UserError):
        run_report(run)
    assert (run / "gatekeeper" / "report.html").read_bytes() == before


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", start(), curve(3.0, 2.9, 2.8, 2.7))
    monkeypatch.setattr(sys, "argv", ["xtts-gatekeeper", "report", str(run), "-o", str(tmp_path / "x.html"), "--json"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "continue"


# Watching


def test_every_new_event_is_a_new_page_and_the_end_is_the_last(tmp_path):
    run = write_run(tmp_path / "run", start(), curve(3.0))
    coming = iter([curve(2.9, first=1), [], [ended(20)]])

    def wait(_seconds):
        journal = Journal(journal_path(run))
        for event in next(coming):
            journal.append(event)

    seen = [(len(opened.record.evaluations), over(opened.record)) for opened in follow(run, wait=wait)]
    assert seen == [(1, False), (2, False), (2, True)]


def test_a_run_that_a_supervisor_starts_again_goes_on():
    died = End(step=10, epoch=0, how="crashed")
    crash = {"step": 10, "epoch": 0, "kind": "killed", "message": "killed"}
    assert over(record_of(start(), died))
    assert not over(record_of(start(), died, Crash(**crash, decision="restart")))
    assert over(record_of(start(), died, Crash(**crash, decision="stop")))
    assert not over(record_of(start(), died, Crash(**crash, decision="restart"), start(10)))
    assert not over(record_of())


@pytest.mark.parametrize("how", [signal.SIGINT, None])
def test_watching_ends_with_the_run_or_by_ctrl_c(tmp_path, how):
    run = write_run(tmp_path / "run", start(), curve(3.0))
    command = [sys.executable, "-m", "xtts_gatekeeper", "report", str(run), "--watch", "--interval", "0.05", "--json"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        first = json.loads(process.stdout.readline())
        page = (run / "gatekeeper" / "report.html").read_text(encoding="utf-8")
        assert 'data-live="10.0"' in page
        if how is None:
            Journal(journal_path(run)).append(ended(10))
            assert json.loads(process.stdout.readline())["file"] == first["file"]
        else:
            process.send_signal(how)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
    if how is None:
        assert (
            "data-live" not in (run / "gatekeeper" / "report.html").read_text(encoding="utf-8").partition("<script")[0]
        )

"""`gate` and `status` as processes, on every kind of source: exit codes, stdout, stderr, and following what grows."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from records import curve, ended, evaluated, start, trained, write_run
from test_cli import call, document
from test_sources import (
    ENVIRONMENT,
    EVENTS_BEGIN,
    FALLING,
    KINDS,
    bad_files,
    console_epoch,
    console_log,
    events_epoch,
    scalar,
    table_text,
    write_kind,
)

from xtts_gatekeeper import offline
from xtts_gatekeeper.record import Journal, journal_path

PROMISED = [
    "verdict",
    "reasons",
    "objective",
    "evaluations",
    "best",
    "latest",
    "segments",
    "projection",
    "policy_hash",
    "source",
]
ALSO = ["runs", "run", "model", "notes", "next_steps", "gates", "policy"]
COLUMNS = ("Epoch", "Step", "Train", "Val mel", "LR", "Mem", "Sample", "Decision")
#: A curve that the checklist stops.
RISING = (2.0, 1.9, 2.4, 2.9, 3.4, 3.9, 4.4)
#: Validation losses, and the verdict of the checklist on them.
CURVES = {
    "continue": ("epoch,train_loss,val_loss\n1,3.0,3.1\n2,2.5,2.6\n3,2.1,2.2\n", 0),
    "tune": ("epoch,train_loss,val_loss\n1,2.0,3.1\n2,2.5,2.6\n3,3.0,2.2\n", 10),
    "stop": ("epoch,val_loss\n1,2.0\n2,1.9\n3,2.4\n4,2.9\n5,3.4\n6,3.9\n7,4.4\n", 20),
    "undecided": ("epoch,train_loss,val_loss\n1,3.0,3.1\n2,2.5,2.6\n", 30),
}


def strict(text):
    """The one strict JSON document of `text`."""

    def forbidden(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=forbidden)


# Mistakes: one sentence on stderr, exit code 2, nothing on stdout


def refused(*arguments, **options):
    """What a call that is refused says."""
    done = call(*arguments, **options)
    assert (done.returncode, done.stdout) == (2, "")
    (told,) = done.stderr.splitlines()
    assert told.startswith("xtts-gatekeeper: ")
    return told


def test_every_file_given_by_mistake_is_one_sentence(tmp_path):
    for name, sentence in bad_files(tmp_path).items():
        told = refused("gate", name, "--json", cwd=tmp_path)
        assert sentence in told and name in told


@pytest.mark.parametrize("verb", ["gate", "status"])
@pytest.mark.parametrize("option", [[], ["--json"]])
def test_every_place_without_a_run_is_one_sentence(tmp_path, verb, option):
    (tmp_path / "nothing").mkdir()
    for name in ("a", "b"):
        write_kind(tmp_path / "runs" / name, "console", *FALLING)
    for name in ("one.log", "two.log"):
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / name).write_text(console_log(3.0))
    os.truncate(Path(shutil.copy(_zip(tmp_path), tmp_path / "big.pth")), 5_000_000_000)
    sentences = {
        "missing": "missing does not exist",
        "nothing": "nothing holds no run",
        "runs": "runs holds 2 runs; name one of them: a, b",
        "logs": "holds 2 logs or tables; name one of them: one.log, two.log",
        "big.pth": "big.pth is no log: it is a zip archive or a checkpoint",
    }
    for path, sentence in sentences.items():
        assert sentence in refused(verb, path, *option, cwd=tmp_path)


def _zip(folder):
    path = folder / "small.pth"
    path.write_bytes(b"PK\x03\x04" + bytes(60))
    return path


AS_SOMEBODY = """
import os
from xtts_gatekeeper import offline
from xtts_gatekeeper.cli import main
from xtts_gatekeeper.record import console, table, tensorboard
from xtts_gatekeeper.report import table
if os.geteuid() == 0:  # who may read everything
    os.seteuid(65534)
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a file can be made unreadable by its mode elsewhere only")
@pytest.mark.parametrize("verb", ["gate", "status"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_not_be_read_is_one_sentence_with_its_path(verb, what):
    with tempfile.TemporaryDirectory(prefix="unreadable-") as name:  # tmp_path is closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        path = write_kind(folder / "run", "console", *FALLING)
        (path if what == "file" else path.parent).chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", AS_SOMEBODY, verb, path],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        (path if what == "file" else path.parent).chmod(0o755)
    assert (done.returncode, done.stdout) == (2, "")
    (told,) = done.stderr.splitlines()
    assert str(path) in told and "denied" in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--run third", "t.csv has no run 'third'; it has one, two"),
        ("--run 3", "it has one, two"),
        ("--at epoch:99", "no evaluation at epoch:99"),
        ("--at step:", "neither epoch:N nor step:N"),
        ("--watch --at epoch:1", "cannot be combined with --at or --replay"),
        ("--watch --replay", "cannot be combined with --at or --replay"),
        ("--watch --interval 0", "--interval"),
        ("--watch --interval nan", "--interval"),
        ("--watch --interval inf", "--interval"),
        ("--watch --run third", "it has one, two"),
        ("--policy nosuch", "there is no policy 'nosuch'"),
    ],
)
def test_an_option_that_fits_nothing_is_one_sentence(tmp_path, arguments, sentence):
    (tmp_path / "t.csv").write_text("run,epoch,val_loss\none,1,3\none,2,2\ntwo,1,5\ntwo,2,4\n")
    assert sentence in refused("gate", "t.csv", *arguments.split(), "--json", cwd=tmp_path)


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="there is no /dev/stdin")
def test_a_pipe_is_refused_and_not_judged_without_its_beginning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "xtts_gatekeeper", "gate", "/dev/stdin"],
        env=ENVIRONMENT,
        input=console_log(*FALLING),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "/dev/stdin is no file that can be read twice" in done.stderr


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
def test_a_file_name_of_no_encoding_is_no_obstacle(tmp_path):
    path = os.fsencode(tmp_path) + b"/g\xb3os.csv"
    assert "does not exist" in refused("gate", os.fsdecode(path))
    Path(os.fsdecode(path)).write_text(table_text(*FALLING))
    assert document("status", os.fsdecode(path))[1]["verdict"]["verdict"] == "continue"
    assert call("status", os.fsdecode(path)).returncode == 0


# gate


@pytest.mark.parametrize("verdict", CURVES)
@pytest.mark.parametrize("option", [[], ["--json"], ["--replay"], ["--replay", "--json"]])
def test_gate_on_a_table_exits_with_its_verdict(tmp_path, verdict, option):
    text, code = CURVES[verdict]
    (tmp_path / "t.csv").write_text(text)
    done = call("gate", tmp_path / "t.csv", *option)
    assert (done.returncode, done.stderr) == (code, "")
    if "--json" in option:
        assert strict(done.stdout)["verdict"] == verdict
    else:
        assert f": {verdict}  (policy" in done.stdout


def test_gate_says_the_same_of_the_same_run_whatever_told_it(tmp_path):
    told = {kind: document("gate", write_kind(tmp_path / kind, kind, 3.0, 2.6, 2.3, 2.2)) for kind in KINDS}
    assert {code for code, _ in told.values()} == {0}
    keys = {frozenset(found) for _, found in told.values()}
    assert len(keys) == 1
    assert keys.pop() >= {*PROMISED, *ALSO}
    for kind, (_, found) in told.items():
        assert found["source"] == kind
        assert (found["verdict"], found["evaluations"], len(found["segments"])) == ("continue", 4, 1)
        assert found["best"].keys() == found["latest"].keys()
        assert {"step", "epoch", "value", "checkpoint"} <= found["best"].keys()
        assert (found["best"]["step"], found["best"]["epochs_done"]) == (40, 4)
        assert found["best"]["value"] == pytest.approx(2.2, rel=1e-6)
        assert all({"code", "message", "evidence"} <= reason.keys() for reason in found["reasons"])
        assert [run["run"] for run in found["runs"]] == [found["run"]]
    assert len({found["policy_hash"] for _, found in told.values()}) == 1
    assert [found["model"] for _, found in told.values()] == ["XTTS", "XTTS", "XTTS", "other"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", [["gate"], ["gate", "--replay"], ["status"]])
def test_json_is_one_strict_document_though_a_loss_is_nan(tmp_path, kind, verb):
    path = write_kind(tmp_path, kind, 3.0, float("nan"), float("inf"))
    done = call(*verb, path, "--json")
    assert done.stderr == ""
    found = strict(done.stdout)
    verdict = found if verb[0] == "gate" else found["verdict"]
    assert (verdict["verdict"], verdict["latest"]["value"]) == ("stop", "inf")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("run.log", b"\n > EPOCH: 0/30\n --> /runs/a\n"),
        ("events.out.tfevents.1", EVENTS_BEGIN),
        ("t.csv", b"epoch,val_loss\n"),
        ("one.csv", b"epoch,val_loss\n1,3.0\n"),
        ("one.log", console_log(3.0).encode()),
    ],
)
@pytest.mark.parametrize("option", [[], ["--replay"]])
def test_a_run_with_too_little_in_it_is_undecided_and_says_what_is_missing(tmp_path, name, data, option):
    (tmp_path / name).write_bytes(data)
    code, found = document("gate", tmp_path / name, *option)
    assert (code, found["verdict"]) == (30, "undecided")
    assert "evaluation" in found["reasons"][0]["message"]
    done = call("gate", tmp_path / name, *option)
    assert (done.returncode, done.stderr) == (30, "")
    assert call("status", tmp_path / name).returncode == 0


def test_gate_at_judges_a_stock_log_as_it_stood_then(tmp_path):
    path = write_kind(tmp_path, "console", 3.0, 2.8, 2.6, 2.5, 2.4, 2.9, 3.4, 3.9, 4.4, 4.9)
    assert document("gate", path)[0] == 20
    assert document("gate", path, "--at", "epoch:2")[0] == 30
    code, at_gate_a = document("gate", path, "--at", "epoch:5")
    assert (code, at_gate_a["gates"], at_gate_a["latest"]["step"]) == (0, ["Gate A"], 50)
    assert document("gate", path, "--at", "step:59")[1]["latest"] == at_gate_a["latest"]


def test_gate_on_a_log_of_several_runs_judges_one_and_names_all(tmp_path):
    path = tmp_path / "both.log"
    rising = console_log(*RISING, folder="/runs/bad")
    path.write_text(rising + console_log(*FALLING, folder="/runs/good"))
    code, found = document("gate", path)
    assert (code, found["run"]) == (0, "good")
    assert [(run["run"], run["verdict"], run["evaluations"]) for run in found["runs"]] == [
        ("bad", "stop", 7),
        ("good", "continue", 3),
    ]
    for which in ("bad", "1"):
        code, found = document("gate", path, "--run", which)
        assert (code, found["run"]) == (20, "bad")
    done = call("gate", path, "--run", "bad")
    assert "Run bad: stop, 7 evaluations, best 1.9000 at step 20" in done.stdout
    assert "Judged below: bad" in done.stdout
    assert document("status", path, "--run", "bad")[1]["verdict"]["verdict"] == "stop"


def test_a_run_without_a_name_goes_by_its_number(tmp_path):
    path = tmp_path / "t.log"
    log = console_log(3.0, 2.0, folder="") + console_log(5.0, 4.0, 3.9, folder="", last=9)
    path.write_text(log.replace(" --> \n", ""))
    found = document("gate", path, "--run", "1")[1]
    assert [run["run"] for run in found["runs"]] == ["1", "2"]
    assert (found["run"], found["evaluations"]) == ("1", 2)
    assert "Judged below: 1 " in call("gate", path, "--run", "1").stdout


def test_replay_has_a_row_for_each_evaluation_and_what_a_stop_would_have_saved(tmp_path):
    path = write_kind(tmp_path, "console", *RISING, 4.9)
    code, found = document("gate", path, "--replay")
    replay = found["replay"]
    assert code == 20
    assert [row["step"] for row in replay["rows"]] == [10, 20, 30, 40, 50, 60, 70, 80]
    verdicts = [row["verdict"] for row in replay["rows"]]
    assert verdicts[:2] == ["undecided", "undecided"]
    first = verdicts.index("stop")
    assert replay["stopped_at"] == replay["rows"][first]
    assert (replay["evaluations_saved"], replay["epochs_saved"], replay["regret"]) == (7 - first, 7 - first, 0)
    for at, row in enumerate(replay["rows"], 1):
        judged = document("gate", path, "--at", f"epoch:{at}")[1]
        assert (judged["verdict"], judged["gates"]) == (row["verdict"], row["gates"])
    done = call("gate", path, "--replay")
    assert done.returncode == 20
    assert f"First stop after {first + 1} epochs" in done.stdout


# A policy's own names


OWN = """\
version: 1
name: own
objective: eval.likeness
minimum_evaluations: 2
metrics:
  eval.likeness: SAID
health:
  - {rule: target, metric: eval.likeness, value: 0.5, on_fail: tune}
"""


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("t.csv", b"epoch,val_loss,Voice gap\n1,3,0.9\n2,2.5,0.8\n3,2.2,0.4\n", "Voice gap"),
        ("t.md", b"| Epoch | Val loss | Voice gap |\n|--|--|--|\n| 1 | 3 | 0.9 |\n| 2 | 2 | 0.8 |\n| 3 | 2 | 0.4 |\n",
         "Voice gap"),
        ("events.out.tfevents.1", EVENTS_BEGIN + b"".join(
            events_epoch(i, 3.0 - i / 4, **{"speaker/gap": gap}) for i, gap in enumerate((0.9, 0.8, 0.4))
        ), "speaker/gap"),
        ("run.log", "".join(
            console_epoch(i, 3.0 - i / 4, more=f"     | > avg_loss_gap: {gap} (-0.1)\n")
            for i, gap in enumerate((0.9, 0.8, 0.4))
        ).encode(), "eval.loss_gap"),
    ],
    ids=["csv", "markdown", "events", "console"],
)  # fmt: skip
def test_a_policy_says_what_a_column_a_tag_or_a_key_means(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    policy = tmp_path / "own.yaml"
    policy.write_text(OWN.replace("SAID", said))
    code, found = document("gate", tmp_path / name, "--policy", policy)
    assert (code, found["verdict"], found["evaluations"]) == (10, "tune", 3)
    assert [found[key]["value"] for key in ("best", "latest")] == [pytest.approx(0.4)] * 2
    code, found = document("status", tmp_path / name, "--policy", policy)
    assert [row["objective"] for row in found["rows"]] == [pytest.approx(gap) for gap in (0.9, 0.8, 0.4)]
    assert found["analysis"]["overall"]["to"] == pytest.approx(0.4)
    assert found["analysis"]["distance"] == pytest.approx(-0.1)


# status


@pytest.mark.parametrize("kind", KINDS)
def test_status_has_the_table_and_the_analysis_of_every_source(tmp_path, kind):
    path = write_kind(tmp_path, kind, *FALLING)
    code, found = document("status", path)
    assert (code, found["source"]) == (0, kind)
    assert [row["step"] for row in found["rows"]] == [10, 20, 30]
    assert [row["objective"] for row in found["rows"]] == [pytest.approx(mel) for mel in FALLING]
    assert [row["decision"] for row in found["rows"]] == ["undecided", "undecided", "continue"]
    overall = found["analysis"]["overall"]
    assert (overall["from"], overall["to"]) == (pytest.approx(3.0), pytest.approx(2.3))
    assert (overall["change"], overall["rate_per_step"]) == (pytest.approx(-0.7), pytest.approx(-0.7 / 20))
    done = call("status", path)
    assert (done.returncode, done.stderr) == (0, "")
    for word in (*COLUMNS, "2.3000", "3.0000 at step 10 to 2.3000 at step 30", "Verdict: continue"):
        assert word in done.stdout
    assert "…" not in done.stdout and "None" not in done.stdout
    assert max(map(len, done.stdout.partition("Verdict")[0].splitlines()[1:-2])) <= 80


def test_the_tracking_table_of_the_checklist_filled_in_by_hand_is_a_run(tmp_path):
    (tmp_path / "tracking.md").write_text(
        "# My run\n\n"
        "| Epoch | Step | Train total | Train mel | Val mel/objective | LR (end) | Mem state | Sample score (/25) |"
        " Decision |\n| --- | ---: | --- | --- | --- | --- | --- | --- | --- |\n"
        "| 1 | 100 | 3.2 | 3.1 | 3.3 | 1e-5 | low | 14 | go on |\n"
        "| 2 | 200 | 3.0 | 2.9 | 3.1 | 1e-5 | moderate | 15/25 | go on |\n"
        "| 3 | 300 | 2.8 | 2.7 | 2.9 | 9e-6 | high | 17 | go on |\n"
        "| 4 |  |  |  |  |  |  |  |  |\n"
    )
    for path in (tmp_path, tmp_path / "tracking.md"):
        code, found = document("status", path)
        assert (code, found["source"]) == (0, "table")
        keys = (
            "epochs_done",
            "step",
            "train_total",
            "train_mel",
            "objective",
            "lr_end",
            "memory_state",
            "sample_score",
        )
        assert [tuple(row[key] for key in keys) for row in found["rows"]] == [
            (1, 100, 3.2, 3.1, 3.3, [1e-5], "low", 14),
            (2, 200, 3.0, 2.9, 3.1, [1e-5], "moderate", 15),
            (3, 300, 2.8, 2.7, 2.9, [9e-6], "high", 17),
        ]
    assert document("gate", tmp_path)[0] == 0


# --watch


@contextmanager
def watching(*arguments):
    """A `gate --watch` that is killed after a minute; every wait here is for its output, never for a time."""
    process = subprocess.Popen(
        [sys.executable, "-m", "xtts_gatekeeper", "gate", *map(str, arguments), "--watch", "--interval", "0.05"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs, CI among them, with Ctrl-C switched off, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    limit = threading.Timer(60, process.kill)
    limit.start()
    try:
        yield process
    finally:
        limit.cancel()
        process.kill()
        process.communicate()


def line(process):
    """The next document; it is one line."""
    return strict(process.stdout.readline())


def over(process):
    """Exit code, and what is left on stdout and stderr."""
    code = process.wait(60)
    return code, process.stdout.read(), process.stderr.read()


def goal(folder):
    """A policy that says stop once the objective is below 2.5."""
    path = folder / "goal.yaml"
    path.write_text(
        "version: 1\nname: goal\nhealth:\n  - {rule: target, metric: eval.objective, value: 2.5, on_fail: stop}\n"
    )
    return path


def append(path, data):
    with path.open("ab") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def test_watch_says_one_line_an_evaluation_until_a_verdict_is_stop(tmp_path):
    path = write_kind(tmp_path, "console", 3.0, 2.9)
    with watching(path, "--policy", goal(tmp_path), "--json") as process:
        found = line(process)
        assert (found["evaluations"], found["verdict"]) == (2, "undecided")
        for count, mel, verdict in ((3, 2.8, "continue"), (4, 2.6, "continue"), (5, 2.4, "stop")):
            text = console_epoch(count - 1, mel)
            append(path, text[:200])
            append(path, text[200:])
            found = line(process)
            assert (found["evaluations"], found["latest"]["value"]) == (count, pytest.approx(mel))
            assert found["verdict"] == verdict
        assert over(process) == (20, "", "")


def test_watch_judges_each_of_the_evaluations_that_came_at_once(tmp_path):
    path = write_kind(tmp_path, "console", 3.0)
    with watching(path, "--policy", goal(tmp_path), "--json") as process:
        assert line(process)["evaluations"] == 1
        append(path, console_log(2.9, 2.8, 2.4, 2.7, first=1))  # the last one would hide the stop
        assert [line(process)["evaluations"] for _ in range(3)] == [2, 3, 4]
        assert over(process) == (20, "", "")


@pytest.mark.parametrize("kind", ["tensorboard", "table"])
def test_watch_follows_events_and_tables(tmp_path, kind):
    path = write_kind(tmp_path, kind, 3.0)
    if kind == "tensorboard":  # an evaluation in an event file is complete when the next step begins
        append(path, scalar("TrainIterStats/loss_mel_ce", 2.9, 11))
    with watching(path, "--json") as process:
        assert line(process)["evaluations"] == 1
        if kind == "table":
            append(path, "2,20,2.6,2.6\n")
        else:
            append(path, events_epoch(1, 2.6) + scalar("TrainIterStats/loss_mel_ce", 2.5, 21))
        found = line(process)
        assert (found["evaluations"], found["source"]) == (2, kind)


def test_watch_ends_with_the_end_of_the_journal(tmp_path):
    folder = write_run(tmp_path, start(), curve(*FALLING))
    journal = Journal(journal_path(folder))
    with watching(folder, "--json") as process:
        assert line(process)["evaluations"] == 3
        for event in (trained(3), evaluated(3, 2.1), ended(40)):
            journal.append(event)
        assert line(process)["evaluations"] == 4
        assert over(process) == (0, "", "")


def test_watch_ends_when_a_stock_log_says_that_training_was_left(tmp_path):
    path = write_kind(tmp_path, "console", *FALLING)
    with watching(path, "--json") as process:
        assert line(process)["evaluations"] == 3
        append(path, " > Keyboard interrupt detected.\n")
        assert over(process) == (0, "", "")


@pytest.mark.parametrize(("verdict", "code"), [("continue", 0), ("stop", 20)])
def test_watch_of_a_run_that_has_ended_says_its_verdict_and_ends(tmp_path, verdict, code):
    mels = FALLING if verdict == "continue" else RISING
    folder = write_run(tmp_path, start(), curve(*mels), ended(10 * len(mels)))
    done = call("gate", folder, "--watch", "--json")
    assert (done.returncode, done.stderr) == (code, "")
    assert strict(done.stdout)["verdict"] == verdict
    assert f": {verdict}  (policy" in call("gate", folder, "--watch").stdout


def test_ctrl_c_ends_watch_with_130_and_no_traceback(tmp_path):
    path = write_kind(tmp_path, "console", *FALLING)
    with watching(path, "--json") as process:
        line(process)
        process.send_signal(signal.SIGINT)
        code, more, told = over(process)
    assert (code, more, told.strip()) == (130, "", "")


def test_watch_says_that_its_file_is_gone(tmp_path):
    path = write_kind(tmp_path, "console", *FALLING)
    with watching(path, "--json") as process:
        line(process)
        path.unlink()
        code, more, told = over(process)
    assert (code, more) == (2, "")
    assert len(told.splitlines()) == 1 and str(path) in told


def test_watch_goes_on_with_a_file_that_was_replaced(tmp_path):
    path = write_kind(tmp_path, "console", *FALLING)
    with watching(path, "--json") as process:
        assert line(process)["evaluations"] == 3
        (tmp_path / "new").write_text(console_log(5.0, folder="/runs/new"))
        (tmp_path / "new").replace(path)
        found = line(process)
        assert (found["evaluations"], found["run"]) == (1, "new")


def test_watch_goes_on_with_the_run_that_begins_further_on_in_the_log(tmp_path):
    path = write_kind(tmp_path, "console", 3.0, 2.8)
    with watching(path, "--json") as process:
        assert line(process)["run"] == "a"
        append(path, console_log(5.0, 4.0, 3.5, folder="/runs/b"))
        found = line(process)
        assert found["run"] == "b"
        assert [run["run"] for run in found["runs"]] == ["a", "b"]


def test_a_pipe_that_is_closed_ends_watch_without_a_traceback(tmp_path):
    path = write_kind(tmp_path, "console", 3.0, 2.8)
    with watching(path, "--json") as process:
        line(process)
        process.stdout.close()
        append(path, console_epoch(2, 2.6))
        process.wait(60)
        assert "Traceback" not in process.stderr.read()


def test_watch_as_a_library_goes_back_with_a_resume_and_on_from_there(tmp_path):
    folder = write_run(tmp_path, start(), curve(3.0, 2.6, 2.3))
    journal = Journal(journal_path(folder))
    documents = offline.watch(folder, interval=0)
    assert next(documents)["latest"]["step"] == 30
    for event in (start(step=20, epoch=2), trained(2), evaluated(2, 2.2), ended(30)):
        journal.append(event)
    found = next(documents)
    assert (found["latest"]["step"], found["latest"]["value"], found["evaluations"]) == (30, 2.2, 3)
    assert list(documents) == []


# What is not needed is not imported


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["gate", "status"])
def test_no_source_needs_torch_tts_or_numpy(tmp_path, kind, verb):
    path = write_kind(tmp_path, kind, *FALLING)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "xtts_gatekeeper", verb, path],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {told.rpartition("|")[2].strip().partition(".")[0] for told in done.stderr.splitlines()}
    assert "xtts_gatekeeper" in imported
    assert not imported & {"torch", "torchaudio", "TTS", "trainer", "transformers", "numpy", "coqpit", "tensorboard"}


def test_a_policy_in_force_is_read_back_before_the_run_has_logged_anything(tmp_path):
    run = write_run(tmp_path / "run", start(), ended(0, "crashed"))
    folder = run / "gatekeeper"
    folder.joinpath("config.json").write_text(json.dumps({"metrics": {"mine": "loss_x"}}))
    folder.joinpath("policy.yaml").write_text(
        "{version: 1, name: mine, health: [{rule: not_worsening, metric: eval.mine, on_fail: stop}]}"
    )
    code, told = document("gate", run)
    assert (code, told["verdict"]) == (30, "undecided")

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from records import curve, ended, evaluated, incident, judged, pruned, saved, start, trained, write_run

from xtts_gatekeeper import __version__
from xtts_gatekeeper.cli import EXIT_CODES
from xtts_gatekeeper.gates import load_policy
from xtts_gatekeeper.gates.evaluate import EXIT_CODES as CODES_OF_VERDICTS
from xtts_gatekeeper.record.events import PhaseStart

ROOT = Path(__file__).parent.parent
TARGET = """\
version: 1
name: mine
health:
  - {rule: target, metric: eval.mel_ce, value: 2.5, on_fail: OUTCOME}
"""


def call(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "xtts_gatekeeper", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def document(*arguments):
    """The one JSON document on stdout; nothing else may be said anywhere."""
    done = call(*arguments, "--json")
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with two rises after its best."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    events = [start(), PhaseStart(step=0, epoch=0, name="phase 2", index=0, lr=1e-6)]
    events += [*curve(3.507, 3.008), saved(20), saved(20, "best"), *curve(2.971, first=2), saved(30, "best")]
    events += [pruned(30, "checkpoint_20.pth", "best_model_20.pth"), *curve(2.971, 2.978, 2.995, first=3)]
    write_run(folder, events, incident(55, message="a [bold]strange[/] thing"), saved(60), ended(60))
    (folder / "best_model_30.pth").write_bytes(b"x" * 2_000_000)
    return folder


@pytest.fixture
def target(tmp_path):
    """The path of a policy that says OUTCOME once eval.mel_ce is below 2.5."""

    def write(outcome):
        path = tmp_path / f"{outcome}.yaml"
        path.write_text(TARGET.replace("OUTCOME", outcome))
        return path

    return write


# Help


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["gate", "--help"], ["status", "--help"], ["demo", "--help"]]
)
def test_help_is_on_stdout_and_fine(arguments):
    done = call(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout


def test_help_names_every_verb_and_exit_code():
    told = " ".join(call("--help").stdout.split())
    for word in ("gate", "status", "demo", "0 fine", "10 tune", "20 stop", "30 undecided", "1 a check failed", "2 bad"):
        assert word in told


def test_no_verb_at_all_is_bad_usage_with_help():
    done = call()
    assert done.returncode == 2
    assert "Usage:" in done.stdout + done.stderr


def test_version():
    assert call("--version").stdout.split()[-1] == __version__


# gate


@pytest.mark.parametrize(
    ("mels", "outcome", "code", "verdict"),
    [
        ([3.0, 2.8, 2.6], "stop", 0, "continue"),
        ([3.0, 2.4], "tune", 10, "tune"),
        ([3.0, 2.4], "stop", 20, "stop"),
        ([3.0], "stop", 30, "undecided"),
    ],
)
def test_gate_exits_with_its_verdict(tmp_path, target, mels, outcome, code, verdict):
    folder = write_run(tmp_path / "run", start(), curve(*mels))
    done = call("gate", folder, "--policy", target(outcome))
    assert done.returncode == code
    assert verdict in done.stdout
    assert done.stderr == ""
    assert document("gate", folder, "--policy", target(outcome))[1]["verdict"] == verdict


def test_gate_json_has_the_promised_keys(run):
    code, told = document("gate", run)
    promised = "verdict reasons objective evaluations best latest segments projection policy_hash source"
    assert {*promised.split(), "runs", "run", "model", "next_steps", "notes"} <= told.keys()
    assert "replay" not in told
    assert (code, told["evaluations"]) == (EXIT_CODES[told["verdict"]], 6)
    assert (told["source"], told["run"], told["model"]) == ("journal", "1", "XTTS")
    assert told["best"]["checkpoint"] == "best_model_30.pth"
    assert told["latest"]["step"] == 60
    assert told["policy_hash"] == load_policy("checklist").hash


def test_gate_at_judges_as_it_stood_then(run):
    at_gate_a = document("gate", run, "--at", "epoch:5")[1]
    assert (at_gate_a["gates"], at_gate_a["evaluations"]) == (["Gate A"], 5)
    assert document("gate", run, "--at", "step:10")[0] == 30


def test_gate_json_is_strict_when_a_loss_is_nan(tmp_path):
    write_run(tmp_path, start(), curve(3.0), trained(1), evaluated(1, float("nan")))
    code, told = document("gate", tmp_path)
    assert (code, told["latest"]["value"]) == (20, "nan")


def test_the_rules_a_run_was_started_with_are_its_default(tmp_path, target):
    folder = write_run(tmp_path / "run", start(), curve(3.0, 2.4))
    (folder / "gatekeeper/policy.yaml").write_bytes(target("tune").read_bytes())
    assert document("gate", folder)[1]["policy"] == "mine"
    assert document("gate", folder, "--policy", "checklist")[1]["policy"] == "checklist"


def test_the_exit_codes_of_the_command_line_are_those_of_the_verdicts():
    assert CODES_OF_VERDICTS == EXIT_CODES


# status


def test_status_json_has_a_row_for_each_evaluation_and_epoch(tmp_path):
    first, second = evaluated(0, 3.0), evaluated(1, 2.9)
    events = [start(), trained(0, loss=3.1, mel=3.0), first, judged(first, "tune"), trained(1), second, trained(2)]
    code, told = document("status", write_run(tmp_path, events))
    assert code == 0
    assert [(row["epochs_done"], row["objective"], row["decision"]) for row in told["rows"]] == [
        (1, 3.0, "tune"),
        (2, 2.9, "undecided"),
        (3, None, ""),
    ]
    assert told["rows"][0]["train_total"] == 3.1
    assert told["state"] == "running or killed"
    assert told["verdict"]["verdict"] == "undecided"


def test_status_prints_table_phases_incidents_and_disk_uncut(run):
    done = call("status", run)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("finished", "5 (Gate A)", "2.9950", "phase 2", "1e-06", "a [bold]strange[/] thing", "2 MB"):
        assert word in done.stdout
    assert "…" not in done.stdout


# Bad input: one sentence, exit code 2


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """A folder full of what users give by mistake."""
    folder = tmp_path_factory.mktemp("bad")
    write_run(folder / "several/a", start())
    write_run(folder / "several/b", start())
    write_run(folder / "run", start(), curve(3.0, 2.0))
    write_run(folder / "empty", []).joinpath("gatekeeper/journal.jsonl").touch()
    write_run(folder / "strange", []).joinpath("gatekeeper/journal.jsonl").write_bytes(b"\x89PNG\r\n")
    (folder / "nothing").mkdir()
    (folder / "log.txt").write_text("| > loss: 2.0\n")
    (folder / "broken.yaml").write_text("version: 1\nname: x\nhealth:\n  - rule: finit\n    on_fail: stop\n")
    return folder


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("gate missing", "missing does not exist"),
        ("gate missing --json", "missing does not exist"),
        ("gate nothing", "nothing holds no run: no gatekeeper/journal.jsonl, no trainer_0_log.txt, no TensorBoard"),
        ("gate several", "several holds 2 runs; name one of them: a, b"),
        ("gate log.txt", "log.txt holds no output of a training that is known"),
        ("status log.txt", "log.txt holds no output of a training that is known"),
        ("gate run --run other", "run has no run 'other'; it has 1"),
        ("gate run --watch --at epoch:1", "cannot be combined with --at or --replay"),
        ("gate empty", "the run has recorded nothing yet"),
        ("gate strange", "journal.jsonl:1 is not a line of a gatekeeper journal"),
        ("gate run --at 5", "--at '5' is neither epoch:N nor step:N"),
        ("gate run --at epoch:9", "no evaluation at epoch:9"),
        ("gate run --policy nosuch", "there is no policy 'nosuch'"),
        ("gate run --policy broken.yaml", "broken.yaml:4: unknown rule 'finit', did you mean 'finite'?"),
        ("gate run --polcy x", "--polcy"),
        ("gate run --at", "--at"),
        ("gate run another", "another"),
        ("gate", "RUN"),
        ("gat run", "did you mean 'gate'"),
        ("--nope", "--nope"),
        ("status missing", "missing does not exist"),
        ("status several --json", "several holds 2 runs"),
        ("status run --policy broken.yaml", "broken.yaml:4"),
        ("demo --epochs 1", "--epochs"),
    ],
)
def test_bad_input_is_one_sentence_on_stderr_and_exit_code_2(bad, line, sentence):
    done = call(*line.split(), cwd=bad)
    assert done.returncode == 2
    assert done.stdout == ""
    (told,) = done.stderr.splitlines()
    assert told.startswith("xtts-gatekeeper: ")
    assert sentence.lower() in told.lower()


@pytest.mark.parametrize("verb", ["gate", "status"])
@pytest.mark.parametrize("option", [[], ["--json"]])
def test_offline_verbs_import_neither_torch_nor_tts_nor_trainer(run, tmp_path, verb, option):
    code = """
import atexit, os, sys
from pathlib import Path
atexit.register(lambda: Path(os.environ["MODULES"]).write_text(" ".join(sys.modules)))
from xtts_gatekeeper.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, verb, run, *option],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MODULES": str(tmp_path / "modules")},
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) in [(code, b"") for code in EXIT_CODES.values()]
    modules = set((tmp_path / "modules").read_text().split())
    assert "xtts_gatekeeper.gates.evaluate" in modules
    assert not modules & {"torch", "torchaudio", "TTS", "trainer", "transformers", "numpy", "coqpit"}


# What a review found


def test_names_are_shown_as_they_are_and_never_taken_for_markup(tmp_path):
    write_run(tmp_path / "run", start(), *curve(3.0, 2.0))
    policy = tmp_path / "odd.yaml"
    policy.write_text(TARGET.replace("mine", '"a[/b] c[x]"').replace("OUTCOME", "stop"))
    (tmp_path / "run" / "best[x].pth").write_bytes(b"x")
    (tmp_path / "run" / "gone.pth").symlink_to(tmp_path / "nowhere")
    done = call("status", tmp_path / "run", "--policy", policy, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "a[/b] c[x]" in done.stdout and "best[x].pth" in done.stdout


@pytest.mark.parametrize("path", ["/dev/null", "x" * 5000])
def test_a_path_that_the_system_refuses_is_one_sentence(path):
    done = call("gate", path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr


def test_a_console_without_dashes_still_gets_its_table(tmp_path):
    write_run(tmp_path / "run", start(), *curve(3.0, 2.0))
    done = call("status", tmp_path / "run", PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr

"""The recipes as a user starts them: processes of their own."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from files import tree
from processes import leaves, only_run, wait_for_line

from xtts_gatekeeper import read_run
from xtts_gatekeeper.checkpoints.integrity import damage as damage_of

ROOT = Path(__file__).parents[2]
RECIPES = ("train_phase1.py", "train_phase2.py", "train_two_phase.py")


@pytest.fixture(scope="module")
def phase1(tmp_path_factory, toy_base, speech):
    """The finished run of train_phase1.py on the toy."""
    output = tmp_path_factory.mktemp("phase1")
    flags = ["--data", speech, "--base", toy_base, "--output", output, "--epochs", "2", "--lr", "1e-3"]
    done = subprocess.run(
        [sys.executable, ROOT / "recipes/train_phase1.py", *map(str, flags)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return only_run(output)


def test_phase2_resumes_phase1s_best_at_its_own_learning_rate_and_two_at_once_do_not_share_a_folder(
    phase1, tmp_path, toy_base, speech
):
    flags = ["--resume", phase1, "--data", speech, "--base", toy_base, "--output", tmp_path, "--epochs", "1"]
    command = [sys.executable, ROOT / "recipes/train_phase2.py", *map(str, flags)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    runs = sorted(path for path in tmp_path.iterdir() if (path / "gatekeeper").is_dir())
    assert len(runs) == 2
    best = next(file for file in read_run(phase1).files if file.kind == "best")
    for run in runs:
        record = read_run(run)
        assert record.end.how == "finished"
        assert record.start.resume_mode == "restore"
        assert Path(record.start.resumed_from) == phase1 / best.path
        assert record.train_epochs[0].lr_end == [1e-6] * 2  # the report's
        assert record.start.eval_set == read_run(phase1).start.eval_set
        # At 1e-6 the restored weights hardly move: the evaluation is phase 1's best again.
        assert record.evaluations[0].metrics["eval.mel_ce"] == pytest.approx(best.value, rel=1e-3)


def test_two_phases_in_one_run_stop_by_their_policy_with_exit_code_0(tmp_path, toy_base, speech, python):
    policy = tmp_path / "gates.yaml"
    policy.write_text(
        "version: 1\nname: soon\nhealth:\n- {rule: target, metric: eval.mel_ce, value: 1000, on_fail: stop}\n"
    )
    flags = ["--data", speech, "--base", toy_base, "--output", tmp_path / "runs", "--epochs", 4, "--policy", policy]
    done = python("recipes/train_two_phase.py", *flags, "--lr1", "1e-3", "--lr2", "3e-4", "--switch-step", "3")
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "runs")
    record = read_run(run)
    assert record.end.how == "stopped"
    assert [(phase.lr, phase.step) for phase in record.phases] == [(1e-3, 0), (3e-4, 3)]
    ending = done.stderr.split("stopped at step")[-1]
    assert "Val mel/" in ending and "Verdict: stop" in ending and "freed by pruning" in ending
    gate = python("-m", "xtts_gatekeeper", "gate", run, "--json")
    assert gate.returncode == 20
    assert json.loads(gate.stdout)["best"]["checkpoint"] == f"best_model_{record.evaluations[-1].step}.pth"


def test_ctrl_c_saves_and_is_on_record(tmp_path, toy_base, speech, started):
    flags = ["--data", speech, "--base", toy_base, "--output", tmp_path, "--epochs", 50, "--save-step", 2]
    process = started("recipes/train_phase1.py", *flags)
    wait_for_line(process, "saved checkpoint_2.pth")
    process.send_signal(signal.SIGINT)
    leaves(process)
    assert process.returncode == 130
    run = only_run(tmp_path)
    record = read_run(run)
    assert record.end.how == "interrupted"
    assert record.files[-1].step - 1 <= record.end.step <= record.files[-1].step  # saved where it was interrupted
    assert all(damage_of(run / file.path) is None for file in record.files)


def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(tmp_path, toy_base, speech, python, started):
    flags = ["--data", speech, "--base", toy_base, "--output", tmp_path, "--save-step", 3, "--lr1", 1e-3, "--lr2", 1e-4]
    process = started("recipes/train_two_phase.py", *flags, "--epochs", 50, "--switch-step", 10)
    wait_for_line(process, "saved checkpoint_15.pth")
    process.kill()
    process.communicate(timeout=60)
    run = only_run(tmp_path)
    at_kill = read_run(run)
    assert at_kill.end is None

    more = ["--epochs", 6, "--switch-step", 10, "--continue_path", run]
    done = python("recipes/train_two_phase.py", *flags, *more, "--coqpit.epochs", 6)
    assert done.returncode == 0, done.stderr
    record = read_run(run)
    assert record.end.how == "finished"
    assert record.start.resume_mode == "continue"
    assert record.start.step >= max(file.step for file in at_kill.files)
    steps = [evaluation.step for evaluation in record.evaluations]
    assert steps == sorted(set(steps))  # no evaluation of an abandoned stretch is left
    assert record.train_epochs[-1].lr_end == [1e-4] * 2
    assert [phase.name for phase in record.phases] == ["phase 1", "phase 2", "phase 2"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_names_every_flag_and_the_reports_defaults(recipe, python):
    text = python(f"recipes/{recipe}", "--help").stdout
    assert "--data" in text and "--base" in text and "--no-stop" in text
    assert "1e-06" in text or recipe == "train_phase1.py"
    assert "1.5e-06" in text or recipe == "train_phase2.py"


def broken_metadata(folder):
    (folder / "metadata.csv").write_text("en-0001|fine|fine\nno bar in this line\n")


def unreadable_audio(folder):
    next(iter(sorted((folder / "wavs").glob("*.wav")))).write_text("not audio")


def no_metadata(folder):
    (folder / "metadata.csv").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, "does not exist"),
        (no_metadata, "metadata.csv"),
        (broken_metadata, "metadata.csv:2"),
        (unreadable_audio, ".wav"),
    ],
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_bad_data_is_one_sentence_and_exit_code_2_before_training(tmp_path, speech, python, recipe, damage, said):
    data = tmp_path / "data"
    shutil.copytree(speech, data)
    damage(data)
    before = tree(tmp_path)
    resume = ["--resume", tmp_path] if recipe == "train_phase2.py" else []
    done = python(f"recipes/{recipe}", "--data", data, "--output", tmp_path / "runs", *resume)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("xtts-gatekeeper: ")
    if not resume:  # phase 2 looks at the checkpoint first, and there is none
        assert said in done.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--resume", "no/such/run"], "no/such/run does not exist"),
        (["--resume", "no/checkpoint_7.pth"], "no/checkpoint_7.pth does not exist"),
        ([], "--resume"),
        (["--resume", "recipes"], "holds no best checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_exist_is_refused(speech, tmp_path, python, flags, said):
    done = python("recipes/train_phase2.py", "--data", speech, "--output", tmp_path / "runs", *flags)
    assert done.returncode == 2
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--polcy", "x"], "did you mean '--policy'?"),
        (["--policy", "no-such.yaml"], "there is no policy 'no-such.yaml'"),
        (["--base", "no/such/base"], "no/such/base"),
        (["--base", "toy", "--lr2", "-1"], "phase 2 has the learning rate -1.0"),
        (["--switch-epoch", "0"], "phase 1 ends at until_epoch 0"),
        (["--lr2", "-1"], "phase 2 has the learning rate -1.0"),
        (["--eval-fraction", "1.5"], "1.5"),
        (["--language", "xx"], "xx"),
    ],
)
def test_bad_flags_are_refused_before_training(speech, toy_base, tmp_path, python, flags, said):
    base = [] if "--base" in flags else ["--base", toy_base]
    done = python("recipes/train_two_phase.py", "--data", speech, "--output", tmp_path / "runs", *base, *flags)
    assert done.returncode == 2
    assert said in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []

"""Engines that start the same command again and again: Slurm with docs/slurm.sh, and torchrun."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from processes import only_run, wait_for_line

from xtts_gatekeeper import read_run
from xtts_gatekeeper.record.events import Crash, Start

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs/slurm.sh"

#: What the script calls. The step is told its rank; the job's shell is sent SIGTERM where a test asks for it.
STUBS = {
    "srun": """while [[ $1 == --* ]]; do shift; done
[ -z "${TERM_SHELL:-}" ] || kill -TERM "$PPID"
SLURM_PROCID=0 exec "$@" """,
    "squeue": 'echo "${STATE:-RUNNING}"',
    "scontrol": 'echo "$*" >> "$CALLS"',
}


def whole(record):
    """That the epochs and evaluations follow each other without a gap or a duplicate, and end with the plan."""
    batches = record.train_epochs[0].batches
    epochs = [(epoch.epoch, epoch.step, epoch.batches) for epoch in record.train_epochs]
    assert epochs == [(number, (number + 1) * batches, batches) for number in range(len(epochs))]
    assert [(e.epoch, e.step) for e in record.evaluations] == [epoch[:2] for epoch in epochs]
    assert record.end.how == "finished"


@pytest.fixture
def slurm(tmp_path):
    """Run the script as a job: `slurm(plan, **variables)`; its exit code, what it printed, the calls of scontrol."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in STUBS.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tools / name).chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()

    def job(plan="[]", *flags, **variables):
        before = calls.read_text()
        done = subprocess.run(
            ["bash", SCRIPT, *flags],
            env={
                **os.environ,
                "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "PYTHON": sys.executable,
                "RECIPE": str(ROOT / "tests/engine_recipe.py"),
                "DATA": "none",
                "OUTPUT": str(tmp_path / "runs"),
                "CALLS": str(calls),
                "SLURM_JOB_ID": "42",
                "FAULTS": plan,
                "FAULTS_FOLDER": str(tmp_path),
                **variables,
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr, calls.read_text()[len(before) :].split("\n")[:-1]

    return job


def test_a_job_that_reaches_its_time_limit_is_requeued_and_goes_on(slurm, tmp_path):
    plan = '[{"kind": "SIGTERM", "step": 7}]'
    # A shell that submits may have variables of another job; a preemption also signals the job's own shell.
    code, said, calls = slurm(plan, RANK="3", WORLD_SIZE="4", TERM_SHELL="1")
    assert (code, calls) == (143, ["requeue 42"]), said
    run = only_run(tmp_path / "runs")
    record = read_run(run)
    assert record.end.how == "terminated" and record.files[-1].step == record.end.step == 8

    code, said, calls = slurm(plan, SLURM_RESTART_COUNT="1")
    assert (code, calls) == (0, []), said
    assert "TRAINED 20" in said and f"going on with {run}" in said
    record = read_run(only_run(tmp_path / "runs"))
    whole(record)
    assert [event.step for event in record.events if isinstance(event, Start)] == [0, 8]

    code, said, calls = slurm(plan, SLURM_RESTART_COUNT="2")
    assert (code, calls) == (0, []), said
    assert "there is nothing to go on with" in said and "TRAINED" not in said


def test_a_job_that_is_cancelled_saves_and_does_not_come_back(slurm, tmp_path):
    code, said, calls = slurm('[{"kind": "SIGTERM", "step": 7}]', STATE="COMPLETING")
    assert (code, calls) == (143, []), said
    assert read_run(only_run(tmp_path / "runs")).files[-1].step == 8


def test_a_kill_costs_the_job_nothing_and_what_no_restart_cures_is_tried_on_one_more_node(slurm, tmp_path):
    code, said, calls = slurm('[{"kind": "SIGKILL", "step": 6}, {"kind": "exception", "step": 10, "times": 99}]')
    assert (code, calls) == (1, ["requeue 42"]), said
    crashes = [event.kind for event in read_run(only_run(tmp_path / "runs")).events if isinstance(event, Crash)]
    assert crashes == ["killed", "exception", "exception"]
    code, said, calls = slurm(PYTHON="false", SLURM_RESTART_COUNT="1")
    assert (code, calls) == (1, []), said
    # Requeues for the time limit do not use up what crashes may have.
    for number, requeued in ((7, ["requeue 43"]), (8, [])):
        code, said, calls = slurm(PYTHON="false", SLURM_JOB_ID="43", SLURM_RESTART_COUNT=str(number))
        assert (code, calls) == (1, requeued), said


def test_flags_are_the_recipes_and_a_refusal_ends_the_job(slurm, tmp_path):
    code, said, calls = slurm("[]", "--epochs", "0")
    assert (code, calls) == (2, []), said
    assert "--epochs is 0" in said and not (tmp_path / "runs").exists()


def test_the_script_asks_for_what_its_comments_say():
    text = SCRIPT.read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert asked["signal"].startswith("TERM@") and asked["ntasks"] == "1"
    assert "requeue" in asked and asked["open-mode"] == "append"
    assert text.index("#SBATCH --signal") < text.index("\n: ")  # Slurm reads no options behind a command


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory, toy_base, speech):
    """The output of a recipe under torchrun, whose process was killed once; its flags, and what was printed since."""
    output = tmp_path_factory.mktemp("torchrun")
    flags = ["--data", speech, "--base", toy_base, "--output", output, "--epochs", 3, "--save-step", 2]
    flags = list(map(str, [*flags, "--lr1", 1e-3, "--lr2", 1e-4, "--resume", "auto"]))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "--max-restarts", "2"]
    engine = subprocess.Popen(
        [sys.executable, *launcher, ROOT / "recipes/train_two_phase.py", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    try:
        wait_for_line(engine, "saved checkpoint_6.pth")
        (recipe,) = psutil.Process(engine.pid).children()
        recipe.send_signal(signal.SIGKILL)
        said = engine.communicate(timeout=300)[0]
    finally:
        engine.kill()
        engine.wait()
    assert engine.returncode == 0, said
    return output, flags, said


def test_torchrun_starts_a_killed_recipe_again_and_it_goes_on(killed_once):
    output, _, said = killed_once
    run = only_run(output)
    assert f"going on with {run}" in said
    record = read_run(run)
    whole(record)
    starts = [event for event in record.events if isinstance(event, Start)]
    assert [start.resume_mode for start in starts] == ["new", "continue"]
    assert starts[1].step >= 6 and starts[1].epoch_batches == starts[1].step % record.train_epochs[0].batches


def test_auto_finds_nothing_to_go_on_with_once_the_run_has_finished(killed_once, python):
    output, flags, _ = killed_once
    before = sorted(output.rglob("*"))
    done = python("recipes/train_two_phase.py", *flags)
    assert done.returncode == 0
    assert f"{only_run(output)} has finished: there is nothing to go on with" in done.stderr
    assert sorted(output.rglob("*")) == before

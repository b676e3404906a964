"""A real recipe that crashes in every way we know, under `xtts-gatekeeper run` and without it."""

import json
import os
import runpy
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from disks import small_disk  # noqa: F401
from lines import BATCH, CLIPS, STEPS
from processes import wait_for_line

from xtts_gatekeeper import read_run
from xtts_gatekeeper.crashes.evidence import read_evidence
from xtts_gatekeeper.record import Start
from xtts_gatekeeper.record.events import BatchParts, Crash, PhaseStart
from xtts_gatekeeper.report.table import crashes as told_by_status

RECIPE = Path(__file__).parents[1] / "line_recipe.py"
RUN = [sys.executable, "-m", "xtts_gatekeeper", "run", "--backoff", "0", "--max-restarts", "20"]

#: The steps at which faults are planted in two runs, and what each is taken for.
ERRORS = {
    "illegal access": (5, "gpu_fault"),
    "launch failure": (8, "gpu_fault"),
    "device-side assert": (11, "gpu_assert"),
    "ECC": (15, "gpu_lost"),
    "lost device": (22, "gpu_lost"),
    "exception": (27, "exception"),
    "other exception": (32, "exception"),
    "host memory in the update": (37, "host_out_of_memory"),
}
DEATHS = {
    "SIGKILL": (6, "killed"),
    "SIGSEGV": (9, "segfault"),
    "hang": (13, "hang"),
    "SIGBUS": (20, "segfault"),
    "SIGABRT": (25, "segfault"),
    "hang with the GIL": (31, "hang"),
    "exit": (38, "exit"),
}
KINDS = {**ERRORS, **DEATHS}
EPOCHS = 12
#: Learning too slowly to count, until patience ends the first phase; then as fast as it can.
PHASES = [
    {"name": "slow", "lr": 1e-6, "until_plateau": 3},
    {"name": "fast", "lr": 0.1, "until_step": 30},
    {"name": "fine", "lr": 0.01},
]
LONG = {"epochs": EPOCHS, "gatekeeper": {"phases": PHASES, "hang": {"minimum_seconds": 3.0}}}
NOT_BESIDE = {"checkpoints": {"asynchronous": False}}


def said_by(process):
    """What it prints until its end; one that does not come to it is killed, with all that it has started."""
    try:
        return process.communicate(timeout=300)[0]
    except subprocess.TimeoutExpired:
        for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
            one.kill()
        raise AssertionError(f"it hangs:\n{process.communicate()[0][-6000:]}") from None


@dataclass
class Scene:
    """A run, or several in a row of the same output, and how it ended.

    `plan` holds faults: kind, step, how often, and in which run where there are several.
    """

    plan: list = field(default_factory=list)
    line: dict = field(default_factory=dict)
    run: list = field(default_factory=lambda: RUN)
    processes: int = 1
    folder: Path | None = None
    exit_codes: list = field(default_factory=list)
    said: str = ""

    def happens(self, folder, **environment):
        """Start it, each process going on with the run of the one before."""
        self.folder = folder
        keys = ("kind", "step", "times", "run")
        faults = [dict(zip(keys, fault, strict=False)) for fault in self.plan]
        told = {"LINE": json.dumps(self.line), "FAULTS": json.dumps(faults), "FAULTS_FOLDER": str(folder)}
        for _ in range(self.processes):
            going_on = ["--continue_path", self.folders[-1]] if self.exit_codes else []
            process = subprocess.Popen(
                [*self.run, *["--"][: len(self.run)], sys.executable, RECIPE, folder / "out", *going_on],
                env={**os.environ, "TMPDIR": str(folder), **told, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # A shell starts background jobs, CI among them, with Ctrl-C switched off, and children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
            self.said += said_by(process)
            self.exit_codes.append(process.returncode)
        return self

    @property
    def folders(self):
        """Every run folder, oldest first."""
        return sorted((path for path in (self.folder / "out").iterdir()), key=lambda path: path.stat().st_ctime_ns)

    @property
    def record(self):
        (run,) = self.folders
        return read_run(run)

    @property
    def crashes(self):
        return [event for event in self.record.events if isinstance(event, Crash)]

    def evidence(self, crash):
        (run,) = self.folders
        return read_evidence(run / crash.evidence)


SCENES = {
    "through": Scene(line=LONG, run=[]),
    "errors": Scene([(kind, step, 1) for kind, (step, _) in ERRORS.items()], LONG),
    "deaths": Scene([(kind, step, 1) for kind, (step, _) in DEATHS.items()], LONG),
    "short": Scene(run=[]),
    "left_twice": Scene([("SIGTERM", 5, 1), ("SIGINT", 13, 1)], processes=3),
    "memory_and_numbers": Scene(
        [("out of memory", 5, 1), ("out of memory", 9, 1), ("NaN", 13, 1), ("NaN", 18, 1)],
        {"eval_fits": 2, "epochs": 8, "gatekeeper": {"gradients": {"nonfinite_limit": 2}}},
    ),
    "short_of_memory": Scene([("host memory", 2, 1)], {"epochs": 1}),
    "at_once": Scene([("exception", 0, 9)], {"gatekeeper": NOT_BESIDE}),
    "at_once_alone": Scene([("exception", 2, 9)], run=[]),
    "same_step": Scene([("SIGSEGV", 7, 9)], {"gatekeeper": NOT_BESIDE}),
    "poisoned": Scene(
        [],
        {"clips": True, "poison": "9.wav", "save_step": 1, "gatekeeper": NOT_BESIDE},
        [*RUN, "--exclude-suspects"],
    ),
    "poisoned_at_once": Scene(
        [],
        {"clips": True, "poison": "9.wav", "save_step": 4, "gatekeeper": NOT_BESIDE},
        [*RUN, "--exclude-suspects"],
    ),
    "no_command_line": Scene([("SIGKILL", 7, 1)], {"parse": False}),
    "two_runs": Scene(
        [("SIGKILL", 7, 1, "one"), ("SIGSEGV", 9, 1, "two"), ("SIGKILL", 9, 2, "two")],
        {"runs": ["one", "two"], "epochs": 3},
    ),
    "stock_saves": Scene([("SIGKILL", 7, 1)], {"gatekeeper": {"checkpoints": {"prune": False}}}),
    "only_watched": Scene([("SIGKILL", 7, 1)], {"gatekeeper": {"watch_only": True}}),
    "done_and_failed": Scene([], {"epochs": 1, "exit": 3}),
    "hung_evaluation": Scene(
        [],
        {"epochs": 1, "eval_seconds": 600, "gatekeeper": {"hang": {"minimum_seconds": 3.0, "evaluation": True}}},
        [*RUN, "--max-restarts", "0"],
    ),
    "slow_to_pass_over": Scene(
        [("SIGKILL", 3, 1)],
        {
            "epochs": 1,
            "save_step": 2,
            "load_seconds": 0.4,
            "workers": 1,
            "gatekeeper": {**NOT_BESIDE, "hang": {"minimum_seconds": 3.0, "factor": 0.1}},
        },
    ),
    "slow_evaluation": Scene([], {"epochs": 1, "eval_seconds": 1.5, "gatekeeper": {"hang": {"minimum_seconds": 1.0}}}),
}


@pytest.fixture(scope="module")
def scenes(request, tmp_path_factory):
    """Those that the tests need, two at a time: a process takes its seconds to import torch."""
    needed = {name for item in request.session.items for name in item.fixturenames if name in SCENES}
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(scene.happens, tmp_path_factory.mktemp(name))
            for name, scene in SCENES.items()
            if name in needed
        }


def scene(name):
    @pytest.fixture(scope="module", name=name)
    def ended(scenes):
        return scenes[name].result()

    return ended


through, errors, deaths = map(scene, ("through", "errors", "deaths"))
short, left_twice = map(scene, ("short", "left_twice"))
memory_and_numbers, at_once, at_once_alone = map(scene, ("memory_and_numbers", "at_once", "at_once_alone"))
same_step, poisoned, no_command_line = map(scene, ("same_step", "poisoned", "no_command_line"))
slow_evaluation, short_of_memory = map(scene, ("slow_evaluation", "short_of_memory"))
poisoned_at_once, two_runs, stock_saves = map(scene, ("poisoned_at_once", "two_runs", "stock_saves"))
only_watched, done_and_failed = map(scene, ("only_watched", "done_and_failed"))
hung_evaluation, slow_to_pass_over = map(scene, ("hung_evaluation", "slow_to_pass_over"))


def history(record):
    """What a run has trained and measured, in order."""
    return {
        "evaluations": [(e.step, e.epoch, e.mid_epoch, e.metrics) for e in record.evaluations],
        "epochs": [(e.step, e.epoch, e.batches, e.samples, e.lr_end, e.metrics) for e in record.train_epochs],
    }


# Every kind


def test_no_kind_of_fault_is_forgotten():
    known = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/faults.py"))["FAULTS"]
    planted = {fault[0] for scene in SCENES.values() for fault in scene.plan}
    assert planted | {"disk full"} == {*known, "NaN"}


@pytest.fixture(scope="module", params=["errors", "deaths"])
def crashed(request, errors, deaths):
    """A run that crashed many times, and the plan of it."""
    return (errors, ERRORS) if request.param == "errors" else (deaths, DEATHS)


def test_a_run_that_crashed_in_every_way_is_the_run_that_went_through(crashed, through):
    scene, _ = crashed
    assert through.exit_codes == scene.exit_codes == [0]
    assert "TRAINED 48" in scene.said
    assert scene.record.end.how == "finished"
    assert history(scene.record) == history(through.record)
    assert len(through.record.evaluations) == EPOCHS


@pytest.mark.parametrize(("name", "step", "kind"), [(name, *found) for name, found in KINDS.items()])
def test_each_crash_is_taken_for_what_it_was(errors, deaths, name, step, kind):
    scene = errors if name in ERRORS else deaths
    crash = next(crash for crash in scene.crashes if crash.step == step)
    assert (crash.kind, crash.decision, crash.epoch) == (kind, "restart", step // STEPS)
    first = BATCH * (step % STEPS)
    in_hand = [f"{clip}.wav" for clip in range(first, min(first + BATCH, CLIPS))]
    assert crash.files == in_hand
    found = scene.evidence(crash)
    assert (found["kind"], found["step"], found["files"]) == (kind, step, in_hand)
    assert found["doing"] == "training"
    assert found["output"] and found["machine"]["versions"]["torch"]


def test_there_were_so_many_crashes_and_no_more(crashed):
    scene, plan = crashed
    steps = [step for step, _ in plan.values()]
    assert [crash.step for crash in scene.crashes] == steps
    (run,) = scene.folders
    assert len(list((run / "gatekeeper/output").iterdir())) == len(plan) + 1
    assert [one["step"] for one in told_by_status(run, scene.record)] == steps


def test_what_is_kept_of_an_exception_tells_all_there_is_to_know(errors):
    crash = next(crash for crash in errors.crashes if crash.step == ERRORS["exception"][0])
    found = errors.evidence(crash)
    assert found["error"]["type"] == "KeyError" and found["error"]["where"].startswith("faults.py:")
    assert 'raise KeyError("planted")' in found["error"]["traceback"]
    assert [line["step"] for line in found["last_steps"]][-2:] == [crash.step - 2, crash.step - 1]
    assert "Traceback (most recent call last):" in found["output"]
    assert found["command"][1].endswith("line_recipe.py")
    assert found["device_memory"]["total"] > 0


@pytest.mark.parametrize(("name", "function"), [("hang", "_hang"), ("hang with the GIL", "_hang_with_gil")])
def test_a_hang_leaves_the_stack_of_every_thread(deaths, name, function):
    (run,) = deaths.folders
    texts = [path.read_text() for path in (run / "gatekeeper/crashes").glob("stacks-*.txt")]
    (text,) = (text for text in texts if f"in {function}\n" in text)
    assert text.startswith("Timeout (") and "in train_step\n" in text


def test_phase_rate_and_patience_outlive_every_crash(crashed, through):
    scene, _ = crashed
    assert phases(scene) == phases(through)
    assert [step for step, _, _ in phases(through).values()] == [0, 16, 30]
    # A process goes on with the evaluations that were waited for before it; the first of them was the best.
    starts = [event for event in scene.record.events if isinstance(event, PhaseStart) and event.name == "slow"]
    assert [event.waited for event in starts] == [max(0, event.epoch - 1) for event in starts]
    assert max(event.waited for event in starts) == 2
    assert rates(scene).items() <= rates(through).items()


def phases(scene):
    """Where each phase began first, by its name."""
    seen = {}
    for event in scene.record.events:
        if isinstance(event, PhaseStart):
            seen.setdefault(event.name, (event.step, event.lr, event.why))
    return seen


def rates(scene):
    """The learning rate of each step that was written down."""
    (run,) = scene.folders
    lines = (run / "gatekeeper/steps.jsonl").read_text().splitlines()
    return {line["step"]: line["lr"] for line in map(json.loads, lines)}


# Told to leave


def test_sigterm_and_ctrl_c_leave_a_checkpoint_and_are_not_started_again(left_twice):
    assert left_twice.exit_codes == [143, 130, 0]
    starts = [event for event in left_twice.record.events if isinstance(event, Start)]
    assert [start.step for start in starts] == [0, 6, 14]  # the batch in hand is trained to its end
    ends = [event.how for event in left_twice.record.events if event.type == "end"]
    assert ends == ["terminated", "interrupted", "finished"]
    assert left_twice.crashes == []
    assert "--continue_path RUN, goes on from what is saved" in left_twice.said


def test_who_was_told_to_leave_goes_on_as_if_nothing_had_happened(left_twice, short):
    assert history(left_twice.record) == history(short.record)


def test_sigterm_sent_to_the_supervisor_lets_the_recipe_save(tmp_path):
    process = subprocess.Popen(
        [*RUN, "--", sys.executable, RECIPE, tmp_path / "out"],
        env={**os.environ, "TMPDIR": str(tmp_path), "LINE": '{"epochs": 1000, "step_seconds": 0.05}'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_line(process, "saved checkpoint_6.pth")
    process.send_signal(signal.SIGTERM)
    said = said_by(process)
    assert process.returncode == 143, said
    assert said.count("SIGTERM: leaving after this batch") == 1
    (run,) = (tmp_path / "out").iterdir()
    record = read_run(run)
    assert record.end.how == "terminated"
    assert record.files[-1].step == record.end.step


# Memory, and numbers that are none


def test_a_step_that_has_no_memory_is_no_crash(short_of_memory):
    """What else of the process has no memory from then on is left open: it may, or may not, get over it."""
    record = read_run(short_of_memory.folders[0])
    incident = next(one for one in record.incidents if one.code == "oom")
    assert incident.step == 2 and "DefaultCPUAllocator: can't allocate memory" in incident.message
    assert 2 not in [crash.step for crash in record.crashes]
    assert short_of_memory.exit_codes == [0]


def test_an_evaluation_that_has_no_memory_goes_on_in_smaller_batches(memory_and_numbers):
    crash = memory_and_numbers.crashes[0]
    assert (crash.kind, crash.step, crash.files) == ("out_of_memory", 4, [])
    assert memory_and_numbers.evidence(crash)["doing"] == "evaluating"
    assert "evaluations go on in batches of 2" in memory_and_numbers.said
    first = memory_and_numbers.record.evaluations[0]
    assert (first.step, first.batches, first.samples) == (4, 3, 6)


def test_an_update_that_has_no_memory_is_made_of_smaller_parts(memory_and_numbers):
    first, second = memory_and_numbers.crashes[1:3]
    assert [(crash.kind, crash.step) for crash in (first, second)] == [("out_of_memory", 5), ("out_of_memory", 9)]
    parts = [event for event in memory_and_numbers.record.events if isinstance(event, BatchParts)]
    assert [(event.batch_size, event.grad_accum_steps, event.whole) for event in parts] == [(2, 2, 4), (1, 4, 4)]


def test_numbers_that_are_none_twice_end_it(memory_and_numbers):
    first, second = memory_and_numbers.crashes[3:]
    assert [crash.kind for crash in (first, second)] == ["nonfinite", "nonfinite"]
    assert [crash.decision for crash in (first, second)] == ["restart", "stop"]
    assert memory_and_numbers.exit_codes == [1]
    assert "Lower the learning rate and check the data." in memory_and_numbers.said


# Before there is a checkpoint


def test_a_crash_before_the_first_checkpoint_keeps_the_run_and_its_evidence(at_once):
    assert len(at_once.folders) == 2  # there is nothing to go on with: the second one begins anew
    for run, decision in zip(at_once.folders, ("restart", "stop"), strict=True):
        (crash,) = (event for event in read_run(run).events if isinstance(event, Crash))
        assert (crash.kind, crash.step, crash.trained, crash.decision) == ("exception", 0, 0, decision)
        assert read_evidence(run / crash.evidence)["error"]["message"] == "'planted'"


def test_the_same_exception_twice_is_a_bug_and_ends_it(at_once):
    assert at_once.exit_codes == [1]
    assert "beginning anew, process 2" in at_once.said
    assert "that is a bug, which no restart cures. Its traceback is in gatekeeper/crashes/" in at_once.said


def test_without_the_supervisor_it_is_kept_too(at_once_alone):
    assert at_once_alone.exit_codes == [1]
    (run,) = at_once_alone.folders
    (told,) = told_by_status(run, at_once_alone.record)
    assert (told["kind"], told["step"], told["trained"], told["decision"]) == ("exception", 2, 2, "")
    assert told["files"] == ["8.wav", "9.wav", "10.wav", "11.wav"]
    assert f"what is known of the crash is in {run / told['evidence']}" in at_once_alone.said
    found = read_evidence(run / told["evidence"])
    assert "KeyError: 'planted'" in found["error"]["traceback"]
    assert [line["step"] for line in found["last_steps"]] == [0, 1]


# Clips


def test_two_crashes_at_one_step_name_the_clips_of_its_batch(same_step):
    assert same_step.exit_codes == [1]
    assert [(crash.kind, crash.step, crash.decision) for crash in same_step.crashes] == [
        ("segfault", 7, "restart"),
        ("segfault", 7, "stop"),
    ]
    assert "a clip of its batch is suspected: 12.wav, 13.wav." in same_step.said
    assert "give --exclude-suspects to `xtts-gatekeeper run`, or --exclude FILE to the recipe" in same_step.said
    (run,) = same_step.folders
    assert not (run / "gatekeeper/exclude.txt").exists()


def test_suspected_clips_are_left_out_where_that_is_wanted(poisoned):
    assert poisoned.exit_codes == [0]
    assert [crash.decision for crash in poisoned.crashes] == ["restart", "restart"]
    (run,) = poisoned.folders
    assert (run / "gatekeeper/exclude.txt").read_text().split() == ["8.wav", "9.wav", "10.wav", "11.wav"]
    assert [epoch.samples for epoch in poisoned.record.train_epochs[1:]] == [10] * 4


def test_suspected_clips_of_a_run_without_a_checkpoint_are_left_out_of_the_next(poisoned_at_once):
    assert poisoned_at_once.exit_codes == [0]
    first, second, third = poisoned_at_once.folders
    for run in (first, second):
        (crash,) = (event for event in read_run(run).events if isinstance(event, Crash))
        assert (crash.step, crash.files) == (2, ["8.wav", "9.wav", "10.wav", "11.wav"])
    record = read_run(third)
    assert (third / "gatekeeper/exclude.txt").read_text().split() == crash.files
    assert [epoch.samples for epoch in record.train_epochs] == [10] * 5
    assert "4 clips are left out, by gatekeeper/exclude.txt" in record.start.warnings


# Several runs in one command


def test_of_two_runs_in_one_command_each_goes_on_with_its_own(two_runs):
    assert two_runs.exit_codes == [0]
    runs = {run.name.partition("-")[0]: read_run(run) for run in two_runs.folders}
    assert len(two_runs.folders) == 2 and set(runs) == {"one", "two"}
    crashes = {name: [e for e in record.events if isinstance(e, Crash)] for name, record in runs.items()}
    assert [(crash.kind, crash.step) for crash in crashes["one"]] == [("killed", 7)]
    assert [(crash.kind, crash.step) for crash in crashes["two"]] == [("segfault", 9), ("killed", 9), ("killed", 9)]
    for record in runs.values():
        assert record.end.how == "finished"
        assert [e.step for e in record.evaluations] == [4, 8, 12]
    # The one that was done is passed through: it begins at its end and trains no step more.
    assert [e.step for e in runs["one"].events if isinstance(e, Start)][2:] == [12, 12, 12]


# Where the checkpoints are the Trainer's own


@pytest.mark.parametrize("how", ["stock_saves", "only_watched"])
def test_a_run_with_stock_checkpoints_comes_back_and_repeats_its_epoch(how, stock_saves, only_watched):
    scene = stock_saves if how == "stock_saves" else only_watched
    assert scene.exit_codes == [0]
    assert [(crash.kind, crash.step) for crash in scene.crashes] == [("killed", 7)]
    assert scene.record.end.how == "finished"
    assert [e.epoch for e in scene.record.evaluations] == [0, 1, 2, 3, 4]
    first, second = (event for event in scene.record.events if isinstance(event, Start))
    assert first.step == 0 and 0 < second.step <= 8


# What is no crash, and what cannot be gone on with


def test_what_fails_after_the_training_is_passed_on_and_nothing_is_trained_again(done_and_failed):
    assert done_and_failed.exit_codes == [3]
    assert done_and_failed.crashes == []
    assert done_and_failed.record.end.how == "finished"
    assert done_and_failed.said.count("TRAINED") == 1
    assert "The command then ended with exit code 3." in done_and_failed.said


def test_an_evaluation_that_hangs_is_ended_where_that_is_asked_for(hung_evaluation):
    assert hung_evaluation.exit_codes == [1]
    (crash,) = hung_evaluation.crashes
    assert (crash.kind, crash.step, crash.files, crash.decision) == ("hang", 4, [], "stop")
    assert hung_evaluation.evidence(crash)["doing"] == "evaluating"
    (run,) = hung_evaluation.folders
    (stacks,) = (run / "gatekeeper/crashes").glob("stacks-*.txt")
    assert "in eval_step\n" in stacks.read_text()


def test_batches_that_are_passed_over_slowly_are_not_taken_for_a_hang(slow_to_pass_over):
    """Three of them take longer than a step may."""
    assert slow_to_pass_over.exit_codes == [0]
    assert [(crash.kind, crash.step) for crash in slow_to_pass_over.crashes] == [("killed", 3)]
    first, second = (event for event in slow_to_pass_over.record.events if isinstance(event, Start))
    assert (first.step, second.step) == (0, 3)


def test_an_evaluation_that_takes_its_time_is_not_taken_for_a_hang(slow_evaluation):
    assert slow_evaluation.exit_codes == [0]
    assert slow_evaluation.crashes == []
    (run,) = slow_evaluation.folders
    assert slow_evaluation.record.evaluations[0].seconds > 2.5
    assert list((run / "gatekeeper/crashes").iterdir()) == []


def test_a_recipe_that_lets_the_trainer_parse_no_command_line_is_refused_when_it_is_to_go_on(no_command_line):
    assert no_command_line.exit_codes == [2]
    (run,) = no_command_line.folders  # the one that it would have begun is gone
    assert f"xtts-gatekeeper: this process was started anew to go on with {run.resolve()} and" in no_command_line.said
    assert "as TrainerArgs(continue_path=...)." in no_command_line.said
    assert [crash.kind for crash in no_command_line.crashes] == ["killed", "refused"]


# A full disk


def test_after_a_full_disk_it_goes_on_when_there_is_room(tmp_path, small_disk, short):  # noqa: F811
    with (small_disk / "rest").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1 << 16))
    scene = Scene([("disk full", 6, 1)]).happens(tmp_path, FULL_FILE=str(small_disk / "log"))
    assert scene.exit_codes == [0]
    assert [(crash.kind, crash.step) for crash in scene.crashes] == [("disk_full", 6)]
    assert "Old checkpoints are pruned and room is waited for first." in scene.said
    assert history(scene.record) == history(short.record)

"""Every monitor and every shipped policy through a whole training and a resume; a new one cannot be forgotten."""

import importlib
import math
import pkgutil
from dataclasses import fields
from pathlib import Path

import pytest
from lines import line_trainer

from xtts_gatekeeper import evaluate, load_policy, monitors, read_run
from xtts_gatekeeper.config import GatekeeperConfig, PhaseConfig
from xtts_gatekeeper.gates.policy_file import SHIPPED as POLICIES
from xtts_gatekeeper.record import Evaluation, Start, TrainEpoch
from xtts_gatekeeper.report.table import status

ROOT = Path(__file__).parents[2]
FILES = [*sorted(path.stem for path in POLICIES.glob("*.yaml")), str(ROOT / "recipes" / "gates.yaml")]

#: Module in `monitors/` -> what a training epoch holds of it, and what must be true of that. None: it has no part of
#: its own there.
MONITORS = {
    "losses": lambda e: (
        all(map(math.isfinite, e.metrics.values()))
        and e.metrics["train.text_ce"] == pytest.approx(100 * e.metrics["train.loss_text_ce"])
        and e.stock.keys() == {key for key in e.metrics if key not in ("train.mel_ce", "train.text_ce")}
        and e.samples == 11
    ),
    "gradients": lambda e: (
        e.gradients["updates"] == 4
        and 0 < e.gradients["norm_median"] <= e.gradients["norm_max"] < math.inf
        and e.gradients["skipped_updates"] == e.gradients["nonfinite_updates"] == 0
    ),
    "memory": lambda e: (
        e.memory_state in ("low", "moderate", "high", "critical")
        and 0 < e.memory["own_bytes"] <= e.memory["peak_own_bytes"] < e.memory["total_bytes"]
        and e.memory_used == e.memory["peak_share"] <= 1
    ),
    "throughput": lambda e: (
        e.throughput["steps_per_second"] == pytest.approx(4 / e.seconds, rel=0.2)
        and e.throughput["audio_seconds_per_second"] > e.throughput["clips_per_second"]
        and 0 <= e.throughput["data_wait_share"] < 1
    ),
    "batch": None,  # says what a batch is made of, for the others
    "spikes": None,  # a detector that losses and gradients use
    "baseline": None,  # the start, see below
}


@pytest.fixture(scope="module")
def runs(make_trainer, tmp_path_factory):
    """The records of a run after its first process and after a resume, which trained an epoch more."""
    output = tmp_path_factory.mktemp("every")
    phases = [PhaseConfig(name="coarse", lr=1e-3, until_epoch=1), PhaseConfig(name="fine", lr=3e-4)]
    first = make_trainer(output, GatekeeperConfig(phases=phases), epochs=2)
    first.fit()
    before = read_run(first.output_path)
    flags = ["--coqpit.epochs", "3"]
    args = {"continue_path": str(first.output_path)}
    second = make_trainer(output, GatekeeperConfig(phases=phases), args=args, flags=flags)
    second.fit()
    return Path(second.output_path), before, read_run(second.output_path)


def test_no_monitor_is_left_out():
    assert MONITORS.keys() == {module.name for module in pkgutil.iter_modules(monitors.__path__)}
    parts = {field.name for field in fields(TrainEpoch)} & MONITORS.keys()
    assert parts == {"gradients", "memory", "throughput"}  # losses are the epoch's own fields


@pytest.mark.parametrize("name", [name for name, check in MONITORS.items() if check])
def test_every_monitor_measures_each_epoch_of_both_processes(runs, name):
    assert importlib.import_module(f"xtts_gatekeeper.monitors.{name}").__doc__
    _, before, after = runs
    assert (len(before.train_epochs), len(after.train_epochs)) == (2, 3)
    for epoch in after.train_epochs:
        assert MONITORS[name](epoch), epoch


def test_the_baseline_is_written_by_both_processes(runs):
    starts = [event for event in runs[2].events if isinstance(event, Start)]
    assert [start.resume_mode for start in starts] == ["new", "continue"]
    assert all(start.lr == [rate] * 2 for start, rate in zip(starts, (1e-3, 3e-4), strict=True))


def test_evaluations_say_what_the_trainer_printed_and_how_far_they_are_from_the_training(runs):
    record = runs[2]
    for evaluation in (event for event in record.events if isinstance(event, Evaluation)):
        epoch = next(e for e in record.train_epochs if e.step == evaluation.step)
        gap = evaluation.metrics["eval.mel_ce"] - epoch.metrics["train.mel_ce"]
        assert evaluation.gap["mel_ce"] == pytest.approx(gap, abs=1e-5)
        assert evaluation.stock["eval.loss_mel_ce"] != evaluation.metrics["eval.loss_mel_ce"]  # without the first batch
        assert evaluation.stock["eval.loss_mel_ce"] == pytest.approx(evaluation.metrics["eval.loss_mel_ce"], rel=0.1)


@pytest.mark.parametrize("policy", FILES, ids=lambda policy: Path(policy).stem)
def test_every_shipped_policy_judges_a_run_and_its_resume_live_as_after_the_fact(tmp_path, policy, runs):
    rules = load_policy(policy)
    section = GatekeeperConfig(policy=policy, phases=[PhaseConfig(lr=0.01)])
    first = line_trainer(tmp_path, section, epochs=10)
    first.fit()
    flags = ["--coqpit.epochs", "12"]
    second = line_trainer(tmp_path, section, args={"continue_path": str(first.output_path)}, flags=flags)
    second.fit()
    record = read_run(second.output_path)
    assert len(record.evaluations) == len(record.verdicts) == 12
    for evaluation, live in zip(record.evaluations, record.verdicts, strict=True):
        assert evaluate(record, rules, evaluation).verdict == live.verdict
    assert {"Gate A", "Gate B"} <= {gate for live in record.verdicts for gate in live.gates}
    # And on the toy XTTS, which measures all there is.
    folder, _, after = runs
    verdict = evaluate(after, rules)
    assert {reason.code for reason in verdict.reasons} >= {"finite", "gradients", "memory", "learning_rate"}
    assert all(reason.status == "passed" for reason in verdict.reasons if reason.code in ("finite", "gradients"))
    shown = status(folder, after, rules)
    assert all(row["decision"] for row in shown["rows"]) and shown["health"]["grad_norm_max"] > 0

"""What curves and marks are taken out of a run, whatever its source."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import (
    curve,
    evaluated,
    gradients,
    incident,
    judged,
    memory,
    phase,
    pruned,
    record_of,
    saved,
    scored,
    start,
    trained,
)

from xtts_gatekeeper.gates import load_policy
from xtts_gatekeeper.record.events import Action, Crash, LearningRateCheck, SampleScore
from xtts_gatekeeper.record.sources import read_run
from xtts_gatekeeper.report.curves import curves
from xtts_gatekeeper.report.lines import Line, thinned
from xtts_gatekeeper.report.marks import marks
from xtts_gatekeeper.report.table import tracking_rows

POLICY = load_policy("checklist")
LOGS = Path("/work/shared/logs")


def panels_of(*parts, **values):
    return {panel.key: panel for panel in curves(record_of(*parts, **values), POLICY)}


def lines_of(panel):
    return {line.name: dict(zip(line.steps, line.values, strict=True)) for line in panel.lines}


def marks_of(*parts, **values):
    record = record_of(*parts, **values)
    return [(mark.kind, mark.step, mark.label, mark.detail) for mark in marks(record, POLICY)]


def test_a_run_without_anything_has_no_panel():
    assert panels_of(start()) == {}
    assert panels_of(start(), trained(0)).keys() <= {"lr", "memory", "speed"}


def test_training_and_evaluation_of_a_loss_stand_in_one_panel():
    panel = panels_of(start(), curve(3.0, 2.5))["objective"]
    assert panel.title == "Mel CE (the objective)"
    assert lines_of(panel) == {"Train": {10: 3.0, 20: 2.5}, "Eval": {10: 3.0, 20: 2.5}}


def test_segments_are_never_joined():
    other = [evaluated(epoch, mel, eval_set="other") for epoch, mel in ((2, 1.0), (3, 0.9))]
    panel = panels_of(start(), curve(3.0, 2.5), other)["objective"]
    evals = [line for line in panel.lines if line.kind == "eval"]
    assert [(line.segment, line.steps) for line in evals] == [(0, (10, 20)), (1, (30, 40))]


def test_what_a_resume_took_back_is_a_line_of_its_own():
    back = start(step=10, epoch=1)
    panel = panels_of(start(), curve(3.0, 2.5, 9.0), back, curve(2.4, first=1))["objective"]
    kept = {line.name: line.steps for line in panel.lines if not line.abandoned}
    assert kept == {"Train": (10, 20), "Eval": (10, 20)}
    assert {line.steps for line in panel.lines if line.abandoned} == {(20, 30)}


def test_a_rewind_takes_back_what_came_after_the_weights_it_loaded():
    rewind = Action(step=30, epoch=2, name="rewind", message="", values={"to_step": 10})
    panel = panels_of(start(), curve(3.0, 2.5, 9.0), rewind, curve(2.4, first=3))["objective"]
    assert [(line.abandoned, line.steps) for line in panel.lines if line.kind == "eval"] == [
        (False, (10, 40)),
        (True, (20, 30)),
    ]


def test_values_that_are_no_numbers_stay_and_are_named():
    panel = panels_of(start(), curve(3.0, math.nan, 2.0))["objective"]
    assert math.isnan(lines_of(panel)["Eval"][20])
    assert panel.note == "No number (NaN or infinity) at step 20."


def test_the_gap_is_the_measured_one_or_where_a_log_tells_both_sides_theirs():
    measured = evaluated(0, 3.0, gap={"mel_ce": 0.7})
    assert lines_of(panels_of(start(), trained(0, mel=2.5), measured)["gap"]) == {"Gap": {10: 0.7}}
    told = panels_of(start(), trained(0, mel=2.5), evaluated(0, 3.0), evaluated(0, 2.9, step=5, mid_epoch=True))
    assert lines_of(told["gap"]) == {"Gap": {10: 0.5}}


def test_rates_in_effect_and_planned():
    check = LearningRateCheck(step=11, epoch=1, phase="two", planned=5e-7, in_effect=[5e-7, 1e-7], ok=True)
    panel = panels_of(start(), trained(0, lr_end=[1e-6]), check)["lr"]
    assert lines_of(panel) == {"In effect": {10: 1e-6, 11: 5e-7}, "Planned": {11: 5e-7}}


def test_what_monitors_measured_has_panels_and_what_they_did_not_has_none():
    epoch = trained(0, gradients=gradients(norm=0.5, nonfinite=2), memory=memory(3 << 30), batches=30, seconds=60.0)
    panels = panels_of(start(), epoch)
    assert lines_of(panels["gradients"]) == {"Median": {10: 0.5}, "Highest": {10: 0.5}}
    assert "2 updates held NaN or infinity" in panels["gradients"].note
    assert panels["memory"].unit == "GB"
    assert lines_of(panels["speed"]) == {"Steps": {10: 0.5}}
    assert "audio" not in panels
    assert "waiting" not in panels
    assert panels_of(start(), trained(0, memory_used=0.25))["memory"].unit == "% of the device"


def test_scores_of_listeners_and_measures_stand_apart_with_their_intervals():
    heard = SampleScore(
        step=10,
        epoch=0,
        metrics={"sample.score": 21.0, "sample.faults": 0.25},
        prompts="prompts",
        by="listeners",
        intervals={"sample.score": [19.5, 22.0]},
    )
    panels = panels_of(start(), curve(3.0, 2.5), scored(0, 18.0), scored(1, 19.0), heard)
    score = {line.name: line for line in panels["score"].lines}
    assert score["Measures"].steps == (10, 20)
    assert (score["Listeners"].low, score["Listeners"].high) == ((19.5,), (22.0,))
    assert lines_of(panels["faults"]) == {"Listeners": {10: 25.0}}


def test_scores_of_other_prompts_are_a_line_of_their_own():
    panel = panels_of(start(), curve(3.0, 2.5), scored(0, 18.0, prompts="old"), scored(1, 19.0))["score"]
    assert [(line.name, line.steps) for line in panel.lines] == [
        ("Measures, other prompts", (10,)),
        ("Measures", (20,)),
    ]


def test_a_target_is_a_line_through_all_steps(tmp_path):
    rule = "{rule: target, metric: eval.objective, value: 2.0, on_fail: stop}"
    file = tmp_path / "goal.yaml"
    file.write_text(f"version: 1\nname: goal\nobjective: eval.objective\nminimum_evaluations: 1\nhealth:\n  - {rule}\n")
    panel = curves(record_of(start(), curve(3.0, 2.5)), load_policy(file))[0]
    assert lines_of(panel)["Target 2"] == {10: 2.0, 20: 2.0}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("11_xtts_slinger_colab_demo.txt", {"objective", "text", "total", "gap", "lr", "speed"}),
        ("16_glowtts_antigoni_01.txt", {"objective", "gap", "lr", "speed"}),
        ("19_reported_xtts_amharic_runs.txt", {"objective", "text", "total"}),
        ("06_xtts_windows_no_steps_trainer_0_log.txt", set()),
    ],
)
def test_published_logs_have_the_panels_that_they_tell_of(name, keys):
    if not LOGS.is_dir():
        pytest.skip("the published logs are not here")
    assert {panel.key for panel in curves(read_run(LOGS / name), POLICY)} == keys


finite = st.floats(-1e6, 1e6)


@given(st.lists(st.one_of(finite, st.just(math.nan)), min_size=1, max_size=400), st.integers(10, 100))
def test_a_thinned_line_keeps_its_ends_its_highest_and_its_lowest(values, most):
    line = Line("x", "eval", tuple(range(len(values))), tuple(values))
    thin = thinned(line, most)
    assert (thin.steps[0], thin.steps[-1]) == (0, len(values) - 1)
    numbers = [value for value in values if not math.isnan(value)]
    if numbers:
        assert {min(numbers), max(numbers)} <= set(thin.values)
    assert any(map(math.isnan, values)) == any(map(math.isnan, thin.values))
    assert len(thin) <= max(most, 1) * 1.6 + 3


# Marks


def test_phases_checkpoints_and_incidents_stand_at_their_steps():
    found = marks_of(
        start(),
        phase("one", 0),
        curve(3.0),
        saved(10, "best", value=3.0, metric="eval.mel_ce"),
        saved(10),
        incident(12, "disk_low", "little room"),
        phase("two", 15, lr=5e-7, index=1),
        saved(20),
        pruned(20, "checkpoint_10.pth"),
    )
    assert found == [
        ("phase", 0, "one", "LR 1e-06"),
        ("best", 10, "best_model_10.pth", "eval.mel_ce 3.0000"),
        ("pruned", 10, "checkpoint_10.pth", ""),
        ("incident", 12, "disk low", "little room"),
        ("phase", 15, "two", "LR 5e-07"),
        ("checkpoint", 20, "checkpoint_20.pth", ""),
    ]


def test_only_the_latest_of_the_best_weights_is_the_best():
    found = marks_of(start(), saved(10, "best"), saved(20, "best"))
    assert [kind for kind, *_ in found] == ["checkpoint", "best"]


def test_a_resume_says_where_from_and_does_not_begin_the_phase_again():
    found = marks_of(
        start(), phase("one", 0), start(step=10, epoch=1, resumed_from="checkpoint_10.pth"), phase("one", 10)
    )
    assert [(kind, step) for kind, step, *_ in found] == [("phase", 0), ("resume", 10)]
    assert found[1][3] == "continue from checkpoint_10.pth"


def test_a_gate_is_marked_when_it_comes_due_and_when_its_answer_changes():
    record = record_of(start(), curve(3.0, 2.9, 2.8, 2.7, 2.6, 2.6, 2.6))
    gates = [mark for mark in marks(record, POLICY, tracking_rows(record, POLICY)) if mark.kind == "gate"]
    assert gates[0].step == 50
    assert gates[0].label.startswith("Gate A: ")
    assert gates[0].verdict in ("continue", "tune", "stop", "undecided")
    assert len({(mark.label, mark.verdict) for mark in gates}) == len(gates)


def test_live_verdicts_are_taken_where_there_are_any():
    first = evaluated(0, 3.0)
    record = record_of(start(), first, judged(first, "tune"))
    assert [mark.kind for mark in marks(record, POLICY, [{"step": 1, "gates": ["x"], "decision": "stop"}])] == []


def test_a_crash_and_a_segment_are_marked():
    crash = Crash(step=15, epoch=1, kind="out_of_memory", message="no memory", decision="restart")
    found = marks_of(start(), curve(3.0), crash, evaluated(1, 1.0, eval_set="other"))
    assert [(kind, label) for kind, _, label, _ in found] == [
        ("crash", "Crash: out of memory"),
        ("segment", "Segment 2"),
    ]

"""Eval clips that were trained on: what is judged by them is not believed."""

import pytest
from records import curve, evaluated, flat, record_of, start

from xtts_gatekeeper.gates import evaluate, load_policy
from xtts_gatekeeper.gates.analysis import analysis

MEL = "eval.mel_ce"
LEAK = {"eval_set": "dev-leak-1", "leaked": 3}
FALLING = curve(5.0, 4.0, 3.6, 3.4)


def judged(*parts, policy="checklist"):
    return evaluate(record_of(flat(parts)), load_policy(policy))


@pytest.fixture
def policy(tmp_path):
    """A policy of so many rules, due at every evaluation."""

    def write(*rules):
        path = tmp_path / "policy.yaml"
        lines = "".join(f"  - {rule}\n" for rule in rules)
        path.write_text(f"version: 1\nname: own\nobjective: {MEL}\nminimum_evaluations: 3\nhealth:\n{lines}")
        return str(path)

    return write


def resumed(*mels, **values):
    """The report's history: B was added, the split shuffled anew, and clips of A landed in the eval set."""
    again = start(step=40, epoch=4, eval_set="dev", eval_clips_trained_on=3, leaked=["a.wav", "b.wav", "c.wav"])
    first = evaluated(4, mels[0], step=40, **{**LEAK, **values})
    return [start(), FALLING, again, first, curve(*mels[1:], first=4, **{**LEAK, **values})]


def test_an_evaluation_on_clips_that_were_trained_on_begins_a_segment_and_is_no_best():
    verdict = judged(resumed(2.0))
    assert [segment["leaked"] for segment in verdict.segments] == [0, 3]
    assert verdict.segments[1]["why"] == "from step 40 on 3 of the eval clips had been trained on before"
    assert (verdict.best["step"], verdict.best["value"]) == (40, 3.4)
    assert verdict.latest["value"] == 2.0
    assert verdict.verdict == "undecided"


def test_what_passes_is_undecided_and_says_why():
    verdict = judged(resumed(2.0, 1.8, 1.6, 1.4))
    assert verdict.verdict == "undecided" and verdict.exit_code == 30
    first = verdict.reasons[0]
    assert first.message.startswith("3 of the eval clips were trained on, so this is not believed: ")
    assert first.evidence["leaked"] == 3
    assert verdict.best["value"] == 3.4
    assert "split_data" in [step.code for step in verdict.next_steps]
    told = next(reason for reason in verdict.reasons if reason.code == "no_leak")
    assert told.status == "failed" and "(a.wav, b.wav, c.wav)" in told.message


def test_the_same_run_without_a_leak_goes_on():
    assert judged(resumed(3.3, 3.1, 2.9, 2.7, eval_set="dev", leaked=0)).verdict != "undecided"


def test_a_target_that_is_reached_on_them_is_not_reached(policy):
    rule = policy(f"{{rule: target, metric: {MEL}, value: 2.5, on_fail: stop}}")
    assert judged(resumed(2.0, 1.8, 1.6), policy=rule).verdict == "undecided"
    assert judged(resumed(2.0, 1.8, 1.6, eval_set="dev", leaked=0), policy=rule).verdict == "stop"


def test_what_fails_in_spite_of_them_fails(policy):
    rule = policy(f"{{rule: not_worsening, metric: {MEL}, checks: 3, on_fail: stop}}")
    assert judged(resumed(2.0, 2.4, 2.8, 3.2), policy=rule).verdict == "stop"


def test_what_is_not_judged_by_evaluations_is_believed(policy):
    """Training losses and memory know nothing of an eval set."""
    rules = policy("{rule: trend, metric: train.total, window: 3, on_fail: tune}", "{rule: gradients, on_fail: tune}")
    assert judged(resumed(2.0, 1.8, 1.6, 1.4), policy=rules).verdict == "continue"


def test_a_rule_made_of_rules_is_judged_by_what_they_look_at(policy):
    inner = f"[{{rule: trend, metric: {MEL}, window: 3}}, {{rule: gradients}}]"
    rule = policy(f"{{rule: any_of, rules: {inner}, on_fail: tune}}")
    assert judged(resumed(2.0, 1.8, 1.6, 1.4), policy=rule).verdict == "undecided"


def test_with_the_leak_mended_the_gates_decide_again():
    parts = [*resumed(2.0, 1.8), start(step=60, epoch=6), curve(3.3, 3.2, 3.1, 3.0, first=6)]
    verdict = judged(parts)
    assert [segment["leaked"] for segment in verdict.segments] == [0, 3, 0]
    assert verdict.verdict != "undecided"
    assert verdict.best["value"] == 3.0


def test_a_run_whose_eval_set_leaks_from_its_start_has_the_best_of_that():
    verdict = judged(start(eval_clips_trained_on=3), curve(3.0, 2.0, 2.5, **LEAK))
    assert verdict.verdict == "undecided"
    assert verdict.best["value"] == 2.0


def test_the_distance_to_the_target_is_that_of_a_best_that_can_be_believed():
    assert analysis(record_of(flat(resumed(2.0, 1.9))), MEL, 2.5)["distance"] == pytest.approx(0.9)


def test_a_fall_at_a_resume_that_no_training_explains_is_no_best():
    """A log tells of no clips: what gives it away is the jump at the same step."""
    parts = [
        start(),
        curve(5.0, 4.0, 3.6, 3.4, eval_set=None),
        start(step=40, epoch=4),
        evaluated(4, 2.0, step=40, eval_set=None),
    ]
    verdict = evaluate(record_of(flat(parts), source="console"), load_policy("checklist"))
    assert len(verdict.segments) == 2
    assert "clips in it that were trained on" in verdict.segments[1]["why"]
    assert verdict.best["value"] == 3.4
    assert verdict.latest["value"] == 2.0
    trained_on = [*parts, *curve(1.9, first=4, eval_set=None)]
    assert evaluate(record_of(flat(trained_on), source="console"), load_policy("checklist")).best["value"] == 1.9


def test_a_rise_at_a_resume_is_another_eval_set_and_the_best_is_of_that():
    parts = [
        start(),
        curve(5.0, 4.0, 3.6, 3.4, eval_set=None),
        start(step=40, epoch=4),
        curve(5.0, 4.8, first=4, eval_set=None),
    ]
    verdict = evaluate(record_of(flat(parts), source="console"), load_policy("checklist"))
    assert len(verdict.segments) == 2
    assert verdict.best["value"] == 4.8

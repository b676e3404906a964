import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import curve, evaluated, incident, logged, record_of, saved, scored, start, trained

from xtts_gatekeeper.gates import Gate, Policy, PolicyRule, evaluate, load_policy
from xtts_gatekeeper.gates.evaluate import EXIT_CODES
from xtts_gatekeeper.gates.rules.base import When
from xtts_gatekeeper.gates.rules.checkpoint_intact import CheckpointIntact
from xtts_gatekeeper.gates.rules.finite import Finite
from xtts_gatekeeper.gates.rules.improved import Improved
from xtts_gatekeeper.gates.rules.memory import Memory
from xtts_gatekeeper.gates.rules.target import Target
from xtts_gatekeeper.gates.rules.trend import Trend
from xtts_gatekeeper.record.journal import to_json

CHECKLIST = load_policy("checklist")


RECIPES = load_policy(Path(__file__).parent.parent / "recipes/gates.yaml")


MEL = "eval.mel_ce"


REPORT = (3.507, 3.008, 2.971, 2.971, 2.978, 2.995)


TARGET_TUNES = PolicyRule("target", Target(MEL, 2.5), "tune")


TARGET_STOPS = PolicyRule("target", Target(MEL, 2.5), "stop")


IMPROVED = PolicyRule("improved", Improved(MEL), "tune")


def policy(*health, gates=(), minimum=2, objective=MEL):
    return Policy("mine", objective, minimum, tuple(health), tuple(gates))


def failed(verdict):
    return [reason.code for reason in verdict.reasons if reason.status == "failed"]


# Each verdict


@pytest.mark.parametrize(
    ("mels", "rules", "expected"),
    [
        ([3.0, 2.6], [TARGET_STOPS, TARGET_TUNES], "continue"),
        ([3.0, 2.4], [TARGET_TUNES], "tune"),
        ([3.0, 2.4], [TARGET_STOPS], "stop"),
        ([3.0, 2.4], [TARGET_TUNES, TARGET_STOPS], "stop"),
        ([3.0, 2.4], [TARGET_STOPS, TARGET_TUNES], "stop"),
        ([3.0], [TARGET_STOPS], "undecided"),
        ([2.4], [TARGET_STOPS], "stop"),
        ([], [TARGET_STOPS], "undecided"),
    ],
)
def test_the_worst_failure_decides_and_too_few_points_are_undecided(mels, rules, expected):
    verdict = evaluate(record_of(curve(*mels)), policy(*rules))
    assert verdict.verdict == expected
    assert (
        verdict.exit_code == EXIT_CODES[expected] == {"continue": 0, "tune": 10, "stop": 20, "undecided": 30}[expected]
    )


def test_undecided_says_how_much_is_missing():
    verdict = evaluate(record_of(curve(3.0)), policy(TARGET_STOPS, minimum=4))
    assert verdict.reasons[0].code == "too_few_evaluations"
    assert verdict.reasons[0].evidence == {"have": 1, "need": 4}


def test_an_objective_that_is_not_measured_is_undecided_however_many_evaluations_there_are():
    verdict = evaluate(record_of(curve(*REPORT)), policy(TARGET_STOPS, objective="eval.other"))
    assert verdict.verdict == "undecided"
    assert verdict.best is None
    assert verdict.latest["value"] is None


def test_a_health_rule_that_is_too_early_does_not_hold_the_verdict_back():
    trend = PolicyRule("trend", Trend(MEL, window=5), "tune")
    assert evaluate(record_of(curve(3.0, 2.9)), policy(trend)).verdict == "continue"


def test_the_deciding_reason_comes_first_with_its_rule_sentence_numbers_and_gate():
    gate = Gate("Gate", When("epochs", 2), (IMPROVED,))
    verdict = evaluate(record_of(curve(3.0, 3.5)), policy(PolicyRule("finite", Finite(), "stop"), gates=[gate]))
    reason = verdict.reasons[0]
    assert (verdict.verdict, reason.code, reason.outcome, reason.gate) == (
        "tune",
        "improved",
        "tune",
        "Gate",
    )
    assert {"first", "latest", "first_step", "step"} <= reason.evidence.keys()
    assert [reason.outcome for reason in verdict.reasons[1:]] == ["continue"]


# Live and offline


@st.composite
def runs(draw):
    """A run with changing eval sets, files, mid-epoch evaluations, failed saves and resumes that go back."""
    events, step, epoch = [start()], 0, 0
    for _ in range(draw(st.integers(1, 14))):
        happens = draw(st.sampled_from(["epoch", "epoch", "epoch", "amid", "save", "resume"]))
        value = draw(st.floats(1, 5) | st.just(float("nan")))
        eval_set = draw(st.sampled_from(["dev", "dev", "dev", "other"]))
        step += 5
        if happens == "epoch":
            events += [trained(epoch, step, loss=value), evaluated(epoch, value, step, eval_set=eval_set)]
            epoch += 1
        elif happens == "amid":
            events.append(evaluated(epoch, value, step, eval_set=eval_set, mid_epoch=True))
        elif happens == "save":
            events.append(saved(step, draw(st.sampled_from(["latest", "best"])), intact=draw(st.booleans())))
        else:
            step = draw(st.integers(0, step))
            epoch = draw(st.integers(0, epoch))
            events.append(start(step=step, epoch=epoch))
    return record_of(events)


def without_files(verdict):
    told = verdict.to_dict()
    for point in (told["best"], told["latest"]):
        if point:
            del point["checkpoint"]
    return to_json(told)


@settings(deadline=None)
@given(runs(), st.sampled_from([CHECKLIST, policy(TARGET_STOPS, IMPROVED, minimum=3)]))
def test_offline_gives_the_verdict_that_was_given_live(record, rules):
    for evaluation in record.evaluations:
        position = next(i for i, event in enumerate(record.events) if event is evaluation)
        live = evaluate(record_of(record.events[: position + 1]), rules)
        assert without_files(evaluate(record, rules, evaluation)) == without_files(live)


def test_the_verdict_names_the_files_in_which_the_weights_are_now():
    events = [*curve(3.0), saved(10), *curve(2.0, first=1), saved(20), saved(20, "best"), *curve(2.5, first=2)]
    verdict = evaluate(record_of(start(), events), CHECKLIST)
    assert verdict.best["checkpoint"] == "best_model_20.pth"
    assert verdict.latest["checkpoint"] is None


# Eval sets


def test_a_changed_eval_set_starts_a_new_segment_and_is_not_compared_across():
    before = curve(1.0, 1.1, eval_set="old")
    rising = policy(PolicyRule("improved", Improved(MEL), "stop"))
    first = evaluate(record_of(start(), before, curve(4.0, first=2)), rising)
    assert first.verdict == "undecided"
    second = evaluate(record_of(start(), before, curve(4.0, 3.9, first=2)), rising)
    assert second.verdict == "continue"
    assert second.best["value"] == 3.9
    assert [(s["eval_set"], s["evaluations"], s["first_step"], s["last_step"]) for s in second.segments] == [
        ("old", 2, 10, 20),
        ("dev", 2, 30, 40),
    ]
    assert second.evaluations == 4


# The JSON others build on


@pytest.mark.parametrize("mels", [(), (3.0,), (3.0, float("nan")), REPORT])
def test_the_json_has_the_promised_keys_and_is_strict(mels):
    told = json.loads(to_json(evaluate(record_of(start(), curve(*mels)), CHECKLIST).to_dict()))
    assert {
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
    } <= told.keys()
    assert told["evaluations"] == len(mels)
    assert told["policy_hash"] == CHECKLIST.hash
    assert all({"code", "message", "evidence"} <= reason.keys() for reason in told["reasons"])
    assert all(
        {"step", "epoch", "value", "checkpoint"} <= told[word].keys() for word in ("best", "latest") if told[word]
    )


def test_memory_and_checkpoints_are_judged_as_they_were_at_the_evaluation():
    events = [e for n in range(3) for e in (trained(n, memory_state="high"), evaluated(n, 3.0 - n / 5))]
    rules = policy(PolicyRule("memory", Memory(3), "tune"), PolicyRule("checkpoint_intact", CheckpointIntact(), "stop"))
    record = record_of(start(), events, saved(31, intact=False))
    assert failed(evaluate(record, rules)) == ["memory"]
    later = record_of(record.events, curve(1.0, first=3))
    assert failed(evaluate(later, rules)) == ["checkpoint_intact"]


def test_what_listeners_say_after_the_last_evaluation_counts_now_and_not_then():
    """People listen when the run has ended; a later score of measures waits for an evaluation, as it does live."""
    better = PolicyRule("improved", Improved("sample.score"), "tune")
    heard = [replace(scored(epoch, score), by="listeners") for epoch, score in ((0, 20), (1, 15))]
    record = record_of(start(), curve(3.0, 2.8), scored(0, 15), scored(1, 20), heard)
    judged = evaluate(record, policy(better))
    assert (judged.verdict, failed(judged)) == ("tune", ["improved"])
    assert failed(evaluate(record, policy(better), record.evaluations[-1])) == []
    measured = record_of(start(), scored(0, 20), curve(3.0, 2.8), scored(1, 15))
    assert evaluate(measured, policy(better)).verdict == "continue"


def test_a_run_without_an_evaluation_is_undecided_and_says_what_it_can():
    verdict = evaluate(record_of(start(), trained(0, loss=3.0)), CHECKLIST)
    assert (verdict.verdict, verdict.evaluations, verdict.segments, verdict.gates) == ("undecided", 0, [], [])
    assert (verdict.best, verdict.latest, verdict.next_steps) == (None, None, ())
    assert [reason.message for reason in verdict.reasons] == ["no evaluation in this run yet"]
    told = evaluate(record_of(start(), incident(5, "oom", "out of memory at step 5")), CHECKLIST)
    assert told.reasons[0].message == "no evaluation in this run yet; it says: out of memory at step 5"


def test_an_empty_record_with_a_target_is_undecided_and_its_projection_waits():
    verdict = evaluate(record_of(), RECIPES)
    assert (verdict.verdict, verdict.projection.status) == ("undecided", "too_few_points")


# What the run does not measure


SCORE = Improved("sample.score")


@pytest.mark.parametrize("at_gate", [False, True])
@pytest.mark.parametrize(("if_missing", "expected"), [("ignore", "continue"), ("undecided", "undecided")])
def test_a_rule_decides_for_itself_what_it_means_that_the_run_lacks_its_metric(if_missing, expected, at_gate):
    due = PolicyRule("improved", SCORE, "stop", if_missing)
    gate = Gate("Gate", When("epochs", 3), (due,))
    rules = policy(gates=[gate]) if at_gate else policy(due)
    verdict = evaluate(record_of(start(), curve(3.0, 2.9, 2.8)), rules)
    assert verdict.verdict == expected
    assert verdict.reasons[0].status == ("not_measured" if expected == "continue" else "too_early")
    assert "sample.score is not measured" in verdict.reasons[0].message
    measured = record_of(start(), scored(0, 10), curve(3.0, 2.9), scored(1, 12), curve(2.8, first=2))
    assert evaluate(measured, rules).verdict == "continue"


def test_a_gate_that_insists_on_a_metric_stays_due_until_it_comes():
    gate = Gate("Gate", When("evaluations", 2), (PolicyRule("improved", SCORE, "tune", "undecided"),))
    scores = [scored(1, 10), scored(2, 9)]
    record = record_of(
        start(), curve(3.0, 2.9, 2.8), scores, curve(2.7, first=3), scored(4, 11), curve(2.6, 2.5, first=4)
    )
    verdicts = [evaluate(record, policy(gates=[gate]), e) for e in record.evaluations]
    assert [v.verdict for v in verdicts] == ["undecided", "undecided", "undecided", "tune", "continue", "continue"]
    assert [v.gates for v in verdicts] == [[], ["Gate"], ["Gate"], ["Gate"], ["Gate"], []]


def test_a_failure_outweighs_what_is_missing():
    rules = policy(PolicyRule("improved", SCORE, "stop", "undecided"), TARGET_TUNES)
    assert evaluate(record_of(start(), curve(3.0, 2.4)), rules).verdict == "tune"


def test_a_name_of_the_policys_own_that_this_run_does_not_have_is_noted():
    own = Policy("mine", MEL, 2, (TARGET_STOPS,), (), {"eval.mine": "avg_nope", "eval.other": "mel_ce"})
    notes = evaluate(record_of(start(), curve(3.0, 2.9)), own).notes
    assert [(note.code, note.message) for note in notes] == [
        ("metric_not_found", "not in this run: eval.mine (avg_nope)")
    ]
    assert evaluate(record_of(start()), own).notes == ()


def test_a_policy_can_choose_the_objective_by_a_name_of_its_own():
    own = Policy("mine", "eval.objective", 2, (PolicyRule("target", Target("eval.objective", 2.5), "stop"),), ())
    chosen = Policy("mine", "eval.objective", 2, own.health, (), {"eval.objective": "loss_x"})
    record = record_of(start(), *(logged(s, {"eval.mel_ce": 3.0, "eval.loss_x": 1.0}) for s in (10, 20)))
    assert (evaluate(record, own).objective, evaluate(record, own).verdict) == ("eval.mel_ce", "continue")
    assert (evaluate(record, chosen).objective, evaluate(record, chosen).verdict) == ("eval.loss_x", "stop")


@settings(deadline=None)
@given(runs())
def test_a_verdict_to_tune_or_stop_has_next_steps_that_do_not_contradict_each_other(record):
    for evaluation in record.evaluations:
        verdict = evaluate(record, RECIPES, evaluation)
        codes = [step.code for step in verdict.next_steps]
        assert len(codes) == len(set(codes))
        assert not {"lower_lr", "raise_lr"} <= set(codes)
        assert codes or verdict.verdict in ("continue", "undecided")


# The same again


@settings(deadline=None)
@given(runs())
def test_the_same_record_gives_the_same_verdict_in_strict_json(record):
    def refuse(word):
        raise AssertionError(word)

    told = to_json(evaluate(record, RECIPES).to_dict())
    assert told == to_json(evaluate(record_of(record.events), RECIPES).to_dict())
    json.loads(told, parse_constant=refuse)


def test_a_run_without_a_known_objective_names_what_it_logs():
    record = record_of(*[logged(10 * n, {"eval.accuracy": 0.5}) for n in range(1, 5)])
    verdict = evaluate(record, CHECKLIST)
    assert verdict.verdict == "undecided"
    assert "eval.accuracy is known as an objective" in verdict.reasons[0].message

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import curve, evaluated, record_of, saved, start, trained

from xtts_gatekeeper.gates import Gate, Policy, PolicyRule, evaluate, load_policy
from xtts_gatekeeper.gates.evaluate import EXIT_CODES
from xtts_gatekeeper.gates.rules import CheckpointIntact, Finite, Improved, Memory, Target, Trend
from xtts_gatekeeper.record.journal import to_json

CHECKLIST = load_policy("checklist")
MEL = "eval.mel_ce"
REPORT = (3.507, 3.008, 2.971, 2.971, 2.978, 2.995)
AMHARIC = (4.473, 4.460, 4.618, 4.903, 5.275, 5.674)

TARGET_TUNES = PolicyRule("target", Target(MEL, 2.5), "tune")
TARGET_STOPS = PolicyRule("target", Target(MEL, 2.5), "stop")
IMPROVED = PolicyRule("improved", Improved(MEL), "tune")


def policy(*health, gates=(), minimum=2, objective=MEL):
    return Policy("mine", objective, minimum, tuple(health), tuple(gates))


def of_curve(mels, gate_policy=CHECKLIST, text=1.0):
    """The verdict after an XTTS run whose training losses fall evenly and whose eval mel CE went like `mels`."""
    events = [start()]
    for epoch, mel in enumerate(mels):
        falling = 3.0 - 0.1 * epoch
        events += [trained(epoch, loss=falling, mel=falling), evaluated(epoch, mel)]
        events[-1].metrics["eval.text_ce"] = text
    return evaluate(record_of(events), gate_policy)


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


def test_a_gate_whose_rule_has_too_few_points_is_undecided():
    gate = Gate("Gate", 2, (PolicyRule("trend", Trend(MEL, window=5), "tune"),))
    assert evaluate(record_of(curve(3.0, 2.9)), policy(gates=[gate])).verdict == "undecided"


def test_a_health_rule_that_is_too_early_does_not_hold_the_verdict_back():
    trend = PolicyRule("trend", Trend(MEL, window=5), "tune")
    assert evaluate(record_of(curve(3.0, 2.9)), policy(trend)).verdict == "continue"


def test_the_deciding_reason_comes_first_with_its_rule_sentence_numbers_and_gate():
    gate = Gate("Gate", 2, (IMPROVED,))
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


# The checklist on curves of real runs


def test_the_phase_2_report_is_no_stop_for_only_two_rises_follow_its_best():
    verdict = of_curve(REPORT)
    assert "not_worsening" not in failed(verdict)
    assert verdict.verdict != "stop"
    assert verdict.best["value"] == 2.971
    assert verdict.best["step"] == 30
    assert of_curve([*REPORT, 3.02]).verdict == "stop"


def test_the_amharic_run_whose_mel_rises_while_training_falls_is_a_stop():
    verdict = of_curve(AMHARIC)
    assert verdict.verdict == "stop"
    assert verdict.reasons[0].code == "not_worsening"
    assert verdict.reasons[0].evidence["values"] == list(AMHARIC[-4:])
    assert verdict.best["epoch"] == 1
    assert [of_curve(AMHARIC[:n]).verdict for n in range(1, 6)] == [
        "undecided",
        "continue",
        "continue",
        "continue",
        "stop",
    ]


def test_a_falling_run_is_continue_at_every_evaluation_but_the_first():
    mels = [3.0 * 0.97**n for n in range(14)]
    assert [of_curve(mels[: n + 1]).verdict for n in range(14)] == ["undecided", *["continue"] * 13]


def test_a_flat_run_tunes_at_gate_a_and_stops_at_gate_b():
    mels = [3.0] * 12
    verdicts = [of_curve(mels[: n + 1]).verdict for n in range(12)]
    assert verdicts[4] == "tune"
    assert verdicts[9] == "stop"
    assert {*verdicts[1:4], *verdicts[5:9], *verdicts[10:]} == {"continue"}


@pytest.mark.parametrize(
    ("change", "code", "outcome"),
    [
        ([evaluated(3, float("nan"))], "finite", "stop"),
        ([trained(3, loss=2.0, longest_nonfinite_run=3), evaluated(3, 2.0)], "finite", "stop"),
        ([trained(3, loss=9.0), evaluated(3, 2.0)], "trend", "tune"),
        ([trained(3), saved(40, intact=False), evaluated(3, 2.0)], "checkpoint_intact", "tune"),
    ],
)
def test_the_checklist_catches(change, code, outcome):
    events = [start(), *(e for n in range(3) for e in (trained(n, loss=3 + n / 5), evaluated(n, 3 - n / 5)))]
    verdict = evaluate(record_of(events, change), CHECKLIST)
    assert verdict.verdict == outcome
    assert code in failed(verdict)


# Gates are due once


def gates_by_evaluation(record):
    return [evaluate(record, CHECKLIST, e).gates for e in record.evaluations]


def test_gate_a_is_due_exactly_once_after_5_finished_epochs_and_gate_b_after_10():
    due = gates_by_evaluation(record_of(start(), curve(*(3.0 - n / 10 for n in range(13)))))
    assert due == [["Gate A"] if n == 4 else ["Gate B"] if n == 9 else [] for n in range(13)]


def test_an_evaluation_before_training_does_not_bring_a_gate_forward():
    first = evaluated(0, 4.0, step=0)
    due = gates_by_evaluation(record_of(start(), first, curve(*(3.0 - n / 10 for n in range(6)), first=1)))
    assert due == [[]] * 5 + [["Gate A"]] + [[]]


def test_evaluations_amid_an_epoch_and_a_repeated_epoch_do_not_ask_a_gate_again():
    amid = evaluated(5, 2.4, step=55, mid_epoch=True)
    again = [trained(4, step=60), evaluated(4, 2.3, step=60)]
    record = record_of(start(), curve(3.0, 2.9, 2.8, 2.7, 2.6), amid, start(step=56, epoch=4), again)
    assert gates_by_evaluation(record) == [[]] * 4 + [["Gate A"], [], []]


def test_a_gate_is_asked_again_when_its_evaluation_was_abandoned():
    events = [start(), *curve(3.0, 2.9, 2.8, 2.7, 2.6), start(step=41, epoch=4), *curve(2.5, first=4)]
    assert evaluate(record_of(events), CHECKLIST).gates == ["Gate A"]


def test_gates_that_come_due_together_are_both_named():
    record = record_of(start(), evaluated(0, 3.0, step=0), [trained(n) for n in range(1, 11)], evaluated(10, 2.0))
    verdict = evaluate(record, CHECKLIST)
    assert verdict.gates == ["Gate A", "Gate B"]
    assert {reason.gate for reason in verdict.reasons} == {None, "Gate A", "Gate B"}


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


# What a review found


def test_a_rule_that_only_mentions_does_not_turn_undecided_into_continue():
    mention = PolicyRule("memory", Memory(epochs=1), "continue")
    gate = Gate("Gate A", 1, (PolicyRule("trend", Trend(MEL, window=5), "tune"),))
    events = [start(), *[trained(e, memory_state="high") for e in range(2)], evaluated(0, 3.0), evaluated(1, 2.0)]
    for rules in ([], [mention]):
        assert evaluate(record_of(events), policy(*rules, gates=[gate])).verdict == "undecided"


def test_a_gate_without_enough_points_stays_due_until_it_is_decided():
    gate = Gate("Gate A", 2, (PolicyRule("trend", Trend(MEL, window=3), "tune"),))
    events = [start(), *curve(3.0, 2.9, 2.8, 2.7, 2.6)]
    record = record_of(events)
    due = [evaluate(record, policy(gates=[gate]), e) for e in record.evaluations]
    assert [verdict.gates for verdict in due] == [[], ["Gate A"], ["Gate A"], [], []]
    assert [verdict.verdict for verdict in due[1:]] == ["undecided", "continue", "continue", "continue"]

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import curve, evaluated, incident, logged, record_of, saved, scored, start, trained

from xtts_gatekeeper.gates import Gate, Policy, PolicyRule, evaluate, load_policy
from xtts_gatekeeper.gates.evaluate import EXIT_CODES
from xtts_gatekeeper.gates.rules import RULES, When
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
    gate = Gate("Gate", When("epochs", 2), (PolicyRule("trend", Trend(MEL, window=5), "tune"),))
    assert evaluate(record_of(curve(3.0, 2.9)), policy(gates=[gate])).verdict == "undecided"


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


# The checklist on curves of real runs


def real_run(evals, trains=(), names=("eval.mel_ce", "train.mel_ce")):
    """A run of one evaluation an epoch; `names` are those of the two losses."""
    events = [start()]
    for epoch, value in enumerate(evals):
        learned = {names[1]: trains[epoch]} if trains else {}
        events += [trained(epoch, metrics=learned), evaluated(epoch, metrics={names[0]: value})]
    return record_of(events)


R2 = (4.178, 3.762, 3.669, 3.623, 3.576, 3.519, 3.548, 3.514, 3.519, 3.507, 3.511)

REAL = {
    "XTTS 19 A": (
        real_run(
            (3.415, 4.717, 5.678, 6.419, 6.64, 6.974, 7.790),
            (0.639, 0.1, 0.005, 0.002, 0.001, 0.001, 0.001),
            ("eval.loss", "train.loss"),
        ),
        "stop not_worsening best 1: undecided undecided continue stop stop stop stop",
    ),
    "XTTS 19 B": (
        real_run(
            (4.473, 4.460, 4.618, 4.903, 5.275, 5.674),
            (0.506, 0.452, 0.425, 0.373, 0.333, 0.298),
            ("eval.mel_ce", "train.loss"),
        ),
        "stop not_worsening best 2: undecided undecided continue tune stop stop",
    ),
    "02": (
        real_run((4.114, 4.065, 4.017, 4.000, 3.973, 3.953, 3.949)),
        "continue - best 7: undecided undecided continue continue continue continue continue",
    ),
    "11": (
        real_run((3.453, 3.344, 3.282, 3.272, 3.252, 3.265), (3.6, 3.4, 3.186, 3.05, 2.95, 2.873)),
        "tune overfit best 5: undecided undecided continue continue continue tune",
    ),
    "20 R1": (
        real_run((5.380, 4.850, 4.520, 4.280, 4.343, 4.862, 5.069)),
        "stop not_worsening best 4: undecided undecided continue continue continue tune stop",
    ),
    "20 R2": (real_run(R2), "tune slowing best 10: undecided undecided" + " continue" * 8 + " tune"),
}


@pytest.mark.parametrize("name", REAL)
def test_the_verdicts_on_real_runs(name):
    record, said = REAL[name]
    verdicts = [evaluate(record, CHECKLIST, e) for e in record.evaluations]
    last = verdicts[-1]
    first = failed(last)[0] if failed(last) else "-"
    best = last.best["epoch"] + 1
    assert f"{last.verdict} {first} best {best}: {' '.join(v.verdict for v in verdicts)}" == said


def test_a_resume_that_training_cannot_explain_is_undecided_and_says_why():
    """20 R2 from its console log, resumed with another eval set: 3.511 becomes 3.008."""
    events = [start(eval_set=None)]
    for epoch, mel in enumerate((*R2, 3.008, 2.999)):
        if epoch == len(R2):
            events.append(start(step=10 * epoch, epoch=epoch, eval_set=None))
        events += [trained(epoch), evaluated(epoch, mel, eval_set=None)]
    verdict = evaluate(record_of(events, source="console"), CHECKLIST)
    assert verdict.verdict == "undecided"
    assert [segment["evaluations"] for segment in verdict.segments] == [11, 2]
    assert "3.511 at step 110 to 3.008 at step 120 with a resume in between" in verdict.segments[1]["why"]
    assert verdict.reasons[0].code == "comparable"
    assert "only what came after is compared" in verdict.reasons[0].message
    assert {r.code for r in verdict.reasons if r.status == "too_early"} >= {"too_few_evaluations"}
    assert verdict.best["value"] == 2.999


@pytest.mark.parametrize("source", ["table", "journal", "console"])
def test_the_reports_table_of_phase_2_is_a_tune_that_does_not_reach_2_5_at_this_trend(source):
    steps = (1500, 1900, 1901, 1950, 2000, 2050)
    table = [evaluated(i, mel, step, eval_set=None) for i, (step, mel) in enumerate(zip(steps, REPORT, strict=True))]
    verdict = evaluate(record_of(table, source=source), RECIPES)
    assert verdict.verdict == "tune"
    assert (verdict.best["step"], verdict.best["value"]) == (1901, 2.971)
    assert (verdict.projection.status, verdict.projection.target) == ("not_at_this_trend", 2.5)


def test_the_phase_2_report_is_no_stop_for_only_two_rises_follow_its_best():
    verdict = of_curve(REPORT)
    assert "not_worsening" not in failed(verdict)
    assert verdict.verdict != "stop"
    assert verdict.best["value"] == 2.971
    assert verdict.best["step"] == 30
    assert of_curve([*REPORT, 3.02]).verdict == "stop"


def test_a_falling_run_is_continue_from_the_third_evaluation_on():
    mels = [3.0 * 0.97**n for n in range(14)]
    assert [of_curve(mels[: n + 1]).verdict for n in range(14)] == ["undecided"] * 2 + ["continue"] * 12


def test_a_flat_run_tunes_at_gate_a_and_stops_at_gate_b():
    record = record_of(start(), curve(*[3.0] * 12))
    verdicts = [evaluate(record, CHECKLIST, e).verdict for e in record.evaluations]
    assert verdicts == ["undecided"] * 2 + ["continue"] * 2 + ["tune"] * 5 + ["stop"] * 3


def test_a_gate_that_was_not_passed_is_asked_again_until_it_is():
    gate = Gate("Gate", When("evaluations", 3), (IMPROVED,))
    record = record_of(start(), curve(3.0, 3.0, 3.1, 3.2, 2.9, 3.3))
    verdicts = [evaluate(record, policy(gates=[gate], minimum=3), e) for e in record.evaluations]
    assert [v.verdict for v in verdicts] == ["undecided", "undecided", "tune", "tune", "continue", "continue"]
    assert [v.gates for v in verdicts] == [[], [], ["Gate"], ["Gate"], ["Gate"], []]


def test_a_flat_run_whose_training_loss_falls_is_overfitting():
    verdict = of_curve([3.0] * 4)
    assert (verdict.verdict, failed(verdict)) == ("tune", ["overfit"])


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
    gate = Gate("Gate A", When("epochs", 1), (PolicyRule("trend", Trend(MEL, window=5), "tune"),))
    events = [start(), *[trained(e, memory_state="high") for e in range(2)], evaluated(0, 3.0), evaluated(1, 2.0)]
    for rules in ([], [mention]):
        assert evaluate(record_of(events), policy(*rules, gates=[gate])).verdict == "undecided"


def test_a_gate_without_enough_points_stays_due_until_it_is_decided():
    gate = Gate("Gate A", When("epochs", 2), (PolicyRule("trend", Trend(MEL, window=3), "tune"),))
    events = [start(), *curve(3.0, 2.9, 2.8, 2.7, 2.6)]
    record = record_of(events)
    due = [evaluate(record, policy(gates=[gate]), e) for e in record.evaluations]
    assert [verdict.gates for verdict in due] == [[], ["Gate A"], ["Gate A"], [], []]
    assert [verdict.verdict for verdict in due[1:]] == ["undecided", "continue", "continue", "continue"]


# Too few to judge by


def sparse(*mels, epochs=10):
    """A run with an evaluation after every so many epochs."""
    done = iter(range(len(mels) * epochs))
    events = [start()]
    for mel in mels:
        passed = [trained(next(done)) for _ in range(epochs)]
        events += [*passed, evaluated(passed[-1].epoch, mel)]
    return record_of(events)


def test_a_gate_does_not_stop_a_run_by_two_evaluations_that_differ_by_their_noise():
    record = sparse(3.0, 3.01, 3.02)
    first, second, third = (evaluate(record, CHECKLIST, e) for e in record.evaluations)
    assert [v.verdict for v in (first, second, third)] == ["undecided", "undecided", "stop"]
    assert second.gates == ["Gate A", "Gate B"]
    waits = next(r for r in second.reasons if r.gate == "Gate B")
    assert (waits.code, waits.status, waits.evidence["have"], waits.evidence["need"]) == ("improved", "too_early", 2, 3)
    assert second.reasons[0].outcome == "continue"


def test_a_gate_that_was_passed_by_two_evaluations_is_asked_again_at_the_third():
    gate = Gate("Gate", When("evaluations", 2), (IMPROVED,))
    record = record_of(start(), curve(3.0, 2.9, 3.1, 3.2))
    verdicts = [evaluate(record, policy(gates=[gate], minimum=3), e) for e in record.evaluations]
    assert [v.verdict for v in verdicts] == ["undecided", "undecided", "tune", "tune"]
    assert [v.gates for v in verdicts] == [[], ["Gate"], ["Gate"], ["Gate"]]


def test_what_a_gate_says_of_anything_but_the_objective_does_not_wait_for_it():
    gate = Gate("Gate", When("epochs", 1), (PolicyRule("memory", Memory(epochs=1), "tune"),))
    events = [start(), trained(0, memory_state="critical"), evaluated(0, 3.0)]
    assert evaluate(record_of(events), policy(gates=[gate], minimum=3)).verdict == "tune"


@st.composite
def finite_runs(draw):
    """Any finite curve, with epochs that are not evaluated, resumes and changing eval sets."""
    events, epoch, eval_set = [start()], 0, "dev"
    for _ in range(draw(st.integers(1, 10))):
        for _ in range(draw(st.sampled_from([1, 1, 1, 5, 10]))):
            loss = draw(st.floats(0.01, 9))
            events.append(trained(epoch, loss=loss, mel=loss))
            epoch += 1
        events.append(evaluated(epoch - 1, draw(st.floats(0.01, 9)), eval_set=eval_set))
        if draw(st.integers(0, 5)) == 0:
            eval_set = draw(st.sampled_from(["dev", "other"]))
            events.append(start(step=epoch * 10, epoch=epoch, eval_set=eval_set))
    return record_of(events)


@settings(deadline=None)
@given(finite_runs())
def test_the_checklist_never_stops_a_finite_run_before_three_comparable_evaluations(record):
    for evaluation in record.evaluations:
        verdict = evaluate(record, CHECKLIST, evaluation)
        if verdict.segments[-1]["evaluations"] < 3:
            assert verdict.verdict in ("undecided", "tune")
            assert {r.evidence.get("metric") for r in verdict.reasons if r.outcome == "tune"} <= {
                "train.loss",
                "train.mel_ce",
            }


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("before", [(), (3.0,)])
def test_a_loss_that_is_no_number_stops_at_once(before, bad):
    verdict = evaluate(record_of(start(), curve(*before, bad)), CHECKLIST)
    assert (verdict.verdict, verdict.reasons[0].code) == ("stop", "finite")


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
    scores = [scored(2, 10), scored(2, 9)]
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


# Other times for a gate


@pytest.mark.parametrize(
    ("when", "due"),
    [
        (When("steps", 25), [False, False, True, False]),
        (When("steps", 30), [False, False, True, False]),
        (When("evaluations", 2), [False, True, False, False]),
        (When("epochs", 4), [False, False, False, True]),
    ],
)
def test_a_gate_comes_due_once_by_steps_evaluations_or_epochs(when, due):
    gate = Gate("Gate", when, (PolicyRule("memory", Memory(epochs=1), "tune"),))
    record = record_of(start(), curve(3.0, 2.9, 2.8, 2.7))
    assert [bool(evaluate(record, policy(gates=[gate]), e).gates) for e in record.evaluations] == due


# Every rule


LEVEL = (*(4.0 - n / 4 for n in range(4)), *[3.0] * 30)
BAD_START = {"epochs_planned": 100, "eval_clips_trained_on": 3}


def rule(name, **values):
    return RULES[name](**values)


FAILING = {
    "finite": (rule("finite"), [start(), curve(3.0, math.nan)]),
    "nan_repeated": (rule("nan_repeated"), [start(), curve(math.nan), start(step=10), curve(math.nan, first=1)]),
    "not_worsening": (rule("not_worsening", metric=MEL), [start(), curve(3.0, 4.0, 5.0, 6.0)]),
    "divergence": (rule("divergence", metric=MEL), [start(), curve(1.0, 9.0, 10.0)]),
    "trend": (rule("trend", metric=MEL), [start(), curve(3.0, 4.0, 5.0)]),
    "improved": (rule("improved", metric=MEL), [start(), curve(3.0, 4.0, 5.0)]),
    "not_regressed": (rule("not_regressed", metric=MEL), [start(), curve(3.0, 2.0, 2.5)]),
    "plateau": (rule("plateau", metric=MEL), [start(), curve(*LEVEL)]),
    "slowing": (rule("slowing", metric=MEL), [start(), curve(*LEVEL)]),
    "overfit": (
        rule("overfit"),
        [start(), *((trained(n, mel=3.0 - n / 2), evaluated(n, 3.0 + n / 2)) for n in range(4))],
    ),
    "spike": (rule("spike", metric=MEL), [start(), curve(3.0, 2.9, 3.0, 2.9, 3.0, 2.9, 30.0)]),
    "target": (rule("target", metric=MEL, value=2.5), [start(), curve(3.0, 2.4)]),
    "threshold": (rule("threshold", metric=MEL, maximum=2.5), [start(), curve(3.0)]),
    "memory": (rule("memory", epochs=1), [start(), trained(0, memory_state="critical"), evaluated(0, 3.0)]),
    "out_of_memory": (rule("out_of_memory", allowed=0), [start(), incident(5, "oom"), curve(3.0)]),
    "checkpoint_intact": (rule("checkpoint_intact"), [start(), saved(5, intact=False, reason="short"), curve(3.0)]),
    "learning_rate": (rule("learning_rate"), [start(), incident(5, "lr_not_as_planned"), curve(3.0)]),
    "runtime": (rule("runtime", max_hours=1), [start(**BAD_START), curve(3.0)]),
    "comparable": (rule("comparable"), [start(), curve(3.0), curve(2.0, first=1, eval_set="other")]),
    "no_leak": (rule("no_leak"), [start(**BAD_START), curve(3.0)]),
    "all_of": (rule("all_of", rules=(Target(MEL, 2.5),)), [start(), curve(2.4)]),
    "any_of": (rule("any_of", rules=(Target(MEL, 2.5),)), [start(), curve(2.4)]),
    "at_least": (rule("at_least", count=1, rules=(Target(MEL, 2.5),)), [start(), curve(2.4)]),
}


@pytest.mark.parametrize("outcome", ["tune", "stop"])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_that_fails_says_what_to_do_next(name, outcome):
    failing, events = FAILING[name]
    flat = [event for part in events for event in (part if isinstance(part, list | tuple) else [part])]
    verdict = evaluate(record_of(flat), policy(PolicyRule(name, failing, outcome)))
    assert (verdict.verdict, verdict.reasons[0].code, verdict.reasons[0].status) == (outcome, name, "failed")
    assert verdict.next_steps
    assert all(step.code and step.message for step in verdict.next_steps)
    assert json.loads(to_json(verdict.to_dict()))["next_steps"][0]["code"] == verdict.next_steps[0].code


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


# What a reviewer's runs showed


def test_a_run_that_collapsed_and_stays_there_is_a_stop_not_a_spike_that_comes_back():
    fall = [4.5 - 0.07 * n for n in range(20)]
    verdict = of_curve([*fall, 8.04, 7.98, 7.96, 7.97, 7.93])
    assert (verdict.verdict, failed(verdict)[0]) == ("stop", "not_worsening")


def test_after_an_explosion_a_higher_learning_rate_is_never_advised():
    losses = [4.1, 3.95, 3.82, 3.7, 3.6, 3.52, 3.45, 6.8, 6.7, 6.69, 6.68, 6.69, 6.68]
    verdict = evaluate(record_of(start(), curve(*losses)), CHECKLIST)
    assert verdict.verdict == "stop"
    codes = [step.code for step in verdict.next_steps]
    assert "raise_lr" not in codes
    assert "lower_lr" in codes


def test_gates_by_epochs_cannot_come_due_without_epochs_and_it_is_said():
    record = record_of(*[evaluated(0, 4.0, step=100 * n) for n in range(1, 5)])
    notes = {note.code: note.message for note in evaluate(record, CHECKLIST).notes}
    assert "Gate A, Gate B cannot come due" in notes["epochs_unknown"]


def test_a_run_without_a_known_objective_names_what_it_logs():
    record = record_of(*[logged(10 * n, {"eval.accuracy": 0.5}) for n in range(1, 5)])
    verdict = evaluate(record, CHECKLIST)
    assert verdict.verdict == "undecided"
    assert "eval.accuracy is known as an objective" in verdict.reasons[0].message

"""When a gate is asked, and how often."""

import pytest
from records import curve, evaluated, record_of, start, trained

from xtts_gatekeeper.gates import Gate, Policy, PolicyRule, evaluate, load_policy
from xtts_gatekeeper.gates.rules.base import When
from xtts_gatekeeper.gates.rules.improved import Improved
from xtts_gatekeeper.gates.rules.memory import Memory
from xtts_gatekeeper.gates.rules.trend import Trend

CHECKLIST = load_policy("checklist")


MEL = "eval.mel_ce"


IMPROVED = PolicyRule("improved", Improved(MEL), "tune")


def policy(*health, gates=(), minimum=2, objective=MEL):
    return Policy("mine", objective, minimum, tuple(health), tuple(gates))


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


def test_a_gate_that_was_not_passed_is_asked_again_until_it_is():
    gate = Gate("Gate", When("evaluations", 3), (IMPROVED,))
    record = record_of(start(), curve(3.0, 3.0, 3.1, 3.2, 2.9, 3.3))
    verdicts = [evaluate(record, policy(gates=[gate], minimum=3), e) for e in record.evaluations]
    assert [v.verdict for v in verdicts] == ["undecided", "undecided", "tune", "tune", "continue", "continue"]
    assert [v.gates for v in verdicts] == [[], [], ["Gate"], ["Gate"], ["Gate"], []]


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


def test_gates_by_epochs_cannot_come_due_without_epochs_and_it_is_said():
    record = record_of(*[evaluated(0, 4.0, step=100 * n) for n in range(1, 5)])
    notes = {note.code: note.message for note in evaluate(record, CHECKLIST).notes}
    assert "Gate A, Gate B cannot come due" in notes["epochs_unknown"]


# Too few to judge by


def test_a_gate_whose_rule_has_too_few_points_is_undecided():
    gate = Gate("Gate", When("epochs", 2), (PolicyRule("trend", Trend(MEL, window=5), "tune"),))
    assert evaluate(record_of(curve(3.0, 2.9)), policy(gates=[gate])).verdict == "undecided"


def test_a_gate_without_enough_points_stays_due_until_it_is_decided():
    gate = Gate("Gate A", When("epochs", 2), (PolicyRule("trend", Trend(MEL, window=3), "tune"),))
    events = [start(), *curve(3.0, 2.9, 2.8, 2.7, 2.6)]
    record = record_of(events)
    due = [evaluate(record, policy(gates=[gate]), e) for e in record.evaluations]
    assert [verdict.gates for verdict in due] == [[], ["Gate A"], ["Gate A"], [], []]
    assert [verdict.verdict for verdict in due[1:]] == ["undecided", "continue", "continue", "continue"]


def test_a_rule_that_only_mentions_does_not_turn_undecided_into_continue():
    mention = PolicyRule("memory", Memory(epochs=1), "continue")
    gate = Gate("Gate A", When("epochs", 1), (PolicyRule("trend", Trend(MEL, window=5), "tune"),))
    events = [start(), *[trained(e, memory_state="high") for e in range(2)], evaluated(0, 3.0), evaluated(1, 2.0)]
    for rules in ([], [mention]):
        assert evaluate(record_of(events), policy(*rules, gates=[gate])).verdict == "undecided"


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

import pytest
from records import curve, evaluated, record_of, start, trained

from xtts_gatekeeper.gates import Policy, PolicyRule, evaluate, load_policy
from xtts_gatekeeper.gates.replay import replay
from xtts_gatekeeper.gates.rules.target import Target

CHECKLIST = load_policy("checklist")
XTTS_19_A = (3.415, 4.717, 5.678, 6.419, 6.64, 6.974, 7.790)


def stop_below(value):
    return Policy("mine", "eval.objective", 1, (PolicyRule("target", Target("eval.objective", value), "stop"),), ())


@pytest.mark.parametrize(
    "events",
    [
        [start(), *curve(*XTTS_19_A)],
        [start(), *curve(*(3.0 - n / 10 for n in range(12)))],
        [start(), *curve(3.0, 2.9, 2.8, eval_set="old"), start(step=20, epoch=2), *curve(2.0, 1.9, first=2)],
        [start(), evaluated(0, 4.0, step=0), *curve(3.0, first=1), evaluated(1, 2.9, step=25, mid_epoch=True)],
    ],
)
def test_each_row_is_the_verdict_at_its_evaluation(events):
    record = record_of(events)
    rows = replay(record, CHECKLIST)["rows"]
    assert len(rows) == len(record.evaluations)
    for row, evaluation in zip(rows, record.evaluations, strict=True):
        verdict = evaluate(record, CHECKLIST, evaluation)
        assert row == {
            "step": evaluation.step,
            "epoch": evaluation.epoch,
            "epochs_done": verdict.latest["epochs_done"],
            "value": verdict.latest["value"],
            "verdict": verdict.verdict,
            "gates": verdict.gates,
            "reason": verdict.reasons[0].message,
        }


def test_a_stop_at_xtts_19_a_saves_three_epochs_and_loses_nothing():
    told = replay(record_of(start(), curve(*XTTS_19_A)), CHECKLIST)
    assert told["stopped_at"] == told["rows"][3]
    assert told["stopped_at"]["reason"].startswith("eval.mel_ce has risen")
    assert (told["evaluations_saved"], told["epochs_saved"], told["regret"]) == (3, 3, 0.0)


def test_epochs_saved_are_epochs_and_not_evaluations():
    done = [trained(n) for n in range(9)]
    events = [start(), *done[:3], evaluated(2, 2.0), *done[3:6], evaluated(5, 1.5), *done[6:], evaluated(8, 1.0)]
    told = replay(record_of(events), stop_below(2.5))
    assert (told["stopped_at"]["epochs_done"], told["evaluations_saved"], told["epochs_saved"]) == (3, 2, 6)


def test_regret_is_how_much_better_the_run_became_after_the_stop():
    told = replay(record_of(start(), curve(3.0, 2.4, 2.6, 1.9, 2.1)), stop_below(2.5))
    assert told["stopped_at"]["step"] == 20
    assert told["regret"] == pytest.approx(0.5)


@pytest.mark.parametrize("mels", [(), (3.0,), (3.0, 2.9, 2.8, 2.7)])
def test_a_run_without_a_stop_saves_nothing(mels):
    told = replay(record_of(start(), curve(*mels)), CHECKLIST)
    assert (told["stopped_at"], told["evaluations_saved"], told["epochs_saved"], told["regret"]) == (None, 0, 0, None)


def test_regret_is_none_when_the_eval_set_changed_after_the_stop():
    told = replay(record_of(start(), curve(3.0, 2.4, eval_set="old"), curve(9.0, 1.0, first=2)), stop_below(2.5))
    assert told["stopped_at"]["step"] == 20
    assert (told["evaluations_saved"], told["regret"]) == (2, None)


def test_regret_within_the_last_segment_ignores_what_was_measured_before_it():
    told = replay(record_of(start(), curve(3.0, eval_set="old"), curve(2.4, 2.0, first=1)), stop_below(2.5))
    assert told["stopped_at"]["step"] == 20
    assert told["regret"] == pytest.approx(0.4)


def test_a_stop_on_an_abandoned_stretch_is_not_replayed():
    events = [start(), *curve(3.0, 2.0), start(step=10, epoch=1), *curve(2.9, 2.8, first=1)]
    told = replay(record_of(events), stop_below(2.5))
    assert [row["value"] for row in told["rows"]] == [3.0, 2.9, 2.8]
    assert told["stopped_at"] is None


def test_a_policys_own_names_hold_in_a_replay():
    rules = (PolicyRule("target", Target("eval.mine", 2.5), "stop"),)
    own = Policy("mine", "eval.mine", 1, rules, (), {"eval.mine": "avg_mel_ce"})
    told = replay(record_of(start(), curve(3.0, 2.4, 2.0)), own)
    assert [row["value"] for row in told["rows"]] == [3.0, 2.4, 2.0]
    assert (told["stopped_at"]["step"], told["regret"]) == (20, pytest.approx(0.4))

"""The shipped policy on curves of real runs, and on any curve."""

import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import curve, evaluated, record_of, saved, scored, start, trained

from xtts_gatekeeper.gates import evaluate, load_policy

CHECKLIST = load_policy("checklist")


RECIPES = load_policy(Path(__file__).parent.parent / "recipes/gates.yaml")


MEL = "eval.mel_ce"


REPORT = (3.507, 3.008, 2.971, 2.971, 2.978, 2.995)


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


# Samples


def sampled(scores, mels=None, **rows):
    """The verdict after a run that trains well and whose samples were judged so before each evaluation."""
    mels = [3.0 * 0.97**n for n in range(len(scores))] if mels is None else mels
    events = [start()]
    for epoch, (score, mel) in enumerate(zip(scores, mels, strict=True)):
        marks = {name: values[epoch] for name, values in rows.items()}
        events += [trained(epoch, loss=mel, mel=mel), scored(epoch, score, **marks), evaluated(epoch, mel)]
    return evaluate(record_of(events), CHECKLIST)


@pytest.mark.parametrize("seed", range(20))
def test_samples_that_other_seeds_move_about_are_no_regression(seed):
    draw = Random(seed)
    scores = [20.0 + draw.gauss(0, 0.3) for _ in range(14)]
    for count in range(3, 15):
        assert set(failed(sampled(scores[:count]))) <= {"improved"}  # which a gate asks for, and they do not


def test_samples_as_good_as_real_speech_need_not_improve():
    assert sampled([24.0] * 12).verdict == "continue"


def test_samples_that_have_not_improved_tune_at_gate_a_and_stop_at_gate_b():
    at_a, at_b = sampled([18.0] * 5), sampled([17.0, 18.0, 18.0, 18.0, 18.0, *[17.9] * 5])
    assert (at_a.verdict, at_a.gates) == ("tune", ["Gate A"])
    assert (at_b.verdict, at_b.gates) == ("stop", ["Gate B"])
    assert failed(at_b) == ["improved"]
    assert at_b.reasons[0].evidence["metric"] == "sample.score"


def test_a_voice_that_gets_worse_while_the_loss_falls_is_first_a_tune_and_then_a_stop():
    tune = sampled([20.0, 20.5, 18.6, 18.5])
    assert (tune.verdict, failed(tune)) == ("tune", ["ears_agree"])
    assert tune.next_steps[0].code == "listen"
    stop = sampled([20.0, 20.5, 20.5, 17.0, 16.0])
    assert stop.verdict == "stop"
    assert set(failed(stop)) >= {"not_worsening", "ears_agree"}


def test_other_languages_that_are_forgotten_are_mentioned_and_no_more():
    verdict = sampled([20.0, 20.5, 21.0, 21.5], other_languages=[4.5, 4.0, 3.5, 3.2])
    assert (verdict.verdict, failed(verdict)) == ("continue", ["not_regressed"])


def test_pronunciation_or_stopping_that_regress_tune_at_gate_a():
    verdict = sampled([18.0, 18.5, 19.0, 19.5, 20.0], stopping=[4.0, 4.0, 4.0, 4.0, 2.5])
    assert (verdict.verdict, failed(verdict)) == ("tune", ["not_regressed"])
    assert "sample.stopping regressed from 4 to 2.5" in verdict.reasons[0].message


def test_artifacts_that_stay_stop_at_gate_b():
    verdict = sampled([17.0, 17.5, 18.0, 18.5, 19.0, 19.1, 19.2, 19.3, 19.4, 19.5], artifacts=[1.5] * 10)
    assert (verdict.verdict, failed(verdict)) == ("stop", ["threshold"])


def test_samples_of_another_set_of_prompts_are_not_compared_with_those_before():
    events = [start()]
    for epoch, mel in enumerate((3.0, 2.9, 2.8, 2.7)):
        prompts = "old" if epoch < 3 else "new"
        events += [trained(epoch, mel=mel), scored(epoch, 20.0 - 3 * epoch, prompts=prompts), evaluated(epoch, mel)]
    assert evaluate(record_of(events), CHECKLIST).verdict == "continue"

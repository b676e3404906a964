"""What every rule promises; a rule that is not here fails these tests."""

import json
import math

import pytest
import records
from hypothesis import given, settings
from hypothesis import strategies as st
from records import curve, evaluated, flat, gradients, incident, memory, saved, scored, start, trained

from xtts_gatekeeper.gates import Policy, PolicyRule, evaluate
from xtts_gatekeeper.gates.rules import RULES
from xtts_gatekeeper.gates.rules.base import When
from xtts_gatekeeper.gates.rules.checkpoint_intact import CheckpointIntact
from xtts_gatekeeper.gates.rules.combine import AllOf, AnyOf, AtLeast
from xtts_gatekeeper.gates.rules.comparable import Comparable
from xtts_gatekeeper.gates.rules.divergence import Divergence
from xtts_gatekeeper.gates.rules.ears_agree import EarsAgree
from xtts_gatekeeper.gates.rules.finite import Finite
from xtts_gatekeeper.gates.rules.gradients import Gradients
from xtts_gatekeeper.gates.rules.improved import Improved
from xtts_gatekeeper.gates.rules.learning_rate import LearningRate
from xtts_gatekeeper.gates.rules.memory import Memory
from xtts_gatekeeper.gates.rules.memory_growth import MemoryGrowth
from xtts_gatekeeper.gates.rules.nan_repeated import NanRepeated
from xtts_gatekeeper.gates.rules.no_leak import NoLeak
from xtts_gatekeeper.gates.rules.not_regressed import NotRegressed
from xtts_gatekeeper.gates.rules.not_worsening import NotWorsening
from xtts_gatekeeper.gates.rules.out_of_memory import OutOfMemory
from xtts_gatekeeper.gates.rules.overfit import Overfit
from xtts_gatekeeper.gates.rules.plateau import Plateau
from xtts_gatekeeper.gates.rules.runtime import Runtime
from xtts_gatekeeper.gates.rules.slowing import Slowing
from xtts_gatekeeper.gates.rules.spike import Spike
from xtts_gatekeeper.gates.rules.target import Target
from xtts_gatekeeper.gates.rules.threshold import Threshold
from xtts_gatekeeper.gates.rules.trend import Trend
from xtts_gatekeeper.record.journal import to_json

MEL = "eval.mel_ce"


NAN, INF = float("nan"), float("inf")


def record_of(*parts, **values):
    return records.record_of(flat(parts), **values)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Finite(0), "consecutive"),
        (lambda: NanRepeated(0), "consecutive"),
        (lambda: Divergence(MEL, times=0), "times"),
        (lambda: Divergence(MEL, times=INF), "times"),
        (lambda: Divergence(MEL, times=NAN), "times"),
        (lambda: NotWorsening(MEL, checks=0), "checks"),
        (lambda: NotWorsening(MEL, noises=-1), "noises"),
        (lambda: NotWorsening(MEL, noises=NAN), "noises"),
        (lambda: NotWorsening(MEL, tolerance=-0.1), "tolerance"),
        (lambda: Trend(MEL, window=1), "window"),
        (lambda: Trend(MEL, noise=-0.1), "noise"),
        (lambda: Improved(MEL, by=-0.1), "by"),
        (lambda: Improved(MEL, by=INF), "by"),
        (lambda: Improved(MEL, window=0), "window"),
        (lambda: Improved(MEL, enough=NAN), "enough"),
        (lambda: EarsAgree(checks=0), "checks"),
        (lambda: EarsAgree(by=-1), "by"),
        (lambda: EarsAgree(share=1), "share"),
        (lambda: EarsAgree(noises=INF), "noises"),
        (lambda: NotRegressed(MEL, by=-1), "by"),
        (lambda: Plateau(MEL, worth=0), "worth"),
        (lambda: Plateau(MEL, worth=1), "worth"),
        (lambda: Plateau(MEL, window=2), "window"),
        (lambda: Plateau(MEL, window=61), "window"),
        (lambda: Slowing(MEL, pace=1), "pace"),
        (lambda: Slowing(MEL, share=0), "share"),
        (lambda: Slowing(MEL, window=2), "window"),
        (lambda: Overfit(window=2), "window"),
        (lambda: Overfit(share=1.1), "share"),
        (lambda: Overfit(noise=-0.1), "noise"),
        (lambda: Spike(MEL, window=2), "window"),
        (lambda: Spike(MEL, times=0), "times"),
        (lambda: Spike(MEL, share=-0.1), "share"),
        (lambda: Target(MEL, INF), "value"),
        (lambda: Target(MEL, NAN), "value"),
        (lambda: Threshold(MEL), "maximum"),
        (lambda: Threshold(MEL, maximum=NAN), "maximum"),
        (lambda: Threshold(MEL, minimum=NAN), "minimum"),
        (lambda: Threshold(MEL, maximum=1, minimum=2), "minimum"),
        (lambda: Memory(0), "epochs"),
        (lambda: MemoryGrowth(2), "epochs"),
        (lambda: MemoryGrowth(full=0), "full"),
        (lambda: MemoryGrowth(full=1.1), "full"),
        (lambda: Gradients(lost=1), "lost"),
        (lambda: Gradients(lost=-0.1), "lost"),
        (lambda: Gradients(times=1), "times"),
        (lambda: Gradients(times=INF), "times"),
        (lambda: OutOfMemory(-1), "allowed"),
        (lambda: Runtime(0), "max_hours"),
        (lambda: Runtime(NAN), "max_hours"),
    ],
)
def test_a_senseless_argument_is_refused_with_its_name_first(make, field):
    with pytest.raises(ValueError, match=rf"^{field} "):
        make()


_NESTED = (Improved("sample.score"), Finite(), AllOf((Trend(MEL), Spike("train.mel_ce", window=3))))


EXAMPLES = {
    "finite": [Finite()],
    "nan_repeated": [NanRepeated(1)],
    "divergence": [Divergence(MEL), Divergence("sample.score")],
    "not_worsening": [NotWorsening(MEL, checks=1), NotWorsening("sample.score", checks=2)],
    "trend": [Trend(MEL), Trend("eval.objective", window=0, require="down"), Trend("sample.score")],
    "improved": [
        *(Improved(MEL, since) for since in ("first", "previous", "best")),
        Improved(MEL, "previous_gate", gate=When("epochs", 2)),
        Improved("sample.score", "best"),
        Improved(MEL, window=3),
        Improved("sample.score", enough=20),
        Improved(MEL, enough=2.0),
    ],
    "not_regressed": [NotRegressed(MEL), NotRegressed("sample.score", 1), NotRegressed("sample.score", 1, "first")],
    "plateau": [Plateau(MEL, window=3), Plateau("sample.score", window=3)],
    "slowing": [Slowing(MEL, window=3), Slowing("sample.score", window=3)],
    "overfit": [Overfit(window=3)],
    "ears_agree": [EarsAgree(), EarsAgree(checks=1, by=0, noises=0)],
    "spike": [Spike(MEL, window=3), Spike("sample.score", window=3)],
    "target": [Target(MEL, 2.5), Target("sample.score", 20)],
    "threshold": [Threshold(MEL, 2.5), Threshold("sample.score", minimum=20)],
    "gradients": [Gradients()],
    "memory": [Memory(2)],
    "memory_growth": [MemoryGrowth(3)],
    "out_of_memory": [OutOfMemory(0)],
    "checkpoint_intact": [CheckpointIntact()],
    "learning_rate": [LearningRate()],
    "runtime": [Runtime(100)],
    "comparable": [Comparable()],
    "no_leak": [NoLeak()],
    "all_of": [AllOf(_NESTED)],
    "any_of": [AnyOf(_NESTED)],
    "at_least": [AtLeast(2, _NESTED)],
}


NUMBERS = st.floats() | st.sampled_from([0.0, NAN, INF, -INF, 2.0, 2.1, -2.0]) | st.none()


PIECES = st.one_of(
    st.builds(lambda n, v: [trained(n, mel=v), evaluated(n, v)], st.integers(0, 12), NUMBERS),
    st.builds(lambda vs: curve(*vs), st.lists(NUMBERS, min_size=3, max_size=12)),
    st.builds(
        lambda n, v, known, p: evaluated(n, v, eval_set=known, previous=p),
        st.integers(0, 12),
        NUMBERS,
        st.sampled_from([None, "dev", "12 samples"]),
        st.dictionaries(st.just(MEL), st.floats(), max_size=1),
    ),
    st.builds(
        lambda n, run, memory, seconds: trained(
            n, nonfinite_batches=run, longest_nonfinite_run=run, memory_state=memory, seconds=seconds
        ),
        st.integers(0, 12),
        st.integers(0, 4),
        st.sampled_from([None, "low", "high", "critical"]),
        st.none() | st.floats(0, 1e6),
    ),
    st.builds(
        lambda n, bad, norm, own: trained(n, gradients=gradients(bad, norm), memory=memory(own)),
        st.integers(0, 12),
        st.integers(0, 30),
        st.none() | st.floats(1e-6, 1e6),
        st.integers(0, 1 << 40),
    ),
    st.builds(
        lambda step, planned, leaked: start(step, epochs_planned=planned, eval_clips_trained_on=leaked),
        st.integers(0, 100),
        st.none() | st.integers(0, 50),
        st.none() | st.integers(0, 5),
    ),
    st.builds(scored, st.integers(0, 12), NUMBERS),
    st.builds(
        lambda step, intact: saved(step, intact=intact, reason="disk full"),
        st.integers(0, 99),
        st.sampled_from([None, True, False]),
    ),
    st.builds(incident, st.integers(0, 99), st.sampled_from(["oom", "lr_not_as_planned", "other"])),
)


def test_no_rule_is_left_out_of_what_every_rule_promises():
    assert EXAMPLES.keys() == RULES.keys()
    assert all(isinstance(rule, RULES[name]) for name, rules in EXAMPLES.items() for rule in rules)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(PIECES, max_size=8), source=st.sampled_from(["journal", "console", "tensorboard", "table"]))
def test_every_rule_judges_any_record_in_one_sentence_and_leaves_it_as_it_was(name, pieces, source):
    record = record_of(*pieces, source=source)
    before = repr(record.events)
    for rule in EXAMPLES[name]:
        finding = rule.check(record)
        assert finding.status in ("passed", "failed", "too_early", "not_measured")
        assert finding.message.strip()
        assert "\n" not in finding.message
        assert ". " not in finding.message
        assert not finding.message.endswith((".", ":", " "))
        assert isinstance(json.loads(to_json(finding.evidence)), dict)
        assert rule.check(record) == finding or "nan" in repr(finding)
    assert repr(record.events) == before


def policy(*health, gates=(), minimum=2, objective=MEL):
    return Policy("mine", objective, minimum, tuple(health), tuple(gates))


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
    "ears_agree": (
        rule("ears_agree"),
        [start(), *((trained(n), scored(n, 20 - 2 * n), evaluated(n, 3.0 - n / 2)) for n in range(4))],
    ),
    "spike": (rule("spike", metric=MEL), [start(), curve(3.0, 2.9, 3.0, 2.9, 3.0, 2.9, 30.0)]),
    "target": (rule("target", metric=MEL, value=2.5), [start(), curve(3.0, 2.4)]),
    "threshold": (rule("threshold", metric=MEL, maximum=2.5), [start(), curve(3.0)]),
    "gradients": (rule("gradients"), [start(), trained(0, gradients=gradients(9, 1.0)), evaluated(0, 3.0)]),
    "memory_growth": (
        rule("memory_growth", epochs=3),
        [start(epochs_planned=100), *((trained(n, memory=memory(n << 30)), evaluated(n, 3.0)) for n in range(3))],
    ),
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

"""What follows from a verdict: every way out of the decision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import TIME

from xtts_gatekeeper.actions import Decision, about_learning, decide
from xtts_gatekeeper.gates import RULES, Verdict
from xtts_gatekeeper.gates.evaluate import Reason
from xtts_gatekeeper.gates.next_steps import NextStep
from xtts_gatekeeper.record.events import Action

pytest.importorskip("coqpit", reason="the train extra is not installed")
from xtts_gatekeeper.config import ActionsConfig

MEL = "eval.mel_ce"
ALL = {"stop": True, "next_phase": True, "lower_lr": True, "rewind": True}
LOWER = NextStep("lower_lr", "lower the learning rate from 1e-05 to 3e-06", {"lr": 1e-5, "lr_next": 3e-6})
HALVE = NextStep("lower_lr", "multiply by 0.25", {"factor": 0.25})
RAISE = NextStep("raise_lr", "raise the learning rate from 1e-05 to 2e-05", {"lr": 1e-5, "lr_next": 2e-5})
KEEP = NextStep("keep_checkpoint", "keep best_model_10.pth")

#: Rules whose reasons are about a curve, and name it.
CURVES = ("divergence", "not_worsening", "plateau", "improved", "trend", "slowing", "spike", "threshold")


def reason(code, outcome="stop", status="failed", **evidence):
    if code in CURVES:
        evidence = {"metric": MEL, **evidence}
    return Reason(code, f"{code} says so", evidence, status, outcome)


def verdict(name, *reasons, steps=()):
    return Verdict(
        verdict=name,
        reasons=tuple(reason(r, name) if isinstance(r, str) else r for r in reasons),
        next_steps=tuple(steps),
        objective=MEL,
        evaluations=5,
        best=None,
        latest=None,
        segments=[],
        projection=None,
        gates=[],
        policy="checklist",
        policy_hash="hash",
        source="journal",
        run="",
        model="XTTS",
        notes=(),
    )


def action(name):
    return Action(step=10, epoch=0, time=TIME, name=name, message="because")


def decided(judged, enabled=ALL, *, taken=(), since=1, has_next=True, limit=3, wait=3):
    """The decision where this is enabled, that was taken, and so many evaluations have been made since."""
    section = ActionsConfig(limit=limit, wait=wait, **enabled)
    return decide(judged, section, [action(name) for name in taken], since, has_next)


# A stop


@pytest.mark.parametrize("codes", [("finite",), ("divergence",), ("not_worsening",), ("finite", "divergence")])
@pytest.mark.parametrize(("steps", "factor"), [((), 0.5), ((KEEP, LOWER), 0.3), ((HALVE,), 0.25), ((RAISE,), 0.5)])
def test_weights_that_have_run_away_lead_to_a_rewind_at_the_rate_of_the_next_steps(codes, steps, factor):
    decision = decided(verdict("stop", *codes, steps=steps))
    assert decision == Decision("rewind", f"{codes[0]} says so", pytest.approx(factor))


@pytest.mark.parametrize("codes", [("plateau",), ("improved",), ("trend",), ("improved", "trend")])
def test_a_plateau_leads_to_the_next_phase_and_leaves_the_rate_to_it(codes):
    assert decided(verdict("stop", *codes, steps=[LOWER])) == Decision("next_phase", f"{codes[0]} says so", 1.0)


@pytest.mark.parametrize(
    "codes",
    [
        ("out_of_memory",),
        ("nan_repeated",),
        ("runtime",),
        ("threshold",),
        ("memory_growth",),
        # More than one kind of trouble: neither a rewind nor a phase answers all of it.
        ("finite", "plateau"),
        ("plateau", "out_of_memory"),
        ("divergence", "nan_repeated"),
    ],
)
def test_any_other_stop_ends_the_training(codes):
    cause = "nonfinite" if "finite" in codes else "verdict"
    assert decided(verdict("stop", *codes)) == Decision("stop", f"{codes[0]} says so", cause=cause)


@pytest.mark.parametrize(
    ("codes", "enabled", "has_next", "expected"),
    [
        (("finite",), {"rewind": True}, True, "rewind"),
        (("finite",), {"rewind": True}, False, "rewind"),
        (("finite",), {"stop": True}, True, "stop"),
        (("finite",), {"next_phase": True, "lower_lr": True}, True, None),
        (("plateau",), {"next_phase": True}, True, "next_phase"),
        (("plateau",), {"next_phase": True}, False, None),
        (("plateau",), {"next_phase": True, "stop": True}, False, "stop"),
        (("plateau",), {"stop": True}, True, "stop"),
        (("plateau",), {"rewind": True, "lower_lr": True}, True, None),
        (("runtime",), {"stop": True}, True, "stop"),
        (("runtime",), {"next_phase": True, "lower_lr": True, "rewind": True}, True, None),
    ],
)
def test_a_stop_leads_only_to_what_is_enabled_and_can_be_had(codes, enabled, has_next, expected):
    decision = decided(verdict("stop", *codes), enabled, has_next=has_next)
    assert (decision and decision.name) == expected


def test_only_the_reasons_that_made_the_verdict_a_stop_count():
    judged = verdict("stop", "finite", reason("plateau", "tune"), reason("out_of_memory", "continue"))
    assert decided(judged).name == "rewind"
    passed = verdict("stop", "finite", reason("plateau", "continue", status="passed"))
    assert decided(passed).name == "rewind"


# A tune


@pytest.mark.parametrize("code", ["slowing", "trend", "overfit", "improved", "spike"])
def test_a_tune_about_a_metric_leads_to_the_next_phase(code):
    assert decided(verdict("tune", code, steps=[LOWER])) == Decision("next_phase", f"{code} says so", 1.0)


@pytest.mark.parametrize(("step", "factor"), [(LOWER, 0.3), (HALVE, 0.25)])
def test_without_a_next_phase_it_leads_to_the_lower_rate_that_its_next_steps_name(step, factor):
    decision = decided(verdict("tune", "overfit", steps=[KEEP, step]), has_next=False)
    assert decision == Decision("lower_lr", "overfit says so", pytest.approx(factor))


@pytest.mark.parametrize("steps", [(), (KEEP,), (RAISE,)])
def test_a_rate_is_only_lowered_where_the_next_steps_say_so(steps):
    assert decided(verdict("tune", "trend", steps=steps), has_next=False) is None


@pytest.mark.parametrize(
    ("enabled", "has_next", "expected"),
    [
        ({"next_phase": True}, True, "next_phase"),
        ({"next_phase": True}, False, None),
        ({"lower_lr": True}, True, "lower_lr"),
        ({"next_phase": True, "lower_lr": True}, False, "lower_lr"),
        ({"stop": True, "rewind": True}, True, None),
    ],
)
def test_a_tune_leads_only_to_what_is_enabled_and_can_be_had(enabled, has_next, expected):
    decision = decided(verdict("tune", "overfit", steps=[LOWER]), enabled, has_next=has_next)
    assert (decision and decision.name) == expected


@pytest.mark.parametrize(
    "code", ["memory", "memory_growth", "gradients", "checkpoint_intact", "learning_rate", "runtime", "no_leak"]
)
def test_a_tune_about_memory_files_or_the_clock_leads_to_nothing(code):
    assert decided(verdict("tune", code, steps=[LOWER])) is None


def test_beside_such_a_one_a_metric_is_acted_on():
    assert decided(verdict("tune", "memory", "trend")).name == "next_phase"
    assert decided(verdict("tune", "trend", "memory")) == Decision("next_phase", "trend says so")


def test_the_reason_that_is_given_is_one_that_is_about_learning():
    assert decided(verdict("tune", "memory", "trend")).why == "trend says so"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (reason("trend"), True),
        (Reason("a_rule_of_tomorrow", "", {"metric": "train.mel_ce"}, "failed", "tune"), True),
        (reason("overfit"), True),
        (reason("memory"), False),
        (reason("runtime", hours=9.0), False),
    ],
)
def test_a_reason_is_about_learning_where_it_names_a_curve(asked, expected):
    assert about_learning(asked) is expected


# Nothing follows


@pytest.mark.parametrize("name", ["continue", "undecided"])
def test_no_other_verdict_leads_to_anything(name):
    assert decided(verdict(name, reason("trend", "continue", status="passed"))) is None
    assert decided(verdict(name, reason("trend", "continue"), steps=[LOWER])) is None


@pytest.mark.parametrize("name", ["tune", "stop"])
def test_a_verdict_without_a_reason_that_failed_leads_to_nothing(name):
    assert decided(verdict(name)) is None
    assert decided(verdict(name, reason("trend", name, status="too_early"))) is None
    assert decided(verdict(name, reason("trend", "continue"))) is None


CASES = [
    (name, code) for name in ("tune", "stop") for code in ("finite", "plateau", "overfit", "trend", "memory", "runtime")
]


@pytest.mark.parametrize(("name", "code"), CASES)
def test_by_default_a_verdict_is_advice_and_nothing_follows(name, code):
    assert decide(verdict(name, code, steps=[LOWER]), ActionsConfig(), [], 1, True) is None


# How often, and how soon


@pytest.mark.parametrize(
    ("taken", "limit", "expected"),
    [
        ([], 1, "rewind"),
        (["rewind"], 1, "stop"),
        (["rewind"], 2, "rewind"),
        (["rewind", "rewind"], 2, "stop"),
        (["rewind"] * 5, 2, "stop"),
        (["lower_lr", "lower_lr", "next_phase"], 2, "rewind"),  # each is counted by itself
    ],
)
def test_a_rewind_that_is_used_up_leaves_the_stop(taken, limit, expected):
    assert decided(verdict("stop", "finite"), taken=taken, since=9, limit=limit).name == expected


@pytest.mark.parametrize(
    ("taken", "limit", "expected"),
    [([], 1, "lower_lr"), (["lower_lr"], 1, None), (["lower_lr"] * 2, 3, "lower_lr"), (["rewind"], 1, "lower_lr")],
)
def test_a_rate_is_not_lowered_more_often_than_allowed(taken, limit, expected):
    judged = verdict("tune", "overfit", steps=[LOWER])
    decision = decided(judged, taken=taken, since=9, limit=limit, has_next=False)
    assert (decision and decision.name) == expected


def test_phases_are_as_many_as_the_plan_has():
    assert decided(verdict("tune", "trend"), taken=["next_phase"] * 9, since=9, limit=1).name == "next_phase"


@pytest.mark.parametrize(("since", "wait", "rested"), [(1, 1, True), (1, 2, False), (2, 3, False), (3, 3, True)])
@pytest.mark.parametrize(
    ("judged", "has_next", "name", "else_"),
    [
        (verdict("stop", "finite"), True, "rewind", "stop"),
        (verdict("stop", "plateau"), True, "next_phase", "stop"),
        (verdict("tune", "trend", steps=[LOWER]), True, "next_phase", None),
        (verdict("tune", "trend", steps=[LOWER]), False, "lower_lr", None),
    ],
)
def test_after_an_action_so_many_evaluations_pass_before_the_next_one_but_a_stop(
    judged, has_next, name, else_, since, wait, rested
):
    decision = decided(judged, taken=["lower_lr"], since=since, wait=wait, has_next=has_next)
    assert (decision and decision.name) == (name if rested else else_)
    assert decided(judged, since=1, wait=wait, has_next=has_next).name == name  # nothing to wait for


# What holds for all of them


reasons = st.builds(
    reason,
    st.sampled_from(sorted(RULES)),
    st.sampled_from(["continue", "tune", "stop"]),
    st.sampled_from(["passed", "failed", "too_early", "not_measured"]),
)
names = st.sampled_from(["next_phase", "lower_lr", "rewind", "stop"])


@given(
    st.builds(
        lambda name, reasons, steps: verdict(name, *reasons, steps=steps),
        st.sampled_from(["continue", "tune", "stop", "undecided"]),
        st.lists(reasons, max_size=5),
        st.lists(st.sampled_from([LOWER, HALVE, RAISE, KEEP]), max_size=3),
    ),
    st.fixed_dictionaries({name: st.booleans() for name in ALL}),
    st.lists(names, max_size=6),
    st.integers(1, 5),
    st.booleans(),
)
def test_nothing_is_done_that_is_not_enabled_and_a_rate_never_rises(judged, enabled, taken, since, has_next):
    decision = decide(
        judged, ActionsConfig(limit=2, wait=3, **enabled), [action(name) for name in taken], since, has_next
    )
    if decision is None:
        return
    assert enabled[decision.name]
    assert 0 < decision.factor <= 1
    assert judged.verdict in ("tune", "stop")
    assert decision.why in [r.message for r in judged.reasons if r.status == "failed" and r.outcome == judged.verdict]
    if decision.name == "stop":
        assert judged.verdict == "stop"
    else:
        assert since >= 3 or not taken
    if decision.name in ("rewind", "lower_lr"):
        assert taken.count(decision.name) < 2
        assert decision.factor < 1
    assert decision.name != "next_phase" or has_next

"""Which files may go: tables for every policy, properties for all of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtts_gatekeeper.checkpoints.retention import Candidate, best_candidate, parse_policy, retain
from xtts_gatekeeper.errors import UserError

MEL = "eval.mel_ce"


def file(step, mel=None, *, resumable=True, dev="dev", path=None, size=100, gates=(), spare=False, **metrics):
    """A checkpoint of `step`, or a best model of it when it has only weights."""
    path = path or f"{'checkpoint' if resumable else 'best_model'}_{step}.pth"
    measured = {**({} if mel is None else {MEL: mel}), **{name.replace("_", ".", 1): v for name, v in metrics.items()}}
    return Candidate(path, step, step, size, resumable, measured, dev, tuple(gates), spare)


def kept(files, *terms, budget=None, objective=MEL):
    return set(retain(files, parse_policy(terms), objective, budget).keep)


def paths(*steps):
    return {f"checkpoint_{step}.pth" for step in steps}


# Tables

CURVE = [file(s, m) for s, m in ((100, 3.0), (200, 2.0), (300, 2.5), (400, 2.2), (500, 2.6))]


@pytest.mark.parametrize(
    ("terms", "steps"),
    [
        ([], [200, 500]),
        (["latest"], [200, 500]),
        (["latest:3"], [200, 300, 400, 500]),
        (["latest:99"], [100, 200, 300, 400, 500]),
        (["best:2"], [200, 400, 500]),
        (["best:3"], [200, 300, 400, 500]),
        (["every:200"], [200, 400, 500]),
        (["every:150"], [200, 300, 500]),
        (["every:100000"], [200, 500]),
        (["every:200&best:3"], [200, 400, 500]),
        (["every:300&latest:2"], [200, 500]),
        (["latest:2 & best:2"], [200, 400, 500]),
        (["latest:2", "every:100&best:3"], [200, 300, 400, 500]),
    ],
)
def test_each_term_keeps_what_it_says_beside_the_floor(terms, steps):
    assert kept(CURVE, *terms) == paths(*steps)


def test_best_by_another_metric_and_by_a_score_of_which_more_is_better():
    files = [file(1, 2.0, eval_text_ce=1.0, sample_score=9.0), file(2, 1.0, eval_text_ce=3.0, sample_score=20.0)]
    files += [file(3, 3.0, eval_text_ce=0.5, sample_score=3.0), file(4)]
    assert kept(files, "best:1:eval.text_ce") == paths(2, 3, 4)
    assert kept(files, "best:1:sample.score") == paths(2, 4)
    assert kept(files, "best:2:sample.score") == paths(1, 2, 4)
    assert kept(files, objective="sample.score") == paths(2, 4)


def test_files_by_which_a_gate_was_decided_stay_resumable_if_possible():
    files = [file(10, gates=["A"], resumable=False), file(10, gates=["A"]), file(20, gates=["B"]), file(30)]
    assert kept(files, "gate") == paths(10, 20, 30)
    assert kept(files, "gate:B") == paths(20, 30)
    decided_twice = [file(10, gates=["A"]), file(20, gates=["A"]), file(30)]
    assert kept(decided_twice, "gate") == paths(20, 30)
    assert kept(files, "gate:unknown") == paths(30)


def test_the_best_of_every_set_of_comparable_evaluations_stays():
    files = [file(1, 1.0, dev="one"), file(2, 2.0, dev="one"), file(3, 9.0, dev="two"), file(4, 8.0, dev="two")]
    assert kept([*files, file(5)]) == paths(1, 4, 5)


def test_a_weights_file_is_preferred_to_a_full_one_of_the_same_weights():
    full, weights = file(10, 1.0), file(10, 1.0, resumable=False)
    for pair in ([full, weights], [weights, full]):
        assert kept([*pair, file(20, 2.0)]) == {"best_model_10.pth", "checkpoint_20.pth"}
        assert best_candidate(pair, MEL) == weights


def test_names_are_not_sorted_as_text():
    assert kept([file(900), file(1000), file(2000)]) == paths(2000)
    assert kept([file(900), file(1000), file(2000)], "latest:2") == paths(1000, 2000)


def test_after_going_back_the_new_file_stays_and_the_abandoned_higher_step_goes():
    assert kept([file(300), file(250)]) == paths(250)


def test_of_two_files_of_one_step_the_last_written_stays_for_it_says_where_to_go_on():
    inside, after = file(30, path="checkpoint_29.pth"), file(30, path="checkpoint_30.pth")
    assert kept([inside, after]) == paths(30)
    assert kept([after, inside]) == paths(29)


def test_weights_saved_for_want_of_room_stay_until_something_resumable_is_newer():
    spare = file(20, resumable=False, path="weights_20.pth", spare=True)
    assert kept([file(10), spare]) == {"checkpoint_10.pth", "weights_20.pth"}
    assert kept([file(10), spare, file(30)]) == paths(30)


def test_values_that_are_not_finite_are_no_best():
    assert kept([file(1, math.nan), file(2, 5.0), file(3, -math.inf), file(4)]) == paths(2, 4)


def test_the_best_is_of_the_segment_that_was_evaluated_last():
    files = [file(1, 1.0, dev="one"), file(2, 9.0, dev="two"), file(3)]
    assert best_candidate(files, MEL).step == 2
    assert best_candidate([file(3)], MEL) is None
    assert best_candidate([], MEL) is None


def test_the_budget_takes_the_oldest_extras_and_says_what_it_could_not_have():
    decided = retain(CURVE, parse_policy(["latest:9"]), MEL, budget=300)
    assert set(decided.keep) == paths(200, 400, 500)
    assert "disk budget" in decided.drop["checkpoint_100.pth"]
    assert decided.over_budget == 0
    decided = retain(CURVE, parse_policy(["latest:9"]), MEL, budget=150)
    assert (set(decided.keep), decided.over_budget) == (paths(200, 500), 50)


def test_a_dropped_file_is_told_why():
    reasons = retain(CURVE, parse_policy([]), MEL).drop
    assert reasons["checkpoint_300.pth"] == "checkpoint_200.pth is better (2.0000, this one 2.5000)"
    assert retain([file(1), file(2)], parse_policy([]), MEL).drop["checkpoint_1.pth"] == "checkpoint_2.pth is newer"
    twice = [file(1, 1.0, resumable=False), file(1, 1.0), file(2)]
    assert retain(twice, parse_policy([]), MEL).drop["checkpoint_1.pth"] == "best_model_1.pth is as good (1.0000)"


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ("lates:2", "did you mean 'latest'"),
        ("bset", "did you mean 'best'"),
        ("pinned:1", "known are"),
        ("latest:0", "1 or more"),
        ("latest:-1", "1 or more"),
        ("latest:two", "1 or more"),
        ("latest:\u0661", "1 or more"),
        ("every", "needs a number"),
        ("every:1:2", "one part too many"),
        ("latest:1:eval.loss", "one part too many"),
        ("best:1:a:b", "is no retention term"),
        ("", "is no retention term"),
        ("best:1&", "is no retention term"),
        ("gate:", "is no retention term"),
        ("every:1e9", "1 or more"),
        ("every:" + "9" * 5000, "1 or more"),
    ],
)
def test_a_term_that_cannot_be_used_is_one_sentence(term, said):
    with pytest.raises(UserError, match=said) as refused:
        parse_policy(["latest:1", term])
    assert "\n" not in str(refused.value)
    assert repr(term) in str(refused.value)


# Properties

files_of_a_run = st.lists(
    st.builds(
        file,
        st.integers(0, 3000),
        st.none() | st.floats(0, 10),
        resumable=st.booleans(),
        dev=st.sampled_from(["one", "two", None]),
        size=st.integers(1, 500),
        gates=st.lists(st.sampled_from("AB"), max_size=2),
        spare=st.booleans(),
        sample_score=st.floats(0, 25),
    ),
    unique_by=lambda file: file.path,
    max_size=25,
)
one_term = st.sampled_from(
    ["latest:1", "latest:3", "best:1", "best:3", "best:2:sample.score", "every:100", "every:1000", "gate", "gate:A"]
)
policies = st.lists(st.lists(one_term, min_size=1, max_size=3).map("&".join), max_size=3)
budgets = st.none() | st.integers(0, 5000)


@given(files_of_a_run, policies, budgets)
def test_whatever_the_policy_the_newest_resumable_and_every_best_stay(files, terms, budget):
    decided = retain(files, parse_policy(terms), MEL, budget)
    assert decided.keep.keys() | decided.drop.keys() == {file.path for file in files}
    assert not decided.keep.keys() & decided.drop.keys()
    resumable = [file.path for file in files if file.resumable]
    assert not resumable or resumable[-1] in decided.keep
    for segment in {file.segment for file in files}:
        values = [file.loss(MEL) for file in files if file.segment == segment]
        stay = [f.loss(MEL) for f in files if f.segment == segment and f.path in decided.keep]
        assert min(values) == math.inf or min(values) in stay
    assert decided.keep or not any(file.resumable or MEL in file.metrics for file in files)


@given(files_of_a_run, policies, budgets)
def test_pruning_twice_drops_nothing_more(files, terms, budget):
    policy = parse_policy(terms)
    stay = retain(files, policy, MEL, budget).keep
    assert not retain([file for file in files if file.path in stay], policy, MEL, budget).drop


@given(files_of_a_run, policies, st.integers(0, 5000), st.integers(0, 5000))
def test_a_smaller_budget_keeps_no_more(files, terms, one, two):
    policy = parse_policy(terms)
    small, large = (retain(files, policy, MEL, budget) for budget in sorted([one, two]))
    assert small.keep.keys() <= large.keep.keys()
    size = {file.path: file.bytes for file in files}
    total = sum(size[path] for path in small.keep)
    assert small.over_budget == max(0, total - min(one, two))


@given(files_of_a_run, policies, policies)
def test_more_terms_keep_no_less_and_all_of_keeps_no_more(files, one, two):
    assert kept(files, *one) <= kept(files, *one, *two)
    if one and two:
        both = kept(files, f"{one[0]}&{two[0]}")
        assert both <= kept(files, one[0]) and both <= kept(files, two[0])

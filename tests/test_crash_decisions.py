"""What follows from a crash: every rule, and budgets over mixed histories."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import TIME

from xtts_gatekeeper.crashes.decide import LONGEST_WAIT, Limits, decide
from xtts_gatekeeper.crashes.kinds import Kind
from xtts_gatekeeper.record.events import Crash

KINDS = get_args(Kind)
ENDS = {"finished": 0, "stopped": 0, "refused": 2, "interrupted": 130, "terminated": 143}
RESTARTED = [kind for kind in KINDS if kind not in ENDS]
OF_A_CLIP = ["exception", "gpu_fault", "gpu_assert", "segfault", "hang"]
CLIPS = ["wavs/a.wav", "wavs/b.wav"]


def crash(kind="killed", progress=False, step=None, decision="restart", **values):
    """A crash at a step of its own unless one is given."""
    crash.step += 1
    step = crash.step if step is None else step
    return Crash(step=step, epoch=0, time=TIME, kind=kind, message="m", decision=decision, progress=progress, **values)


crash.step = 1000


def history(text, kind="killed", step=None):
    """`-` is a crash without progress, `+` one with, `|` one without after which it was stopped."""
    return [crash(kind, sign == "+", step, "stop" if sign == "|" else "restart") for sign in text]


# What is not started again


@pytest.mark.parametrize(("kind", "exit_code"), ENDS.items())
@pytest.mark.parametrize("before", ["", "+", "---"])
def test_an_end_that_was_meant_stays_one(kind, exit_code, before):
    decision = decide([*history(before), crash(kind, progress=True)])
    assert (decision.act, decision.exit_code, decision.exclude) == ("stop", exit_code, ())


@pytest.mark.parametrize("kind", ["terminated", "interrupted"])
def test_who_ended_it_is_told_how_to_go_on_and_promised_nothing(kind):
    why = decide([crash(kind)]).why
    assert "--resume auto" in why and "--continue_path RUN" in why and "from what is saved" in why


def test_without_a_crash_there_is_nothing_to_decide():
    with pytest.raises(ValueError, match="no crash"):
        decide([])


# A restart, and what it does besides


@pytest.mark.parametrize("kind", RESTARTED)
def test_after_progress_it_is_started_again_at_once(kind):
    decision = decide([crash(kind, progress=True, files=CLIPS, trained=9, signature="E")])
    assert (decision.act, decision.wait, decision.exclude) == ("restart", 0, ())
    assert decision.disk == (kind == "disk_full")
    assert decision.smaller == (kind == "out_of_memory")
    assert decision.spare_memory == (kind == "host_out_of_memory")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("disk_full", "pruned"),
        ("out_of_memory", "smaller parts"),
        ("host_out_of_memory", "without a copy in memory"),
        ("gpu_assert", "CUDA_LAUNCH_BLOCKING=1"),
        ("gpu_assert", "token or an index out of range"),
        ("nonfinite", "once more, it stops"),
    ],
)
def test_the_user_is_told_what_a_restart_does(kind, words):
    assert words in decide([crash(kind)]).why


def test_gradients_that_fail_again_right_after_a_restart_stop_it():
    first, other = crash("nonfinite", progress=True), crash("killed", progress=True)
    assert decide([first]).act == "restart"
    decision = decide([first, crash("nonfinite", progress=True)])
    assert (decision.act, decision.exit_code) == ("stop", 1)
    assert "learning rate" in decision.why and "data" in decision.why
    assert decide([first, other, crash("nonfinite")]).act == "restart"
    assert decide([crash("nonfinite", decision="stop"), first]).act == "restart"  # a person has begun anew


def test_a_second_want_of_host_memory_in_a_row_names_the_workers():
    want = crash("host_out_of_memory", progress=True)
    assert "num_loader_workers" not in decide([want]).why
    again = decide([want, want])
    assert again.act == "restart" and again.spare_memory
    assert "num_loader_workers" in again.why and "batch_size" in again.why
    assert "num_loader_workers" not in decide([want, crash(progress=True), want]).why


# How often, and how soon


@pytest.mark.parametrize(
    ("text", "restarts", "act"),
    [
        ("-", 3, "restart"),
        ("---", 3, "restart"),
        ("----", 3, "stop"),
        ("+--", 3, "restart"),
        ("+---", 3, "stop"),
        ("+---+", 3, "restart"),
        ("+---+--", 3, "restart"),
        ("-+-+-+-+-+-+-", 1, "stop"),
        ("-+", 1, "restart"),
        ("+" * 50, 1, "restart"),
        ("-", 1, "restart"),
        ("--", 1, "stop"),
        ("-", 0, "stop"),
        ("+", 0, "stop"),
        ("----|-", 3, "restart"),
        ("----|---", 3, "restart"),
        ("----|----", 3, "stop"),
    ],
)
@pytest.mark.parametrize("kind", [kind for kind in RESTARTED if kind != "nonfinite"])
def test_so_many_restarts_in_a_row_may_bring_nothing(kind, text, restarts, act):
    decision = decide(history(text, kind), Limits(restarts=restarts))
    assert (decision.act, decision.exit_code) == (act, 1 if act == "stop" else 0)


def test_crashes_of_every_kind_count_together():
    mixed = [crash("gpu_fault", True), crash("disk_full"), crash("out_of_memory"), crash("exception", signature="E")]
    assert decide(mixed[:3]).act == "restart"
    assert decide(mixed).act == "stop"
    assert "3 restarts in a row brought no progress" in decide(mixed).why


@pytest.mark.parametrize(
    ("text", "backoff", "wait"),
    [
        ("-", 10, 10),
        ("--", 10, 20),
        ("---", 10, 40),
        ("+-", 10, 10),
        ("--+-", 10, 10),
        ("--+", 10, 0),
        ("------", 10, LONGEST_WAIT),
        ("-" * 3000, 10, LONGEST_WAIT),
        ("-", 1000, LONGEST_WAIT),
        ("---", 0, 0),
        ("--", 0.5, 1),
        ("--|-", 10, 10),
    ],
)
def test_the_wait_doubles_until_there_is_progress(text, backoff, wait):
    decision = decide(history(text), Limits(restarts=9999, backoff=backoff))
    assert (decision.act, decision.wait) == ("restart", wait)
    assert (f"in {wait:g} s" in decision.why) == (wait > 0)


def test_a_full_disk_is_waited_for_by_the_wait_for_room():
    assert [decide(history(text, "disk_full")).wait for text in ("-", "--", "---")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gpu_fault", "reboot"),
        ("gpu_lost", "reboot"),
        ("gpu_assert", "index out of range"),
        ("disk_full", "Make room"),
        ("out_of_memory", "smaller batch_size"),
        ("host_out_of_memory", "num_loader_workers"),
        ("segfault", "num_loader_workers 0"),
        ("hang", "num_loader_workers 0"),
        ("killed", "system's log"),
        ("exception", "crashes/1.json"),
        ("exit", "printed last"),
    ],
)
def test_who_has_to_help_is_told_how(kind, words):
    decision = decide([*history("---"), crash(kind, evidence="crashes/1.json")])
    assert decision.act == "stop" and words in decision.why


def test_no_restart_where_none_is_wanted():
    decision = decide([crash("nonfinite", progress=True)], Limits(restarts=0))
    assert decision.act == "stop" and "not started again" in decision.why and "learning rate" in decision.why


# A bug


def bug(signature="KeyError a.py:1 in f 'x'", **values):
    return crash("exception", signature=signature, **values)


def test_the_same_exception_again_without_progress_is_a_bug():
    decision = decide([bug(), bug(evidence="crashes/1.json")], Limits(restarts=99))
    assert (decision.act, decision.exit_code) == ("stop", 1)
    assert "bug" in decision.why and "crashes/1.json" in decision.why


@pytest.mark.parametrize(
    "crashes",
    [
        [bug(), bug(progress=True)],
        [bug(), bug("other")],
        [bug(""), bug("")],
        [bug(), crash(), bug()],
        [crash("exit", signature="E"), bug("E")],
        [crash("hang", signature="E"), crash("hang", signature="E")],
    ],
)
def test_anything_else_may_be_better_the_next_time(crashes):
    assert decide(crashes).act == "restart"


def test_a_bug_that_a_person_has_not_mended_is_told_at_once():
    assert decide([bug(decision="stop"), bug()]).act == "stop"


# A clip


def at(step, kind="gpu_fault", files=tuple(CLIPS), trained=5, **values):
    return crash(kind, step=step, files=list(files), trained=trained, **values)


@pytest.mark.parametrize("kind", OF_A_CLIP)
@pytest.mark.parametrize("before", OF_A_CLIP)
def test_two_crashes_at_the_same_step_make_its_clips_suspects(before, kind):
    crashes = [at(7, before), at(7, kind)]
    stop = decide(crashes)
    assert (stop.act, stop.exit_code, stop.exclude) == ("stop", 1, ())
    for words in (*CLIPS, "step 7", "--exclude-suspects", "`xtts-gatekeeper run`", "--exclude FILE"):
        assert words in stop.why
    go_on = decide(crashes, Limits(exclude=True))
    assert (go_on.act, go_on.exclude, go_on.wait) == ("restart", tuple(CLIPS), 0)
    assert all(clip in go_on.why for clip in CLIPS)
    assert ("CUDA_LAUNCH_BLOCKING=1" in stop.why) == (kind == "gpu_assert")


@pytest.mark.parametrize(
    "crashes",
    [
        [at(7)],
        [at(7), at(8)],
        [at(7), at(7, progress=True)],
        [at(7), at(7, files=())],
        [at(7, trained=0), at(7, trained=0)],
        [at(7), at(8), at(7)],
        [at(7, "killed"), at(7, "out_of_memory")],
        [at(7, "disk_full"), at(7, "killed")],
        [at(7, "gpu_lost"), at(7, "gpu_lost")],
        [at(7, "host_out_of_memory"), at(7, "host_out_of_memory")],
        [at(7, "exit"), at(7, "exit")],
    ],
)
@pytest.mark.parametrize("exclude", [True, False])
def test_nothing_less_makes_a_suspect(crashes, exclude):
    decision = decide(crashes, Limits(exclude=exclude))
    assert (decision.act, decision.exclude) == ("restart", ())
    assert CLIPS[0] not in decision.why


def test_the_second_process_may_have_gone_on_from_that_very_step():
    assert decide([at(7), at(7, trained=0)], Limits(exclude=True)).exclude == tuple(CLIPS)


def test_the_same_exception_at_the_same_step_speaks_for_a_clip_rather_than_a_bug():
    crashes = [at(7, "exception", signature="E"), at(7, "exception", signature="E", evidence="crashes/1.json")]
    why = decide(crashes).why
    assert CLIPS[0] in why and "with the same exception" in why and "bug" not in why and "crashes/1.json" in why
    assert decide(crashes, Limits(exclude=True)).exclude == tuple(CLIPS)
    other = [at(7, "exception", signature="E"), at(7, "exception", signature="F")]
    assert "with the same exception" not in decide(other).why
    unknown = [at(7, "exception", signature="E"), at(7, "exception", signature="E", files=())]
    assert "bug" in decide(unknown, Limits(exclude=True)).why


def test_clips_are_left_out_again_and_again_until_the_budget_ends_it():
    crashes = [at(7, files=[f"{number}.wav"]) for number in range(4)]
    limits = Limits(exclude=True)
    assert [decide(crashes[:count], limits).exclude for count in (1, 2, 3)] == [(), ("1.wav",), ("2.wav",)]
    last = decide(crashes, limits)
    assert (last.act, last.exit_code, last.exclude) == ("stop", 1, ())
    assert "3.wav" in last.why and "3 restarts" in last.why


def test_who_allows_it_after_a_stop_need_not_wait_for_a_second_crash():
    assert decide([at(7), at(7, decision="stop"), at(7)], Limits(exclude=True)).exclude == tuple(CLIPS)


def test_a_long_batch_is_named_in_part():
    why = decide([at(7), at(7, files=[f"{number}.wav" for number in range(30)])]).why
    assert "7.wav and 22 more" in why and "8.wav" not in why


# The hardware

HARDWARE = "speak for the hardware"


@pytest.mark.parametrize(
    ("crashes", "suspected"),
    [
        ([crash("gpu_fault", True), crash("gpu_lost", True), crash("segfault")], True),
        ([crash("gpu_fault", decision="stop"), crash("gpu_fault", True), crash("killed"), crash("gpu_fault")], True),
        ([crash("gpu_fault"), *history("---"), crash("segfault"), crash("gpu_lost")], True),
        ([crash("gpu_fault", True), crash("gpu_fault")], False),
        ([crash("gpu_fault", True, 5), crash("gpu_fault", True, 6), crash("gpu_lost", False, 5)], False),
        ([crash("gpu_assert", True), crash("gpu_assert", True), crash("gpu_fault", True)], False),
        ([crash("gpu_fault", True), crash("gpu_fault", True), crash("gpu_fault", True), crash("exit")], False),
    ],
)
def test_faults_at_ever_other_steps_speak_for_the_hardware(crashes, suspected):
    decision = decide(crashes)
    assert (HARDWARE in decision.why) == suspected
    assert decision.act == ("restart" if len(crashes) < 6 else "stop")  # that is the budget's


# What holds for all


some = st.builds(
    crash,
    st.sampled_from(KINDS),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from(["restart", "stop"]),
    files=st.lists(st.sampled_from(CLIPS), max_size=2),
    trained=st.integers(0, 2),
    signature=st.sampled_from(["", "E", "F"]),
)


@given(st.lists(some, min_size=1, max_size=8), st.builds(Limits, st.integers(0, 4), st.floats(0, 1e9), st.booleans()))
def test_every_decision_can_be_carried_out(crashes, limits):
    last, decision = crashes[-1], decide(crashes, limits)
    assert decision.why.endswith(".") and "  " not in decision.why
    assert 0 <= decision.wait <= LONGEST_WAIT
    if decision.act == "stop":
        assert not (decision.wait or decision.disk or decision.smaller or decision.spare_memory or decision.exclude)
        assert decision.exit_code == ENDS.get(last.kind, 1)
    else:
        assert last.kind not in ENDS and decision.exit_code == 0 and limits.restarts > 0
        assert decision.exclude in ((), tuple(last.files))
        assert limits.exclude or not decision.exclude
        assert decision.wait == 0 or not last.progress


@given(st.lists(st.sampled_from(RESTARTED), min_size=9, max_size=9), st.booleans(), st.integers(0, 5))
def test_without_progress_it_ends_after_as_many_restarts_as_allowed(kinds, exclude, restarts):
    limits = Limits(restarts=restarts, exclude=exclude)
    crashes = [at(7, kind, signature="E") for kind in kinds]
    acts = [decide(crashes[:count], limits).act for count in range(1, len(crashes) + 1)]
    assert acts[restarts] == "stop" or "stop" in acts[:restarts]

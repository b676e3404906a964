"""Orders, letters and tokens: balanced, blind, and the same again for the same listener."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.listening.service import document_of
from xtts_gatekeeper.listening.session import REAL, Group, Session, Stimulus, System
from xtts_gatekeeper.listening.trials import (
    clean_name,
    is_copy,
    listener_key,
    new_copy,
    trials_for,
)

KEYS = [listener_key(f"listener {number}") for number in range(60)]


def session_of(systems=2, groups=8, *, matched=0, alone=0, missing=(), secret="ab" * 16):
    """A session; in the first `matched` groups a real clip is hidden, `alone` more groups are one each.

    `missing` are pairs of group and system, numbers, of which there is no sample.
    """

    def stimulus(source, group):
        return Stimulus(source=source, file=f"{source}/{group}.wav", sha256="0" * 64, loudness=-20.0, peak=-6.0)

    made = []
    for number in range(groups):
        sources = [f"system-{s}" for s in range(systems) if (number, s) not in missing]
        sources += [REAL] if number < matched else []
        stimuli = tuple(stimulus(source, number) for source in sources)
        made.append(Group(id=f"prompt-{number}", text=f"Text {number}", language="en", stimuli=stimuli))
    for number in range(alone):
        own = (stimulus(REAL, number),)
        made.append(Group(id=f"real/{number}", text=f"Real {number}", language="en", stimuli=own))
    names = [f"system-{s}" for s in range(systems)]
    return Session(
        id="a" * 12,
        created="",
        secret=secret,
        prompts="p",
        systems=tuple(System(source=name, name=name, step=n, epoch=0, weights="live") for n, name in enumerate(names)),
        groups=tuple(made),
    )


sessions = st.builds(
    session_of,
    systems=st.integers(1, 6),
    groups=st.integers(1, 14),
    matched=st.integers(0, 4),
    alone=st.integers(0, 2),
    missing=st.frozensets(st.tuples(st.integers(0, 13), st.integers(0, 5)), max_size=6),
    secret=st.binary(min_size=16, max_size=16).map(bytes.hex),
)


@given(sessions, st.sampled_from(KEYS))
def test_everything_is_heard_once_and_a_quarter_twice(session, key):
    trials = trials_for(session, key)
    first = [trial for trial in trials if not trial.repeat]
    assert Counter(trial.group.id for trial in first) == Counter(group.id for group in session.heard)
    for trial in first:
        assert sorted(s.source for s in trial.shown) == sorted(s.source for s in trial.group.stimuli)
    again = [trial for trial in trials if trial.repeat]
    assert len({trial.group.id for trial in again}) == len(again)
    choices = sum(len(group.stimuli) > 1 for group in session.heard)
    whole = [trial for trial in again if len(trial.shown) > 1]
    if len(session.heard) < 3:
        assert not again
    elif choices > 1:
        assert 1 <= len(whole) <= max(1, len(session.heard) // 4)


@given(sessions, st.sampled_from(KEYS))
def test_a_repeat_comes_later_never_right_behind_and_under_other_letters(session, key):
    trials = trials_for(session, key)
    place = {trial.group.id: number for number, trial in enumerate(trials) if not trial.repeat}
    for number, trial in enumerate(trials):
        if trial.repeat:
            before = trials[place[trial.group.id]]
            assert number >= place[trial.group.id] + 2
            letters = {shown.source: shown.label for shown in before.shown}
            assert all(shown.label != letters[shown.source] for shown in trial.shown)


@given(sessions, st.sampled_from(KEYS))
def test_the_same_listener_gets_the_same_trials(session, key):
    assert trials_for(session, key) == trials_for(session, key)


@given(sessions, st.sampled_from(KEYS))
def test_labels_are_letters_in_order_and_all_tokens_and_ids_are_different(session, key):
    trials = trials_for(session, key)
    for trial in trials:
        assert [shown.label for shown in trial.shown] == list("ABCDEFG"[: len(trial.shown)])
    tokens = [shown.token for trial in trials for shown in trial.shown]
    assert len({*tokens}) == len(tokens)
    assert len({trial.id for trial in trials}) == len(trials)


@pytest.mark.parametrize("systems", [2, 3, 4])
def test_each_system_comes_in_each_place_as_often_as_another(systems):
    session = session_of(systems, 3 * systems, alone=2)
    for key in KEYS[:10]:
        first = [trial for trial in trials_for(session, key) if not trial.repeat and trial.preference]
        places = Counter((shown.source, shown.label) for trial in first for shown in trial.shown)
        assert set(places.values()) == {3}


def test_who_comes_first_is_not_the_same_for_every_listener():
    session = session_of(2, 1)
    first = Counter(trials_for(session, key)[0].shown[0].source for key in KEYS)
    assert min(first.values()) > 15  # of 60; less has a chance of 4 in 100 000


def test_which_prompt_comes_first_is_not_the_same_for_every_listener():
    first = Counter(trials_for(session_of(2, 4), key)[0].group.id for key in KEYS)
    assert len(first) == 4
    assert max(first.values()) < 30


def test_a_hidden_real_clip_comes_in_every_place():
    session = session_of(2, 1, matched=1)
    letters = Counter(
        shown.label for key in KEYS for shown in trials_for(session, key)[0].shown if shown.source == REAL
    )
    assert set(letters) == set("ABC")


def test_where_real_clips_stand_alone_a_sample_of_a_system_does_too():
    trials = trials_for(session_of(2, 8, alone=2), KEYS[0])
    alone = [trial for trial in trials if len(trial.shown) == 1]
    assert sorted(trial.shown[0].source == REAL for trial in alone) == [False, True, True]
    assert not any(trial.preference for trial in alone)


# Blindness


def test_a_page_is_told_nothing_by_which_systems_or_repeats_are_known():
    session = session_of(2, 8, matched=2, alone=2)
    document = document_of(trials_for(session, KEYS[0]))
    for trial in document["trials"]:
        assert set(trial) == {"id", "text", "language", "stimuli", "preference"}
        assert re.fullmatch("[0-9a-f]{16}", trial["id"])
        for stimulus in trial["stimuli"]:
            assert set(stimulus) == {"token", "label"}
            assert re.fullmatch("[0-9a-f]{32}", stimulus["token"])


def test_tokens_say_nothing_without_the_secret():
    """Two sessions that differ in their secret alone have no token and no trial in common."""
    one, other = (trials_for(session_of(secret=secret * 16), KEYS[0]) for secret in ("00", "01"))
    assert not {t.id for t in one} & {t.id for t in other}
    assert not {s.token for t in one for s in t.shown} & {s.token for t in other for s in t.shown}


def test_two_listeners_have_no_token_in_common():
    one, other = (trials_for(session_of(), key) for key in KEYS[:2])
    assert not {s.token for t in one for s in t.shown} & {s.token for t in other for s in t.shown}


# Names and copies


def test_a_listener_is_the_same_in_whatever_case_and_form_the_name_is_written():
    assert listener_key(" Zoë ") == listener_key("zoe\u0308") == listener_key("ZOË")
    assert listener_key("Zoë") != listener_key("Zoe")


@pytest.mark.parametrize("name", ["", "  ", "a" * 81, "a\nb", "a\0b", "a\u202eb", "\u200b"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(UserError, match="name"):
        clean_name(name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "<script>alert(1)</script>", "a/b\\c", "名前", "a" * 80])
def test_any_printable_name_is_a_key_that_names_a_file_anywhere(name):
    assert re.fullmatch("[0-9a-f]{32}", listener_key(name))


def test_a_copy_is_known_by_its_id_alone():
    session = session_of()
    copy = new_copy(session, "0123456789abcdef")
    assert is_copy(session, copy)
    assert not is_copy(session_of(secret="00" * 16), copy)


@given(st.one_of(st.text(max_size=60), st.from_regex(r"copy-[0-9a-f]{16}-[0-9a-f]{16}", fullmatch=True)))
def test_a_made_up_copy_is_none(copy):
    assert not is_copy(session_of(), copy)

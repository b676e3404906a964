"""Scores reach the journal once, and the gates hear the listeners."""

import json

import pytest
from made_sets import make_run
from records import curve, evaluated, start

from xtts_gatekeeper.gates import evaluate, load_policy
from xtts_gatekeeper.listening.answers import Answer, Answers
from xtts_gatekeeper.listening.plan import find_place, open_session
from xtts_gatekeeper.listening.result import record
from xtts_gatekeeper.listening.trials import listener_key, trials_for
from xtts_gatekeeper.record import Journal, RunRecord, SampleScore, journal_path, read_events
from xtts_gatekeeper.samples.score import ROWS
from xtts_gatekeeper.samples.speak import sets_in


@pytest.fixture
def run(tmp_path):
    """A run that has evaluated three times, with samples of two steps that measures like better and better."""
    run = make_run(tmp_path / "run", (20, 30))
    journal = Journal(journal_path(run))
    for event in (start(), *curve(3.0, 2.0, 1.5)):
        journal.append(event)
    for step, score in ((20, 15.0), (30, 22.0)):
        journal.append(
            SampleScore(step=step, epoch=step // 10 - 1, metrics={"sample.score": score}, prompts="fingerprint")
        )
    return run


def opened(run, steps=None):
    place = find_place(run)
    sets = [made for made in sets_in(place.samples) if steps is None or made.step in steps]
    return place, open_session(place, sets)[0]


def listen(place, session, name, marks, most=None):
    """Somebody gives every sample of a step the mark in `marks`, in all rows; of `most` trials only."""
    key = listener_key(name)
    given = {}
    for trial in trials_for(session, key)[:most]:
        rows = {shown.token: dict.fromkeys(ROWS, marks[shown.source]) for shown in trial.shown}
        given[trial.id] = Answer(marks=rows, preferred="none" if trial.preference else None)
    Answers(place.listening / session.id, session.id).save(key, name, given)


def heard(run):
    """What listeners said, by the journal: step -> total, in order."""
    events = read_events(journal_path(run))
    return [(e.step, e.metrics["sample.score"]) for e in events if isinstance(e, SampleScore) and e.by == "listeners"]


def test_scores_of_a_complete_listener_are_appended_to_the_journal(run):
    place, session = opened(run)
    listen(place, session, "Anna", {"20": 4, "30": 2})
    recorded = record(place, session)
    assert (recorded.added, recorded.journal) == (2, True)
    assert heard(run) == [(20, 20.0), (30, 10.0)]
    score = [e for e in read_events(journal_path(run)) if isinstance(e, SampleScore)][-1]
    assert (score.prompts, score.folder, score.listeners) == ("fingerprint", "gatekeeper/samples/30", 1)
    assert score.intervals["sample.score"] == [10.0, 10.0]


def test_nothing_is_scored_before_somebody_has_answered_everything(run):
    place, session = opened(run)
    before = journal_path(run).read_bytes()
    listen(place, session, "Anna", {"20": 4, "30": 2}, most=3)
    assert record(place, session).results is None
    assert journal_path(run).read_bytes() == before
    assert not (place.listening / session.id / "results.json").exists()


def test_the_same_scores_are_not_recorded_twice(run):
    place, session = opened(run)
    listen(place, session, "Anna", {"20": 4, "30": 2})
    record(place, session)
    before = journal_path(run).read_bytes()
    assert record(place, session).added == 0
    assert journal_path(run).read_bytes() == before


def test_another_listener_makes_new_scores(run):
    place, session = opened(run)
    listen(place, session, "Anna", {"20": 4, "30": 2})
    record(place, session)
    listen(place, session, "Ben", {"20": 4, "30": 4})
    assert record(place, session).added == 2
    assert heard(run) == [(20, 20.0), (30, 10.0), (20, 20.0), (30, 15.0)]


def test_another_session_that_has_spoken_since_is_not_contradicted(run):
    place, both = opened(run)
    listen(place, both, "Anna", {"20": 4, "30": 2})
    record(place, both)
    _, one = opened(run, (30,))
    listen(place, one, "Anna", {"30": 3})
    record(place, one)
    assert record(place, both).added == record(place, one).added == 0
    assert heard(run)[-1] == (30, 15.0)


def test_what_a_kill_kept_from_the_journal_comes_later(run):
    place, session = opened(run)
    listen(place, session, "Anna", {"20": 4, "30": 2})
    journal = journal_path(run).read_bytes()
    record(place, session)
    journal_path(run).write_bytes(journal)  # the results were written, and then it was killed
    assert record(place, session).added == 2
    assert heard(run) == [(20, 20.0), (30, 10.0)]


def test_without_a_journal_the_scores_are_kept_beside_the_answers(tmp_path):
    run = make_run(tmp_path / "run", (20, 30))
    place, session = opened(run)
    listen(place, session, "Anna", {"20": 4, "30": 2})
    recorded = record(place, session)
    assert (recorded.added, recorded.journal) == (0, False)
    assert not journal_path(run).exists()
    kept = json.loads((place.listening / session.id / "results.json").read_text())
    assert [system["metrics"]["sample.score"]["mean"] for system in kept["systems"]] == [20, 10]
    assert kept["listeners"][0]["name"] == "Anna"


def test_an_epoch_that_the_samples_do_not_tell_is_that_of_their_step(run):
    path = run / "gatekeeper" / "samples" / "20" / "samples.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "epoch": None}))
    place, session = opened(run)
    listen(place, session, "Anna", {"20": 4, "30": 2})
    record(place, session)
    scores = [e for e in read_events(journal_path(run)) if isinstance(e, SampleScore) and e.by == "listeners"]
    assert scores[0].epoch == 1


RULES = """
version: 1
name: ears
health:
  - rule: not_regressed
    metric: sample.score
    by: 2
    on_fail: stop
"""


def judged(run, policy, *later):
    """The record of a run after whatever comes `later`, and the verdict on it with the rule's finding."""
    for event in later:
        Journal(journal_path(run)).append(event)
    record = RunRecord(tuple(read_events(journal_path(run))))
    verdict = evaluate(record, policy)
    return record, verdict.verdict, next(reason for reason in verdict.reasons if reason.code == "not_regressed")


@pytest.fixture
def policy(tmp_path):
    (tmp_path / "ears.yaml").write_text(RULES)
    return load_policy(tmp_path / "ears.yaml")


def test_gates_judge_by_listeners_where_they_have_heard_the_latest_samples(run, policy):
    """Measures say that the samples have become better; who has heard them says that they have become worse."""
    place, session = opened(run)
    listen(place, session, "Anna", {"20": 4, "30": 2})
    _, before, reason = judged(run, policy, evaluated(3, 1.4))
    assert (before, reason.status) == ("continue", "passed")
    record(place, session)
    after, verdict, reason = judged(run, policy, evaluated(4, 1.3))
    assert [score.by for score in after.sample_scores] == ["listeners", "listeners"]
    assert (verdict, reason.status) == ("stop", "failed")
    assert (reason.evidence["best"], reason.evidence["latest"]) == (20.0, 10.0)


def test_gates_hear_the_listeners_of_a_run_that_has_ended(run, policy):
    place, session = opened(run)
    listen(place, session, "Anna", {"20": 4, "30": 2})
    record(place, session)
    _, verdict, _ = judged(run, policy)
    assert verdict == "stop"

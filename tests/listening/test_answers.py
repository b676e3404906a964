"""What is taken for an answer, and that what was acknowledged is on the disk."""

import json
import os
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError
from test_trials import KEYS, session_of

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.listening import answers as module
from xtts_gatekeeper.listening.answers import FAULTS, Answer, Answers, Posted, complete, done, in_words, wrong_with
from xtts_gatekeeper.listening.rubric import RUBRIC
from xtts_gatekeeper.listening.trials import trials_for
from xtts_gatekeeper.samples import faults
from xtts_gatekeeper.samples.score import ROWS

SESSION = session_of(2, 4, alone=1)
TRIALS = trials_for(SESSION, KEYS[0])
PAIR = next(trial for trial in TRIALS if trial.preference)
ALONE = next(trial for trial in TRIALS if not trial.preference)
TOKEN = PAIR.shown[0].token
ROW = dict.fromkeys(ROWS, 3)


def whole(trial, **more):
    marks = {shown.token: ROW for shown in trial.shown}
    return Answer(marks=marks, preferred=trial.shown[0].token if trial.preference else None, **more)


def text(**answer):
    return json.dumps({"listener": "Anna", "trial": PAIR.id, "answer": answer})


# What is an answer


def test_the_rubric_and_the_faults_are_those_that_measures_know():
    assert tuple(row.key for row in RUBRIC) == ROWS
    assert {*FAULTS} <= {*faults.KINDS}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"marks": {TOKEN: {"prosody": 1}}},
        {"faults": {TOKEN: ["skipped", "late_stop"]}, "notes": {TOKEN: "<script>alert(1)</script>\nnew line"}},
        {"preferred": TOKEN, "seconds": 12},
        {"preferred": "none", "seconds": 0.5},
        {"preferred": None},
    ],
)
def test_a_part_of_an_answer_is_taken(answer):
    posted = Posted.model_validate_json(text(**answer))
    assert posted.answer.model_dump(exclude_unset=True) == answer
    assert not complete(PAIR, posted.answer)


@pytest.mark.parametrize(
    "mark", ["0", "6", "-1", "1.5", "1.0", "true", "null", '"3"', "[3]", "9" * 5000, "NaN", "1e400"]
)
def test_a_mark_is_a_whole_number_from_1_to_5(mark):
    body = text(marks={TOKEN: {"prosody": "MARK"}}).replace('"MARK"', mark)
    with pytest.raises(ValidationError):
        Posted.model_validate_json(body)


@pytest.mark.parametrize(
    "answer",
    [
        {"marks": {TOKEN: {"beauty": 3}}},
        {"marks": {"../../etc/passwd": ROW}},
        {"marks": {TOKEN.upper(): ROW}},
        {"marks": [TOKEN]},
        {"marks": None},
        {"faults": {TOKEN: ["ugly"]}},
        {"faults": {TOKEN: "skipped"}},
        {"notes": {TOKEN: "a" * 1001}},
        {"notes": {TOKEN: 3}},
        {"preferred": "A"},
        {"preferred": 1},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"seconds": True},
        {"seconds": 1e9},
        {"system": "100"},
    ],
)
def test_anything_else_is_no_answer(answer):
    with pytest.raises(ValidationError) as error:
        Posted.model_validate_json(text(**answer))
    told = in_words(error.value)
    assert told.endswith(".")
    assert len(told) < 300
    assert "\n" not in told


@pytest.mark.parametrize("body", ["", "[]", "null", "{", '{"listener": "Anna"}', "\xff", '{"trial": "' + "a" * 10**5])
def test_what_is_no_json_object_of_these_keys_is_none(body):
    with pytest.raises(ValidationError):
        Posted.model_validate_json(body)


def test_an_answer_is_about_the_samples_of_its_trial():
    other = ALONE.shown[0].token
    assert wrong_with(PAIR, whole(PAIR)) == ""
    for answer in (Answer(marks={other: ROW}), Answer(faults={other: []}), Answer(notes={other: ""})):
        assert "a sample that this trial does not have" in wrong_with(PAIR, answer)
    assert "prefers a sample that this trial does not have" in wrong_with(PAIR, Answer(preferred=other))
    assert "only one" in wrong_with(ALONE, Answer(preferred=other))
    assert "only one" in wrong_with(ALONE, Answer(preferred="none"))


def test_complete_is_every_row_of_every_sample_and_a_preference_where_there_is_a_choice():
    assert complete(PAIR, whole(PAIR))
    assert complete(ALONE, whole(ALONE))
    assert complete(PAIR, whole(PAIR).model_copy(update={"preferred": "none"}))
    assert not complete(PAIR, whole(PAIR).model_copy(update={"preferred": None}))
    first, second = (shown.token for shown in PAIR.shown)
    assert not complete(PAIR, Answer(marks={first: ROW}, preferred="none"))
    fewer = dict.fromkeys(ROWS[:-1], 3)
    assert not complete(PAIR, Answer(marks={first: ROW, second: fewer}, preferred="none"))
    assert not complete(PAIR, None)
    assert done(TRIALS, {trial.id: whole(trial) for trial in TRIALS[:3]}) == 3


# Keeping them


def test_what_is_saved_is_read_again_and_the_rest_stays(tmp_path):
    answers = Answers(tmp_path, SESSION.id)
    assert answers.read("anna") is None
    answers.save("anna", "Anna", {PAIR.id: whole(PAIR, notes={TOKEN: "<b>ä</b>\n\u2028"})})
    kept = answers.save("anna", "Anna", {ALONE.id: whole(ALONE)})
    assert Answers(tmp_path, SESSION.id).read("anna") == kept
    assert set(kept.answers) == {PAIR.id, ALONE.id}
    assert kept.answers[PAIR.id].notes == {TOKEN: "<b>ä</b>\n\u2028"}
    assert answers.known() == ["anna"]


def test_a_later_answer_takes_the_place_of_the_one_before(tmp_path):
    answers = Answers(tmp_path, SESSION.id)
    for seconds in (1.0, 2.0):
        answers.save("anna", "Anna", {PAIR.id: whole(PAIR, seconds=seconds)})
    assert answers.read("anna").answers[PAIR.id].seconds == 2.0


def test_what_says_nothing_new_is_not_written(tmp_path):
    answers = Answers(tmp_path, SESSION.id)
    answers.save("anna", "Anna", {PAIR.id: whole(PAIR)})
    before = (tmp_path / "answers" / "anna.json").stat()
    answers.save("anna", "Anna", {PAIR.id: whole(PAIR)})
    after = (tmp_path / "answers" / "anna.json").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


@pytest.mark.parametrize("broken", ["fsync", "replace", "dump"])
def test_a_write_that_fails_leaves_the_answers_before_and_is_told(tmp_path, monkeypatch, broken):
    answers = Answers(tmp_path, SESSION.id)
    answers.save("anna", "Anna", {PAIR.id: whole(PAIR, seconds=1.0)})
    before = (tmp_path / "answers" / "anna.json").read_bytes()

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    target = {"fsync": (os, "fsync"), "replace": (Path, "replace"), "dump": (json, "dump")}[broken]
    with monkeypatch.context() as patch:
        patch.setattr(*target, full)
        with pytest.raises(OSError, match="No space"):
            answers.save("anna", "Anna", {PAIR.id: whole(PAIR, seconds=2.0)})
    assert (tmp_path / "answers" / "anna.json").read_bytes() == before
    answers.save("anna", "Anna", {PAIR.id: whole(PAIR, seconds=3.0)})
    assert answers.read("anna").answers[PAIR.id].seconds == 3.0
    assert answers.known() == ["anna"]


def test_threads_that_save_at_once_lose_nothing(tmp_path):
    answers = Answers(tmp_path, SESSION.id)
    together = threading.Barrier(len(TRIALS))

    def save(trial):
        together.wait()
        answers.save("anna", "Anna", {trial.id: whole(trial)})

    threads = [threading.Thread(target=save, args=(trial,)) for trial in TRIALS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers.read("anna").answers) == {trial.id for trial in TRIALS}


@pytest.mark.parametrize("content", ["", "{}", '{"version": 1', "\0" * 100])
def test_a_file_that_is_torn_is_neither_read_nor_overwritten(tmp_path, content):
    answers = Answers(tmp_path, SESSION.id)
    path = tmp_path / "answers" / "anna.json"
    path.parent.mkdir()
    path.write_text(content)
    for ask in (lambda: answers.read("anna"), lambda: answers.save("anna", "Anna", {PAIR.id: whole(PAIR)})):
        with pytest.raises(UserError, match=r"anna\.json is not what we write"):
            ask()
    assert path.read_text() == content


def test_there_is_an_end_to_the_listeners_of_a_session(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_LISTENERS", 2)
    answers = Answers(tmp_path, SESSION.id)
    for name in ("anna", "ben", "anna"):
        answers.save(name, name, {PAIR.id: whole(PAIR)})
    with pytest.raises(UserError, match="2 listeners already"):
        answers.save("cem", "cem", {PAIR.id: whole(PAIR)})

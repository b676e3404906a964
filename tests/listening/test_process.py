"""The process: killed at any instant it loses nothing that it has acknowledged; it ends well, and starts again."""

import json
import random
import signal
import socket
import threading
from http.client import HTTPException

import pytest
from clients import SECONDS, listening, start, whole_answer
from made_sets import make_run
from processes import wait_for_line
from records import curve
from records import start as started

from xtts_gatekeeper.listening.answers import Kept
from xtts_gatekeeper.listening.serving import in_background
from xtts_gatekeeper.listening.trials import listener_key
from xtts_gatekeeper.record import Journal, SampleScore, journal_path, read_events


def answers_in(run):
    """Every answer file, as it lies on the disk: listener's key -> what is kept. Raises where one is torn."""
    files = run.glob("gatekeeper/listening/*/answers/*.json")
    return {path.stem: Kept.model_validate_json(path.read_bytes()) for path in files}


class Typist(threading.Thread):
    """Answers as fast as the server takes it, and remembers what it has acknowledged; `seconds` counts the answers."""

    def __init__(self, client, name, acknowledged):
        super().__init__(daemon=True)
        self.client, self.name_, self.told = client, name, acknowledged
        self.sent, self.kept = {}, {}

    def run(self):
        try:
            document = self.client.session(self.name_)
            for number in range(10**6):
                trial = document["trials"][number % len(document["trials"])]
                self.sent[trial["id"]] = number
                status, _ = self.client.post(self.name_, trial["id"], whole_answer(document, trial, seconds=number))
                assert status == 200
                self.kept[trial["id"]] = number
                self.told.release()
        except (OSError, HTTPException):
            return  # it was killed


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_instant_no_answer_file_is_torn_and_nothing_acknowledged_is_lost(tmp_path, seed):
    run = make_run(tmp_path / "run")
    process, client = start(run)
    client.enter()
    acknowledged = threading.Semaphore(0)
    typists = [Typist(client, f"listener {number}", acknowledged) for number in range(3)]
    for typist in typists:
        typist.start()
    for _ in range(random.Random(seed).randint(5, 40)):  # while the others go on
        assert acknowledged.acquire(timeout=SECONDS)
    process.kill()
    process.communicate(timeout=SECONDS)
    for typist in typists:
        typist.join(SECONDS)
        assert not typist.is_alive()
    kept = answers_in(run)
    for typist in typists:
        assert typist.kept
        found = {trial: answer.seconds for trial, answer in kept[listener_key(typist.name_)].answers.items()}
        for trial, number in typist.kept.items():
            # What was sent last may have been kept before it could be acknowledged.
            assert found[trial] in (number, typist.sent[trial])
    with listening(run) as client:
        for typist in typists:
            document = client.session(typist.name_)
            assert {trial: answer["seconds"] for trial, answer in document["answers"].items()} == {
                trial: answer.seconds for trial, answer in kept[listener_key(typist.name_)].answers.items()
            }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_by_a_signal_with_the_results_printed(tmp_path, number):
    run = make_run(tmp_path / "run")
    process, client = start(run)
    client.enter().answer_all("Anna", mark=lambda trial, one: 4)
    process.send_signal(number)
    said, complained = process.communicate(timeout=SECONDS)
    assert (process.returncode, complained) == (0, "")
    assert "Score (of 25)" in said
    assert "20.0" in said
    assert "Anna: " in said


def test_ended_before_anybody_has_answered_it_says_so(tmp_path):
    process, _ = start(make_run(tmp_path / "run"))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert "Nobody has answered everything yet." in said


def test_the_scores_are_in_the_journal_as_soon_as_a_listener_is_done(tmp_path):
    run = make_run(tmp_path / "run", (10, 20))
    journal = Journal(journal_path(run))
    for event in (started(), *curve(3.0, 2.0)):
        journal.append(event)
    process, client = start(run)
    try:
        document = client.enter().session("Anna")
        *others, last = document["trials"]
        for trial in others:
            client.post("Anna", trial["id"], whole_answer(document, trial))
        assert not scores(run)
        client.post("Anna", last["id"], whole_answer(document, last))
        wait_for_line(process, "2 scores are new in the run's journal")
        assert [score.step for score in scores(run)] == [10, 20]
        client.post("Anna", last["id"], whole_answer(document, last))
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=SECONDS)
    assert "The run's journal has these scores." in said
    assert len(scores(run)) == 2


def test_what_is_asked_for_while_it_is_done_is_done_once_more():
    """Fifty listeners who finish at once are not scored fifty times, and the last of them not left out."""
    at_work, go_on, done = threading.Event(), threading.Event(), []

    def work():
        at_work.set()
        assert go_on.wait(SECONDS)
        done.append(1)

    with in_background(work) as ask:
        ask()
        assert at_work.wait(SECONDS)
        for _ in range(50):
            ask()
        go_on.set()
    assert len(done) == 2


def scores(run):
    return [e for e in read_events(journal_path(run)) if isinstance(e, SampleScore) and e.by == "listeners"]


def test_an_open_page_goes_on_when_the_server_is_started_again(tmp_path):
    """The link, the cookie, the page's token and the sounds are the same as before, where the port is."""
    run = make_run(tmp_path / "run")
    process, client = start(run)
    document = client.enter().session("Anna")
    first, second, *_ = document["trials"]
    assert client.post("Anna", first["id"], whole_answer(document, first))[0] == 200
    process.kill()
    process.communicate(timeout=SECONDS)
    process, again = start(run, "--port", str(client.port))
    try:
        assert again.link == client.link
        assert client.get(f"/audio/{second['stimuli'][0]['token']}")[0] == 200
        assert client.post("Anna", second["id"], whole_answer(document, second))[1]["done"] == 2
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


def test_two_listeners_at_once_do_not_know_of_each_other(tmp_path):
    run = make_run(tmp_path / "run")
    with listening(run) as client:
        done = {}

        def listen(name, mark):
            done[name] = client.answer_all(name, mark=lambda trial, one: mark)

        threads = [threading.Thread(target=listen, args=("Anna", 5)), threading.Thread(target=listen, args=("Ben", 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        for name, score in (("Anna", 25), ("Ben", 5)):
            assert done[name]["done"] == done[name]["of"]
            assert [system["score"] for system in client.result(name)[1]["systems"]] == [score, score]
    (results,) = run.glob("gatekeeper/listening/*/results.json")
    told = json.loads(results.read_text())
    assert sorted(listener["name"] for listener in told["listeners"]) == ["Anna", "Ben"]
    assert told["systems"][0]["metrics"]["sample.score"]["mean"] == 15


def refused(run, *arguments):
    """The one sentence of a process that would not start."""
    with pytest.raises(AssertionError, match="no link came") as error:
        start(run, *arguments)
    (sentence,) = str(error.value).removeprefix("no link came: ").splitlines()
    assert sentence.startswith("xtts-gatekeeper: ")
    return sentence


def test_a_second_server_of_the_same_session_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    with listening(run):
        assert "is being served already" in refused(run)


def test_a_port_that_is_taken_is_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "--port" in refused(make_run(tmp_path / "run"), "--port", str(taken.getsockname()[1]))


def test_an_address_that_is_none_is_one_sentence(tmp_path):
    assert "nowhere.invalid" in refused(make_run(tmp_path / "run"), "--host", "nowhere.invalid")


def test_another_host_than_loopback_is_warned_of_and_reached_by_its_own_names_alone(tmp_path):
    process, client = start(make_run(tmp_path / "run"), "--host", "0.0.0.0")
    try:
        client.host = "127.0.0.1"  # wherever the link leads to
        assert client.enter().session("Anna")["trials"]
        assert client.get("/", Host=f"evil.example:{client.port}")[0] == 400
        assert client.get("/", Host=f"0.0.0.0:{client.port}")[0] == 400
    finally:
        process.terminate()
        _, warned = process.communicate(timeout=SECONDS)
    assert "without encryption" in warned

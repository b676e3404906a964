"""The verb `listen`, but for serving: what it prints and writes, and what it refuses."""

import json
import re
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest
from clients import ROOT, listening, whole_answer
from made_sets import make_run, make_set
from records import curve
from records import start as started

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.listening.serving import _opened, hosts_of
from xtts_gatekeeper.listening.verb import run_listen
from xtts_gatekeeper.record import Journal, SampleScore, journal_path, read_events


def printed(capsys, run, **options):
    """(standard output, standard error) of a call that ends well."""
    assert run_listen(run, **options) == 0
    return capsys.readouterr()


def exported(run, path, **options):
    run_listen(run, export=path, **options)
    return json.loads(re.search(r'id="offline">(.*?)</script>', path.read_text())[1])


def saved(document, path, name="Anna", **more):
    """What the page would save, all marks being 3."""
    answers = {trial["id"]: whole_answer(document, trial, **more) for trial in document["trials"]}
    keys = {key: document[key] for key in ("session", "copy")}
    whole = {"format": "xtts-gatekeeper-listening", "version": 1, "listener": name, "answers": answers, **keys}
    path.write_text(json.dumps(whole))
    return path


def journalled(folder, *steps):
    run = make_run(folder, steps)
    journal = Journal(journal_path(run))
    for event in (started(), *curve(3.0, 2.0, 2.5)):
        journal.append(event)
    return run


def test_export_import_and_results(tmp_path, capsys):
    run = journalled(tmp_path / "run", 10, 20)
    document = exported(run, tmp_path / "page.html")
    assert "against step 20" in capsys.readouterr().out
    out, _ = printed(capsys, run, results=True)
    assert out == "Nobody has answered everything yet.\n"
    out, _ = printed(capsys, run, imports=(saved(document, tmp_path / "a.json"),))
    assert "Anna: 6 of 6 trials" in out
    assert "2 scores are new in the run's journal" in out
    out, _ = printed(capsys, run, results=True)
    assert "Score (of 25)" in out
    assert out.count("15.0") >= 2
    assert "step 20 against step 10" in out
    assert "Anna: One sample" in out or "Anna: 2 samples came twice" in out
    out, _ = printed(capsys, run, imports=(tmp_path / "a.json",))
    assert "The run's journal has these scores." in out
    heard = [e for e in read_events(journal_path(run)) if isinstance(e, SampleScore)]
    assert [(score.step, score.by) for score in heard] == [(10, "listeners"), (20, "listeners")]


def test_json_is_one_document_and_everything_else_goes_to_stderr(tmp_path, capsys):
    run = journalled(tmp_path / "run", 10, 20)
    document = exported(run, tmp_path / "page.html", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told == {"file": str(tmp_path / "page.html"), "bytes": (tmp_path / "page.html").stat().st_size,
                    "session": document["session"]}  # fmt: skip
    out, err = printed(capsys, run, imports=(saved(document, tmp_path / "a.json"),), as_json=True)
    told = json.loads(out)
    assert told["imported"] == [
        {"file": str(tmp_path / "a.json"), "session": document["session"], "listener": "Anna", "done": 6, "of": 6}
    ]
    assert "Anna: 6 of 6 trials" in err
    out, _ = printed(capsys, run, results=True, as_json=True)
    (session,) = json.loads(out)["sessions"]
    assert session == told["sessions"][0]
    assert [system["metrics"]["sample.score"]["mean"] for system in session["systems"]] == [15, 15]
    assert session["listeners"][0]["consistency"]["difference"] == 0


def test_results_of_every_session_or_of_those_of_some_sets(tmp_path, capsys):
    run = make_run(tmp_path / "run", (10, 20, 30))
    for number, sets in enumerate((("10", "20"), ("20", "30"))):
        document = exported(run, tmp_path / f"{number}.html", sets=sets)
        run_listen(run, imports=(saved(document, tmp_path / f"{number}.json"),))
    capsys.readouterr()
    everything, _ = printed(capsys, run, results=True)
    assert everything.count("Session ") == 2
    some, _ = printed(capsys, run, results=True, sets=("20", "10"))
    assert some.count("Session ") == 1
    assert "step 20 against step 10" in some


def test_a_plain_folder_of_sets_has_results_and_no_journal(tmp_path, capsys):
    for step in (10, 20):
        make_set(tmp_path / "sets" / str(step), step)
    document = exported(tmp_path / "sets", tmp_path / "page.html")
    out, _ = printed(capsys, tmp_path / "sets", imports=(saved(document, tmp_path / "a.json"),))
    assert "There is no journal of a run: the scores are in" in out


def test_the_best_checkpoints_set_is_heard_by_default(tmp_path, capsys):
    """The best of the three evaluations is at step 20."""
    run = journalled(tmp_path / "run", 10, 20, 30, 40)
    exported(run, tmp_path / "page.html")
    assert "step 20 against step 30 against step 40" in capsys.readouterr().out


def test_a_session_that_newer_samples_have_overtaken_is_not_forgotten(tmp_path, capsys):
    run = make_run(tmp_path / "run", (10, 20))
    document = exported(run, tmp_path / "page.html")
    half = saved({**document, "trials": document["trials"][:2]}, tmp_path / "a.json")
    run_listen(run, imports=(half,))
    make_run(run, (30,))
    capsys.readouterr()
    exported(run, tmp_path / "page.html")
    out = capsys.readouterr().out
    assert f"Somebody has not finished the session {document['session']}: --set 10 --set 20 goes on with it." in out
    exported(run, tmp_path / "page.html", sets=("10", "20"))
    assert f"Session {document['session']} (gone on with)" in capsys.readouterr().out


def test_fewer_prompts(tmp_path):
    assert len(exported(make_run(tmp_path / "run"), tmp_path / "page.html", prompts=2)["trials"]) == 2


def test_three_things_at_once_are_refused(tmp_path):
    run = make_run(tmp_path / "run")
    for options in ({"results": True, "export": Path("x")}, {"imports": (Path("x"),), "results": True}):
        with pytest.raises(UserError, match="give one of them"):
            run_listen(run, **options)


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "waitress", None)
    with pytest.raises(UserError, match=r"'waitress' is missing; run: pip install 'xtts-gatekeeper\[listen\]'"):
        run_listen(make_run(tmp_path / "run"))


def test_what_the_page_needs_is_not_imported_before_it_is_asked_for():
    code = "import sys, xtts_gatekeeper.cli, xtts_gatekeeper.listening.verb as verb; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"flask", "waitress", "pydantic", "numpy", "scipy", "soundfile", "jinja2"} & set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments", [["--import", "nothing.json"], ["--set", "99"], ["--results", "--export", "x.html"]]
)
def test_a_mistake_on_the_command_line_is_one_sentence_and_exit_code_2(tmp_path, arguments):
    run = make_run(tmp_path / "run")
    command = [sys.executable, "-m", "xtts_gatekeeper", "listen", str(run), "--no-browser", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("xtts-gatekeeper: ")


def test_a_listener_at_the_page_and_one_with_a_copy_are_scored_together(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    with listening(run) as client:
        client.answer_all("Anna", mark=lambda trial, one: 5)
        document = exported(run, tmp_path / "page.html")
        run_listen(run, imports=(saved(document, tmp_path / "b.json", "Ben"),))
    capsys.readouterr()
    out, _ = printed(capsys, run, results=True, as_json=True)
    (session,) = json.loads(out)["sessions"]
    assert sorted(listener["name"] for listener in session["listeners"]) == ["Anna", "Ben"]
    assert session["systems"][0]["metrics"]["sample.score"]["mean"] == 20


# The address


@pytest.mark.parametrize(
    ("host", "own", "names"),
    [
        ("127.0.0.1", "127.0.0.1", ["127.0.0.1", "localhost"]),
        ("localhost", "127.0.0.1", ["127.0.0.1", "localhost"]),
        ("::1", "::1", ["[::1]", "localhost"]),
        ("192.0.2.7", "192.0.2.7", ["192.0.2.7"]),
        ("box.example", "192.0.2.7", ["box.example", "192.0.2.7"]),
        ("2001:db8::1", "2001:db8::1", ["[2001:db8::1]"]),
    ],
)
def test_the_names_under_which_a_server_may_be_asked(host, own, names):
    from ipaddress import ip_address

    assert hosts_of(host, ip_address(own)) == names


def test_a_server_at_every_address_is_asked_by_those_of_this_computer():
    from ipaddress import ip_address

    names = hosts_of("0.0.0.0", ip_address("0.0.0.0"))
    assert "127.0.0.1" in names
    assert "localhost" in names
    assert "0.0.0.0" not in names


def test_the_browser_is_sent_to_a_file_of_the_owners_so_that_no_process_list_shows_the_link(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    with _opened("http://127.0.0.1:1/?token=secret&x", tmp_path) as thread:
        thread.join(10)
        (url,) = opened
        assert "secret" not in url
        page = Path(url.removeprefix("file://"))
        assert page.stat().st_mode & 0o077 == 0
        assert "token=secret&amp;x" in page.read_text()
    assert not page.exists()

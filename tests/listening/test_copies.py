"""A copy of the page for somebody elsewhere: blind, whole in one file, and taken back only as it was given."""

import base64
import io
import json
import re

import pytest
import soundfile
from clients import whole_answer
from files import tree
from made_sets import TEXTS, make_run

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.listening.copies import MOST_BYTES, export_copy, import_copies
from xtts_gatekeeper.listening.plan import find_place, open_session
from xtts_gatekeeper.listening.result import record
from xtts_gatekeeper.listening.session import REAL
from xtts_gatekeeper.listening.trials import trials_for
from xtts_gatekeeper.samples.speak import sets_in
from xtts_gatekeeper.samples.voice import read_held_out

SCRIPT = "</script><script>alert('prompt')</script>"


class Copies:
    """A run, its session, and copies of it."""

    def __init__(self, tmp_path):
        self.folder = tmp_path
        run = make_run(tmp_path / "run", (100, 200), real=(TEXTS[1], "Something else."), texts=(SCRIPT, *TEXTS[1:]))
        self.place = find_place(run)
        self.session, _ = open_session(self.place, sets_in(self.place.samples), read_held_out(run))

    def export(self, name="copy.html", title="A & B <title>"):
        """The text of the page, and the document in it."""
        path = self.folder / name
        export_copy(self.place, self.session, path, title)
        page = path.read_text(encoding="utf-8")
        return page, json.loads(re.search(r'<script type="application/json" id="offline">(.*?)</script>', page)[1])

    def saved(self, document, mark=lambda source: 3, most=None, **changes):
        """What the page saves when somebody has answered: `mark` by the source of a sample."""
        source = {s.token: s.source for trial in trials_for(self.session, document["copy"]) for s in trial.shown}
        answers = {
            trial["id"]: whole_answer(document, trial, lambda _, one: mark(source[one["token"]]))
            for trial in document["trials"][:most]
        }
        whole = {
            "format": "xtts-gatekeeper-listening",
            "version": 1,
            "session": document["session"],
            "copy": document["copy"],
            "listener": "Zoë from afar",
            "answers": answers,
        }
        return {key: value for key, value in {**whole, **changes}.items() if value is not ...}

    def write(self, saved, name="answers.json"):
        path = self.folder / name
        path.write_text(saved if isinstance(saved, str) else json.dumps(saved), encoding="utf-8")
        return path


@pytest.fixture
def copies(tmp_path):
    return Copies(tmp_path)


# The page


def test_the_page_holds_every_sound_and_asks_for_nothing_from_anywhere(copies):
    page, document = copies.export()
    tokens = {one["token"] for trial in document["trials"] for one in trial["stimuli"]}
    assert set(document["audio"]) == tokens
    for uri in document["audio"].values():
        kind, _, content = uri.partition(",")
        assert kind == "data:audio/flac;base64"
        assert soundfile.info(io.BytesIO(base64.b64decode(content))).duration in (0.8, 2.0)
    assert not re.search(r"(src|href)=[\"']?(?!data:)[/\w]", page.partition('id="offline"')[0])
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert "default-src &#39;none&#39;" in policy or "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_every_script_and_style_of_the_page_is_the_one_that_its_policy_allows(copies):
    import hashlib
    from html import unescape

    page, _ = copies.export()
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1])
    inline = re.findall(r"<script>(.*?)</script>|<style>(.*?)</style>", page, re.DOTALL)
    assert len(inline) >= 3
    for script, style in inline:
        digest = base64.b64encode(hashlib.sha256((script or style).encode()).digest()).decode()
        (sources,) = (part for part in policy.split("; ") if part.startswith("script-src" if script else "style-src"))
        assert f"'sha256-{digest}'" in sources


def test_nothing_in_the_page_tells_whose_a_sample_is(copies):
    page, document = copies.export()
    told = re.sub(r"data:audio/flac;base64,[\w+/=]+", "", page)
    for secret in ("step 100", "step 200", "samples/", ".wav", copies.session.secret, "real/1", '"live"'):
        assert secret not in told
    for system in ("100", "200"):
        assert f'"{system}"' not in told
    assert set(document) == {"session", "copy", "listener", "answers", "done", "rows", "faults", "trials", "audio"}


def test_two_copies_have_no_token_in_common(copies):
    one, other = (copies.export(name)[1] for name in ("a.html", "b.html"))
    assert one["copy"] != other["copy"]
    assert not set(one["audio"]) & set(other["audio"])


def test_markup_in_a_prompt_or_the_title_is_text(copies):
    page, document = copies.export()
    assert SCRIPT in [trial["text"] for trial in document["trials"]]
    assert SCRIPT not in page
    assert "<title>A &amp; B &lt;title&gt;</title>" in page


def test_a_sample_that_has_gone_is_one_sentence_and_leaves_no_page(copies):
    (copies.place.samples / "100" / "p2.wav").unlink()
    with pytest.raises(UserError, match=r"p2\.wav: the sample cannot be read any more"):
        copies.export()
    assert not [path for path in copies.folder.iterdir() if "copy.html" in path.name]


# The way back


def test_what_a_copy_brings_back_is_scored_as_if_it_had_been_answered_here(copies):
    _, document = copies.export()
    path = copies.write(copies.saved(document, {"100": 2, "200": 4, REAL: 5}.get))
    (imported,) = import_copies(copies.place, [path])
    assert (imported.listener, imported.done, imported.of) == ("Zoë from afar", 8, 8)
    results = record(copies.place, copies.session).results
    assert [system.score for system in results.systems] == [10, 20]
    assert results.real.score == 25
    assert results.listeners[0].name == "Zoë from afar"
    assert results.listeners[0].consistency.difference == 0


def test_a_part_can_be_brought_first_and_the_rest_later(copies):
    _, document = copies.export()
    assert import_copies(copies.place, [copies.write(copies.saved(document, most=3))])[0].done == 3
    assert record(copies.place, copies.session).results is None
    assert import_copies(copies.place, [copies.write(copies.saved(document))])[0].done == 8
    files = tree(copies.place.listening)
    assert import_copies(copies.place, [copies.write(copies.saved(document))])[0].done == 8
    assert tree(copies.place.listening) == files


def test_several_copies_are_several_listeners(copies):
    paths = []
    for number, name in enumerate(("Anna", "Ben")):
        _, document = copies.export(f"{number}.html")
        paths.append(copies.write(copies.saved(document, listener=name), f"{number}.json"))
    import_copies(copies.place, paths)
    assert sorted(one.name for one in record(copies.place, copies.session).results.listeners) == ["Anna", "Ben"]


def other(token):
    return ("0" if token[0] != "0" else "1") + token[1:]


def wrong_files(saved):
    """Name -> content of a file that is not taken, and what is said of it."""
    trial, answer = next(iter(saved["answers"].items()))
    token = next(iter(answer["marks"]))
    text = json.dumps(saved)

    def changed(**values):
        return {**saved, "answers": {trial: {**answer, **values}}}

    return {
        "empty": ("", "Invalid JSON"),
        "text": ("Hello, these are my answers", "Invalid JSON"),
        "torn": (text[: len(text) // 2], "Invalid JSON"),
        "a list": ("[]", "not what a listening page saves"),
        "another format": ({**saved, "format": "other"}, "format"),
        "another version": ({**saved, "version": 2}, "version"),
        "a version in words": ({**saved, "version": "1"}, "version"),
        "a key too much": ({**saved, "more": 1}, "more"),
        "a key too few": ({k: v for k, v in saved.items() if k != "copy"}, "copy"),
        "another session": ({**saved, "session": "0" * 12}, "which .* does not have"),
        "a path for a session": ({**saved, "session": "../../../x"}, "session"),
        "another copy": ({**saved, "copy": other(saved["copy"][5:])}, "was not made of this session"),
        "a forged copy": ({**saved, "copy": saved["copy"][:-1] + other(saved["copy"][-1])}, "was not made of this"),
        "a listener for a copy": ({**saved, "copy": "a" * 32}, "was not made of this session"),
        "a path for a copy": ({**saved, "copy": "copy-../../../evil"}, "was not made of this session"),
        "no name": ({**saved, "listener": " "}, "no name"),
        "a name of two lines": ({**saved, "listener": "a\nb"}, "cannot be seen"),
        "an endless name": ({**saved, "listener": "a" * 5000}, "listener"),
        "no answers": ({**saved, "answers": None}, "answers"),
        "another trial": ({**saved, "answers": {other(trial): answer}}, "which its copy does not have"),
        "a trial with a path": ({**saved, "answers": {"../../x": answer}}, "answers"),
        "another token": (changed(marks={other(token): answer["marks"][token]}), "this trial does not have"),
        "a mark of 6": (changed(marks={token: {"prosody": 6}}), "prosody"),
        "a mark of 1.5": (text.replace('"prosody": 3', '"prosody": 1.5', 1), "prosody"),
        "a mark of NaN": (text.replace('"prosody": 3', '"prosody": NaN', 1), "prosody"),
        "true for a mark": (text.replace('"prosody": 3', '"prosody": true', 1), "prosody"),
        "an endless mark": (text.replace('"prosody": 3', '"prosody": ' + "9" * 5000, 1), "Invalid JSON"),
        "an unknown row": (changed(marks={token: {"beauty": 3}}), "beauty"),
        "an unknown fault": (changed(faults={token: ["ugly"]}), "faults"),
        "an endless note": (changed(notes={token: "a" * 1001}), "notes"),
        "too large": (text + " " * MOST_BYTES, "more than 5 MB"),
        "deep": ("[" * 100000, "Invalid JSON"),
    }  # fmt: skip


def test_a_file_that_is_not_what_a_copy_has_saved_is_one_sentence_and_changes_nothing(copies):
    _, document = copies.export()
    saved = copies.saved(document)
    wrong = wrong_files(saved)
    good = copies.write(saved, "good.json")
    before = tree(copies.place.run)
    for name, (content, said) in wrong.items():
        bad = copies.write(content, "bad.json")
        for paths in ([bad], [good, bad]):
            with pytest.raises(UserError, match=said) as error:
                import_copies(copies.place, paths)
            assert "bad.json" in str(error.value), name
            assert "\n" not in str(error.value), name
        assert tree(copies.place.run) == before, name


def test_what_is_no_file_is_one_sentence(copies):
    for path in (copies.folder / "nothing.json", copies.folder):
        with pytest.raises(UserError, match="cannot be read"):
            import_copies(copies.place, [path])


def test_a_copy_of_another_session_of_the_same_run_goes_to_that_one(copies):
    session, _ = open_session(copies.place, sets_in(copies.place.samples)[:1])
    path = copies.folder / "one.html"
    export_copy(copies.place, session, path, "One")
    document = json.loads(re.search(r'id="offline">(.*?)</script>', path.read_text())[1])
    first, copies.session = copies.session, session
    assert import_copies(copies.place, [copies.write(copies.saved(document))])[0].session == session.id
    assert record(copies.place, first).results is None
    assert record(copies.place, session).results is not None

"""The listening page in a real Chromium, against a real server process: by keyboard, by mouse, and against odds."""

import json
import re
from contextlib import contextmanager

import pytest

pytest.importorskip("flask")
from browser import Watched, axe_serious, screenshot
from listening_page import Listener, expect, kept_answers, serving
from made_sets import make_run

from xtts_gatekeeper.listening.verb import run_listen

NASTY = "<script>document.title = 'taken'</script> said <b>Ann</b> & \"quotes\"."
TEXTS = (NASTY, "Numbers like 42 are hard to say.", "The last one is short.")
#: What a window is, wide or that of a small phone.
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A session of two systems and three sentences, one of them with a real clip, one heard twice."""
    with serving(a_run(tmp_path_factory.mktemp("listening"))) as server:
        yield server


def a_run(folder):
    return make_run(folder / "run <b>one", texts=TEXTS, real=(TEXTS[1],))


@contextmanager
def a_window(chromium, *, size=WIDE, scheme="light"):
    """A tab of a browser that nobody has used yet, and what it said and asked for."""
    context = chromium.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", accept_downloads=True)
    context.set_default_timeout(30_000)
    watched = Watched()
    try:
        yield watched.watch(context.new_page()), watched
    finally:
        context.close()


@pytest.fixture
def window(chromium, server):
    """A page that is open at the server and must stay silent and at home."""
    with a_window(chromium) as (page, watched):
        page.goto(server.link)
        yield page
        assert watched.said == []
        assert watched.elsewhere(server.origin) == []


def test_a_whole_blind_session_by_keyboard_alone(window):
    window.keyboard.type("Keyboard Kim")
    window.keyboard.press("Enter")
    kim = Listener(window)
    number = 1
    while True:
        kim.arrives(number).answer("43512").press("b", "m", "t", "n")
        window.keyboard.type("hums")
        kim.press("Escape", "p", "0")
        shown = window.locator("body").inner_text()
        assert not re.search(r"step|\b[12]00\b|real", shown, re.IGNORECASE), "the page tells which is which"
        last = window.locator(".next").inner_text() == "Finish"
        kim.press("Enter")
        if last:
            break
        number += 1
    kim.thanked()
    expect(window.locator(".result")).to_have_count(3)
    assert "step 100" in window.locator(".results").inner_text()

    document, answers = kept_answers(window, "Keyboard Kim")
    assert document["done"] == len(answers) == number == 4
    rows = [row["key"] for row in document["rows"]]
    for trial, answer in zip(document["trials"], answers, strict=True):
        tokens = [stimulus["token"] for stimulus in trial["stimuli"]]
        marks = dict(zip(rows, (4, 3, 5, 1, 2), strict=True))
        assert answer["marks"] == dict.fromkeys(tokens, marks)
        assert answer["faults"] == {tokens[1]: ["mispronounced", "trailing_noise"]}
        assert answer["notes"] == {tokens[1]: "hums"}
        assert answer["preferred"] == "none"
        assert answer["seconds"] > 0


def test_a_whole_session_by_mouse(window):
    window.get_by_label("Who listens?").fill("Mouse Max")
    window.get_by_role("button", name="Begin").click()
    max_ = Listener(window).arrives(1)
    for number in range(1, max_.trials + 1):
        max_.arrives(number)
        for sample in window.locator(".stimulus").all():
            sample.get_by_role("button", name="Play").first.click()
            expect(sample).to_have_attribute("data-heard", "")
            for row in sample.locator(".row").all():
                row.locator(".choice").nth(3).click()
        window.locator(".stimulus").first.get_by_role("checkbox", name="Words skipped").check()
        window.locator(".stimulus").first.get_by_label("Note").fill("by mouse")
        window.locator(".preference").get_by_role("radio", name="B", exact=True).check()
        window.locator(".next").click()
    max_.thanked()
    expect(window.locator(".result")).to_have_count(3)
    document, answers = kept_answers(window, "Mouse Max")
    for trial, answer in zip(document["trials"], answers, strict=True):
        first, second = (stimulus["token"] for stimulus in trial["stimuli"][:2])
        assert {mark for marks in answer["marks"].values() for mark in marks.values()} == {4}
        assert (answer["faults"], answer["notes"]) == ({first: ["skipped"]}, {first: "by mouse"})
        assert answer["preferred"] == second


def test_the_space_bar_plays_whatever_was_clicked_last(window):
    Listener(window).begin("Clicking Cleo")
    first = window.locator(".stimulus").first
    sounds = first.locator(".player.sounds")
    for clicked in (first.locator(".tag").first, first.locator(".marks .choice").first):
        clicked.click()
        checked = clicked.locator("input").is_checked()
        window.keyboard.press("Space")
        expect(sounds).to_have_count(1)
        window.keyboard.press("Space")
        expect(sounds).to_have_count(0)
        assert clicked.locator("input").is_checked() == checked


def test_who_goes_by_tab_has_the_keys_of_every_page(window):
    Listener(window).begin("Tabbing Tom")
    first = window.locator(".stimulus").first
    first.locator(".play").focus()
    for _ in range(3):  # from the beginning, position, first row
        window.keyboard.press("Tab")
    window.keyboard.press("Space")
    window.keyboard.press("ArrowRight")
    assert Listener(window).checked("mark-") == ["2"]
    first.locator(".tag input").first.focus()
    window.keyboard.press("Shift+Tab")
    window.keyboard.press("Tab")
    window.keyboard.press("Space")
    assert Listener(window).checked("fault-") == ["mispronounced"]
    assert window.locator(".player.sounds").count() == 0


def test_reload_in_the_middle_goes_on_with_what_was_said_last(window):
    ann = Listener(window).begin("Reloading Ann").answer().press("Enter").arrives(2)
    ann.hear("b").press("5", "4", "s", "n")
    window.keyboard.type("a note\nof two lines")
    window.reload()  # at once: what was typed last is on its way
    ann.arrives(2)
    assert ann.checked("mark-") == ["5", "4"]
    assert ann.checked("fault-") == ["skipped"]
    assert window.locator(".stimulus textarea").nth(1).input_value() == "a note\nof two lines"
    ann.press("Shift+Enter").arrives(1)
    assert ann.checked("preferred") != []
    _, (first, second, *_) = kept_answers(window, "Reloading Ann")
    assert first["preferred"] is not None
    assert list(second["notes"].values()) == ["a note\nof two lines"]


def test_two_listeners_at_once_do_not_disturb_each_other(chromium, server):
    with a_window(chromium) as (one, said_one), a_window(chromium) as (other, said_other):
        listeners = []
        for page, name in ((one, "Early Eve"), (other, "Late Leo")):
            page.goto(server.link)
            listeners.append(Listener(page).begin(name))
        for number in range(1, listeners[0].trials + 1):
            listeners[0].arrives(number).answer("55555").press("Enter")
            listeners[1].arrives(number).answer("11111").press("Enter")
        for listener in listeners:
            listener.thanked()
        for page, name, mark in ((one, "Early Eve", 5), (other, "Late Leo", 1)):
            expect(page.locator(".result")).to_have_count(3)
            document, answers = kept_answers(page, name)
            assert document["done"] == len(answers)
            assert {m for a in answers for marks in a["marks"].values() for m in marks.values()} == {mark}
        assert said_one.said == said_other.said == []


def test_somebody_else_can_listen_in_the_same_window(window):
    Listener(window).begin("Leaving Lou").hear("a").press("3").saved()
    window.get_by_role("button", name="Somebody else").click()
    ann = Listener(window).begin("Coming Cat")
    assert ann.checked("mark-") == []
    _, (first, *_) = kept_answers(window, "Leaving Lou")
    assert first["marks"]


def test_the_sound_plays_one_sample_at_a_time(window):
    listener = Listener(window).begin("Hearing Hal")
    sounds = window.locator("audio")
    assert all(0.7 < length < 2.1 for length in sounds.evaluate_all("all => all.map(one => one.duration)"))
    for label in ("a", "b"):
        listener.press(label, "Space")
        expect(window.locator(".stimulus.chosen .player.sounds .label")).to_have_text(label.upper())
        expect(window.locator(".player.sounds")).to_have_count(1)
    moved = sounds.nth(1).evaluate(
        """sound => new Promise(done => {
            const from = sound.currentTime;
            sound.addEventListener('timeupdate', () => { if (sound.currentTime > from) done(true); });
            sound.addEventListener('ended', () => done(sound.currentTime > from));
        })"""
    )
    assert moved
    expect(window.locator(".player.sounds")).to_have_count(0)  # it has come to its end
    bar = window.locator(".position").nth(1)
    bar.fill("0.5")
    assert sounds.nth(1).evaluate("sound => sound.currentTime") == pytest.approx(0.5)
    assert bar.get_attribute("aria-valuetext").startswith("0.5 of ")
    window.get_by_role("button", name="Play B from its beginning").click()
    expect(window.locator(".player.sounds .label")).to_have_text("B")
    listener.press("Space")
    assert sounds.nth(1).evaluate("sound => sound.currentTime") < 0.5


def test_next_waits_and_says_what_is_missing(window):
    listener = Listener(window).begin("Hasty Hans")
    missing = window.locator(".missing")
    listener.press("Enter")
    expect(missing).to_have_text(re.compile(r"^Still to do: play A.* and .; mark A; .*; say which one you prefer\.$"))
    listener.hear("a").press("5", "5", "ArrowDown", "4")
    expect(missing).to_contain_text("mark A in Pronunciation and Sound;")
    for label in listener.labels:
        listener.hear(label).press("1", "2", "3", "4", "5")
    expect(missing).to_have_text("Still to do: say which one you prefer.")
    listener.press("Enter", "b")
    expect(missing).to_have_text("")
    listener.press("Enter").arrives(2)


def test_keys_mean_nothing_but_letters_inside_of_a_note(window):
    listener = Listener(window).begin("Noting Nell").press("b", "n")
    window.keyboard.type("a1 mp? 5 sk")
    expect(window.locator(".stimulus textarea").nth(1)).to_have_value("a1 mp? 5 sk")
    expect(window.locator("dialog")).to_be_hidden()
    assert listener.checked("") == []
    listener.press("Escape", "5")
    assert listener.checked("mark-") == ["5"]


def test_the_keys_of_another_script_are_those_printed_beside_the_latin_ones(window):
    listener = Listener(window).begin("Кирилл")
    for key, code in (("и", "KeyB"), ("&", "Digit1"), ("ь", "KeyM")):
        press = "([key, code]) => document.body.dispatchEvent(new KeyboardEvent('keydown', {key, code, bubbles: true}))"
        window.evaluate(press, [key, code])
    expect(window.locator(".stimulus.chosen .label")).to_have_text("B")
    assert (listener.checked("mark-"), listener.checked("fault-")) == (["1"], ["mispronounced"])


def test_script_in_a_sentence_a_note_or_a_name_stays_text(window):
    name = "<img src=x onerror=alert(1)>"
    listener = Listener(window).begin(name)
    seen = []
    for number in range(1, listener.trials + 1):
        listener.arrives(number).press("n")
        window.keyboard.type(NASTY)
        listener.press("Escape")
        seen.append(window.locator(".sentence").inner_text())
        listener.answer().press("Enter")
    listener.thanked()
    assert NASTY in seen
    assert window.locator(".listener").inner_text() == name
    assert window.locator("main b, main img, main script").count() == 0
    assert window.title() == "Listening test: run <b>one"


def test_a_name_that_is_none_is_refused_in_words(chromium, server):
    with a_window(chromium) as (page, _):
        page.goto(server.link)
        page.get_by_label("Who listens?").fill("   ")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").first).not_to_be_empty()
        Listener(page).begin("A name")


def test_a_sample_that_cannot_be_played_is_no_dead_end(chromium, server):
    with a_window(chromium) as (page, _):
        page.route("**/audio/*", lambda route: route.fulfill(status=200, content_type="audio/flac", body="no sound"))
        page.goto(server.link)
        page.get_by_label("Who listens?").fill("Deaf Dora")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("Sentence 1 of")
        listener = Listener(page)
        broken = page.get_by_text("This sample cannot be played.")
        for number in range(len(listener.labels)):
            expect(broken.nth(number)).to_be_visible()
        for label in listener.labels:
            listener.press(label, *"11111")
        listener.press("p", "0", "Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("Sentence 2 of")


def test_a_server_that_stops_and_comes_back_has_everything(chromium, tmp_path):
    with serving(a_run(tmp_path)) as server, a_window(chromium) as (page, watched):
        page.goto(server.link)
        listener = Listener(page).begin("Patient Pat").hear("a").press("1").saved()
        server.kill()
        listener.press("2")
        expect(page.locator(".kept")).to_have_text("Not saved, trying again")
        listener.press("3")
        server.start()
        listener.saved()
        _, (first, *_) = kept_answers(page, "Patient Pat")
        assert [list(marks.values()) for marks in first["marks"].values()] == [[1, 2, 3]]
        assert all("ERR_CONNECTION_REFUSED" in line for line in watched.said)


def test_a_page_closed_while_the_server_is_away_brings_its_answers_next_time(chromium, tmp_path):
    with serving(a_run(tmp_path)) as server, a_window(chromium) as (page, _):
        page.goto(server.link)
        Listener(page).begin("Leaving Lea").hear("a").press("1").saved()
        server.kill()
        Listener(page).press("2")
        expect(page.locator(".kept")).to_have_text("Not saved, trying again")
        page.close()
        server.start()
        again = page.context.new_page()
        again.goto(server.link)
        lea = Listener(again).begin("Leaving Lea").saved()
        assert lea.checked("mark-") == ["1", "2"]
        _, (first, *_) = kept_answers(again, "Leaving Lea")
        assert [list(marks.values()) for marks in first["marks"].values()] == [[1, 2]]


def test_an_exported_page_is_filled_reloaded_saved_and_imported(chromium, tmp_path, capsys):
    run = a_run(tmp_path)
    exported = tmp_path / "for a friend.html"
    assert run_listen(run, export=exported) == 0
    with a_window(chromium) as (page, watched):
        page.goto(exported.as_uri())
        friend = Listener(page).begin("A friend <b>")
        friend.answer().press("Enter").arrives(2).hear("a").press(*"43512")
        page.reload()
        assert friend.arrives(2).checked("mark-") == list("43512")
        expect(page.locator(".kept")).to_have_text("Kept in this browser")
        early = saved_file(page, tmp_path / "early.json")
        assert len(early["answers"]) == 2
        friend.answer_all()
        saved_file(page, tmp_path / "answers.json")
        assert watched.said == []
        assert watched.elsewhere(exported.as_uri()) == []
    capsys.readouterr()
    assert run_listen(run, imports=(tmp_path / "answers.json",), as_json=True) == 0
    (results,) = json.loads(capsys.readouterr().out)["sessions"]
    assert [one["name"] for one in results["listeners"]] == ["A friend <b>"]
    assert {one["metrics"]["sample.score"]["mean"] for one in results["systems"]} == {15.0}


def test_an_exported_page_without_storage_says_that_it_keeps_nothing(chromium, tmp_path):
    run = a_run(tmp_path)
    exported = tmp_path / "page.html"
    assert run_listen(run, export=exported) == 0
    with a_window(chromium) as (page, watched):
        page.add_init_script("Storage.prototype.setItem = () => { throw new DOMException('full'); };")
        page.goto(exported.as_uri())
        Listener(page).begin("Nobody").hear("a").press("5")
        expect(page.locator(".kept")).to_contain_text("save your answers before you close this page")
        assert len(saved_file(page, tmp_path / "answers.json")["answers"]) == 1
        assert watched.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "size"), [("wide", WIDE), ("phone", PHONE)])
def test_every_page_is_accessible_and_fits(chromium, server, scheme, width, size):
    with a_window(chromium, size=size, scheme=scheme) as (page, watched):

        def look(name):
            assert axe_serious(page) == [], name
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            height = page.evaluate("document.documentElement.scrollHeight")
            page.set_viewport_size({**size, "height": max(height, size["height"])})
            screenshot(page, f"listen-{name}-{width}-{scheme}")
            page.set_viewport_size(size)

        page.goto(server.link)
        expect(page.get_by_label("Who listens?")).to_be_focused()
        look("start")
        listener = Listener(page).begin(f"Looking {width} {scheme}")
        look("trial")
        listener.hear("a").press("4", "3", "m", "Enter")
        expect(page.locator(".missing")).not_to_be_empty()
        look("missing")
        listener.press("p")
        look("preference")
        listener.press("Escape", "?")
        expect(page.get_by_role("dialog")).to_be_visible()
        look("keys")
        listener.press("Escape").answer_all()
        expect(page.locator(".result")).to_have_count(3)
        look("thanks")
        assert watched.said == []
        assert watched.elsewhere(server.origin) == []


def saved_file(page, path):
    """Press `Save answers` and read what was saved."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save answers").first.click()
    download.value.save_as(path)
    return json.loads(path.read_text(encoding="utf-8"))

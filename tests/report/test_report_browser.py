"""The page in a real Chromium: light and dark, on a phone, on paper, by mouse and by keyboard."""

import math
from pathlib import Path

import pytest
from browser import axe_serious, screenshot
from records import curve, ended, evaluated, incident, start, write_run

from xtts_gatekeeper.record import Journal, journal_path
from xtts_gatekeeper.record.events import Action, Crash

SCHEMES = ("light", "dark")


def steps(page):
    """What the diagrams show, as the page itself says it after a change; empty before."""
    return page.locator("#zoom-state").text_content()


def settle(page):
    """Wait until what has changed is drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def values(page, key="objective"):
    """Ends of the axis of values of a diagram, and of its scale the kind."""
    return page.evaluate(
        """key => {
             const plot = Bokeh.documents[0].roots().find((one) => one.height === (key === "objective" ? 300 : 210));
             return [plot.y_range.start, plot.y_range.end, plot.y_scale.type];
           }""",
        key,
    )


def point_at(page, selector, x, y):
    """Move the mouse to a place in an element, as shares of its size."""
    place = page.locator(selector)
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    page.mouse.move(box["x"] + x * box["width"] - 3, box["y"] + y * box["height"])
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    return box


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_serious_is_wrong_for_who_sees_or_hears_badly(long_page, opened, scheme, width):
    page = opened(long_page, color_scheme=scheme, width=width)
    screenshot(page, f"report-{scheme}-{width}")
    for part in page.locator("details").all():
        part.evaluate("part => { part.open = true; }")
    assert axe_serious(page) == []


def test_nothing_serious_is_wrong_with_an_audit_and_listeners_in_it(tmp_path, page_of, opened):
    pytest.importorskip("matplotlib")
    made_runs = pytest.importorskip("made_runs")
    run = write_run(tmp_path / "run", start(), curve(3.0, 2.9))
    made_runs.write_data(run)
    made_runs.write_results(run)
    page = opened(page_of(run, tmp_path / "page.html", audit=True), color_scheme="dark")
    screenshot(page, "report-audit")
    assert page.locator("#sheet-listening").count() == 1
    assert axe_serious(page) == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_a_page_is_never_wider_than_its_window(long_page, opened, width):
    page = opened(long_page, width=width)
    for part in page.locator("details").all():
        part.evaluate("part => { part.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_scheme_is_followed_while_the_page_is_open(long_page, opened):
    page = opened(long_page, color_scheme="light")
    text = "Bokeh.documents[0].roots()[1].left[0].major_label_text_color"
    light = page.evaluate(text)
    page.emulate_media(color_scheme="dark")
    settle(page)
    assert page.evaluate(text) != light


def test_the_pointer_reads_all_values_at_a_step(long_page, opened):
    page = opened(long_page)
    point_at(page, "#plot-objective", 0.5, 0.5)
    box = page.locator(".bk-tooltip-content:visible")
    box.wait_for()
    said = box.inner_text()
    assert "epochs done" in said
    assert "Train:" in said
    assert "Eval:" in said


def test_dragging_zooms_every_diagram_and_a_double_click_takes_it_back(long_page, opened):
    page = opened(long_page)
    whole = page.evaluate("Bokeh.documents[0].roots().map((plot) => plot.x_range.end)")
    assert len(set(whole)) == 1
    box = point_at(page, "#plot-objective", 0.3, 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 100)
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 100)
    page.mouse.up()
    zoomed = page.evaluate("Bokeh.documents[0].roots().map((plot) => plot.x_range.end)")
    assert len(set(zoomed)) == 1
    assert zoomed[0] < whole[0]
    page.locator("#plot-objective").dblclick()
    assert page.evaluate("Bokeh.documents[0].roots()[0].x_range.end") == whole[0]


def test_steps_can_be_zoomed_by_keyboard_alone(long_page, opened):
    page = opened(long_page)
    page.get_by_role("button", name="Zoom in").focus()
    page.keyboard.press("Enter")
    near = steps(page)
    page.keyboard.press("Tab")  # zoom out
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # earlier
    assert steps(page) != near
    page.get_by_role("button", name="Whole run").press("Enter")
    assert steps(page) == "The whole run"


def test_values_of_what_is_shown_fill_a_diagram(long_page, opened):
    page = opened(long_page)
    before = values(page)
    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Later").click()
    settle(page)
    after = values(page)
    assert after[1] < before[1]


def test_a_scale_can_be_switched_to_logarithmic_and_back(long_page, opened):
    page = opened(long_page)
    button = page.get_by_role("button", name="Logarithmic scale: Mel CE")
    assert values(page)[2] == "LinearScale"
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert values(page)[2] == "LogScale"
    button.click()
    assert values(page)[2] == "LinearScale"


def test_a_sample_plays_and_another_one_stops_it(long_page, opened):
    page = opened(long_page)
    first, second = page.locator("audio").nth(0), page.locator("audio").nth(1)
    heard = (
        "audio => new Promise((done) => { audio.ontimeupdate = () => audio.currentTime > 0 && done(audio.duration); })"
    )
    first.evaluate("audio => { audio.play(); }")
    assert first.evaluate(heard) == pytest.approx(1.0, abs=0.1)
    second.evaluate("audio => audio.play()")
    assert first.evaluate("audio => audio.paused")


def test_paper_is_light_and_shows_what_is_folded(long_page, opened):
    page = opened(long_page, color_scheme="dark", width=794, height=1123)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    screenshot(page, "report-paper")
    colours = "part => [getComputedStyle(part).color, getComputedStyle(part).backgroundColor]"
    assert page.locator("body").evaluate(colours) == ["rgb(28, 36, 48)", "rgb(255, 255, 255)"]
    assert page.locator(".printed").count() == 14
    assert page.locator("details:not(.plot > details):not([open])").count() == 0
    # The curve that is light blue on the dark screen is a dark one on paper.
    dark = """picture => {
      const { data } = picture.getContext("2d").getImageData(0, 0, picture.width, picture.height);
      return [picture.className, data.some((value) => value > 0)];
    }"""
    assert page.locator(".printed").nth(1).evaluate(dark) == ["printed dark", True]
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".printed").count() == 0


def test_it_prints(long_page, opened):
    pdf = opened(long_page).pdf(format="A4", print_background=True)
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") > 3


def test_without_script_the_numbers_are_there(long_page, chromium):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(long_page.resolve().as_uri())
    assert page.locator("noscript p").is_visible()
    assert not page.get_by_role("button", name="Zoom in").is_visible()
    page.locator("summary", has_text="As a table: Mel CE").click()
    assert page.locator("details[open] table").first.is_visible()
    context.close()


def test_what_would_be_markup_in_the_box_under_the_pointer_is_text(tmp_path, page_of, opened):
    evil = "<img src=x onerror=alert(1)>"
    run = write_run(tmp_path / "run", start(), curve(3.0, 2.9, 2.8), incident(20, "code", evil))
    page = opened(page_of(run, tmp_path / "page.html"))
    x = page.evaluate(
        """() => {
             const plot = Bokeh.documents[0].roots()[0];
             const view = Bokeh.index.find_one(plot);
             return (view.frame.x_scale.compute(20)) / view.el.clientWidth;
           }"""
    )
    lanes = page.evaluate("Bokeh.documents[0].roots()[0].y_range.end - 0.6")
    point_at(page, "#plot-timeline", x, (8 + 30 * (lanes - 0.5)) / (30 * lanes + 30))
    box = page.locator(".bk-tooltip-content:visible")
    box.wait_for()
    assert evil in box.inner_text()
    assert box.locator("img").count() == 0


LOGS = Path("/work/shared/logs")


def odd_runs():
    """Runs with something that a diagram may stumble over."""
    rewind = Action(step=30, epoch=2, name="rewind", message="back", values={"to_step": 10})
    return {
        "one evaluation": [start(), evaluated(0, 3.0)],
        "a constant": [start(), curve(3.0, 3.0, 3.0)],
        "no numbers": [start(), curve(3.0, math.nan, math.inf, -math.inf, 2.8)],
        "nothing but no numbers": [start(), curve(math.nan, math.nan)],
        "negative": [start(), curve(-1.0, -2.0, -3.0)],
        "huge and tiny": [start(), curve(1e30, 1.0, 1e-30)],
        "two segments": [start(), curve(3.0, 2.9), curve(1.0, 0.9, first=2, eval_set="other")],
        "a rewind": [start(), curve(3.0, 2.9, 9.0), rewind, curve(2.8, 2.7, first=3)],
        "a resume": [start(), curve(3.0, 2.9, 2.8), start(step=10, epoch=1), curve(2.7, first=1)],
        "a crash at once": [start(), Crash(step=0, epoch=0, kind="killed", message="gone", decision="stop")],
    }


@pytest.mark.parametrize("name", odd_runs())
def test_odd_runs_are_drawn_without_a_word(name, tmp_path, page_of, opened):
    page = opened(page_of(write_run(tmp_path / "run", *odd_runs()[name]), tmp_path / "page.html"))
    assert page.locator("h2 strong").inner_text() in ("continue", "tune", "stop", "undecided")
    for button in page.locator("[data-plot]").all():
        button.click()
    settle(page)


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.txt")), ids=lambda log: log.name[:12])
def test_published_logs_are_drawn_without_a_word(log, tmp_path, page_of, opened):
    page = opened(page_of(log, tmp_path / "page.html"), width=360)
    screenshot(page, f"report-log-{log.name[:2]}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


# A running run


def test_a_live_page_follows_the_file_and_stays_where_the_reader_is(tmp_path, page_of, opened):
    run = write_run(tmp_path / "run", start(), curve(*(3 - 0.01 * n for n in range(60))))
    file = page_of(run, tmp_path / "page.html", live=600)
    page = opened(file, clock=True)
    page.get_by_role("button", name="Zoom in").click()
    page.locator("details[data-keep=table-objective] summary").click()
    page.get_by_role("button", name="Logarithmic scale: Mel CE").click()
    page.mouse.wheel(0, 500)
    settle(page)
    seen = steps(page)
    journal = Journal(journal_path(run))
    for event in curve(2.0, first=60):
        journal.append(event)
    page_of(run, file, live=600)
    page.clock.fast_forward(601_000)
    page.get_by_text("61 evaluations").wait_for(state="attached")
    page.wait_for_selector("html[data-drawn]", state="attached")
    assert steps(page) == seen
    assert page.locator("details[data-keep=table-objective]").get_attribute("open") is not None
    assert page.get_by_role("button", name="Logarithmic scale: Mel CE").get_attribute("aria-pressed") == "true"
    assert page.evaluate("scrollY") > 0
    journal.append(ended(610))
    page_of(run, file)
    page.clock.fast_forward(601_000)
    page.get_by_text("finished").first.wait_for()
    assert page.locator("#live-pause").count() == 0


def test_a_live_page_waits_while_it_is_paused_and_while_a_sample_plays(tmp_path, page_of, opened):
    made_runs = pytest.importorskip("made_runs")
    run = write_run(tmp_path / "run", start(), curve(3.0))
    made_runs.write_samples(run, [10], seconds=20.0)
    page = opened(page_of(run, tmp_path / "page.html", live=600), clock=True)
    page.evaluate("document.body.dataset.same = ''")
    page.get_by_role("button", name="Pause").click()
    page.clock.fast_forward(601_000)
    settle(page)
    assert page.locator("body[data-same]").count() == 1
    page.locator("audio").first.evaluate("audio => audio.play()")
    page.get_by_role("button", name="Pause").click()
    page.clock.fast_forward(601_000)
    settle(page)
    assert page.locator("body[data-same]").count() == 1
    page.locator("audio").first.evaluate("audio => audio.pause()")
    with page.expect_event("load"):
        page.clock.fast_forward(601_000)

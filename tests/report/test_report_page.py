"""What is in the page, without a browser: its parts, its size, and that whatever anybody named stays text."""

import base64
import hashlib
import json
import math
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest
from records import curve, ended, evaluated, incident, record_of, start, trained, write_run
from test_record_tensorboard import coqui_run

from xtts_gatekeeper.record import Journal, journal_path
from xtts_gatekeeper.record.events import BadBatch, Crash, DataCheck
from xtts_gatekeeper.samples.sets import read_set, write_spoken

pytest.importorskip("bokeh")

LOGS = Path("/work/shared/logs")
#: It would run, as markup; and the JSON of the diagrams would end with it.
SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028"


class Tags(HTMLParser):
    """The elements of a page: what attributes they have, and the text in some."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts, self._open = [], {"script": [], "td": [], "h1": [], "h3": []}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag in self.texts:
            self._open.append(tag)
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def tags_of(file):
    return Tags(file.read_text(encoding="utf-8"))


def sections(file):
    return [section["id"] for section in tags_of(file).of("section") if "id" in section]


def test_a_long_run_has_every_part_and_is_small(long_run, tmp_path, page_of):
    file = page_of(long_run, tmp_path / "page.html", audio="none")
    assert sections(file) == ["verdict", "curves", "progress", "samples", "data", "incidents", "setup"]
    assert file.stat().st_size < 3_000_000
    assert "</html>" in file.read_text(encoding="utf-8")[-20:]


def test_every_diagram_has_its_table_and_a_sentence(long_page):
    tags = tags_of(long_page)
    canvases = [one for one in tags.of("div") if one.get("class") == "canvas"]
    assert len(canvases) == 14
    assert all(one["role"] == "img" and len(one["aria-label"]) > 30 for one in canvases)
    tables = {one["data-keep"] for one in tags.of("details") if one.get("data-keep", "").startswith("table-")}
    assert tables == {f"table-{one['id'].removeprefix('plot-')}" for one in canvases}


def test_the_page_allows_only_its_own_scripts(long_page):
    tags = tags_of(long_page)
    (policy,) = [one["content"] for one in tags.of("meta") if "http-equiv" in one]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    kinds = [attributes.get("type") for attributes in tags.of("script")]
    run = [text for kind, text in zip(kinds, tags.texts["script"], strict=True) if kind is None]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert re.findall(r"sha256-([^']+)", policy) == digests
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    assert "unsafe-eval" not in policy
    assert not [attributes for _, attributes in tags.found if any(name.startswith("on") for name in attributes)]


def test_nothing_is_fetched_from_elsewhere(long_page):
    for _, attributes in tags_of(long_page).found:
        for name in ("src", "href", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:audio/")), attributes


def test_what_anybody_named_stays_text(tmp_path, page_of):
    run = tmp_path / "<b>run<script>"
    evil = {"detail": SCRIPT}
    write_run(
        run,
        start(device=SCRIPT, warnings=[SCRIPT], versions={SCRIPT: SCRIPT}),
        DataCheck(step=0, epoch=0, clips=1, faults={SCRIPT: 1}, unusable=[SCRIPT], near=[[SCRIPT, SCRIPT]]),
        curve(3.0, 2.9),
        incident(20, SCRIPT, SCRIPT),
        BadBatch(step=20, epoch=1, kind=SCRIPT, files=[SCRIPT], suspects=[SCRIPT]),
        Crash(step=20, epoch=1, kind=SCRIPT, message=evil["detail"], decision="stop", why=SCRIPT),
    )
    file = page_of(run, tmp_path / "page.html")
    text = file.read_text(encoding="utf-8")
    tags = Tags(text)
    assert "<script>alert" not in text
    assert "</script><script>" not in text
    assert tags.of("img") == []
    assert tags.of("b") == [{} for tile in tags.of("b")]
    assert tags.texts["h1"] == ["<b>run<script>"]
    assert any(SCRIPT in cell for cell in tags.texts["td"])
    kinds = [attributes.get("type") for attributes in tags.of("script")]
    assert kinds == ["application/json", None, None]
    json.loads(tags.texts["script"][0])


def test_a_run_without_numbers_has_a_verdict_and_no_diagram(tmp_path, page_of):
    file = page_of(write_run(tmp_path / "run", start()), tmp_path / "page.html")
    assert sections(file) == ["verdict", "setup"]
    assert file.stat().st_size < 100_000  # without Bokeh's script


def test_a_run_with_nan_and_infinity_is_shown(tmp_path, page_of):
    losses = curve(3.0, math.nan, math.inf, 2.9)
    file = page_of(write_run(tmp_path / "run", start(), losses), tmp_path / "page.html")
    cells = tags_of(file).texts["td"]
    assert {"nan", "inf"} <= set(cells)


def test_epochs_are_left_out_where_a_source_does_not_tell_them(tmp_path, page_of):
    table = tmp_path / "steps.csv"
    table.write_text("step,eval_mel_ce\n100,3.0\n200,2.9\n300,2.8\n", encoding="utf-8")
    text = page_of(table, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Epochs done" not in text
    assert "0 epochs" not in text


def test_tensorboard_events_are_shown(tmp_path, page_of):
    events = tmp_path / "events.out.tfevents.1"
    events.write_bytes(coqui_run())
    file = page_of(events, tmp_path / "page.html")
    assert "curves" in sections(file)
    assert "read from TensorBoard events" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.txt")), ids=lambda log: log.name[:12])
def test_published_logs_are_shown(log, tmp_path, page_of):
    file = page_of(log, tmp_path / "page.html")
    assert "verdict" in sections(file)


def test_a_source_of_several_runs_says_which_is_shown(tmp_path, page_of):
    if not LOGS.is_dir():
        pytest.skip("the published logs are not here")
    text = page_of(LOGS / "19_reported_xtts_amharic_runs.txt", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "one of 2 in 19_reported_xtts_amharic_runs.txt" in text


def test_five_thousand_evaluations_make_a_page_of_readable_size(tmp_path, page_of):
    table = tmp_path / "long.csv"
    lines = [f"{n},{10 * (n + 1)},{2 + 2 * math.exp(-n / 700):.4f}" for n in range(5000)]
    table.write_text("epoch,step,eval_mel_ce\n" + "\n".join(lines) + "\n", encoding="utf-8")
    file = page_of(table, tmp_path / "page.html")
    text = file.read_text(encoding="utf-8")
    assert file.stat().st_size < 2_000_000
    assert re.search(r"\d+ of the evaluations were judged, evenly over the run\. \d+ of 5,000 rows", text)
    assert text.count("<tr>") < 1200


def test_a_resume_and_a_crash_and_two_segments_are_told(tmp_path, page_of):
    crash = Crash(step=20, epoch=1, kind="killed", message="killed by the kernel", decision="restart", why="again")
    other = [evaluated(epoch, mel, eval_set="other") for epoch, mel in ((2, 2.9), (3, 2.8))]
    run = write_run(tmp_path / "run", start(), curve(3.0, 2.95), crash, start(20, 2), trained(2), other, ended(40))
    text = page_of(run, tmp_path / "page.html").read_text(encoding="utf-8")
    for words in ("Crash: killed", "killed by the kernel again", "Segment 2", "the eval set changed before step 30"):
        assert words in text


def test_a_live_page_says_so(tmp_path, page_of):
    run = write_run(tmp_path / "run", start(), curve(3.0))
    assert 'data-live="15"' in page_of(run, tmp_path / "page.html", live=15).read_text(encoding="utf-8")
    assert "data-live=" not in page_of(run, tmp_path / "page.html").read_text(encoding="utf-8").partition("<script")[0]


# Samples


def sounds(file):
    return [one["src"] for one in tags_of(file).of("audio")]


def test_six_sets_stand_side_by_side_and_can_be_played(long_page):
    found = sounds(long_page)
    assert len(found) == 6 * 4
    assert all(uri.startswith(("data:audio/mpeg;base64,", "data:audio/wav;base64,")) for uri in found)
    assert len(set(found)) == len(found)


def test_all_sets_are_shown_when_asked_for_and_none_can_be_played_when_not(long_run, tmp_path, page_of):
    assert len(sounds(page_of(long_run, tmp_path / "all.html", audio="all"))) == 9 * 4
    quiet = page_of(long_run, tmp_path / "none.html", audio="none")
    assert sounds(quiet) == []
    assert quiet.read_text(encoding="utf-8").count('class="set"') == 6 * 4


def test_no_file_outside_of_a_set_is_put_in_the_page(tmp_path, page_of):
    made_runs = pytest.importorskip("made_runs")
    run = write_run(tmp_path / "run", start(), curve(3.0))
    made_runs.write_samples(run, [10])
    folder = next((run / "gatekeeper" / "samples").iterdir())
    secret = tmp_path / "secret.wav"
    secret.write_bytes((folder / "p1-0.wav").read_bytes())
    made = read_set(folder)
    samples = tuple(
        type(one)(**{**vars(one), "file": file})
        for one, file in zip(
            made.samples, ("../../../../secret.wav", str(secret), "..\\x.wav", "p4-0.wav"), strict=True
        )
    )
    write_spoken(type(made)(**{**vars(made), "samples": samples}))
    assert len(sounds(page_of(run, tmp_path / "page.html"))) == 1


def test_a_sample_whose_file_is_broken_is_shown_without_a_player(tmp_path, page_of):
    made_runs = pytest.importorskip("made_runs")
    run = write_run(tmp_path / "run", start(), curve(3.0))
    made_runs.write_samples(run, [10])
    wav = next((run / "gatekeeper" / "samples").glob("*/p1-0.wav"))
    wav.write_bytes(b"RIFF" + struct.pack("<I", 4) + b"WAVE")
    file = page_of(run, tmp_path / "page.html")
    assert len(sounds(file)) == 3
    assert file.read_text(encoding="utf-8").count('class="set"') == 4


def test_prompts_and_what_was_heard_stay_text(tmp_path, page_of):
    made_runs = pytest.importorskip("made_runs")
    run = write_run(tmp_path / "run", start(), curve(3.0))
    made_runs.write_samples(run, [10], texts=[SCRIPT])
    text = page_of(run, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 2  # the prompt, and what was heard


# Listeners


def test_what_listeners_said_is_shown_and_their_names_stay_text(tmp_path, page_of):
    made_runs = pytest.importorskip("made_runs")
    run = write_run(tmp_path / "run", start(), curve(3.0))
    made_runs.write_results(run, listener=SCRIPT)
    text = page_of(run, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "18.5 to 21" in text
    assert "3 : 1 : 0" in text
    assert "marks the same sample alike" in text
    assert "<script>alert" not in text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"systems": 1}', "\udcff"])
def test_results_that_cannot_be_read_are_passed_over(tmp_path, page_of, content):
    run = write_run(tmp_path / "run", start(), curve(3.0))
    folder = run / "gatekeeper" / "listening" / "x"
    folder.mkdir(parents=True)
    (folder / "results.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "samples" not in sections(page_of(run, tmp_path / "page.html"))


# Data


def test_an_audit_is_put_in_when_asked_for(tmp_path, page_of):
    pytest.importorskip("matplotlib")
    waves = pytest.importorskip("made_runs")
    run = write_run(tmp_path / "run", start(), curve(3.0))
    waves.write_data(run)
    text = page_of(run, tmp_path / "page.html", audit=True).read_text(encoding="utf-8")
    assert 'class="audit"' in text
    assert "data:audio/" in text


def test_a_file_name_that_is_no_text_does_not_stop_the_page(tmp_path, page_of):
    run = tmp_path / "run"
    journal = Journal(journal_path(run))
    for event in record_of(start(), curve(3.0), incident(5, message="wav \udcff")).events:
        journal.append(event)
    assert "wav ?" in page_of(run, tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("lines", "told"), [(40, "40 steps: drawn"), (60_000, "status --clips reads it")])
def test_clips_are_told_of_unless_the_log_of_steps_is_too_long_to_read_now(tmp_path, page_of, lines, told):
    run = write_run(tmp_path / "run", start(), curve(3.0))
    folder = run / "gatekeeper"
    names = [{"name": f"wavs/c{number}", "digest": f"{number:032x}"} for number in range(4)]
    (folder / "clips.jsonl").write_text("".join(json.dumps(name) + "\n" for name in names))
    steps = ({"step": n + 1, "loss_mel_ce": 3.0, "clips": [n % 4], "padding": "x" * 40} for n in range(lines))
    (folder / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    assert told in page_of(run, tmp_path / "page.html").read_text(encoding="utf-8")

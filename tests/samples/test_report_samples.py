"""What is said of samples in `status` and after a comparison."""

import json
from io import StringIO

from records import curve, record_of, scored, start
from rich.console import Console
from sample_sets import SPREAD, measured, sample_set, spoken, uniform

from xtts_gatekeeper.record.events import SampleScore
from xtts_gatekeeper.record.journal import to_json
from xtts_gatekeeper.report.samples import latest_samples, print_comparison, print_samples
from xtts_gatekeeper.samples.comparison import compare


def printed(what, document):
    text = StringIO()
    what(Console(file=text, width=100, no_color=True, highlight=False), document)
    return text.getvalue()


def test_the_latest_samples_are_told_with_their_marks_faults_and_folder():
    latest = SampleScore(
        step=20,
        epoch=1,
        time="",
        prompts="prompts",
        metrics={"sample.score": 18.25, "sample.stopping": 3.0, "sample.other_languages": 4.5, "sample.faults": 0.5},
        folder="gatekeeper/samples/20",
        faults={"late_stop": 3, "noisy": 1},
    )
    told = latest_samples(record_of(start(), curve(3.0, 2.9), scored(0, 20.0), latest))
    assert told["best"] == {"step": 10, "score": 20.0}
    assert printed(print_samples, told).splitlines() == [
        "Samples of step 20, judged by measures: 18.2 of 25 (stopping 3.0); other languages 4.5 of 5, "
        "gatekeeper/samples/20",
        "  Faults: late_stop in 3, noisy in 1",
    ]


def test_a_run_without_samples_says_nothing_of_them():
    assert latest_samples(record_of(start(), curve(3.0))) is None
    assert printed(print_samples, None) == ""


def test_a_score_without_a_total_says_so():
    told = latest_samples(record_of(start(), curve(3.0), scored(0, artifacts=4.0)))
    assert told["best"] is None
    assert printed(print_samples, told).startswith("Samples of step 10, judged by measures: no total (artifacts 4.0)")


def test_a_comparison_prints_marks_measures_and_the_prompts_that_changed():
    samples = [spoken(f"p{n}") for n in range(8)]
    worse = [measured(s, ["skipped"] if n < 3 else [], deletions=3.0 if n < 6 else 0.0) for n, s in enumerate(samples)]
    found = compare(uniform([{}] * 8), sample_set(samples, worse, step=200), SPREAD)
    text = printed(print_comparison, json.loads(to_json(found.to_dict())))
    lines = text.splitlines()
    assert lines[0].startswith("step 200 against step 100: regressed; score 25.0 to 22.")
    assert any(line.startswith("What is said") for line in lines)
    assert any(line.startswith("Naturalness (1-5)") for line in lines)
    assert sum(line.startswith("p") for line in lines) == 6 and "p7" not in text
    assert any(line.startswith("p0") and "skipped" in line for line in lines)


def test_what_was_not_measured_is_a_note_under_a_comparison():
    blind = [{"naturalness": None}] * 3
    text = printed(print_comparison, compare(uniform(blind), uniform(blind, step=200), SPREAD).to_dict())
    assert "prosody was not measured of enough prompts in both sets" in text
    assert "no difference can be shown, however large" in text

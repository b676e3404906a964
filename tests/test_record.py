import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from records import (
    curve,
    ended,
    evaluated,
    incident,
    judged,
    pruned,
    record_of,
    saved,
    scored,
    start,
    trained,
    write_run,
)

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.phases.progress import progress_at
from xtts_gatekeeper.record import Evaluation, Journal, RunRecord, journal_path, read_events
from xtts_gatekeeper.record.events import (
    EVENTS,
    Action,
    BadBatch,
    BatchParts,
    Crash,
    DataCheck,
    LearningRateCheck,
    PhaseStart,
    Renamed,
)
from xtts_gatekeeper.record.run import best_of
from xtts_gatekeeper.record.sources import evaluation_at, find_run, read_run

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)

numbers = st.floats() | st.integers(-5, 5).map(float)
metrics = st.dictionaries(st.sampled_from(["eval.mel_ce", "train.loss", "eval.наша"]), numbers)
steps = st.integers(0, 10**9)
texts = st.text(st.characters(exclude_categories=["Cs"]))
events = st.one_of(
    st.builds(lambda step, epoch, m: evaluated(epoch, step=step, metrics=m), steps, st.integers(0, 99), metrics),
    st.builds(lambda step, epoch, m: trained(epoch, step, metrics=m), steps, st.integers(0, 99), metrics),
    st.builds(incident, steps, code=texts, message=texts),
    st.builds(saved, steps, kind=st.sampled_from(["best", "latest"]), intact=st.booleans(), path=texts),
    st.builds(lambda step, names: pruned(step, *names), steps, st.lists(texts, max_size=3)),
    st.builds(ended, steps, st.sampled_from(["finished", "stopped"])),
    st.builds(start, steps, resumed_from=st.none() | texts, lr=st.lists(st.floats(0, 1), max_size=3)),
    st.builds(lambda step, verdict: judged(evaluated(0, step=step), verdict), steps, texts),
    st.builds(lambda step, score: scored(0, score, step), steps, numbers),
    st.builds(Renamed, step=steps, epoch=steps, old=texts, new=texts, reason=texts),
    st.builds(
        PhaseStart, step=steps, epoch=steps, name=texts, index=steps, lr=st.floats(0, 1), why=texts, waited=steps
    ),
    st.builds(
        Action, step=steps, epoch=steps, name=texts, message=texts, values=st.dictionaries(texts, st.floats(0, 1))
    ),
    st.builds(
        BadBatch,
        step=steps,
        epoch=steps,
        kind=texts,
        files=st.lists(texts, max_size=3),
        suspects=st.lists(texts, max_size=3),
        losses=st.dictionaries(texts, numbers, max_size=3),
        limit=st.none() | st.floats(0, 1e9),
    ),
    st.builds(
        Crash,
        step=steps,
        epoch=steps,
        kind=texts,
        message=texts,
        decision=texts,
        files=st.lists(texts),
        progress=st.booleans(),
        returncode=st.none() | st.integers(-64, 255),
    ),
    st.builds(
        DataCheck,
        step=steps,
        epoch=steps,
        clips=steps,
        seconds=st.none() | st.floats(0, 1e6),
        faults=st.dictionaries(texts, steps, max_size=3),
        unusable=st.lists(texts, max_size=3),
        near=st.lists(st.lists(texts, min_size=2, max_size=2), max_size=2),
    ),
    st.builds(BatchParts, step=steps, epoch=steps, batch_size=steps, grad_accum_steps=steps, whole=steps),
    st.builds(
        LearningRateCheck,
        step=steps,
        epoch=steps,
        phase=texts,
        planned=st.floats(0, 1),
        in_effect=st.lists(st.floats(0, 1), max_size=3),
        ok=st.booleans(),
    ),
)


def said(some_events):
    """Events in a form in which NaN equals NaN."""
    return [repr(event) for event in some_events]


def journal_of(folder, some_events):
    journal_path(folder).unlink(missing_ok=True)
    write_run(folder, some_events)
    return journal_path(folder)


@same_folder
@given(st.lists(events, min_size=1, max_size=6))
def test_what_is_appended_is_read_back_nan_and_infinities_included(tmp_path, written):
    path = journal_of(tmp_path, written)
    assert said(read_events(path)) == said(written) == said(Journal(path).events)


def test_every_line_is_strict_json_with_the_type_time_step_and_epoch_of_its_event(tmp_path):
    path = journal_of(tmp_path, [start(), evaluated(2, float("nan")), ended(9)])

    def forbidden(word):
        raise AssertionError(f"{word} is not JSON")

    lines = [json.loads(line, parse_constant=forbidden) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["type"] for line in lines] == ["start", "evaluation", "end"]
    assert all({"time", "step", "epoch"} <= line.keys() for line in lines)


@pytest.mark.parametrize("kind", EVENTS.values())
def test_no_kind_of_event_is_left_out_of_the_round_trip(kind):
    find(events, lambda event: type(event) is kind, settings=settings(phases=[Phase.generate], max_examples=2000))


@same_folder
@given(st.lists(events, min_size=1, max_size=3), st.data())
def test_cut_at_any_byte_the_lines_before_are_kept_and_the_next_writer_goes_on(tmp_path, written, data):
    path = journal_of(tmp_path, written)
    whole = path.read_bytes()
    cut = data.draw(st.integers(len('{"type"'), len(whole)))
    path.write_bytes(whole[:cut])
    ended_lines = whole[:cut].count(b"\n")
    kept = ended_lines + (whole[cut : cut + 1] == b"\n")  # a line that lacks its line end alone is whole
    torn = kept == ended_lines and not whole[:cut].endswith(b"\n")
    read = list(read_events(path))
    assert said(read[:kept]) == said(written[:kept])
    assert [event.code for event in read[kept:]] == ["journal_line_unreadable"] * torn

    Journal(path).append(ended(7))
    assert said(read_events(path)) == [*said(read), *said([ended(7)])]


def test_torn_last_line_is_passed_over_and_named(tmp_path):
    path = journal_of(tmp_path, [start(), evaluated(3, 2.0)])
    with path.open("ab") as file:
        file.write(b'{"type": "evaluation", "time": "2025')
    *_, torn = read_run(tmp_path).events
    assert torn.code == "journal_line_unreadable"
    assert "line 3" in torn.message
    assert torn.step == evaluated(3).step


def test_damage_in_the_middle_costs_one_line(tmp_path):
    path = journal_of(tmp_path, curve(3.0, 2.5, 2.0))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"\x00\xff garbage\n", *lines[4:]]))
    record = read_run(tmp_path)
    assert [e.metrics["eval.mel_ce"] for e in record.evaluations] == [3.0, 2.0]
    assert ["line 4" in i.message for i in record.incidents] == [True]


def test_a_killed_writer_leaves_every_line_it_had_finished(tmp_path):
    code = """
import os, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from records import curve
from xtts_gatekeeper.record import Journal
journal = Journal(Path(sys.argv[1]))
for event in curve(3.0, 2.0):
    journal.append(event)
os.kill(os.getpid(), 9)
"""
    path = journal_path(tmp_path)
    subprocess.run([sys.executable, "-c", code, str(path), *sys.path], check=False, timeout=60)
    assert said(read_events(path)) == said(curve(3.0, 2.0))


def test_an_older_version_reads_a_newer_journal(tmp_path):
    path = journal_of(tmp_path, [evaluated(0, 2.0)])
    newer = {**json.loads(path.read_bytes()), "a_new_key": [1]}
    path.write_text(json.dumps({"type": "a_new_event", "step": 1}) + "\n" + json.dumps(newer) + "\n")
    assert said(read_events(path)) == said([evaluated(0, 2.0)])


@pytest.mark.parametrize("content", [b"epoch,loss\n1,2\n", b"\x80\x02PK\x03\x04", b"| > loss: 2.0\n"])
def test_a_file_that_is_no_journal_is_refused_with_its_line(tmp_path, content):
    path = journal_of(tmp_path, [])
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"journal\.jsonl:1 is not a line of a gatekeeper journal"):
        read_run(tmp_path)


def test_a_journal_without_a_line_says_that_nothing_was_recorded(tmp_path):
    journal_of(tmp_path, []).write_bytes(b"")
    with pytest.raises(UserError, match="nothing yet"):
        read_run(tmp_path)


# The line of weights in use


def mels(record):
    return [e.metrics["eval.mel_ce"] for e in record.evaluations]


def test_a_resume_that_goes_back_drops_the_abandoned_stretch():
    abandoned = curve(3.0, 2.9, 2.8, 2.7)
    again = [trained(2), evaluated(2, 1.8), trained(3), evaluated(3, 1.7)]
    record = record_of(start(), abandoned, start(step=21, epoch=2), again)
    assert mels(record) == [3.0, 2.9, 1.8, 1.7]
    assert [(e.epoch, e.step) for e in record.train_epochs] == [(0, 10), (1, 20), (2, 30), (3, 40)]
    assert [record.epochs_done(e) for e in record.evaluations] == [1, 2, 3, 4]
    assert len(record.events) == 14


@pytest.mark.parametrize("step", [20, 21])
def test_a_resume_where_training_was_left_drops_nothing(step):
    record = record_of(start(), curve(3.0, 2.9), start(step=step, epoch=2), curve(2.8, first=2))
    assert len(record.train_epochs) == 3
    assert mels(record) == [3.0, 2.9, 2.8]


def test_an_epoch_repeated_by_a_resume_counts_once():
    repeated = [trained(1, step=30), evaluated(1, 2.5, step=30), trained(2, step=40), evaluated(2, 2.4, step=40)]
    record = record_of(start(), curve(3.0, 2.9), start(step=21, epoch=1), repeated)
    assert [record.epochs_done(e) for e in record.evaluations] == [1, 2, 2, 3]


def test_an_evaluation_before_any_training_is_after_no_epoch():
    record = record_of(start(), evaluated(0, 4.0, step=0), curve(3.0, 2.9, first=1))
    assert [record.epochs_done(e) for e in record.evaluations] == [0, 1, 2]


def test_an_evaluation_amid_an_epoch_does_not_count_that_epoch():
    record = record_of(start(), curve(3.0), evaluated(1, 2.9, step=15, mid_epoch=True), curve(2.8, first=1))
    assert [record.epochs_done(e) for e in record.evaluations] == [1, 1, 2]


def test_segments_are_cut_where_the_eval_set_changes_even_back_again():
    sets = ["a", "a", "b", "a", None]
    record = record_of(evaluated(n, 3.0 - n, eval_set=name) for n, name in enumerate(sets))
    assert [(s.eval_set, len(s.evaluations)) for s in record.segments] == [("a", 2), ("b", 1), ("a", 1), (None, 1)]
    assert tuple(e for s in record.segments for e in s.evaluations) == record.evaluations


def test_files_are_those_written_whole_and_not_pruned_since():
    record = record_of(
        saved(10),
        saved(10, "best"),
        saved(20),
        pruned(20, "checkpoint_10.pth"),
        saved(30, intact=False, reason="disk full"),
        saved(20),
    )
    assert [file.path for file in record.files] == ["best_model_10.pth", "checkpoint_20.pth"]
    assert len(record.checkpoints) == 5


def test_a_failed_write_leaves_the_file_of_that_name_that_was_there():
    assert [file.path for file in record_of(saved(10), saved(10, intact=False)).files] == ["checkpoint_10.pth"]


def test_a_pruned_file_that_is_written_anew_is_there():
    assert [f.path for f in record_of(saved(10), pruned(10, "checkpoint_10.pth"), saved(10)).files]


def test_start_is_the_latest_and_end_only_what_comes_last():
    assert record_of(start(), ended(5), start(step=6)).end is None
    assert record_of(start(), ended(5), start(step=6)).start.step == 6
    assert record_of(start(), ended(5, "stopped")).end.how == "stopped"
    assert RunRecord(()).start is None
    assert RunRecord(()).end is None


def test_phases_incidents_and_verdicts_are_found_among_the_events():
    first = evaluated(0, 2.0)
    phase = PhaseStart(step=0, epoch=0, name="one", index=0, lr=1e-5)
    record = record_of(phase, first, judged(first, "continue"), incident(3))
    assert record.phases == (phase,)
    assert [v.verdict for v in record.verdicts] == ["continue"]
    assert [i.step for i in record.incidents] == [3]


def test_upto_is_the_record_as_it_was_then():
    events = curve(3.0, 2.0, 1.0)
    record = record_of(events)
    assert record.upto(record.evaluations[1]).events == tuple(events[:4])


@given(st.lists(st.floats(-3, 3) | st.sampled_from([float("nan"), float("inf")]), max_size=8))
def test_best_is_the_first_of_the_lowest_finite_values(values):
    evaluations = [evaluated(n, value) for n, value in enumerate(values)]
    best = best_of([*evaluations, evaluated(99)], "eval.mel_ce")
    usable = [(value, n) for n, value in enumerate(values) if math.isfinite(value)]
    assert (best.epoch if best else None) == (min(usable)[1] if usable else None)


# Finding a run, and a place in it


@pytest.fixture
def runs(tmp_path):
    """A folder with one run and things that are none."""
    write_run(tmp_path / "one" / "run-a", [start(), *curve(2.0)])
    (tmp_path / "one" / "notes.txt").write_text("x")
    (tmp_path / "one" / "empty").mkdir()
    return tmp_path / "one"


@pytest.mark.parametrize("part", ["", "run-a", "run-a/gatekeeper", "run-a/gatekeeper/journal.jsonl"])
def test_a_run_is_found_by_its_folder_its_journal_or_its_only_parent(runs, part):
    assert find_run(runs / part) == runs / "run-a"
    assert isinstance(read_run(str(runs / part)).evaluations[0], Evaluation)


def test_several_runs_are_named_and_none_is_chosen(runs):
    write_run(runs / "run-b", [start()])
    with pytest.raises(UserError, match=r"2 runs; name one of them: run-a, run-b"):
        find_run(runs)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("nowhere", "does not exist"),
        ("notes.txt", "is not a run folder"),
        ("empty", "holds no run: no gatekeeper/journal"),
    ],
)
def test_what_is_no_run_is_refused_with_its_path(runs, part, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        find_run(runs / part)
    assert str(runs / part) in str(caught.value)


@pytest.mark.parametrize(
    ("at", "step"),
    [
        ("epoch:0", 0),
        ("epoch:1", 10),
        ("epoch:2", 20),
        ("step:0", 0),
        ("step:15", 15),
        ("step:19", 15),
        ("step:99", 20),
    ],
)
def test_at_names_the_last_evaluation_after_an_epoch_or_up_to_a_step(at, step):
    amid = evaluated(2, 2.5, step=15, mid_epoch=True)
    record = record_of(start(), evaluated(0, 4.0, step=0), trained(1, 10), evaluated(1, 3.0, step=10), amid)
    record = record_of(record.events, trained(2, 20), evaluated(2, 2.0, step=20))
    assert evaluation_at(record, at).step == step


@pytest.mark.parametrize("at", ["5", "epoch", "epoch:", "epoch:-1", "epoch:1.5", "step:x", "EPOCH:1", ":1", ""])
def test_at_of_another_form_is_refused(at):
    with pytest.raises(UserError, match="neither epoch:N nor step:N"):
        evaluation_at(record_of(curve(2.0)), at)


@pytest.mark.parametrize("at", ["epoch:3", "step:9"])
def test_at_without_an_evaluation_says_how_many_there_are(at):
    with pytest.raises(UserError, match="it has 2 evaluations"):
        evaluation_at(record_of(curve(3.0, 2.0)), at)


# What a review found


def test_a_write_that_the_disk_cuts_short_is_an_error_and_is_made_up_for(tmp_path):
    """A real short write: the limit of a file's size is reached in the middle of a line."""
    code = """
import resource, sys
from pathlib import Path
sys.path.insert(0, "tests")
from records import incident
from xtts_gatekeeper.record import Journal
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]))
journal.append(incident(1))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 20, hard))
try:
    journal.append(incident(2))
except OSError as error:
    print("refused", error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
journal.append(incident(3))
"""
    path = tmp_path / "journal.jsonl"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused")
    assert [(event.step, event.code == "journal_line_unreadable") for event in read_events(path)] == [
        (1, False),
        (1, True),
        (2, False),
        (3, False),
    ]


@pytest.mark.parametrize("torn", [b"{", b'{"ty', b'{"type": "sta'])
def test_a_first_line_torn_anywhere_does_not_lock_the_run(tmp_path, torn):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(torn)
    journal = Journal(path)
    journal.append(incident(3))
    assert [event.step for event in read_events(path)] == [0, 3]


@pytest.mark.parametrize("line", ['{"foo": 1}', "123", "[]", '{"metrics": {"a": null}}'])
def test_a_file_that_is_no_journal_is_refused(tmp_path, line):
    path = tmp_path / "journal.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=r"journal\.jsonl:1 is not a line of a gatekeeper journal"):
        list(read_events(path))


def test_a_path_that_is_no_utf8_can_be_written_down(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(incident(1, message="bad \udcff name"))
    assert [event.step for event in read_events(journal.path)] == [1]


def test_minus_infinity_is_no_best():
    points = [evaluated(0, -math.inf, step=1), evaluated(0, 2.0, step=2)]
    assert best_of(points, "eval.mel_ce").step == 2


def test_a_journal_copied_out_of_its_run_can_be_read(tmp_path, monkeypatch):
    write_run(tmp_path / "run", start(), *curve(3.0))
    copied = tmp_path / "copy"
    copied.mkdir()
    (copied / "journal.jsonl").write_bytes(journal_path(tmp_path / "run").read_bytes())
    assert len(read_run(copied / "journal.jsonl").evaluations) == 1
    monkeypatch.chdir(tmp_path / "run" / "gatekeeper")
    assert find_run(type(tmp_path)(".")) == find_run(type(tmp_path)("journal.jsonl")) == tmp_path / "run"


def test_a_rewind_that_a_resume_has_gone_back_behind_is_taken_back():
    measured = [evaluated(number, 3.0 - number, step=100 * (number + 1)) for number in range(3)]
    rewind = Action(step=300, epoch=2, name="rewind", message="", values={"to_step": 100})
    record = RunRecord((start(), *measured, rewind))
    assert [e.step for e in record.evaluations] == [100]
    resumed = RunRecord((*record.events, start(250, 2)))
    assert [e.step for e in resumed.evaluations] == [100, 200]


def test_an_epoch_that_is_ended_once_more_is_on_the_line_once():
    events = [start(), trained(0, 4), evaluated(0, 3.0, step=4), evaluated(0, 3.0, step=4, mid_epoch=True)]
    again = RunRecord((*events, start(4, 0, told=0), trained(0, 4), evaluated(0, 3.0, step=4)))
    assert [(e.step, e.mid_epoch) for e in again.evaluations] == [(4, False)]
    assert len(again.train_epochs) == 1
    whole = RunRecord((*events, start(4, 1, told=3)))  # the next epoch begins
    assert len(whole.evaluations) == 2 and len(whole.train_epochs) == 1
    by_step = RunRecord((*events, start(4, 1)))  # from a checkpoint of stock code
    assert len(by_step.evaluations) == 2


def test_what_was_done_at_the_step_of_a_checkpoint_is_taken_back_only_if_it_came_after_it():
    lowered = Action(step=4, epoch=0, name="lower_lr", message="", values={"lr_factor": 0.5})
    phase = PhaseStart(step=0, epoch=0, name="a", index=0, lr=1.0)
    events = (start(), phase, trained(0, 4), evaluated(0, 3.0, step=4), lowered)
    for told, factor in ((4, 0.5), (3, 1.0)):
        progress = progress_at(RunRecord(events), start(4, 1, told=told), "eval.mel_ce")
        assert progress is not None and progress.lr_factor == factor


# Scores of samples


def steps_scored(*events):
    return [(score.step, score.metrics["sample.score"]) for score in record_of(*events).sample_scores]


def at(step, score, **values):
    return replace(scored(0, score, step=step), **values)


def test_scores_of_an_abandoned_stretch_are_left_out():
    before = [start(), at(0, 20), curve(3.0, 2.9), at(20, 21), at(30, 15)]
    assert steps_scored(before, start(step=20, epoch=2)) == [(0, 20), (20, 21)]
    again = [*curve(2.8, first=2), at(30, 22)]
    assert steps_scored(before, start(step=20, epoch=2), again) == [(0, 20), (20, 21), (30, 22)]


def test_a_score_that_comes_late_belongs_to_the_step_of_its_samples():
    late = [start(), curve(3.0, 2.9, 2.8), at(10, 20), at(20, 21)]
    assert steps_scored(late) == [(10, 20), (20, 21)]
    assert steps_scored(late, start(step=15, epoch=1)) == [(10, 20)]
    out_of_order = [start(), curve(3.0, 2.9), at(20, 21), at(10, 20)]
    assert steps_scored(out_of_order) == [(10, 20), (20, 21)]


def test_a_rewind_takes_back_the_scores_between_where_it_goes_and_where_it_is():
    rewind = Action(step=300, epoch=2, name="rewind", message="", values={"to_step": 100})
    before = [start(), at(100, 20), at(200, 19), at(300, 10)]
    assert steps_scored(before, rewind) == [(100, 20)]
    assert steps_scored(before, rewind, at(310, 21)) == [(100, 20), (310, 21)]  # steps count on
    assert steps_scored(before, rewind, at(310, 21), start(200, 1)) == [(100, 20), (200, 19)]  # the rewind is undone


def test_samples_that_are_judged_again_count_once():
    assert steps_scored(start(), at(10, 20), at(10, 21), at(20, 22)) == [(10, 21), (20, 22)]


def test_scores_of_other_prompts_than_the_latest_are_not_compared_with_it():
    assert steps_scored(start(), at(10, 20, prompts="old"), at(20, 21), at(30, 22)) == [(20, 21), (30, 22)]


def test_listeners_outrank_measures_and_are_never_mixed_with_them():
    measures = [start(), at(10, 20), at(20, 21), at(30, 22)]
    listeners = [at(10, 12, by="listeners"), at(30, 14, by="listeners")]
    assert steps_scored(measures, listeners) == [(10, 12), (30, 14)]
    assert steps_scored(measures, listeners, at(40, 23)) == [(10, 20), (20, 21), (30, 22), (40, 23)]


def test_what_another_process_writes_is_taken_up_in_the_order_of_the_file(tmp_path):
    """The page on which people listen records their marks while the training records its own events."""
    ours = Journal(tmp_path / "journal.jsonl")
    ours.append(start())
    theirs = Journal(ours.path)
    theirs.append(scored(0, 18))
    ours.append(evaluated(0, 3.0))
    theirs.append(scored(1, 19))
    ours.append(evaluated(1, 2.9))
    kinds = ["start", "sample_score", "evaluation", "sample_score", "evaluation"]
    assert [event.type for event in ours.events] == kinds
    assert said(read_events(ours.path)) == said(ours.events)


def test_a_torn_line_of_another_process_spoils_none_of_ours(tmp_path):
    ours = Journal(tmp_path / "journal.jsonl")
    ours.append(start())
    with ours.path.open("ab") as file:
        file.write(b'{"type": "sample_score", "st')
    ours.append(evaluated(0, 3.0))
    assert [event.type for event in read_events(ours.path)] == ["start", "incident", "evaluation"]
    assert [event.type for event in ours.events] == ["start", "incident", "evaluation"]


MANY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from records import incident
from xtts_gatekeeper.record import Journal
journal = Journal(Path(sys.argv[2]))
for number in range(200):
    journal.append(incident(number, code=sys.argv[3]))
codes = [getattr(event, "code", "") for event in journal.events]
print(codes.count(sys.argv[3]), "journal_line_unreadable" in codes)
"""


def test_processes_that_write_at_once_lose_no_line_and_mix_none(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path).append(start())
    command = [sys.executable, "-c", MANY, str(Path(__file__).parent), str(path)]
    writers = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in ("a", "b", "c")]
    assert [writer.communicate()[0].split() for writer in writers] == [["200", "False"]] * 3
    codes = [event.code for event in read_events(path) if event.type == "incident"]
    assert {name: codes.count(name) for name in codes} == {"a": 200, "b": 200, "c": 200}

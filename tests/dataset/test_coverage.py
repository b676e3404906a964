"""Which clips were drawn, and which do not learn."""

import json
import random

import pytest

from xtts_gatekeeper.dataset.coverage import coverage, coverage_of
from xtts_gatekeeper.dataset.roster import CLIPS, Roster, Trained
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.record.steps import STEPS


def steps_of(losses, batches, key="loss_mel_ce"):
    return [
        {"step": step, key: loss, "clips": list(clips)}
        for step, (loss, clips) in enumerate(zip(losses, batches, strict=True))
    ]


def course(found, name):
    return next(clip for clip in found.clips if clip.name == name)


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_the_clips_that_do_not_learn_are_found_among_those_that_do(size, seed):
    """Fifty clips, two of which have a wrong transcript: the losses of the others fall from 5 to 3."""
    draw = random.Random(seed)
    names = [f"{number}.wav" for number in range(50)]
    own = [draw.gauss(0, 0.15) for _ in names]
    total = 3000 // size * 2
    lines = []
    for step in range(total):
        clips = [draw.randrange(50) for _ in range(size)]
        level = 5 - 2 * step / total
        losses = [(5.4 if number in (7, 31) else level + own[number]) + draw.gauss(0, 0.2) for number in clips]
        lines.append({"step": step, "loss_mel_ce": sum(losses) / size, "clips": clips})
    found = coverage(lines, names)
    assert {clip.name for clip in found.clips if clip.stuck} == {"7.wav", "31.wav"}
    assert {clip.name for clip in found.clips[:2]} == {"7.wav", "31.wav"}  # they stand first
    assert course(found, "7.wav").late == pytest.approx(5.4, abs=0.5)
    good = course(found, "12.wav")
    assert good.early == pytest.approx(4.5 + own[12], abs=0.4) and good.late == pytest.approx(3.5 + own[12], abs=0.4)


def test_where_nothing_learns_no_clip_is_blamed_for_it():
    draw = random.Random(1)
    lines = steps_of(
        [5 + draw.gauss(0, 0.1) + step / 1000 for step in range(400)], [[step % 20] for step in range(400)]
    )
    assert not any(clip.stuck for clip in coverage(lines, [str(n) for n in range(20)]).clips)


def test_draws_are_counted_with_their_first_and_last_step():
    found = coverage(steps_of([1.0] * 4, [[0, 1], [0, 0], [1, 2], [0, 1]]), ["a", "b", "c", "never"])
    assert [(clip.name, clip.draws, clip.first_step, clip.last_step) for clip in sorted(found.clips, key=str)] == [
        ("a", 4, 0, 3),
        ("b", 3, 0, 3),
        ("c", 1, 2, 2),
        ("never", 0, None, None),
    ]
    told = found.to_dict()
    assert (told["clips"], told["steps"], told["never_drawn"], told["median_draws"], told["most_draws"]) == (
        4,
        4,
        1,
        2,
        4,
    )


def test_a_clip_that_was_drawn_seldom_is_not_judged():
    found = coverage(steps_of([1.0] * 4, [[0]] * 4), ["a"])
    assert (course(found, "a").early, course(found, "a").late, course(found, "a").stuck) == (None, None, False)


def test_what_was_trained_again_after_a_resume_counts_once():
    lines = steps_of([1.0] * 6, [[0]] * 6)
    again = [{"step": step, "loss_mel_ce": 1.0, "clips": [1]} for step in (3, 4)]
    found = coverage([*lines, *again], ["a", "b"])
    assert (course(found, "a").draws, course(found, "b").draws, found.steps) == (3, 2, 5)


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"step": "3"},
        {"step": 9, "clips": [99, -1, "x", None]},
        {"step": 9, "loss": "nan", "clips": [0]},
        {"step": 9},
    ],
)
def test_a_line_that_tells_nothing_is_passed_over(line):
    found = coverage([*steps_of([1.0] * 3, [[0]] * 3, "loss"), line], ["a"])
    assert found.metric == "loss"
    assert course(found, "a").draws in (3, 4)


def test_a_run_without_a_step_log_has_an_empty_coverage(tmp_path):
    told = coverage_of(tmp_path).to_dict()
    assert (told["clips"], told["steps"], told["courses"], told["median_draws"]) == (0, 0, [], None)


def test_it_is_read_from_the_files_of_a_run(tmp_path):
    Roster(tmp_path).enter([Trained("old.wav", "0" * 32, "before"), Trained("a.wav", "1" * 32), Trained("b.wav")])
    lines = steps_of([2.0, 1.0], [[1, 2], [1]])
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / FOLDER / STEPS).write_text(text + "torn {\n[]\n")
    found = coverage_of(tmp_path)
    assert {clip.name: clip.draws for clip in found.clips} == {"a.wav": 2, "b.wav": 1}


# The roster


def test_a_roster_is_only_added_to_and_keeps_its_numbers(tmp_path):
    first = Roster(tmp_path)
    first.enter([Trained("a", "1"), Trained("b", "2")])
    first.enter([Trained("b", "2"), Trained("c", "3")])
    second = Roster(tmp_path)
    assert [clip.name for clip in second.clips] == ["a", "b", "c"]
    assert second.numbers(["c", "a", "new", "c"]) == [2, 0, 3, 2]
    assert second.digests == {"1", "2", "3"}
    assert [clip.name for clip in Roster(tmp_path).clips] == ["a", "b", "c", "new"]


def test_a_clip_whose_content_changed_is_another_one(tmp_path):
    roster = Roster(tmp_path)
    roster.enter([Trained("a", "1")])
    roster.enter([Trained("a", "2")])
    assert roster.numbers(["a"]) == [1]
    assert roster.digests == {"1", "2"}


def test_a_clip_of_a_run_before_is_none_that_this_one_draws(tmp_path):
    roster = Roster(tmp_path)
    roster.enter([Trained("a", "1", "old-run")])
    assert roster.numbers(["a"]) == [1]
    assert roster.digests == {"1"}


def test_a_line_that_a_kill_cut_off_costs_that_clip_alone(tmp_path):
    Roster(tmp_path).enter([Trained("a", "1"), Trained("b", "2")])
    path = tmp_path / FOLDER / CLIPS
    path.write_bytes(path.read_bytes()[:-9])
    roster = Roster(tmp_path)
    assert [clip.name for clip in roster.clips] == ["a", ""]
    roster.enter([Trained("b", "2")])
    assert [clip.name for clip in Roster(tmp_path).clips] == ["a", "", "b"]
    assert Roster(tmp_path).numbers(["b"]) == [2]

"""The picture of a run that goes to the Trainer's dashboard."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from records import curve, evaluated, incident, phase, record_of, scored, start

from xtts_gatekeeper.gates import load_policy
from xtts_gatekeeper.record.events import VerdictEvent

pytest.importorskip("matplotlib")
from xtts_gatekeeper.report.figures import overview

GOAL = load_policy(Path(__file__).parent.parent / "recipes/gates.yaml")


def lines(axes):
    """Label -> points of the lines in a diagram."""
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}


def written(axes):
    return [text.get_text().strip() for text in axes.texts]


def test_it_shows_the_objective_its_target_and_the_training_beside_it():
    axes = overview(record_of(start(), curve(3.0, 2.8, 2.6)), GOAL).axes[0]
    found = lines(axes)
    assert found["Eval"] == [(10, 3.0), (20, 2.8), (30, 2.6)]
    assert found["Train"] == [(10, 3.0), (20, 2.8), (30, 2.6)]
    assert {value for _, value in found["Target 2.5"]} == {2.5}


def test_phases_gates_and_segments_stand_at_their_steps():
    verdict = VerdictEvent(step=20, epoch=1, verdict="tune", reasons=[], gates=["Gate A"], policy_hash="")
    other = replace(evaluated(2, 2.0), eval_set="other")
    axes = overview(record_of(start(), phase("coarse", 0), curve(3.0, 2.8), verdict, other), GOAL).axes[0]
    assert written(axes) == ["coarse", "Gate A: tune", "Segment 2"]
    assert [text.get_position()[0] for text in axes.texts] == [0, 20, 30]


def test_evaluations_over_different_sets_are_not_joined():
    record = record_of(
        start(), curve(3.0, 2.8), evaluated(2, 2.0, eval_set="other"), evaluated(3, 1.9, eval_set="other")
    )
    found = lines(overview(record, GOAL).axes[0])
    assert found["Eval"] == [(10, 3.0), (20, 2.8)]
    assert found["Eval, segment 2"] == [(30, 2.0), (40, 1.9)]


def test_scores_of_listeners_stand_beside_those_of_measures():
    heard = replace(scored(2, 20), by="listeners", intervals={"sample.score": [18.0, 22.0]})
    figure = overview(record_of(start(), curve(3.0, 2.8, 2.6), scored(0, 15), scored(2, 19), heard), GOAL)
    found = lines(figure.axes[-1])
    assert found["Measures"] == [(10, 15), (30, 19)]
    assert found["Listeners"] == [(30, 20)]


def test_before_the_first_value_there_is_no_picture():
    assert overview(record_of(start(), incident(0)), GOAL) is None


@pytest.mark.parametrize("name", ["$x", "a$b$", r"\frac{", "<b>", "ä → 語"])
def test_a_name_is_text_and_no_formula(name):
    figure = overview(record_of(start(), phase(name, 0), curve(3.0)), GOAL)
    figure.savefig(io.BytesIO(), format="png")
    assert written(figure.axes[0])[0].replace(r"\$", "$") == name

"""The timeline of a report: phases, verdicts, gates, files and events, a lane each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from xtts_gatekeeper.report.canvas import QUIET, Canvas
from xtts_gatekeeper.report.marks import Mark

#: Lane -> the kinds of marks in it, from top to bottom.
_LANES: dict[str, tuple[str, ...]] = {
    "Phases": (),
    "Verdicts": (),
    "Gates": ("gate",),
    "Files": ("pruned", "checkpoint", "best"),
    "Events": ("segment", "end", "bad_batch", "resume", "action", "incident", "crash"),
}
#: Heights in pixels: of a lane, and of the steps below.
_LANE, _STEPS = 30, 30


@dataclass(frozen=True)
class Stretch:
    """A stretch of a run from one step to another: a phase, or evaluations with one verdict."""

    name: str
    begin: int
    end: int


@dataclass(frozen=True)
class Story:
    """What happened along a run: `phases` and `verdicts` in order, and the marks."""

    phases: tuple[Stretch, ...]
    verdicts: tuple[Stretch, ...]
    marks: tuple[Mark, ...]


def stretches(points: Iterable[tuple[int, str]], last: int) -> tuple[Stretch, ...]:
    """Stretches out of the steps at which each begins, by name, and the step at which the last ends.

    Neighbours of one name are one stretch.
    """
    found: list[Stretch] = []
    for step, name in points:
        if found and found[-1].name == name:
            continue
        if found:
            found[-1] = Stretch(found[-1].name, found[-1].begin, step)
        found.append(Stretch(name, step, last))
    return tuple(found)


def lanes_of(story: Story) -> list[str]:
    """The lanes that hold something, from top to bottom."""
    held = {"Phases": bool(story.phases), "Verdicts": bool(story.verdicts)}
    kinds = {mark.kind for mark in story.marks}
    return [lane for lane, of in _LANES.items() if held.get(lane) or kinds.intersection(of)]


def draw_timeline(canvas: Canvas, story: Story) -> Any:
    """The diagram."""
    models = canvas.models
    lanes = lanes_of(story)
    places = {lane: len(lanes) - number for number, lane in enumerate(lanes)}
    plot = canvas.plot(models.Range1d(0.4, len(lanes) + 0.6), _LANE * len(lanes) + _STEPS)
    names = {place: lane for lane, place in places.items()}
    ticker = models.FixedTicker(ticks=list(names))
    plot.add_layout(models.LinearAxis(ticker=ticker, major_label_overrides=names, **QUIET), "left")
    if "Phases" in places:
        _bars(canvas, plot, places["Phases"], [(f"phase{n % 2}", one) for n, one in enumerate(story.phases)])
    if "Verdicts" in places:
        _bars(canvas, plot, places["Verdicts"], [(f"verdict-{one.name}", one) for one in story.verdicts])
    for lane, kinds in _LANES.items():
        for kind in kinds:
            canvas.marks(plot, [mark for mark in story.marks if mark.kind == kind], places.get(lane, 0))
    return plot


def _bars(canvas: Canvas, plot: Any, place: int, named: Sequence[tuple[str, Stretch]]) -> None:
    models = canvas.models
    for name in dict.fromkeys(name for name, _ in named):
        those = [stretch for one, stretch in named if one == name]
        data = {
            "left": [one.begin for one in those],
            "right": [one.end for one in those],
            "at": [f"{one.begin:,} to {one.end:,}" for one in those],
            "label": [one.name for one in those],
        }
        bar = models.HBar(y=place, left="left", right="right", height=0.62, fill_alpha=0.75, line_alpha=0.0)
        canvas.hover(plot, plot.add_glyph(models.ColumnDataSource(data), bar, name=name))

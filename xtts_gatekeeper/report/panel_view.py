"""A diagram as the page shows it: title, legend, a sentence for who cannot see it, and its values as a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from xtts_gatekeeper.report.curves import Panel
from xtts_gatekeeper.report.lines import Line, thinned
from xtts_gatekeeper.report.plots import roles, said
from xtts_gatekeeper.report.sheets import NONE, Column, Sheet
from xtts_gatekeeper.report.shortening import evenly
from xtts_gatekeeper.report.timeline import Story

#: Rows of a diagram's table: more is nobody's reading, and makes a page of megabytes.
_ROWS = 200
#: Kind of mark -> a sign as the timeline draws it, and its name.
_SIGNS = {
    "gate": ("◆", "gate"),
    "best": ("★", "best weights"),
    "checkpoint": ("●", "checkpoint"),
    "pruned": ("○", "checkpoint, gone"),
    "segment": ("│", "new segment"),
    "resume": ("▲", "resume"),
    "action": ("■", "action"),
    "bad_batch": ("•", "batch that stood out"),
    "incident": ("▼", "incident"),
    "crash": ("✕", "crash"),
    "end": ("│", "end"),
}


@dataclass(frozen=True)
class PanelView:
    """A panel and what goes with it; `legend` names the lines by their role, which has a colour.

    `positive`: all values are, so that a logarithmic scale can show them.
    """

    panel: Panel
    positive: bool
    told: str
    legend: tuple[tuple[str, str], ...]
    sheet: Sheet


def panel_view(panel: Panel, epochs_at: Callable[[int], int] | None) -> PanelView:
    """What goes with a panel.

    Args:
        panel: what is drawn.
        epochs_at: tells how many epochs were finished at a step; None where the source does not say.
    """
    legend: dict[str, str] = {}
    told = []
    positive = all(value > 0 for line in panel.lines for value in line.values if math.isfinite(value))
    for line, role in roles(panel):
        if line.abandoned:
            continue
        legend.setdefault(role, line.name)
        finite = [value for value in line.values if math.isfinite(value)]
        if finite and line.kind != "target":
            told.append(f"{line.name} from {finite[0]:.4g} to {finite[-1]:.4g}")
    sentence = f"{panel.title} over the steps: {'; '.join(told)}. The table below has the values."
    return PanelView(panel, positive, sentence, tuple(legend.items()), panel_sheet(panel, epochs_at))


def panel_sheet(panel: Panel, epochs_at: Callable[[int], int] | None) -> Sheet:
    """A column a line, a row a step; of a long curve highs and lows, as the diagram itself shows it."""
    lines = [line for line in panel.lines if line.kind != "target"]
    every = sorted({step for line in lines for step in line.steps})
    steps = every
    if len(every) > _ROWS:
        steps = evenly(sorted({step for line in lines for step in thinned(line, _ROWS).steps}), _ROWS)
    values = [_texts(line) for line in lines]
    names = [line.name + (f", {panel.unit}" if panel.unit else "") for line in lines]
    columns = (Column("Step", True), *(Column(name, True) for name in names))
    rows = tuple((f"{step:,}", *(column.get(step, NONE) for column in values)) for step in steps)
    if epochs_at is not None:
        columns = (columns[0], Column("Epochs done", True), *columns[1:])
        rows = tuple((row[0], str(epochs_at(step)), *row[1:]) for step, row in zip(steps, rows, strict=True))
    note = f"{len(steps)} of {len(every)} steps." if len(steps) < len(every) else ""
    return Sheet(panel.key, panel.title, columns, rows, note)


def _texts(line: Line) -> dict[int, str]:
    """Step -> value, with its interval where it has one."""
    if not line.low:
        return {step: said(value) for step, value in zip(line.steps, line.values, strict=True)}
    points = zip(line.steps, line.values, line.low, line.high, strict=True)
    return {
        step: said(value) + (f" ({said(low)} to {said(high)})" if math.isfinite(low) else "")
        for step, value, low, high in points
    }


def legend_of(story: Story) -> list[tuple[str, str, str]]:
    """What stands on a timeline: the name of the colour in the style sheet, a sign, and what it means."""
    verdicts = dict.fromkeys(stretch.name for stretch in story.verdicts)
    there = {mark.kind for mark in story.marks}
    return [
        *((verdict, "■", f"verdict {verdict}") for verdict in verdicts),
        *((f"c-{kind}", *sign) for kind, sign in _SIGNS.items() if kind in there),
    ]

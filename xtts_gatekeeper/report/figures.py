"""The curves of a run as one still picture, for the Trainer's dashboard; the report's own can be moved (`plots`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.gates import Policy
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.report.curves import Panel, curves
from xtts_gatekeeper.report.lines import Line, thinned
from xtts_gatekeeper.report.marks import Mark, marks

#: The diagrams that a glance needs, from top to bottom, and how high they are beside each other.
_SHOWN = {"objective": 3, "lr": 1, "gap": 1, "score": 1}
_POINTS = 400
_COLOURS = {
    "train": "#9a9a9a",
    "eval": "#1f6fb4",
    "target": "#2c8a4b",
    "lr": "#1f6fb4",
    "planned": "#9a9a9a",
    "measures": "#1f6fb4",
    "listeners": "#b3541e",
}
_VERDICTS = {"continue": "#2c8a4b", "tune": "#b07a00", "stop": "#c0392b", "undecided": "#6b6b6b"}
#: Marks that stand in a still picture: the others would hide the curves.
_MARKED = ("phase", "segment", "gate", "crash")


def overview(record: RunRecord, policy: Policy) -> Any | None:
    """Objective, learning rate, gap and sample score over the steps, with phases, segments, gates and crashes.

    Returns:
        A `matplotlib.figure.Figure` of its own, in no list of pyplot's; None before there is anything to draw.

    Raises:
        UserError: matplotlib is missing.
    """
    panels = {panel.key: panel for panel in curves(record, policy)}
    shown = [panels[key] for key in _SHOWN if key in panels]
    if not shown or shown[0].key != "objective":
        return None
    heights = [_SHOWN[panel.key] for panel in shown]
    figure = import_extra("matplotlib.figure").Figure(figsize=(9, 1.1 * sum(heights) + 1), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    happened = [mark for mark in marks(record, policy) if mark.kind in _MARKED]
    for one, panel in zip(axes, shown, strict=True):
        _draw(one, panel, happened)
    _name_marks(axes[0], happened)
    axes[-1].set_xlabel("step")
    return figure


def _draw(axes: Any, panel: Panel, happened: Sequence[Mark]) -> None:
    axes.set_title(panel.title + (f", {panel.unit}" if panel.unit else ""), fontsize=9, loc="left")
    if panel.log:
        axes.set_yscale("log")
    for line in panel.lines:
        if not line.abandoned:
            _plot(axes, thinned(line, _POINTS))
    for mark in happened:
        axes.axvline(mark.step, **_style(mark))
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if len(panel.lines) > 1:
        axes.legend(fontsize=7, frameon=False)


def _plot(axes: Any, line: Line) -> None:
    colour = _COLOURS.get(line.kind, "#6b6b6b")
    if line.kind == "target":
        axes.plot(line.steps, line.values, color=colour, linestyle="--", linewidth=1, label=line.name)
        return
    marker = "o" if len(line) <= 60 else None
    # A rate read at the end of an epoch is the one that held in it.
    how = "steps-pre" if line.kind in ("lr", "planned") else "default"
    axes.plot(
        line.steps,
        line.values,
        color=colour,
        marker=marker,
        markersize=3,
        linewidth=1.3,
        drawstyle=how,
        label=line.name,
    )
    if line.low:
        axes.vlines(line.steps, line.low, line.high, color=colour, alpha=0.5, linewidth=2)


def _style(mark: Mark) -> dict[str, Any]:
    if mark.kind == "gate":
        return {"color": _VERDICTS.get(mark.verdict, "#6b6b6b"), "linestyle": ":", "linewidth": 1.2}
    if mark.kind == "crash":
        return {"color": "#c0392b", "linestyle": "-", "linewidth": 1.2}
    return {"color": "#6b6b6b", "linestyle": "-", "linewidth": 0.8}


def _name_marks(axes: Any, happened: Sequence[Mark]) -> None:
    """Write beside each mark what it is, at the upper edge of the first diagram."""
    where = axes.get_xaxis_transform()
    for mark in happened:
        text = mark.label.replace("$", r"\$")  # no formulas
        axes.text(mark.step, 0.98, f" {text}", transform=where, rotation=90, va="top", ha="left", fontsize=7)

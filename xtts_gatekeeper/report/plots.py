"""The diagrams of a report as one Bokeh document. All share one range of steps, so that they zoom together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.report.canvas import QUIET, Canvas
from xtts_gatekeeper.report.curves import Panel
from xtts_gatekeeper.report.lines import Line, thinned
from xtts_gatekeeper.report.timeline import Story, draw_timeline

#: A screen has no more columns of pixels to show more points in.
POINTS = 600
#: With so few points each is drawn as a dot, too.
_DOTS = 80
#: Heights in pixels: of the objective, and of the others.
_HIGH, _LOW = 300, 210
#: More vertical lines than these hide what they mark.
_SPANS = 60
#: Marks that are such a line in every diagram -> how it is drawn.
_SPANNED = {"segment": "dashed", "crash": "solid"}
_DASHES = {"target": "dashed", "planned": "dotted"}


def draw(panels: Sequence[Panel], story: Story, epochs_at: Callable[[int], int] | None) -> str:
    """All diagrams as JSON for `report.js`: the timeline, and one a panel.

    Args:
        panels: at least one; the diagram of each goes to the element with the id `plot-KEY`.
        story: of the run; to `plot-timeline`.
        epochs_at: tells how many epochs were finished at a step; None where the source does not say.

    Returns:
        A text that may stand in a `script` element of the page: it holds no `<`.

    Raises:
        UserError: Bokeh is missing.
    """
    models, document = import_extra("bokeh.models", "report"), import_extra("bokeh.document", "report").Document()
    steps = [step for panel in panels for line in panel.lines for step in (line.steps[0], line.steps[-1])]
    steps += [mark.step for mark in story.marks]
    canvas = Canvas(models, min(steps), max(steps))
    plots = {"timeline": draw_timeline(canvas, story)}
    plots |= {panel.key: _draw_panel(canvas, panel, story, epochs_at) for panel in panels}
    with document.models.freeze():  # else it goes through all models anew at each root
        for plot in plots.values():
            document.add_root(plot)
    roots = {plot.id: f"plot-{key}" for key, plot in plots.items()}
    items = [{"docid": "run", "roots": roots, "root_ids": list(roots)}]
    whole = {"docs": {"run": document.to_json(deferred=False)}, "items": items}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def roles(panel: Panel) -> list[tuple[Line, str]]:
    """The lines of a panel, and by which name each gets its colour: its kind, for the rubric's rows `row0` and on."""
    rows = [line for line in panel.lines if line.kind == "row"]
    return [(line, f"row{rows.index(line)}" if line.kind == "row" else line.kind) for line in panel.lines]


def said(value: float | None) -> str:
    """A value as the box under the pointer and the tables below say it: five digits, a dash for none."""
    if value is None:
        return "–"
    return f"{value:.5g}" if math.isfinite(value) else str(value)


def _draw_panel(canvas: Canvas, panel: Panel, story: Story, epochs_at: Callable[[int], int] | None) -> Any:
    plot = canvas.plot(_values(canvas.models, panel), _HIGH if panel.key == "objective" else _LOW)
    _scales(canvas.models, plot, panel)
    _surroundings(canvas.models, plot, story)
    lines = []
    for whole, role in roles(panel):
        line = thinned(whole, POINTS)
        _line(canvas.models, plot, line, role)
        lines.append(line)
    if panel.key == "objective":
        _on_the_curve(canvas, plot, panel, story)
    _readout(canvas.models, plot, lines, epochs_at)
    return plot


def _values(models: Any, panel: Panel) -> Any:
    """The range of values; around one that never changes a stretch that suits its size."""
    finite = [abs(value) for line in panel.lines for value in line.values if math.isfinite(value)]
    return models.DataRange1d(range_padding=0.08, default_span=max(finite) or 1.0)


def _scales(models: Any, plot: Any, panel: Panel) -> None:
    """The axis of values. The tags hold scale and ticker, of a linear one and of a logarithmic: the page swaps them."""
    linear = [models.LinearScale(), models.BasicTicker(desired_num_ticks=5)]
    log = [models.LogScale(), models.LogTicker(desired_num_ticks=10)]
    plot.tags = [*linear, *log]
    plot.y_scale, ticker = log if panel.log else linear
    # Bokeh's own choice for a learning rate is 5.000e-6.
    small = panel.key == "lr"
    formatter = models.PrintfTickFormatter(format="%.1e") if small else models.BasicTickFormatter(precision="auto")
    axis = models.LinearAxis(ticker=ticker, formatter=formatter, **QUIET)
    plot.add_layout(axis, "left")
    plot.add_layout(models.Grid(dimension=1, axis=axis, name="grid"))


def _surroundings(models: Any, plot: Any, story: Story) -> None:
    """Every other phase as a band, and lines where curves end or a process did."""
    for phase in story.phases[1::2]:
        place = {"left": phase.begin, "right": phase.end, "level": "underlay"}
        plot.add_layout(models.BoxAnnotation(**place, line_color=None, fill_alpha=0.07, name="phase"))
    for mark in [mark for mark in story.marks if mark.kind in _SPANNED][:_SPANS]:
        look = {"dimension": "height", "line_width": 1, "line_dash": _SPANNED[mark.kind], "name": mark.kind}
        plot.add_layout(models.Span(location=mark.step, **look))


def _line(models: Any, plot: Any, line: Line, role: str) -> None:
    # Eight digits, or rounding in the last ones of a curve that is level would fill its diagram.
    source = models.ColumnDataSource({"x": line.steps, "y": [float(f"{value:.8g}") for value in line.values]})
    look = {"x": "x", "y": "y", "line_width": 2.0, "line_dash": _DASHES.get(line.kind, "solid")}
    if line.abandoned:
        look |= {"line_width": 1.0, "line_dash": "dotted", "line_alpha": 0.6}
    if line.kind == "lr":  # a rate that is read at the end of an epoch is the one that held in it
        glyph = models.Step(mode="before", **look)
    elif line.kind == "planned":
        glyph = models.Step(mode="after", **look)
    else:
        glyph = models.Line(line_join="round", **look)
    plot.add_glyph(source, glyph, name=role)
    if line.low:
        ends = models.ColumnDataSource({"x": line.steps, "low": line.low, "high": line.high})
        bar = models.Segment(x0="x", x1="x", y0="low", y1="high", line_width=2, line_alpha=0.6)
        plot.add_glyph(ends, bar, name=role)
    if line.kind not in ("target", "planned", "lr") and (len(line) <= _DOTS or not _joined(line)):
        size = 4 if len(line) > _DOTS / 4 else 6
        plot.add_glyph(source, models.Scatter(x="x", y="y", size=size, line_alpha=0.0), name=role)


def _joined(line: Line) -> bool:
    """Whether a line can be seen: whether two finite values follow each other."""
    return any(math.isfinite(a) and math.isfinite(b) for a, b in pairwise(line.values))


def _on_the_curve(canvas: Canvas, plot: Any, panel: Panel, story: Story) -> None:
    """The gates, and the latest of the best weights, at the value that they have."""
    values = {
        step: value
        for line in panel.lines
        if line.kind == "eval" and not line.abandoned
        for step, value in zip(line.steps, line.values, strict=True)
        if math.isfinite(value)
    }
    there = [mark for mark in story.marks if mark.step in values]
    canvas.marks(plot, [mark for mark in there if mark.kind == "gate"], values.__getitem__, hover=False)
    canvas.marks(plot, [mark for mark in there if mark.kind == "best"][-1:], values.__getitem__, hover=False)


def _readout(models: Any, plot: Any, lines: Sequence[Line], epochs_at: Callable[[int], int] | None) -> None:
    """One box with all values at the step nearest to the pointer; it hangs on a line that nobody sees."""
    lines = [line for line in lines if line.kind != "target"]
    at: dict[int, dict[str, float]] = {}
    for line in lines:
        for step, value in zip(line.steps, line.values, strict=True):
            at.setdefault(step, {})[line.name] = value
    steps = sorted(at)
    names = list(dict.fromkeys(line.name for line in lines))
    data: dict[str, list[Any]] = {
        "x": steps,
        "y": [next((value for value in at[step].values() if math.isfinite(value)), math.nan) for step in steps],
        "at": [f"{step:,}" + (f", {epochs_at(step)} epochs done" if epochs_at else "") for step in steps],
    }
    data |= {f"v{number}": [said(at[step].get(name)) for step in steps] for number, name in enumerate(names)}
    unseen = models.Line(x="x", y="y", line_alpha=0.0)
    drawn = plot.add_glyph(models.ColumnDataSource(data), unseen, name="readout")
    tips = [("Step", "@at"), *((name, f"@v{number}") for number, name in enumerate(names))]
    how = {"mode": "vline", "line_policy": "nearest", "point_policy": "snap_to_data", "show_arrow": False}
    plot.add_tools(models.HoverTool(renderers=[drawn], tooltips=tips, **how))

"""What all diagrams of a page have in common: their axes, their range of steps, signs for what happened, and boxes that
tell what is under the pointer.

Colours are the page's: a glyph's or annotation's name says what it shows, and `report.js` gives it its colour, light or
dark. No diagram runs code of its own, for the page forbids that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from xtts_gatekeeper.report.marks import Mark
from xtts_gatekeeper.report.sheets import NONE

#: Room for the numbers beside a diagram, so that those below each other begin at the same place.
_LEFT = 72
#: Kind of mark -> the sign for it, and its size in pixels.
_SIGNS = {
    "gate": ("diamond", 13),
    "best": ("star", 14),
    "checkpoint": ("circle", 9),
    "pruned": ("circle", 6),
    "segment": ("dash", 16),
    "resume": ("triangle", 10),
    "action": ("square", 9),
    "bad_batch": ("circle", 6),
    "incident": ("inverted_triangle", 10),
    "crash": ("x", 11),
    "end": ("dash", 16),
}
#: An axis without lines: the grid says enough.
QUIET = {
    "axis_line_color": None,
    "major_tick_line_color": None,
    "minor_tick_line_color": None,
    "major_label_text_font": "system-ui, sans-serif",
    "major_label_text_font_size": "13px",
}


class Canvas:
    """Makes the diagrams of one page.

    Args:
        models: the module `bokeh.models`.
        first: the first step that anything is known of.
        last: the last.
    """

    def __init__(self, models: Any, first: int, last: int) -> None:
        self.models = models
        edge = max(0.5, 0.015 * (last - first))
        begin, end = first - edge, last + edge
        self._steps = models.Range1d(begin, end, bounds=(begin, end), min_interval=edge / 10)
        self._rule = models.Span(dimension="height", line_dash="dotted", line_width=1, name="rule")

    def plot(self, values: Any, height: int) -> Any:
        """An empty diagram, `height` pixels high, over all steps and the range `values`; it zooms with the others."""
        models = self.models
        plot = models.Plot(
            x_range=self._steps,
            y_range=values,
            height=height,
            sizing_mode="stretch_width",
            toolbar_location=None,
            min_border_left=_LEFT,
            min_border_right=12,
            min_border_top=8,
            border_fill_color=None,
            background_fill_color=None,
            outline_line_color=None,
            window_axis="x",
        )
        plot.add_layout(models.LinearAxis(formatter=models.NumeralTickFormatter(format="0,0"), **QUIET), "below")
        zoom = models.BoxZoomTool(dimensions="width")
        wheel = models.WheelZoomTool(dimensions="width", modifiers="ctrl")
        plot.add_tools(zoom, wheel, models.CrosshairTool(overlay=self._rule))
        plot.toolbar.active_drag = zoom
        plot.toolbar.active_scroll = wheel
        return plot

    def marks(
        self, plot: Any, marks: Sequence[Mark], height: float | Callable[[int], float], *, hover: bool = True
    ) -> None:
        """Draw marks of one kind.

        Args:
            plot: the diagram.
            marks: of one kind.
            height: of all of them, or what tells it of a step.
            hover: whether a box tells what they are.
        """
        for verdict in dict.fromkeys(mark.verdict for mark in marks):
            those = [mark for mark in marks if mark.verdict == verdict]
            sign, size = _SIGNS[those[0].kind]
            data = {
                "x": [mark.step for mark in those],
                "y": [height(mark.step) if callable(height) else height for mark in those],
                "at": [f"{mark.step:,}" for mark in those],
                "label": [mark.label for mark in those],
                "detail": [mark.detail or NONE for mark in those],
            }
            upright = math.pi / 2 if sign == "dash" else 0.0
            glyph = self.models.Scatter(x="x", y="y", marker=sign, size=size, angle=upright, line_width=1.5)
            name = f"verdict-{verdict}" if verdict else those[0].kind
            drawn = plot.add_glyph(self.models.ColumnDataSource(data), glyph, name=name)
            if hover:
                self.hover(plot, drawn)

    def hover(self, plot: Any, drawn: Any) -> None:
        """A box with the columns `at`, `label` and, where there is one, `detail` of what is under the pointer."""
        tips = [("Step", "@at"), ("What", "@label")]
        if "detail" in drawn.data_source.data:
            tips.append(("Detail", "@detail"))
        plot.add_tools(self.models.HoverTool(renderers=[drawn], tooltips=tips, show_arrow=False))

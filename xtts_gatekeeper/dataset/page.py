"""An audit as a section of an HTML page, or as a page of its own: histograms, tables, and the worst clips to hear.

It asks for nothing from the network: the figure is inline SVG, the clips are MP3 in data URIs.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.dataset.audit import AuditResult
from xtts_gatekeeper.dataset.usable import SHORTEST_SECONDS
from xtts_gatekeeper.report.rendering import render
from xtts_gatekeeper.report.sound import data_uri

#: So many clips can be heard, and so many faults are listed.
CLIPS = 30
_LISTED = 300
#: Drawn in this colour, which nothing else has, and then in that of the page's text, light or dark.
_INK = "#010203"
_TITLES = {
    "seconds": "Length, seconds",
    "level_dbfs": "Level of the speech, dBFS",
    "snr_db": "Signal to noise, dB",
    "characters_per_second": "Letters a second of speech",
}


def audit_page(result: AuditResult) -> str:
    """A whole page.

    Raises:
        UserError: jinja2, matplotlib or soundfile is missing.
    """
    return _render("audit_page.html", section=audit_section(result), source=str(result.source.path))


def audit_section(result: AuditResult) -> str:
    """The section alone, an element of class `audit` with its own style, for a larger report.

    Raises:
        UserError: jinja2, matplotlib or soundfile is missing.
    """
    document = result.to_dict()
    return _render(
        "audit_section.html",
        audit=document,
        longest=document["limits"]["max_wav_length"] / document["limits"]["sample_rate"],
        figure=_figure(document),
        clips=list(_worst(result)),
        faults=list(islice(result.faults(), _LISTED)),
        count=sum(one["faults"] for one in document["totals"]),
    )


def _render(template: str, **values: Any) -> str:
    return render("xtts_gatekeeper.dataset", template, "audit", **values)


def _worst(result: AuditResult) -> Iterator[Mapping[str, Any]]:
    """The clips to hear, each with everything that is said of it; kinds of faults take turns."""
    names: dict[str, Mapping[str, Any]] = {}
    for fault in result.board.worst():
        names.setdefault(fault["clip"], fault)
        if len(names) == CLIPS:
            break
    for name, fault in names.items():
        yield {**fault, "faults": result.board.faults_of(name), "sound": data_uri(fault["audio_file"], extra="audit")}


def _figure(document: Mapping[str, Any]) -> str | None:
    """The histograms as SVG, its text in the colour of the text around it; None where nothing was measured."""
    found = {key: value for key, value in document["histograms"].items() if value}
    if not found:
        return None
    matplotlib, figures = import_extra("matplotlib"), import_extra("matplotlib.figure")
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "audit",
        "font.size": 9,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    }
    with matplotlib.rc_context(style):
        figure = figures.Figure(figsize=(9, 2.4 * -(-len(found) // 2)), layout="constrained")
        figure.patch.set_alpha(0)
        for place, (key, histogram) in enumerate(found.items(), start=1):
            axes = figure.add_subplot(-(-len(found) // 2), 2, place)
            _draw(axes, key, histogram, document["limits"])
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
    drawn = re.sub(r"<metadata>.*?</metadata>", "", svg.getvalue(), flags=re.DOTALL)
    return drawn[drawn.index("<svg") :].replace(_INK, "currentColor")


def _draw(axes: Any, key: str, histogram: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
    edges = [histogram["low"] + histogram["bin"] * number for number in range(len(histogram["counts"]) + 1)]
    axes.stairs(histogram["counts"], edges, fill=True, color="#4a90d9")
    axes.set_title(_TITLES[key], fontsize=9)
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="y", integer=True, nbins=4)
    if key == "seconds":
        for limit in _within((SHORTEST_SECONDS, limits["max_wav_length"] / limits["sample_rate"]), edges):
            axes.axvline(limit, color="#d9534f", linestyle="--", linewidth=1)


def _within(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    return [value for value in values if edges[0] <= value <= edges[-1]]

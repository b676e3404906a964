"""A run as one HTML file that holds everything it shows: no request goes out when it is opened."""

from __future__ import annotations

import base64
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from xtts_gatekeeper import __version__
from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.offline import Opened
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.record.events import now
from xtts_gatekeeper.report.curves import curves
from xtts_gatekeeper.report.facts import data_sheets, tiles
from xtts_gatekeeper.report.listened import listening_sheets
from xtts_gatekeeper.report.marks import marks
from xtts_gatekeeper.report.panel_view import PanelView, legend_of, panel_view
from xtts_gatekeeper.report.plots import draw
from xtts_gatekeeper.report.rendering import render
from xtts_gatekeeper.report.sample_view import Audio, sample_view
from xtts_gatekeeper.report.sheets import Sheet, sheets
from xtts_gatekeeper.report.shortening import shortened, timeline_sheet
from xtts_gatekeeper.report.sound import data_uri
from xtts_gatekeeper.report.table import status
from xtts_gatekeeper.report.timeline import Story, Stretch, stretches

_EXTRA = "report"
#: To judge an evaluation takes 0.05 ms for each one before it: so many of these pairs take 3 s. They are all
#: evaluations of a run of 350, and some of a longer one.
_JUDGING = 120_000
#: The tables that a page has a place for; a run without one has None there.
_SHEETS = ("tracking", "improvement", "distance", "files", "configuration", "incidents")


def build(opened: Opened, *, audio: Audio = "few", audit: bool = False, live: float | None = None) -> str:
    """The whole page.

    Args:
        opened: a run of any source.
        audio: which samples can be played.
        audit: audit the run's data and put that in, with the worst clips to hear.
        live: seconds between two looks of the page for a newer one; None for a run that has ended.

    Raises:
        UserError: a package of the `report` extra is missing, or with `audit` the run does not tell its data.
    """
    folder = opened.source.folder or opened.path
    record = opened.record.naming(opened.policy.names)
    judged = max(1, _JUDGING // max(1, len(record.evaluations)))
    document = status(folder, record, opened.policy, judged)
    story = _story(record, document["rows"], marks(record, opened.policy, document["rows"]))
    panels = curves(record, opened.policy)
    epochs_at = _epochs_at(record)
    plots: list[PanelView] = [panel_view(panel, epochs_at) for panel in panels]
    scripts = [*([_bokeh()] if panels else []), _own("report.js")]
    best = document["verdict"]["best"]
    text = render(
        "xtts_gatekeeper.report",
        "report.html",
        _EXTRA,
        policy=_content_policy(scripts),
        style=_markup(_own("report.css")),
        scripts=[_markup(script) for script in scripts],
        drawing=_markup(draw(panels, story, epochs_at)) if panels else None,
        title=record.name or folder.resolve().name,
        place=opened.path.resolve().name,
        several=len(opened.runs),
        run=document,
        tiles=tiles(document, record),
        timeline=timeline_sheet(story),
        signs=legend_of(story),
        plots=plots,
        sheets=_short(sheets(document), document["rows"]),
        samples=sample_view(folder, best["step"] if best else None, audio, data_uri) if folder.is_dir() else None,
        listening=listening_sheets(folder),
        data=data_sheets(folder, record, document["data"], thorough=audit),
        audit=_markup(_audit(folder)) if audit else None,
        live=live,
        version=__version__,
        written=now(),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # a file's name may hold what is no text


def _story(record: RunRecord, rows: Sequence[Mapping[str, Any]], happened: Iterable[Any]) -> Story:
    return Story(_phases(record), _verdicts(rows), tuple(happened))


def _phases(record: RunRecord) -> tuple[Stretch, ...]:
    """The phases of the line of weights in use: what a resume or a rewind went back behind is not drawn twice."""
    begun: list[tuple[int, str]] = []
    for phase in record.phases:
        while begun and begun[-1][0] > phase.step:
            begun.pop()
        begun.append((phase.step, phase.name))
    return stretches(begun, max((event.step for event in record.events), default=0))


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> tuple[Stretch, ...]:
    """Each verdict over the steps that it judged: those since the evaluation before."""
    judged = [(row["step"], row["decision"]) for row in rows if row["decision"]]
    begins = [0, *(step for step, _ in judged)]
    return stretches(zip(begins, (decision for _, decision in judged), strict=False), begins[-1])


def _epochs_at(record: RunRecord) -> Callable[[int], int] | None:
    """What tells how many epochs were finished at a step; None where the source does not say when one was."""
    steps = sorted({epoch.epoch: epoch.step for epoch in record.train_epochs}.values())
    return (lambda step: bisect_right(steps, step)) if steps else None


def _short(found: Iterable[Sheet], rows: Sequence[Mapping[str, Any]]) -> dict[str, Sheet | None]:
    """The tables by key, long ones cut: of the tracking table gates and changes of the decision stay."""
    changed = [
        number
        for number, row in enumerate(rows)
        if row["gates"] or (number and row["decision"] != rows[number - 1]["decision"])
    ]
    short: dict[str, Sheet | None] = dict.fromkeys(_SHEETS)
    short |= {sheet.key: shortened(sheet, changed if sheet.key == "tracking" else ()) for sheet in found}
    tracking, judged = short["tracking"], sum(bool(row["decision"]) for row in rows)
    if tracking is not None and judged < sum(row["objective"] is not None for row in rows):
        said = f"{judged} of the evaluations were judged, evenly over the run. {tracking.note}"
        short["tracking"] = replace(tracking, note=said.rstrip())
    return short


def _audit(folder: Path) -> str:
    from xtts_gatekeeper.dataset.audit import audit
    from xtts_gatekeeper.dataset.page import audit_section

    with audit(folder) as result:
        return audit_section(result)


def _own(name: str) -> str:
    return (files("xtts_gatekeeper.report") / "templates" / name).read_text(encoding="utf-8")


def _bokeh() -> str:
    """Bokeh's script, as its package brings it: the core, without widgets, tables, WebGL and mathematics."""
    resources = import_extra("bokeh.resources", _EXTRA).Resources(mode="absolute", components=["bokeh"])
    scripts = [Path(file).read_text(encoding="utf-8") for file in resources.js_files]
    return "\n".join(scripts).replace("</script", "<\\/script")


def _content_policy(scripts: Iterable[str]) -> str:
    """What the page may do: run these scripts, show and play what it holds; nothing is fetched or sent."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return "; ".join(
        (
            "default-src 'none'",
            "script-src " + " ".join(f"'sha256-{digest}'" for digest in digests),
            "style-src 'unsafe-inline'",  # Bokeh styles its elements
            "img-src data: blob:",
            "media-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _markup(text: str) -> Any:
    """Text of our own that is put in the page as it is."""
    return import_extra("markupsafe", _EXTRA).Markup(text)

"""The tables of a run as plain text cells: what the HTML report shows and `status --markdown` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtts_gatekeeper.report.table import COLUMNS, format_cell

#: A cell without a value.
NONE = "–"
#: Columns that hold words; numbers are aligned to the right.
_WORDS = frozenset(("Epoch", "Mem state", "Decision"))


@dataclass(frozen=True)
class Column:
    """A column's name, and whether it holds numbers."""

    name: str
    numeric: bool = False


@dataclass(frozen=True)
class Sheet:
    """One table. `key` tells it from the others; `note` is a sentence below it; all cells are text."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def sheets(status: Mapping[str, Any]) -> tuple[Sheet, ...]:
    """The tables of a run that have rows, in the order in which they are read.

    Args:
        status: what `report.table.status` returns.
    """
    made = (
        tracking(status),
        improvement(status),
        distance(status),
        files(status),
        configuration(status),
        incidents(status),
    )
    return tuple(sheet for sheet in made if sheet.rows)


def tracking(status: Mapping[str, Any]) -> Sheet:
    """The checklist's tracking table."""
    columns = tuple(Column(name, name not in _WORDS) for name in COLUMNS)
    rows = tuple(tuple(format_cell(key, row[key]) for key in COLUMNS.values()) for row in status["rows"])
    return Sheet("tracking", "Tracking table", columns, rows)


def improvement(status: Mapping[str, Any]) -> Sheet:
    """What each phase gained of the objective and how fast, and all of them together."""
    analysis = status["analysis"]
    columns = (
        Column("Phase"),
        *(Column(name, True) for name in ("From", "At step", "To (best)", "At step", "Change", "Change, %", "A step")),
    )
    parts = analysis["phases"] if len(analysis["phases"]) < 2 else (*analysis["phases"], analysis["overall"])
    return Sheet(
        "improvement",
        f"Improvement of {analysis['objective']}",
        columns,
        tuple(_part(part) for part in parts),
        _paces(analysis["phases"]),
    )


def _part(part: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        part["name"],
        f"{part['from']:.4f}",
        str(part["from_step"]),
        f"{part['to']:.4f}",
        str(part["to_step"]),
        _signed(part["change"], "+.4f") if part["comparable"] else "another eval set",
        _signed(None if part["change_share"] is None else 100 * part["change_share"], "+.1f"),
        _signed(part["rate_per_step"], "+.2e"),
    )


def _paces(phases: Sequence[Mapping[str, Any]]) -> str:
    """How much faster a step the last phase that gained was than the one before it."""
    gains = [part for part in phases if part["rate_per_step"] is not None and part["rate_per_step"] < 0]
    if len(gains) < 2:
        return ""
    before, after = gains[-2:]
    pace = after["rate_per_step"] / before["rate_per_step"]
    return f"A step of {after['name']} gained {pace:.2g} times what one of {before['name']} did."


def distance(status: Mapping[str, Any]) -> Sheet:
    """How far the best is from the target, and what the trend of the latest evaluations promises."""
    analysis, verdict = status["analysis"], status["verdict"]
    best, projection = verdict["best"], verdict["projection"]
    rows: list[tuple[str, str]] = []
    if analysis["target"] is not None:
        rows.append(("Target", f"{analysis['target']:g}"))
        if best is not None and best["value"] is not None:
            share = f" ({analysis['distance'] / abs(best['value']):+.1%})" if best["value"] else ""
            rows.append(("Best", f"{best['value']:.4f} at step {best['step']}"))
            rows.append(("Distance", f"{analysis['distance']:+.4f}{share}"))
    if projection is not None:
        rows.append(("Projection", projection["message"]))
    return Sheet("distance", "Distance to the target", (Column("What"), Column("How much")), tuple(rows))


def files(status: Mapping[str, Any]) -> Sheet:
    """The checkpoint files that are there, with what was measured of their weights."""
    objective = status["analysis"]["objective"]
    best = (status["verdict"]["best"] or {}).get("checkpoint")
    columns = (
        Column("File"),
        Column("Step", True),
        Column(objective, True),
        Column("Sample score (/25)", True),
        Column("Size, MB", True),
        Column("Good for"),
    )
    rows = tuple(
        (
            file["file"],
            str(file["step"]) if file["step"] is not None else NONE,
            _signed(file["metrics"].get(objective), ".4f"),
            _signed(file["metrics"].get("sample.score"), ".1f"),
            f"{file['bytes'] / 1e6:,.0f}",
            _use(file, best),
        )
        for file in status["models"]
    )
    freed = f"{status['freed_bytes'] / 1e9:.2f} GB more were freed by pruning. " if status["freed_bytes"] else ""
    note = f"{freed}In all {status['disk_bytes'] / 1e9:.2f} GB." if rows or freed else ""
    return Sheet("files", "Model files", columns, rows, note)


def _use(file: Mapping[str, Any], best: str | None) -> str:
    uses = ["the best"] if file["file"] == best else []
    if file["resumable"]:
        uses.append("going on")
    elif file["resumable"] is False:
        uses.append("weights alone")
    return ", ".join(uses) or NONE


#: Key of the start event -> what it is called in the table of the configuration.
_SETTINGS = {
    "device": "Device",
    "precision": "Precision in effect",
    "precision_requested": "Precision asked for",
    "scheduler": "Scheduler",
    "lr": "Learning rate in effect",
    "lr_requested": "Learning rate asked for",
    "batch_size": "Batch size",
    "grad_accum_steps": "Batches an update",
    "epochs_planned": "Epochs planned",
    "train_clips": "Clips to train on",
    "train_set": "Fingerprint of the training set",
    "eval_clips": "Clips to evaluate on",
    "eval_set": "Fingerprint of the eval set",
    "resumed_from": "Resumed from",
    "resume_mode": "How it began",
}


def configuration(status: Mapping[str, Any]) -> Sheet:
    """What the latest process was set to, as far as the source tells; the phases; the versions."""
    start = status["baseline"] or {}
    told = {key: value for key, value in start.items() if value not in (None, "", []) and value != "new"}
    rows = [(name, _setting(told[key])) for key, name in _SETTINGS.items() if key in told]
    data = status["data"]
    if data is not None and data["seconds"] is not None:
        rows.append(("Audio", f"{data['seconds'] / 60:.1f} min in {data['clips']} clips"))
    rows += [
        (
            f"Phase {phase['name']}",
            f"LR {phase['lr']:g} from step {phase['step']}" + (phase["why"] and f": {phase['why']}"),
        )
        for phase in status["phases"]
    ]
    rows += [(f"Version of {name}", str(version)) for name, version in (start.get("versions") or {}).items()]
    return Sheet("configuration", "Configuration", (Column("Setting"), Column("Value")), tuple(rows))


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(dict.fromkeys(f"{item:g}" if isinstance(item, float) else str(item) for item in value))
    return str(value)


def incidents(status: Mapping[str, Any]) -> Sheet:
    """What went wrong and what was done about it, by time."""
    found = [("Incident", event) for event in status["incidents"]]
    found += [("Crash", event) for event in status["crashes"]]
    found += [(event["name"].replace("_", " ").capitalize(), event) for event in status["actions"]]
    rows = tuple(
        (str(event["step"]), event["time"], kind, " ".join(filter(None, (event["message"], event.get("why")))))
        for kind, event in sorted(found, key=lambda item: (item[1]["step"], item[1]["time"]))
    )
    columns = (Column("Step", True), Column("Time"), Column("What"), Column("Said"))
    return Sheet("incidents", "Incidents and actions", columns, rows)


def _signed(value: float | None, how: str) -> str:
    """A number as text; a dash where there is none."""
    return NONE if value is None else str(value) if not math.isfinite(value) else format(value, how)


def markdown(status: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a Markdown document: verdict, then every table; for an issue or a README."""
    verdict = status["verdict"]
    gates = f" at {' and '.join(verdict['gates'])}" if verdict["gates"] else ""
    yield f"## Run {_literal(status['run'])}: {status['state']}"
    yield ""
    policy = f"policy {verdict['policy']} {verdict['policy_hash']}"
    yield f"**Verdict{_literal(gates)}: {verdict['verdict']}** ({_literal(policy)})"
    said = [f"{_outcome(reason)}: {reason['message']}" for reason in verdict["reasons"] if reason["status"] == "failed"]
    said += [f"next: {step['message']}" for step in verdict["next_steps"]]
    if said:
        yield ""
        yield from (f"- {_literal(line)}" for line in said)
    for sheet in sheets(status):
        yield ""
        yield f"### {_literal(sheet.title)}"
        yield ""
        yield from _table(sheet)
        if sheet.note:
            yield ""
            yield _literal(sheet.note)


def _outcome(reason: Mapping[str, Any]) -> str:
    return "note" if reason["outcome"] == "continue" else str(reason["outcome"])


def _table(sheet: Sheet) -> Iterator[str]:
    """A table as GitHub's Markdown has it."""
    yield _line(column.name for column in sheet.columns)
    yield "|" + "|".join("---:" if column.numeric else "---" for column in sheet.columns) + "|"
    for row in sheet.rows:
        yield _line(row)


def _line(cells: Iterator[str] | Sequence[str]) -> str:
    return "| " + " | ".join(_literal(cell) for cell in cells) + " |"


#: What would be read as markup: a pipe ends a cell, the others begin emphasis, code, links, HTML or a mention.
_MARKUP = str.maketrans(
    {**{sign: f"\\{sign}" for sign in "\\|*`[]#"}, "<": "&lt;", "@": "@\u200b", "\n": " ", "\r": " "}
)


def _literal(text: str) -> str:
    """Text that is shown as it is, on one line."""
    return text.translate(_MARKUP)

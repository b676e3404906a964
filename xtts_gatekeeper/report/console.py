"""Tables and sentences for a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xtts_gatekeeper.report.table import COLUMNS, format_cell

#: Column -> its header on two lines, so that the table fits 80 columns.
_HEADERS = {
    "Train total": "Train\ntotal",
    "Train mel": "Train\nmel",
    "Val mel/objective": "Val mel/\nobjective",
    "LR (end)": "LR\n(end)",
    "Mem state": "Mem\nstate",
    "Sample score (/25)": "Sample\n(/25)",
}
_STYLE = {"continue": "green", "tune": "yellow", "stop": "red", "undecided": "cyan"}


def print_verdict(console: Console, verdict: Mapping[str, Any]) -> None:
    """The verdict and its reasons, the deciding ones first."""
    name = verdict["verdict"]
    gates = escape(f" at {' and '.join(verdict['gates'])}") if verdict["gates"] else ""
    policy = escape(verdict["policy"])
    console.print(f"Verdict{gates}: [bold {_STYLE[name]}]{name}[/]  (policy {policy} {verdict['policy_hash']})")
    for reason in verdict["reasons"]:
        mark = {"failed": f"[{_STYLE[reason['outcome']]}]{reason['outcome']}[/]", "passed": "ok"}.get(
            reason["status"], "–"
        )
        where = f" [{reason['gate']}]" if reason["gate"] else ""
        console.print(f"  {mark:<6} {escape(reason['message'] + where)}", soft_wrap=True)
    for word in ("best", "latest"):
        point = verdict[word]
        if point is not None and point["value"] is not None:
            file = f", {point['checkpoint']}" if point["checkpoint"] else ""
            console.print(
                f"  {word}: {verdict['objective']} {point['value']:.4f} after {point['epochs_done']} epochs, "
                f"step {point['step']}{escape(file)}",
                soft_wrap=True,
            )
    if len(verdict["segments"]) > 1:
        console.print(f"  the eval set changed {len(verdict['segments']) - 1} times: only the last stretch is compared")


def print_table(console: Console, rows: list[dict[str, Any]]) -> None:
    """The checklist's tracking table."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for column in COLUMNS:
        text = column in ("Epoch", "Decision", "Mem state")
        table.add_column(_HEADERS.get(column, column), justify="left" if text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(format_cell(key, row[key])) for key in COLUMNS.values()))
    console.print(table)


def print_disk(console: Console, status: Mapping[str, Any]) -> None:
    """Files and bytes."""
    for name, size in status["files"].items():
        console.print(f"  {name}: {_megabytes(size)}", markup=False)
    console.print(
        f"Disk: {_megabytes(status['disk_bytes'])} in checkpoints, "
        f"{_megabytes(status['freed_bytes'])} freed by pruning",
    )


def print_status(console: Console, status: Mapping[str, Any]) -> None:
    """The whole `status` verb."""
    baseline = status["baseline"]
    console.print(f"Run {escape(status['run'])}: {status['state']}", soft_wrap=True)
    if baseline:
        console.print(
            f"{baseline['device']}, {baseline['precision']}, scheduler {baseline['scheduler']}; "
            f"{baseline['train_clips']} train and {baseline['eval_clips']} eval clips; {baseline['resume_mode']}"
            + (f" from {baseline['resumed_from']}" if baseline["resumed_from"] else ""),
            markup=False,
            soft_wrap=True,
        )
        for warning in baseline["warnings"]:
            console.print(f"  warning: {warning}", markup=False, soft_wrap=True)
    print_table(console, status["rows"])
    for phase in status["phases"]:
        console.print(f"{phase['name']}: LR {phase['lr']:g} from step {phase['step']}", markup=False)
    for incident in status["incidents"]:
        console.print(f"Incident at step {incident['step']}: {incident['message']}", markup=False, soft_wrap=True)
    print_verdict(console, status["verdict"])
    print_disk(console, status)


def status_text(status: Mapping[str, Any]) -> str:
    """What the `status` verb prints, as plain text for a log."""
    text = io.StringIO()
    print_status(Console(file=text, width=100, highlight=False, no_color=True), status)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"

"""An audit as tables and sentences for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xtts_gatekeeper.dataset.audit import AuditResult

#: So many speakers and languages are listed, and so many faults.
_GROUPS = 20
STYLES = {"unusable": "red", "hard": "red", "soft": "yellow", "note": "dim"}
_MEASURES = {
    "seconds": ("length", "s", 1),
    "level_dbfs": ("level", "dBFS", 1),
    "snr_db": ("signal to noise", "dB", 0),
    "characters_per_second": ("letters a second", "", 1),
}


def print_audit(console: Console, result: AuditResult, most: int) -> None:
    """The whole `audit` verb: what was read, how much of it XTTS uses, what is wrong with it, and the worst faults.

    Args:
        console: where to.
        result: of the audit.
        most: how many faults to list.
    """
    document = result.to_dict()
    for sentence in document["read"]:
        console.print(sentence, markup=False, soft_wrap=True)
    lost = document["clips"] - document["usable"]
    console.print(
        f"{document['clips']} clips, {document['hours']:.2f} h; XTTS uses {document['usable']}, "
        f"{document['usable_hours']:.2f} h" + (f", and replaces {lost} by others without a word" if lost else ""),
        style="bold",
        soft_wrap=True,
    )
    limits = document["limits"]
    console.print(
        f"Limits: 0.5 to {limits['max_wav_length'] / limits['sample_rate']:.2f} s (max_wav_length "
        f"{limits['max_wav_length']}), {limits['max_text_length']} tokens; fingerprint {document['fingerprint']}",
        soft_wrap=True,
    )
    for sentence in document["not_checked"]:
        console.print(f"Not checked: {sentence}", style="yellow", markup=False, soft_wrap=True)
    print_groups(console, document)
    print_measures(console, document)
    print_faults(console, result, document, most)


def print_groups(console: Console, document: Mapping[str, Any]) -> None:
    """Each speaker of each language, and how often XTTS draws their clips."""
    table = _table()
    table.add_column("Language", no_wrap=True)
    table.add_column("Speaker", overflow="fold")
    for column in ("Clips", "Used", "Hours", "Draws", "A clip, in\nan epoch", "Unheard in\nan epoch"):
        table.add_column(column, justify="right", no_wrap=True)
    groups = sorted(document["groups"], key=lambda one: -one["share"])
    for one in groups[:_GROUPS]:
        table.add_row(
            escape(one["language"] or "–"),
            escape(one["speaker"] or "–"),
            str(one["clips"]),
            str(one["usable"]),
            f"{one['hours']:.2f}",
            f"{one['share']:.1%}",
            f"{one['draws_per_epoch']:.2f}",
            f"{one['unheard_share']:.0%}",
        )
    console.print(table)
    if len(groups) > _GROUPS:
        console.print(f"and {len(groups) - _GROUPS} more, in --json")
    for sentence in document["warnings"]:
        console.print(f"Warning: {sentence}", style="yellow", markup=False, soft_wrap=True)


def print_measures(console: Console, document: Mapping[str, Any]) -> None:
    """The spread of what was measured, and the kinds of files."""
    said = []
    for key, (name, unit, digits) in _MEASURES.items():
        if found := document["histograms"][key]:
            low, middle, high = (f"{found[value]:.{digits}f}" for value in ("min", "median", "max"))
            said.append(f"{name} {low} to {high}, middle {middle} {unit}".rstrip())
    if said:
        console.print("; ".join(said), markup=False, soft_wrap=True)
    kinds = [
        f"{one['clips']} at {one['sample_rate']} Hz" + (f" with {one['channels']} channels" * (one["channels"] != 1))
        for one in document["formats"]
    ]
    if kinds:
        console.print(f"Files: {', '.join(kinds)}", markup=False, soft_wrap=True)


def print_faults(console: Console, result: AuditResult, document: Mapping[str, Any], most: int) -> None:
    """How often each fault was met, and the worst ones with their clips."""
    if not document["totals"]:
        console.print("[green]Nothing was found to be wrong.[/]")
        return
    table = _table()
    table.add_column("", no_wrap=True)
    table.add_column("Fault", no_wrap=True)
    table.add_column("Clips", justify="right", no_wrap=True)
    for one in document["totals"]:
        table.add_row(f"[{STYLES[one['severity']]}]{one['severity']}[/]", escape(one["code"]), str(one["clips"]))
    console.print(table)
    listed = 0
    for fault in islice(result.faults(("unusable", "hard", "soft")), most):
        listed += 1
        colour = STYLES[fault["severity"]]
        console.print(
            f"  [{colour}]{fault['severity']:<8}[/] {escape(fault['clip'])}: {escape(fault['message'])} "
            f"[dim]({escape(fault['code'])})[/]",
            soft_wrap=True,
        )
    more = sum(one["faults"] for one in document["totals"] if one["severity"] != "note") - listed
    if more > 0:
        console.print(f"  and {more} more: all of them with --json, the worst to hear with --html FILE")


def _table() -> Table:
    return Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")

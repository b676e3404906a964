"""The results of listening on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xtts_gatekeeper.listening.scores import Estimate, Preference, Results, Score
from xtts_gatekeeper.samples.score import ROWS


def print_results(console: Console, results: Results) -> None:
    """The scores of a session, who is preferred to whom, and how consistent each listener is."""
    people = f"{len(results.listeners)} listeners" if len(results.listeners) > 1 else "one listener"
    console.print(f"Session {results.session}: {people}", markup=False)
    console.print(_table([*results.systems, *([results.real] if results.real is not None else [])]))
    for score in results.systems:
        if score.faults:
            heard = ", ".join(f"{kind} in {count}" for kind, count in score.faults.items())
            console.print(f"  {score.name}: {heard}", markup=False, soft_wrap=True)
    for preference in results.preferences:
        console.print(f"  {in_words(preference)}", markup=False, soft_wrap=True)
    for listener in results.listeners:
        told = listener.consistency.sentence if listener.consistency is not None else "No sample came twice."
        console.print(f"  {listener.name}: {told}", markup=False, soft_wrap=True)


def in_words(preference: Preference) -> str:
    """One sentence on a pair of systems."""
    first, second = preference.prompts
    told = f"{preference.first} against {preference.second}: "
    if preference.share is None:
        told += "neither was preferred"
    else:
        told += (
            f"preferred at {first} of {first + second} prompts (p = {preference.p:.2g}, sign test; 95 % interval "
            f"{preference.share.low:.0%} to {preference.share.high:.0%})"
        )
    if preference.difference is not None:
        told += f"; score {preference.difference.mean:+.1f}{_between(preference.difference, '+.1f')}"
    return told + "."


def _table(scores: Sequence[Score]) -> Table:
    """A column for each whose samples were heard."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for one in scores:
        table.add_column(escape(one.name), justify="right", overflow="fold")
    total = [one.metrics["sample.score"] for one in scores]
    table.add_row("Score (of 25)", *(f"{one.mean:.1f}" for one in total), style="bold")
    table.add_row(
        "  95 % interval", *(f"{one.low:.1f} to {one.high:.1f}" if one.low is not None else "–" for one in total)
    )
    for row in ROWS:
        table.add_row(f"{row.capitalize()} (of 5)", *(f"{one.rows[row]:.2f}" for one in scores))
    table.add_row("Samples with a fault", *(f"{one.metrics['sample.faults'].mean:.0%}" for one in scores))
    table.add_row("Preferred to all beside", *(str(one.preferred) for one in scores))
    table.add_row("Prompts", *(str(one.prompts) for one in scores))
    return table


def _between(estimate: Estimate, digits: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" (95 % interval {estimate.low:{digits}} to {estimate.high:{digits}})"

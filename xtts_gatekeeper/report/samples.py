"""Samples on a terminal: their marks and faults, and how two sets of them compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xtts_gatekeeper.record import RunRecord, SampleScore

#: The rubric's rows, in the checklist's order.
ROWS = ("intelligibility", "prosody", "pronunciation", "stopping", "artifacts")
#: What is compared -> its words, decimals, and whether it is a share.
LINES = {
    "score": ("Score (of 25)", 1),
    "said": ("What is said", 2),
    "sound": ("How it sounds", 2),
    **{row: (f"  {row.capitalize()} (of 5)", 2) for row in ROWS},
    "faults": ("Samples with a fault", 2),
    "wer": ("Word error rate", 3),
    "cer": ("Character error rate", 3),
    "duration_ratio": ("Length, log ratio", 3),
    "dnsmos": ("DNSMOS", 2),
    "naturalness": ("Naturalness (1-5)", 2),
    "likeness": ("Likeness", 3),
    "pitch_spread_semitones": ("Pitch spread (st)", 2),
}
_STYLE = {"improved": "green", "regressed": "red", "same": "cyan"}


def latest_samples(record: RunRecord) -> dict[str, Any] | None:
    """What is known of the latest samples that were judged; None without any.

    Returns:
        A dict with `step`, `epoch`, `by`, `folder`, `marks` (by name without `sample.`), `faults` (samples by kind),
        and `best`: `step` and `score` of the set with the highest total.
    """
    scores = record.sample_scores
    if not scores:
        return None
    latest = scores[-1]
    rated = [score for score in scores if "sample.score" in score.metrics]
    best = max(rated, key=lambda score: score.metrics["sample.score"], default=None)
    return {
        "step": latest.step,
        "epoch": latest.epoch,
        "by": latest.by,
        "folder": latest.folder,
        "marks": _marks(latest),
        "faults": dict(latest.faults),
        "best": None if best is None else {"step": best.step, "score": best.metrics["sample.score"]},
    }


def _marks(score: SampleScore) -> dict[str, float]:
    return {name.removeprefix("sample."): value for name, value in score.metrics.items()}


def print_samples(console: Console, samples: Mapping[str, Any] | None) -> None:
    """Two lines on the latest samples: their marks, and their faults."""
    if samples is None:
        return
    marks = samples["marks"]
    rows = ", ".join(f"{row} {marks[row]:.1f}" for row in ROWS if row in marks)
    total = f"{marks['score']:.1f} of 25" if "score" in marks else "no total"
    more = f" ({rows})" if rows else ""
    elsewhere = f"; other languages {marks['other_languages']:.1f} of 5" if "other_languages" in marks else ""
    where = f", {samples['folder']}" if samples["folder"] else ""
    console.print(
        f"Samples of step {samples['step']}, judged by {samples['by']}: {total}{more}{elsewhere}{escape(where)}",
        soft_wrap=True,
    )
    if samples["faults"]:
        said = ", ".join(f"{kind} in {count}" for kind, count in samples["faults"].items())
        console.print(f"  Faults: {escape(said)}", soft_wrap=True)


def print_comparison(console: Console, comparison: Mapping[str, Any]) -> None:
    """A comparison (`Comparison.to_dict`): the verdict, the marks and measures, and the prompts that changed most."""
    verdict = comparison["verdict"]
    console.print(
        f"{escape(comparison['after'])} against {escape(comparison['before'])}: "
        f"[bold {_STYLE[verdict]}]{escape(comparison['message'])}[/]",
        soft_wrap=True,
    )
    console.print(_changes(comparison))
    changed = _changed(comparison)
    if changed.row_count:
        console.print(changed)
    for note in comparison["notes"]:
        console.print(f"  {note}", markup=False, soft_wrap=True)


def _changes(comparison: Mapping[str, Any]) -> Table:
    table = _table(("", "left"), ("Before", "right"), ("After", "right"), ("Change", "right"), ("95 %", "right"))
    for change in comparison["changes"]:
        words, digits = LINES[change["name"]]
        between = "–" if change["low"] is None else f"{change['low']:+.{digits}f} to {change['high']:+.{digits}f}"
        style = ("green" if change["difference"] > 0 else "red") if change["shown"] else ""
        table.add_row(
            words,
            f"{change['before']:.{digits}f}",
            f"{change['after']:.{digits}f}",
            f"{change['difference']:+.{digits}f}",
            between,
            style=style,
        )
    return table


def _changed(comparison: Mapping[str, Any]) -> Table:
    """The prompts whose faults changed, or whose total did by a point or more; the worst first."""
    table = _table(
        ("Prompt", "left"), ("Before", "right"), ("After", "right"), ("New faults", "left"), ("Gone", "left")
    )
    found = []
    for prompt in comparison["prompts"]:
        before, after = prompt["score_before"], prompt["score_after"]
        moved = 0.0 if before is None or after is None else after - before
        if prompt["come"] or prompt["gone"] or abs(moved) >= 1:
            found.append((moved, prompt))
    for _, prompt in sorted(found, key=lambda item: item[0]):
        totals = ["–" if prompt[key] is None else f"{prompt[key]:.1f}" for key in ("score_before", "score_after")]
        faults = [", ".join(prompt[key]) or "–" for key in ("come", "gone")]
        table.add_row(escape(prompt["prompt"]), *totals, *faults)
    return table


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left")
    return table

"""What the verb `sample` prints."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xtts_gatekeeper.report.samples import print_comparison
from xtts_gatekeeper.samples.calibration import read_calibration
from xtts_gatekeeper.samples.sample_verb import Result
from xtts_gatekeeper.samples.score import ROWS, by_prompt, kinds_of
from xtts_gatekeeper.samples.sets import SampleSet


def print_result(console: Console, result: Result) -> None:
    """A table a set, then the comparisons and notes."""
    spread = read_calibration(result.calibration).spread if result.calibration.is_file() else {}
    for made in result.sets:
        console.print(
            f"\n[bold]{escape(made.weights)}[/], step {made.step}: {escape(str(made.folder))}", soft_wrap=True
        )
        console.print(_table(made, by_prompt(made, spread)))
        console.print(_sum(made), soft_wrap=True)
    for comparison in result.comparisons:
        console.print()
        print_comparison(console, comparison.to_dict())
    for note in result.notes:
        console.print(f"Note: {note}", markup=False, soft_wrap=True)


def _table(made: SampleSet, marks: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header, side in (
        ("Sample", "left"),
        ("Language", "left"),
        ("s", "right"),
        ("WER", "right"),
        ("of 25", "right"),
    ):
        table.add_column(header, justify="right" if side == "right" else "left", no_wrap=True)
    table.add_column("Faults", overflow="fold")
    for one in made.samples:
        measured = made.of(one)
        rows = marks.get(one.prompt, {})
        wer = measured.values.get("wer") if measured is not None else None
        faults = ", ".join(sorted(kinds_of(one, measured)))
        wrong = one.error or (measured.error if measured is not None else "") or faults
        table.add_row(
            escape(one.file or one.prompt),
            one.language + ("" if one.own else " (other)"),
            f"{one.seconds:.1f}" if one.file else "",
            "" if wer is None else f"{wer:.2f}",
            f"{sum(rows.values()):.1f}" if len(rows) == len(ROWS) and one.take == 0 else "",
            f"[{'yellow' if one.skipped else 'red'}]{escape(wrong)}[/]" if wrong else "",
        )
    return table


def _sum(made: SampleSet) -> str:
    if not made.measured:
        return "Not measured."
    scores = {name.removeprefix("sample."): value for name, value in made.scores.items()}
    total = f"{scores['score']:.1f} of 25" if "score" in scores else "no total, for not every row could be measured"
    rows = [f"{name} {scores[name]:.1f}" for name in ROWS if name in scores]
    elsewhere = f"; other languages {scores['other_languages']:.1f} of 5" if "other_languages" in scores else ""
    return f"{total}{' (' if rows else ''}{', '.join(rows)}{')' if rows else ''}{elsewhere}"

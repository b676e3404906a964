"""Long tables, cut so that a page stays one that can be read and sent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from xtts_gatekeeper.report.sheets import NONE, Column, Sheet
from xtts_gatekeeper.report.timeline import Story

#: Rows that a table has at most.
ROWS = 300

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` (2 or more) of the items, the first and the last among them."""
    last = len(items) - 1
    if last < most:
        return list(items)
    return [items[round(number * last / (most - 1))] for number in range(most)]


def shortened(sheet: Sheet, keep: Collection[int] = (), most: int = ROWS) -> Sheet:
    """A sheet with about `most` rows at most: the first, the last, those numbered in `keep`, the others evenly."""
    count = len(sheet.rows)
    if count <= most:
        return sheet
    numbers = {0, count - 1, *evenly(sorted(keep), most // 2)}
    numbers |= set(evenly(range(count), max(2, most - len(numbers))))
    note = f"{len(numbers)} of {count:,} rows; xtts-gatekeeper status --json has all."
    rows = tuple(sheet.rows[number] for number in sorted(numbers))
    return Sheet(sheet.key, sheet.title, sheet.columns, rows, " ".join(filter(None, (sheet.note, note))))


def timeline_sheet(story: Story) -> Sheet:
    """What the timeline shows, in words."""
    found = [(one.begin, "phase", one.name, f"to step {one.end:,}") for one in story.phases]
    found += [(one.begin, "verdict", one.name, f"to step {one.end:,}") for one in story.verdicts]
    found += [(one.step, one.kind.replace("_", " "), one.label, one.detail) for one in story.marks]
    found = [one for one in found if one[1] != "phase" or one[3].startswith("to step")]
    found.sort(key=lambda item: item[0])
    columns = (Column("Step", True), Column("Kind"), Column("What"), Column("Detail"))
    rows = tuple((f"{step:,}", kind, label, detail or NONE) for step, kind, label, detail in found)
    return shortened(Sheet("timeline", "Timeline", columns, rows))

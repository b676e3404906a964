"""What listeners said of a run's samples, as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.report.facts import number
from xtts_gatekeeper.report.sheets import NONE, Column, Sheet
from xtts_gatekeeper.samples.score import ROWS


def listening_sheets(run: Path) -> list[Sheet]:
    """What listeners said, a session a pair of tables; what cannot be read is passed over."""
    found: list[Sheet] = []
    for path in sorted((run / FOLDER / "listening").glob("*/results.json")):
        try:
            found += _session(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _session(told: Mapping[str, Any]) -> list[Sheet]:
    heard = [*told["systems"], *([told["real"]] if told["real"] else [])]
    names = {one["source"]: one["name"] for one in heard}
    columns = (
        Column("Who spoke"),
        Column("Score, of 25", True),
        Column("95 %", True),
        *(Column(row.capitalize(), True) for row in ROWS),
        Column("With a fault", True),
        Column("Preferred", True),
    )
    rows = tuple(
        (
            one["name"],
            number(one["metrics"]["sample.score"]["mean"]),
            _between(one["metrics"]["sample.score"]),
            *(number(one["metrics"][f"sample.{row}"]["mean"]) for row in ROWS),
            f"{100 * one['metrics']['sample.faults']['mean']:.0f} %" if "sample.faults" in one["metrics"] else NONE,
            str(one["preferred"]),
        )
        for one in heard
    )
    said = [f"{one['name']}: {one['consistency']['sentence']}" for one in told["listeners"] if one["consistency"]]
    people = f"Listeners: {', '.join(one['name'] for one in told['listeners'])}."
    found = [Sheet("listening", f"Listeners, session {told['session']}", columns, rows, " ".join((people, *said)))]
    pairs = tuple(
        (
            names.get(one["first"], one["first"]),
            names.get(one["second"], one["second"]),
            " : ".join(map(str, one["votes"])),
            number(one["p"]),
            number((one["difference"] or {}).get("mean")),
            _between(one["difference"]),
        )
        for one in told["preferences"]
    )
    if pairs:
        columns = (
            Column("First"),
            Column("Second"),
            Column("Votes (first : second : neither)", True),
            Column("p of a sign test", True),
            Column("Score, difference", True),
            Column("95 %", True),
        )
        found.append(Sheet("preferences", "Which was preferred", columns, pairs))
    return found


def _between(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None or estimate["low"] is None or estimate["high"] is None:
        return NONE
    return f"{number(estimate['low'])} to {number(estimate['high'])}"

"""What a page says of a run beside curves and the tables that `status` has, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_gatekeeper.dataset.coverage import coverage_of
from xtts_gatekeeper.gates.rules.runtime import duration
from xtts_gatekeeper.record import RunRecord
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.record.steps import STEPS
from xtts_gatekeeper.report.curves import title_of
from xtts_gatekeeper.report.sheets import NONE, Column, Sheet

#: So many clips, and batches, are listed.
_LISTED = 20
_BATCHES = 100
#: A log of 25,000 steps: it is read and worked out within half a second.
_STEP_LOG_BYTES = 4_000_000


@dataclass(frozen=True)
class Tile:
    """A number that is seen at first sight: its name, the number as text, and a line below it."""

    name: str
    value: str
    detail: str = ""


def tiles(status: Mapping[str, Any], record: RunRecord) -> list[Tile]:
    """The few numbers by which a run is known; what it does not tell is left out."""
    verdict, analysis = status["verdict"], status["analysis"]
    found = []
    for word in ("best", "latest"):
        point = verdict[word]
        if point is not None and point["value"] is not None:
            file = f", {point['checkpoint']}" if point["checkpoint"] else ""
            epochs = f", {_epochs(point['epochs_done'])}" if record.train_epochs else ""
            detail = f"step {point['step']:,}{epochs}{file}"
            found.append(Tile(f"{word.capitalize()} {title_of(verdict['objective'])}", f"{point['value']:.4f}", detail))
    if analysis["distance"] is not None:
        reached = "reached" if analysis["distance"] <= 0 else "to go"
        found.append(Tile(f"Target {analysis['target']:g}", f"{abs(analysis['distance']):.4f}", reached))
    samples = status["samples"]
    if samples is not None and "score" in samples["marks"]:
        best = f"; best {samples['best']['score']:.1f} at step {samples['best']['step']:,}" if samples["best"] else ""
        detail = f"step {samples['step']:,}, by {samples['by']}{best}"
        found.append(Tile("Sample score, of 25", f"{samples['marks']['score']:.1f}", detail))
    found += _progress(status, record)
    if status["disk_bytes"] or status["freed_bytes"]:
        freed = f"{status['freed_bytes'] / 1e9:.1f} GB saved by pruning" if status["freed_bytes"] else ""
        found.append(Tile("Checkpoints on disk", f"{status['disk_bytes'] / 1e9:.1f} GB", freed))
    return found


def _progress(status: Mapping[str, Any], record: RunRecord) -> list[Tile]:
    if not record.train_epochs:
        return []
    done = record.epochs_done(record.train_epochs[-1])
    planned = (status["baseline"] or {}).get("epochs_planned")
    seconds = sum(epoch.seconds or 0.0 for epoch in record.train_epochs)
    seconds += sum(evaluation.seconds or 0.0 for evaluation in record.evaluations)
    details = [f"{max(event.step for event in record.train_epochs):,} steps"]
    if seconds:
        details.append(duration(seconds / 3600))
    if status["health"]["hours_left"] and record.end is None:
        details.append(f"{duration(status['health']['hours_left'])} to go")
    return [Tile("Epochs", f"{done} of {planned}" if planned else str(done), ", ".join(details))]


def _epochs(count: int) -> str:
    return f"{count} epoch" + "s" * (count != 1)


def data_sheets(run: Path, record: RunRecord, check: Mapping[str, Any] | None, *, thorough: bool) -> list[Sheet]:
    """What was found in the clips when training began, how they were drawn, and the batches that stood out.

    Args:
        run: its folder.
        record: of the run.
        check: the `DataCheck` in `status`.
        thorough: read the step log, however long it is.
    """
    made = (_checked(check), _drawn(run, thorough), _stood_out(record))
    return [sheet for sheet in made if sheet is not None]


def _checked(check: Mapping[str, Any] | None) -> Sheet | None:
    if check is None:
        return None
    hours = f", {check['seconds'] / 3600:.2f} h" if check["seconds"] else ""
    rows = [(code.replace("_", " "), str(count)) for code, count in check["faults"].items()]
    rows += [("eval clip that is a copy of a training clip", f"{one} of {two}") for one, two in check["near"]]
    note = "" if rows else "Nothing was found to be wrong."
    if check["unusable"]:
        more = f" and {len(check['unusable']) - _LISTED} more" if len(check["unusable"]) > _LISTED else ""
        note = f"XTTS does not use {', '.join(check['unusable'][:_LISTED])}{more}."
    columns = (Column("Found"), Column("Clips", True))
    return Sheet("check", f"Before training: {check['clips']:,} clips{hours}", columns, tuple(rows), note)


def _drawn(run: Path, thorough: bool) -> Sheet | None:
    """How often clips were drawn, those first that do not learn with the others."""
    title = "Clips that were drawn, the ones worth a listen first"
    log = run / FOLDER / STEPS
    if not log.is_file():
        return None
    size = log.stat().st_size
    if size > _STEP_LOG_BYTES and not thorough:
        note = f"The log of steps has {size / 1e6:.0f} MB: status --clips reads it, and so does report --audit."
        return Sheet("coverage", title, (), (), note)
    told = coverage_of(run).to_dict()
    if not told["clips"]:
        return None
    numbers = ("Drawn", "Early", "Late", "Above the others")
    columns = (Column("Clip"), *(Column(name, True) for name in numbers), Column("Learns"))
    rows = tuple(
        (
            one["name"],
            str(one["draws"]),
            *(number(one[key]) for key in ("early", "late", "above")),
            "not with the others" if one["stuck"] else NONE,
        )
        for one in told["courses"][:_LISTED]
    )
    note = (
        f"{told['clips']:,} clips in {told['steps']:,} steps: drawn {told['median_draws']:g} times in the middle, "
        f"{told['most_draws']} at most, {told['never_drawn']} never; {len(told['stuck'])} do not learn with the "
        f"others. Early and late: what each adds to {told['metric'] or 'the loss'} in either half."
    )
    return Sheet("coverage", title, columns, rows, note)


def _stood_out(record: RunRecord) -> Sheet | None:
    batches = record.bad_batches[-_BATCHES:]
    if not batches:
        return None
    numbers = (Column("Value", True), Column("Limit", True))
    columns = (Column("Step", True), Column("What"), *numbers, Column("Clips"))
    rows = tuple(
        (f"{b.step:,}", b.kind.replace("_", " "), number(b.value), number(b.limit), ", ".join(b.suspects or b.files))
        for b in batches
    )
    more = len(record.bad_batches) - len(batches)
    return Sheet(
        "batches", "Batches that stood out", columns, rows, f"{more} earlier ones are not listed." * bool(more)
    )


def number(value: float | None) -> str:
    """A number with four digits; a dash for none."""
    return NONE if value is None else f"{value:.4g}"

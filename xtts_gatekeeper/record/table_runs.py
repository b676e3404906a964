"""From the rows of tables to the events of runs: the side of a column, the epoch that a row ends, where a run ends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from xtts_gatekeeper.record.build import RunBuilder
from xtts_gatekeeper.record.events import Evaluation, SampleScore, Start, TrainEpoch
from xtts_gatekeeper.record.names import XTTS_WEIGHTS, Side, is_loss, named_metrics
from xtts_gatekeeper.record.table_cells import Column

#: Epochs between two rows are counted as finished one by one, up to here; gates are due long before.
_MOST_EPOCHS = 2000
#: An epoch column with irregular rows further apart than this that goes beyond a thousand numbers steps.
_WIDE_GAP, _MANY = 20, 1000
#: A table shows three decimals or more.
_ROUNDING = 0.0015


@dataclass(frozen=True)
class Row:
    """One row: `part` counts the tables of the same columns, `values` has one number a column, or None."""

    label: str
    part: int
    epoch: float | None
    step: float | None
    values: tuple[float | None, ...]
    memory: str = ""

    @property
    def index(self) -> float:
        """Where the row stands: its step, in a table without steps its epoch."""
        return self.step if self.step is not None else self.epoch or 0.0

    @property
    def empty(self) -> bool:
        """Whether nothing is measured yet: the row of a form."""
        return not self.memory and all(value is None for value in self.values)


@dataclass
class Table:
    """The rows of all tables with the same columns, and what could not be read of them."""

    columns: list[Column]
    rows: list[Row] = field(default_factory=list)
    parts: int = 0
    unreadable: int = 0
    ambiguous: int = 0
    numbers: list[int] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.numbers = self.numbers or [0] * len(self.columns)
        self.texts = self.texts or [0] * len(self.columns)

    @property
    def has_steps(self) -> bool:
        """Whether a column names the step."""
        return any(column.kind == "step" for column in self.columns)

    @property
    def has_epochs(self) -> bool:
        """Whether a column names the epoch."""
        return any(column.kind == "epoch" for column in self.columns)

    @property
    def usable(self) -> bool:
        """Whether a metric column holds numbers, or no text at least."""
        return any(
            column.kind in ("metric", "sample", "sample_score") and self.numbers[i] >= self.texts[i]
            for i, column in enumerate(self.columns)
        )


@dataclass(frozen=True)
class _Reading:
    """What the columns of a table mean after all its rows were seen: position -> name, by side."""

    sides: dict[Side, dict[int, str]]
    given: dict[int, str]
    lr: int | None
    samples: dict[int, str]
    not_used: list[str]
    assumed: list[str]

    def metrics(self, side: Side, values: Sequence[float | None]) -> dict[str, float]:
        """The metrics of one side in a row, by our names."""
        logged = {name: v for i, name in self.sides[side].items() if (v := values[i]) is not None and is_loss(name)}
        given = {name: v for i, name in self.given.items() if name.startswith(side) and (v := values[i]) is not None}
        return {**named_metrics(side, logged), **given}


def build(tables: Sequence[Table], not_used: Sequence[str], missing: Sequence[str]) -> RunBuilder:
    """The runs in `tables`.

    Args:
        tables: in order of the source.
        not_used: headers of the tables that are none of metrics.
        missing: metrics that the user named and whose column does not exist.
    """
    builder = RunBuilder("table")
    usable = [table for table in tables if table.usable]
    not_used = [*not_used, *(" | ".join(c.header for c in table.columns)[:80] for table in tables if not table.usable)]
    runs = [run for table in usable for run in _Run.all_of(table)]
    for i, run in enumerate(runs):
        name = run.label or (f"table {i + 1}" if len(runs) > 1 else "")
        continues = i > 0 and run.continues(runs[i - 1])
        builder.new_run(name, continues=continues)
        run.emit(builder, runs[i - 1] if continues else None)
        _document_notes(builder, not_used, missing)
    if not runs and (usable or not_used):
        _document_notes(builder, not_used, missing)
        for table in usable:
            _table_notes(builder, table, _read(table))
    return builder


def _document_notes(builder: RunBuilder, not_used: Iterable[str], missing: Sequence[str]) -> None:
    for header in not_used:
        builder.note("table_not_used", f"a table without an epoch or step, or without a metric: {header}")
    if missing:
        builder.note("metric_not_found", f"no column for {', '.join(missing)}")


def _table_notes(builder: RunBuilder, table: Table, reading: _Reading) -> None:
    if reading.not_used:
        builder.note("columns_not_used", f"columns that are no metrics: {', '.join(reading.not_used)}")
    if reading.assumed:
        builder.note("side_assumed", f"not said whether train or eval, taken for eval: {', '.join(reading.assumed)}")
    if table.unreadable:
        builder.note("unreadable_row", f"{table.unreadable} rows name no epoch or step that can be read")
    if table.ambiguous:
        builder.note(
            "ambiguous_number",
            f"{table.ambiguous} numbers such as 2,971 may mean thousands or decimals, and were left out",
        )


def _read(table: Table) -> _Reading:
    sides: dict[Side, dict[int, str]] = {"eval": {}, "train": {}}
    given: dict[int, str] = {}
    samples: dict[int, str] = {}
    not_used: list[str] = []
    assumed: list[str] = []
    lr = next((i for i, column in enumerate(table.columns) if column.kind == "lr"), None)
    evaluated = {column.name for column in table.columns if column.kind == "metric" and column.side == "eval"}
    taken: set[tuple[str, str]] = set()
    for i, column in enumerate(table.columns):
        side: Side = column.side or ("train" if column.name in evaluated else "eval")
        if column.kind in ("sample", "sample_score"):
            samples[i] = f"sample.{column.name or 'score'}"
        elif column.kind == "other" and column.header:
            not_used.append(column.header)
        elif column.kind == "metric":
            if table.texts[i] > table.numbers[i] or (side, column.name) in taken:
                not_used.append(column.header)
                continue
            taken.add((side, column.name))
            if column.given:
                given[i] = f"{side}.{column.name}"
                continue
            sides[side][i] = column.name
            if column.side is None and side == "eval":
                assumed.append(column.header)
    reading = _Reading(sides, given, lr, samples, not_used, assumed)
    _name_weighted(table.rows, reading)
    return reading


def _name_weighted(rows: Sequence[Row], reading: _Reading) -> None:
    """Where the parts add up to the loss, text CE stands there with its weight, as the Trainer logs it."""
    found: dict[Side, bool | None] = {side: _adds_up(rows, names) for side, names in reading.sides.items()}
    for side, names in reading.sides.items():
        other: Side = "train" if side == "eval" else "eval"
        if found[side] or (found[side] is None and found[other]):
            for i, name in names.items():
                logged = next((key for key, (ours, _) in XTTS_WEIGHTS.items() if ours == name), name)
                if logged not in names.values():
                    names[i] = logged


def _adds_up(rows: Sequence[Row], names: dict[int, str]) -> bool | None:
    """Whether loss = mel CE + text CE as they stand, rather than with the weight; None when it cannot be told."""
    position = {name: i for i, name in names.items()}
    if not position.keys() >= {"loss", "mel_ce", "text_ce"}:
        return None
    weight = XTTS_WEIGHTS["loss_text_ce"][1]
    as_they_stand = weighted = 0.0
    seen = False
    for row in rows:
        loss, mel, text = (row.values[position[name]] for name in ("loss", "mel_ce", "text_ce"))
        if loss is None or mel is None or text is None or not math.isfinite(loss + mel + text):
            continue
        seen = True
        as_they_stand = max(as_they_stand, abs(loss - mel - text))
        weighted = max(weighted, abs(loss - mel - weight * text))
    return as_they_stand <= _ROUNDING and as_they_stand < weighted if seen else None


def _merged(rows: Iterable[Row]) -> list[Row]:
    """Rows of the same place with different columns are one: loggers write train and eval one after the other."""
    merged: list[Row] = []
    for row in rows:
        last = merged[-1] if merged else None
        if (
            last is not None
            and (last.epoch, last.step, last.part) == (row.epoch, row.step, row.part)
            and all(a is None or b is None for a, b in zip(last.values, row.values, strict=True))
        ):
            values = tuple(b if a is None else a for a, b in zip(last.values, row.values, strict=True))
            merged[-1] = replace(last, values=values, memory=row.memory or last.memory)
        else:
            merged.append(row)
    return merged


def _stretches(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows cut where another run begins: at its first row again, or in another table further back."""
    runs: list[list[Row]] = []
    seen: set[Row] = set()
    several = rows[-1].part > rows[0].part
    for row in rows:
        if several:
            here = replace(row, part=0)
            if here in seen and row.part > 1:  # a report shows its best rows twice
                continue
            seen.add(here)
        back = bool(runs) and row.index < runs[-1][-1].index
        if not runs or (back and (row.part != runs[-1][-1].part or row.index <= runs[-1][0].index)):
            runs.append([])
        runs[-1].append(row)
    return runs


@dataclass
class _Run:
    """One run of a table: rows that go up, but for resumes."""

    table: Table
    label: str
    rows: list[Row]
    reading: _Reading
    newest_first: bool = False
    epochs: bool = True
    next_epoch: int = 0

    @classmethod
    def all_of(cls, table: Table) -> list[_Run]:
        """The runs of a table, by label, in order."""
        labels: dict[str, list[Row]] = {}
        for row in table.rows:
            if not row.empty:
                labels.setdefault(row.label, []).append(row)
        reading = _read(table)
        runs = []
        for label, rows in labels.items():
            rows = _merged(rows)
            newest_first = len(rows) > 2 and all(a.index > b.index for a, b in pairwise(rows))
            for stretch in _stretches(rows[::-1] if newest_first else rows):
                runs.append(cls(table, label, stretch, reading, newest_first, table.has_epochs))
        for i, run in enumerate(runs):
            if run._counts_steps() or (i and not runs[i - 1].epochs and run.continues(runs[i - 1])):
                run.epochs = False
        return runs

    def _counts_steps(self) -> bool:
        """Whether the numbers in an epoch column can only be steps: far apart, irregular, and very high."""
        if self.table.has_steps or not self.table.has_epochs:
            return False
        gaps = {b.index - a.index for a, b in pairwise(self.rows)}
        span = self.rows[-1].index - self.rows[0].index
        return self.rows[-1].index >= _MANY and len(gaps) > 1 and span > _WIDE_GAP * (len(self.rows) - 1)

    def continues(self, before: _Run) -> bool:
        """Whether this run goes on where `before` ended: another label, the same columns, further on."""
        return self.table is before.table and self.rows[0].index > before.rows[-1].index

    @cached_property
    def _finished_epochs(self) -> bool:
        """Whether the column counts finished epochs, and does not number them from 0 as the Trainer does."""
        numbers = [row.epoch for row in self.table.rows if row.epoch is not None and not row.empty]
        return 0 not in numbers or any(number % 1 for number in numbers)

    def emit(self, builder: RunBuilder, before: _Run | None) -> None:
        """Add the events and notes of this run; `before` is the one that it continues."""
        if before is not None:
            self.next_epoch = before.next_epoch
            last = before.rows[-1]
            builder.add(Start(step=before._step(last), epoch=self.next_epoch, time="", resume_mode="continue"))
        self._notes(builder)
        train: dict[str, float] = {}
        for i, row in enumerate(self.rows):
            if i and row.index < self.rows[i - 1].index:
                epoch = self._epoch(row)
                self.next_epoch = min(self.next_epoch, epoch)
                builder.add(Start(step=self._step(row) - 1, epoch=epoch, time="", resume_mode="continue"))
                train = {}
            train |= self.reading.metrics("train", row.values)
            following = self.rows[i + 1] if i + 1 < len(self.rows) else None
            if self._row(builder, row, following, train):
                train = {}

    def _row(self, builder: RunBuilder, row: Row, following: Row | None, train: dict[str, float]) -> bool:
        """Add the events of a row; whether it ended an epoch."""
        step, epoch, ends = self._step(row), self._epoch(row), self._ends_epoch(row, following)
        if self.epochs:
            self._unseen_epochs(builder, step, epoch)
        if ends:
            lr = None if self.reading.lr is None else row.values[self.reading.lr]
            builder.add(
                TrainEpoch(
                    step=step,
                    epoch=epoch,
                    time="",
                    metrics=train,
                    lr_end=[] if lr is None else [lr],
                    memory_state=row.memory if row.memory.strip("-–— ") else None,
                )
            )
            self.next_epoch = max(self.next_epoch, epoch + 1)
        scores = {name: v for i, name in self.reading.samples.items() if (v := row.values[i]) is not None}
        if scores:  # before the evaluation, which is judged with them
            builder.add(SampleScore(step=step, epoch=epoch, time="", metrics=scores))
        metrics = self.reading.metrics("eval", row.values)
        if metrics:
            mid_epoch = self.epochs and not ends and self.next_epoch > 0
            builder.add(Evaluation(step=step, epoch=epoch, time="", metrics=metrics, mid_epoch=mid_epoch))
        return ends

    def _step(self, row: Row) -> int:
        return int(row.index)

    def _epoch(self, row: Row) -> int:
        """The Trainer's number of the epoch that a row ends or stands in."""
        if not self.epochs or row.epoch is None:
            return self.next_epoch if self.epochs else 0
        if self._finished_epochs and row.epoch % 1 == 0:
            return max(0, int(row.epoch) - 1)
        return int(row.epoch)

    def _ends_epoch(self, row: Row, following: Row | None) -> bool:
        if not self.epochs or row.epoch is None or row.epoch % 1:
            return False
        if self._finished_epochs and row.epoch == 0:
            return False
        return following is None or following.epoch != row.epoch or following.index < row.index

    def _unseen_epochs(self, builder: RunBuilder, step: int, epoch: int) -> None:
        """Epochs that have no row were finished, too."""
        if epoch - self.next_epoch > _MOST_EPOCHS:
            builder.note("epochs_not_counted", f"no rows for {epoch - self.next_epoch} epochs before epoch {epoch}")
            return
        shown = 1 if self._finished_epochs else 0
        for number in range(self.next_epoch, epoch):
            at = step if self.table.has_steps else number + shown
            builder.add(TrainEpoch(step=at, epoch=number, time="", metrics={}))
        self.next_epoch = max(self.next_epoch, epoch)

    def _notes(self, builder: RunBuilder) -> None:
        _table_notes(builder, self.table, self.reading)
        if self.newest_first:
            builder.note("newest_first", "the table begins with the latest row")
        if self.epochs:
            what = (
                "are taken for finished epochs, as the checklist counts them" if self._finished_epochs else "begin at 0"
            )
            builder.note("epoch_numbering", f"the epoch numbers of the table {what}")
            if not self.table.has_steps:
                builder.note("no_steps", "the table names no steps: the epoch's number stands for them")
            return
        if self.table.has_epochs:
            builder.note("epochs_look_like_steps", "the numbers in the epoch column are taken for steps")
        if self.reading.sides["train"]:
            names = ", ".join(self.table.columns[i].header for i in self.reading.sides["train"])
            builder.note("train_without_epochs", f"not used, for no epochs are known: {names}")

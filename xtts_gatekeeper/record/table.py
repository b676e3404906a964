"""Runs out of tables: CSV, TSV, Markdown reports, and columns of numbers under a header or a comment."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Mapping

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.run import RunRecord
from xtts_gatekeeper.record.table_cells import Column, Numbers, index_value, plain, read_header
from xtts_gatekeeper.record.table_runs import Row, Table, build

_LONGEST_LINE = 1 << 20
_LONGEST_RULE = 10_000
_DELIMITERS = ("\t", ";", ",")
_SPACES, _WIDE = " ", "  "  #: columns parted by any space, or by two and more
_SEPARATOR = re.compile(r"[\s|:+=-]*(?:--|==|:-|-:|\|\s*-\s*\|)[\s|:+=-]*")
_COLUMNS = re.compile(r"columns?\s*:\s*", re.IGNORECASE)
#: What only a training log has; such a log may well print a table, too.
_LOG = re.compile(r"^[^\w\n]*(?:EPOCH: \d|STEP: \d|EVALUATION\b|TRAINING \(|EVAL PERFORMANCE)|\| > ", re.MULTILINE)
_COLOURS = re.compile(r"\x1b?\[[\d;]*m")


def looks_like_table(text_start: str | bytes) -> bool:
    """Whether a text that begins like this holds a table of metrics by epoch or step. A console log does not."""
    text = text_start if isinstance(text_start, str) else text_start.decode(errors="replace")
    if _LOG.search(_COLOURS.sub("", text)):
        return False
    parser = TableParser()
    parser.feed(text.encode(errors="replace"))
    parser.close()
    return parser.recognised


class TableParser:
    """Reads every table with an epoch or step column and at least one metric; prose around it is passed over.

    Tables of the same columns are one run, as long as they go on; every label of a `run` or `name` column is a run of
    its own, as is a label before the numbers that the header does not name. What a column means is read from its
    header by `record.names`; what had to be assumed stands in the notes of the records.
    """

    def __init__(self, metrics: Mapping[str, str] | None = None) -> None:
        """Nothing is read yet.

        Args:
            metrics: our name (`eval.mel`, `sample.score`) -> header of the column, without regard to case.

        Raises:
            UserError: a name that begins with none of eval., train. and sample.
        """
        for name, header in (metrics or {}).items():
            side, _, key = name.partition(".")
            if side not in ("eval", "train", "sample") or not key:
                raise UserError(
                    f"the metric {name!r} of the column {header!r} must begin with eval., train. or sample."
                )
        self._named = {plain(header).casefold(): name for name, header in (metrics or {}).items()}
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._rest = ""
        self._too_long = False
        self._tables: list[Table] = []
        self._not_used: list[str] = []
        self._table: Table | None = None
        self._numbers = Numbers()
        self._format = ""
        self._pipes: list[str] = []  # the cells of a line that a separator may make a header
        self._candidates: list[tuple[str, list[Column]]] = []
        self._lines = 0
        self._after_blank = False

    @property
    def recognised(self) -> bool:
        """Whether a header that can be used was found, with numbers below it or nothing yet."""
        return any(table.usable for table in self._tables)

    def feed(self, data: bytes) -> None:
        """Take the next bytes; a chunk may end anywhere."""
        self._text(self._decoder.decode(data))

    def close(self) -> None:
        """The input is over."""
        self._text(self._decoder.decode(b"", final=True) + "\n")
        delimited = [candidate for candidate in self._candidates if candidate[0] in _DELIMITERS]
        if delimited and self._lines == 1:  # a header, and no row has been written yet
            self._open(*delimited[0])
        self._candidates = []

    def records(self) -> list[RunRecord]:
        """The runs in the rows so far."""
        headers = {column.header.casefold() for table in self._tables for column in table.columns}
        missing = [name for header, name in self._named.items() if header not in headers]
        return build(self._tables, self._not_used, missing).records()

    # -- lines

    def _text(self, text: str) -> None:
        *lines, rest = (self._rest + text).split("\n")
        for line in lines:
            if not self._too_long:
                self._line(line.rstrip("\r").replace("\0", ""))
            self._too_long = False
        if len(rest) > _LONGEST_LINE:
            self._too_long, rest = True, ""
        self._rest = "" if self._too_long else rest

    def _line(self, line: str) -> None:
        text = line.strip()
        if not text:
            self._after_blank = True
            if self._format == "|":
                self._close_table()
            return
        if not re.search(r"[^\W_]", text):
            self._rule(text)
        elif "|" in text and self._format not in _DELIMITERS:
            self._piped(text)
        else:
            if self._format == "|":
                self._close_table()
            self._pipes = []
            self._plain(text, line)
        self._after_blank = False
        self._lines += 1

    def _rule(self, text: str) -> None:
        """A line without letters and numbers: a separator below a header, a rule, a fence, a row of empty cells."""
        if self._pipes and len(text) < _LONGEST_RULE and _SEPARATOR.fullmatch(text):
            header, self._pipes = self._pipes, []
            columns = read_header(header, self._named)
            if columns is None:
                self._close_table()
                self._not_used.append(" | ".join(header)[:80])
                self._format = "|"  # its rows are none of anything else
            else:
                self._open("|", columns)
        elif text.startswith(("```", "~~~")):
            self._close_table()

    def _piped(self, text: str) -> None:
        cells = [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", text)]
        if text.startswith("|"):
            cells = cells[1:]
        if cells and text.endswith("|") and not text.endswith("\\|"):
            cells = cells[:-1]
        if self._format == "|":
            if self._table is not None:
                cells = (cells + [""] * len(self._table.columns))[: len(self._table.columns)]
                self._add(self._table, cells, "")
        else:
            self._pipes = cells
            self._candidates = []

    def _plain(self, text: str, line: str) -> None:
        if text.startswith("#"):
            self._comment(text.lstrip("#").strip())
            return
        if not self._lines and re.fullmatch(r"sep=.", text):  # Excel's
            return
        if self._table is not None:
            row = self._fitting(self._format, self._table.columns, line)
            if row is not None:
                self._add(self._table, *row)
                return
        for form, columns in self._candidates:
            row = self._fitting(form, columns, line)
            if row is not None:
                self._add(self._open(form, columns), *row)
                return
        self._candidates = self._headers(line)
        if self._table is not None and not self._candidates:
            if self._after_blank and self._format in (_WIDE, _SPACES):
                self._close_table()
            else:
                self._table.unreadable += 1

    def _comment(self, text: str) -> None:
        columns = _COLUMNS.match(text)
        if columns is None:
            self._candidates = self._headers(text) or self._candidates
            return
        found = self._headers(text[columns.end() :])
        self._close_table()
        if len(found) == 1:
            self._open(*found[0])
        elif found:
            self._candidates = found
        else:
            self._not_used.append(text[columns.end() :][:80])

    def _headers(self, line: str) -> list[tuple[str, list[Column]]]:
        """The formats in which a line could be the header of a table."""
        found = []
        for form in (*_DELIMITERS, _WIDE, _SPACES):
            cells = _split(form, line)
            columns = read_header(cells, self._named) if len(cells) > 1 else None
            if columns is not None:
                found.append((form, columns))
        return found

    def _fitting(self, form: str, columns: list[Column], line: str) -> tuple[list[str], str] | None:
        """The cells of a row and its label, or None when the line is no row below `columns`."""
        count = len(columns)
        label = ""
        cells = _split(form, line)
        if form in (_WIDE, _SPACES):
            if len(cells) == count + 1 and index_value(cells[0]) is None:
                label, *cells = cells
            if len(cells) != count:
                return None
        elif len(cells) < 2 or any(map(str.strip, cells[count:])):
            return None
        cells = (cells + [""] * count)[:count]
        indices = [index_value(cell) for cell, column in zip(cells, columns, strict=True) if column.kind in _INDICES]
        return None if all(index is None for index in indices) else (cells, label)

    # -- tables

    def _open(self, form: str, columns: list[Column]) -> Table:
        self._close_table()
        self._format = form
        # In a CSV file a comma within a (quoted) cell parts thousands.
        self._numbers = Numbers("." if form == "," else None)
        known = next((table for table in self._tables if table.columns == columns), None)
        if known is None:
            known = Table(columns)
            self._tables.append(known)
        known.parts += 1
        self._table = known
        return known

    def _close_table(self) -> None:
        self._table, self._format, self._pipes, self._candidates = None, "", [], []

    def _add(self, table: Table, cells: list[str], label: str) -> None:
        epoch = step = None
        memory = ""
        values: list[float | None] = []
        before = self._numbers.ambiguous
        for i, (cell, column) in enumerate(zip(cells, table.columns, strict=True)):
            value: float | None = None
            if column.kind == "epoch":
                epoch = index_value(cell)
            elif column.kind == "step":
                step = index_value(cell)
            elif column.kind == "run":
                label = plain(cell)[:80]
            elif column.kind == "memory_state":
                memory = plain(cell).casefold()[:20]
            elif column.kind != "other":
                try:
                    value = self._numbers.value(cell.split("/")[0] if column.kind == "sample_score" else cell)
                    table.numbers[i] += value is not None
                except ValueError:
                    table.texts[i] += 1
            values.append(value)
        table.ambiguous += self._numbers.ambiguous - before
        if not any(map(str.strip, cells)):
            return
        if (step if table.has_steps else epoch) is None or (step is not None and step % 1):
            table.unreadable += 1
            return
        table.rows.append(Row(label, table.parts, epoch, step, tuple(values), memory))


_INDICES = ("epoch", "step")


def _split(form: str, line: str) -> list[str]:
    if form == _SPACES:
        return line.split()
    if form == _WIDE:
        return re.split(r"\s{2,}", line.strip())
    if form not in line:
        return [line]
    try:
        return next(csv.reader([line], delimiter=form, skipinitialspace=form != "\t"), [])
    except csv.Error:
        return [line]

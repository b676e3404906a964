"""Cells of a table that somebody typed, and the headers above them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from xtts_gatekeeper.record.names import Side, is_loss, read_label

Kind = Literal["epoch", "step", "lr", "memory_state", "sample_score", "run", "metric", "sample", "other"]

_RUN = ("run", "name", "run_name", "experiment")
#: Columns that stand beside metrics and are none.
_NO_METRICS = frozenset(
    (
        *("time", "wall_time", "timestamp", "date", "datetime", "seconds", "minutes", "hours", "elapsed", "eta"),
        *("elapsed_time", "epoch_time", "batch", "batch_size", "samples", "change", "decision", "status", "quality"),
        *("notes", "note", "comment", "comments", "remark", "checkpoint", "file"),
    )
)
_MISSING = frozenset(("", "-", "–", "—", "―", "n/a", "na", "none", "null", "?", ".", "..", "...", "…", "tbd"))
_SPACES = " '\u00a0\u202f\u2009"
_NUMBER = re.compile(
    rf"[^\w%<>≤≥.+-]*([+-]?(?:\d[\d.,{_SPACES}]*\d|\d|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:nan|inf(?:inity)?)\b)(.*)",
    re.IGNORECASE | re.DOTALL,
)
_INDEX = re.compile(
    r"(?:(?:epoch|ep|(?:global[_ ])?step|iter|iteration|\#)\s*[.:#]?\s*)?"
    rf"(\d[\d.,{_SPACES}]*\d|\d)"
    r"\s*(?:/\s*\d[\d.,]*\s*)?(?:\(.*\))?[^\w%]*",
    re.IGNORECASE | re.DOTALL,
)
_GROUPED = re.compile(rf"\d{{1,3}}(?:[,.{_SPACES}]\d{{3}})+")
#: Nobody types a longer number, and the patterns above take the square of a cell's length.
_LONGEST, _MOST_COLUMNS = 200, 1000
#: Beyond this a float is no exact number of steps.
_MOST = 2**53


def plain(cell: str) -> str:
    """A cell without Markdown's emphasis, code marks and HTML.

    >>> plain(" **`1901` (BEST!)** ")
    '1901 (BEST!)'
    """
    text = re.sub(r"[*`~\\]|<[^<>]*>", "", cell).replace("\u2212", "-").strip()
    return text.strip("_").strip() if text.startswith("_") else text


class Numbers:
    """Reads the numbers of one table; what a comma means is learnt from the cells where it can mean one thing only."""

    def __init__(self, decimal: str | None = None) -> None:
        """`decimal`: the decimal sign, where the table's delimiter leaves no other."""
        self.decimal = decimal
        self.ambiguous = 0

    def value(self, cell: str) -> float | None:
        """The number in a cell, None when it is empty or says that there is none.

        Raises:
            ValueError: it holds text, a percentage or several numbers.

        >>> Numbers().value("**2.971** (best)"), Numbers().value("0,971"), Numbers().value("n/a")
        (2.971, 0.971, None)
        """
        text = plain(cell)
        if text.casefold() in _MISSING:
            return None
        match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
        if match is None or re.search(r"[^\W_]|%", re.sub(r"\([^()]*\)", "", match[2])):
            raise ValueError(f"{cell!r} is no number")
        return self._number(match[1])

    def _number(self, text: str) -> float | None:
        text = re.sub(rf"(?<=\d)[{_SPACES}](?=\d{{3}}(?!\d))", "", text)
        comma, dot = text.rfind(","), text.rfind(".")
        if comma >= 0 and dot >= 0:
            sign, other = (",", ".") if comma > dot else (".", ",")
            text = text.replace(other, "").replace(sign, ".")
        elif text.count(",") > 1 or text.count(".") > 1:
            if not _GROUPED.fullmatch(text.lstrip("+-")):
                raise ValueError(f"{text!r} is no number")
            text = text.replace(",", "").replace(".", "")
        elif comma >= 0:
            decimal = not _GROUPED.fullmatch(text.lstrip("+-")) or text.lstrip("+-").startswith("0")
            if self.decimal is None and not decimal:
                self.ambiguous += 1
                return None
            if self.decimal == "." and decimal:
                raise ValueError(f"{text!r} is no number")
            self.decimal = self.decimal or ","
            text = text.replace(",", "." if self.decimal == "," else "")
        elif dot >= 0:
            self.decimal = self.decimal or "."
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{text!r} is no number") from None


def index_value(cell: str) -> float | None:
    """The epoch or step that a cell names, None when it names none; a comma in it parts thousands.

    >>> index_value("1500 (Phase 1 end)"), index_value("Epoch 3/30"), index_value("1,500"), index_value("5.046 → 3.5")
    (1500.0, 3.0, 1500.0, None)
    """
    match = _INDEX.fullmatch(plain(cell)) if len(cell) <= _LONGEST else None
    if match is None:
        return None
    text = match[1]
    if _GROUPED.fullmatch(text) and ("." not in text or text.count(".") > 1):
        text = re.sub(rf"[,.{_SPACES}]", "", text)
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return value if value < _MOST else None


@dataclass(frozen=True)
class Column:
    """What a header means. `given`: the user named it; `side` is None where the header does not say one."""

    header: str
    kind: Kind
    side: Side | None = None
    name: str = ""
    given: bool = False


def read_header(cells: Sequence[str], named: Mapping[str, str]) -> list[Column] | None:
    """The columns of a table of metrics by epoch or step; None when the cells are not the header of one.

    Args:
        cells: the header's cells.
        named: header, without regard to case -> our name.
    """
    columns: list[Column] = []
    for cell in cells:
        header = plain(cell)
        if len(cells) > _MOST_COLUMNS or len(header) > 80 or _NUMBER.fullmatch(header):
            return None
        columns.append(_column(header, named.get(header.casefold())))
    for kind in ("epoch", "step", "lr", "memory_state", "sample_score", "run"):
        _keep_one(columns, kind)
    kinds = {column.kind for column in columns}
    return columns if kinds & {"epoch", "step"} and kinds & {"metric", "sample", "sample_score"} else None


def _column(header: str, name: str | None) -> Column:
    if name is not None:
        side, _, key = name.partition(".")
        if side == "sample":
            return Column(header, "sample", None, key, given=True)
        return Column(header, "metric", "eval" if side == "eval" else "train", key, given=True)
    label = read_label(header)
    if label.index is not None:
        kinds: dict[str, Kind] = {"epoch": "epoch", "step": "step", "lr": "lr", "memory_state": "memory_state"}
        return Column(header, kinds.get(label.index, "sample_score"))
    if label.name in _RUN:
        return Column(header, "run")
    # "Val mel/objective", as the checklist has it.
    key = label.name.removesuffix("_objective")
    if not re.search(r"[^\W\d_]", header) or key in _NO_METRICS or not is_loss(key):
        return Column(header, "other")
    return Column(header, "metric", label.side, key)


def _keep_one(columns: list[Column], kind: str) -> None:
    """Of several columns of a kind the one that says `global`, else the first."""
    found = [i for i, column in enumerate(columns) if column.kind == kind]
    best = next((i for i in found if "global" in columns[i].header.casefold()), found[0] if found else -1)
    for i in found:
        if i != best:
            columns[i] = Column(columns[i].header, "other")

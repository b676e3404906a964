"""Lines of a diagram: out of the events of a run, and with fewer points than it has. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["train", "eval", "target", "lr", "planned", "middle", "highest", "measures", "listeners", "row"]

#: Values that span more than this factor are better looked at on a logarithmic scale.
_WIDE = 20.0
#: So many numbers that are none are named by their step.
_NAMED = 5


@dataclass(frozen=True)
class Line:
    """Values at GLOBAL_STEPs, ascending; one that is NaN or infinite stands as it is, for a gap.

    `segment` is the number of the segment (`RunRecord.segments`) that evaluations belong to, from 0; None for what no
    eval set has a say in. `abandoned`: a resume or a rewind took this stretch back. `low` and `high` are 95 % intervals
    at the same steps (NaN where there is none), or both empty.
    """

    name: str
    kind: Kind
    steps: tuple[int, ...]
    values: tuple[float, ...]
    segment: int | None = None
    abandoned: bool = False
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.steps)


def points_of(events: Iterable[Any], value: Callable[[Any], float | None]) -> list[tuple[int, float]]:
    """Step and value of the events that have one."""
    found = ((event.step, value(event)) for event in events)
    return [(step, float(number)) for step, number in found if number is not None]


def line_of(
    name: str,
    kind: Kind,
    points: Iterable[tuple[int, float]],
    *,
    segment: int | None = None,
    abandoned: bool = False,
    factor: float = 1.0,
) -> Line:
    """A line through points in any order, their values times `factor`."""
    ordered = sorted(points, key=lambda point: point[0])
    steps, values = tuple(step for step, _ in ordered), tuple(factor * value for _, value in ordered)
    return Line(name, kind, steps, values, segment, abandoned)


def with_points(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Those that are not empty."""
    return tuple(line for line in lines if len(line))


def wide(lines: Iterable[Line]) -> bool:
    """Whether values, all of them above 0, are better looked at on a logarithmic scale."""
    values = [value for line in lines for value in line.values if math.isfinite(value)]
    return bool(values) and min(values) > 0 and max(values) > _WIDE * min(values)


def no_numbers(lines: Iterable[Line]) -> str:
    """A sentence on the values that are NaN or infinite: a diagram shows them as nothing."""
    at = sorted({s for line in lines for s, v in zip(line.steps, line.values, strict=True) if not math.isfinite(v)})
    if not at:
        return ""
    named = ", ".join(map(str, at[:_NAMED])) + (f" and {len(at) - _NAMED} more" if len(at) > _NAMED else "")
    return f"No number (NaN or infinity) at step {named}."


def thinned(line: Line, most: int) -> Line:
    """The line with at most about `most` points: of each stretch its lowest, its highest and what is no number.

    The ends stay. A line with intervals is left as it is: there is one for each set of samples, a few dozen.
    """
    count = len(line)
    if count <= most or line.low:
        return line
    stretch = math.ceil(2 * count / most)
    kept = {0, count - 1}
    for begin in range(0, count, stretch):
        inside = range(begin, min(begin + stretch, count))
        finite = [at for at in inside if math.isfinite(line.values[at])]
        if finite:
            kept |= {min(finite, key=line.values.__getitem__), max(finite, key=line.values.__getitem__)}
        kept |= set([at for at in inside if not math.isfinite(line.values[at])][:1])
    at = sorted(kept)
    steps, values = tuple(line.steps[i] for i in at), tuple(line.values[i] for i in at)
    return Line(line.name, line.kind, steps, values, line.segment, line.abandoned)

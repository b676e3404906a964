"""Which clips a run has drawn, how often, and which of them do not learn: from its step log. Pure Python.

XTTS draws its clips at random, with replacement: some are drawn five times an epoch, some never. And a loss is that of
a batch: what a single clip adds to it is estimated from the batches it was in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from xtts_gatekeeper.dataset.roster import Roster
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.record.steps import STEPS

#: The losses by which a clip is judged, the most telling first.
_LOSSES = ("loss_mel_ce", "loss")
#: A level is the median over at least so many steps.
_LEVEL_STEPS = 25
#: A clip's course is told from so many draws in each half.
_ENOUGH_DRAWS = 3
#: A clip that gained less than this share of what the whole set gained has not learned with it.
_STUCK_SHARE = 0.25
#: And its loss stands out by so many robust standard deviations.
_STUCK_DEVIATIONS = 2.0
#: Draws of no effect that every clip is given beforehand: what was seen once or twice says little (ridge regression).
_SHRINK = 1.0
_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Course:
    """How a clip fared.

    `draws` counts the micro-batches it was in. `early` and `late` are its estimated losses in the first and second half
    of the steps, None where it was drawn too seldom; `above` is how far `late` lies above that of the whole set.
    `stuck`: it has not learned with the others.
    """

    name: str
    draws: int
    first_step: int | None = None
    last_step: int | None = None
    early: float | None = None
    late: float | None = None
    above: float | None = None
    stuck: bool = False


@dataclass(frozen=True)
class Coverage:
    """The clips of a run, those that stand out first, and what they are measured by: loss `metric` over `steps`."""

    metric: str
    steps: int
    clips: tuple[Course, ...]

    def to_dict(self) -> dict[str, Any]:
        """As `status --clips --json` prints it."""
        draws = [clip.draws for clip in self.clips]
        return {
            "metric": self.metric,
            "steps": self.steps,
            "clips": len(draws),
            "never_drawn": sum(not count for count in draws),
            "median_draws": median(draws) if draws else None,
            "most_draws": max(draws, default=None),
            "stuck": [clip.name for clip in self.clips if clip.stuck],
            "courses": [{name: getattr(clip, name) for name in Course.__slots__} for clip in self.clips],
        }


def coverage_of(run: Path) -> Coverage:
    """Read the step log of a run; without one, or without clips in it, an empty coverage."""
    names = [clip.name if not clip.run else "" for clip in Roster(run).clips]
    return coverage(_lines(run / FOLDER / STEPS), names)


def coverage(lines: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Coverage:
    """Work it out.

    The level of the whole set is the median loss of a stretch of steps. What a batch lies above it is the mean of what
    its clips lie above it: least squares, a little shrunk to zero, solved clip by clip.

    Args:
        lines: of the step log, in the order they were written. A step that was trained again, after a resume or a
            rewind, counts as it was trained last.
        names: of the clips, by number; empty for what is no clip of this run.
    """
    steps: dict[int, tuple[tuple[int, ...], Mapping[str, Any]]] = {}
    for line in lines:
        step = line.get("step")
        if isinstance(step, int):
            clips = tuple(n for n in line.get("clips") or () if isinstance(n, int) and 0 <= n < len(names))
            if steps and step < next(reversed(steps)):  # the run went back
                steps = {at: found for at, found in steps.items() if at < step}
            steps[step] = (clips, line)
    metric = next((key for key in _LOSSES if any(_number(line.get(key)) for _, line in steps.values())), "")
    rows = [(step, clips, line.get(metric)) for step, (clips, line) in steps.items() if clips]
    drawn: dict[int, list[int]] = {}
    for step, clips, _ in rows:
        for number in clips:
            drawn.setdefault(number, []).append(step)
    measured = [(clips, float(loss)) for _, clips, loss in rows if _number(loss) and loss is not None]
    middle = len(measured) // 2
    early_level, early = _effects(measured[:middle])
    late_level, late = _effects(measured[middle:])
    spread = 1.4826 * median([abs(effect) for effect, _ in late.values()]) if late else 0.0
    gain_of_all = early_level - late_level
    courses = []
    for number, name in enumerate(names):
        if not name:
            continue
        at = drawn.get(number, [])
        before, after = _estimate(early, number, early_level), _estimate(late, number, late_level)
        above = None if after is None else after - late_level
        stuck = (
            before is not None
            and above is not None
            and gain_of_all > 0
            and before - late_level - above < _STUCK_SHARE * gain_of_all
            and above > _STUCK_DEVIATIONS * spread
        )
        first, last = (min(at), max(at)) if at else (None, None)
        courses.append(Course(name, len(at), first, last, _rounded(before), _rounded(after), _rounded(above), stuck))
    courses.sort(key=lambda one: (not one.stuck, -(one.above if one.above is not None else -math.inf), one.name))
    return Coverage(metric, len(steps), tuple(courses))


def _effects(measured: Sequence[tuple[tuple[int, ...], float]]) -> tuple[float, dict[int, tuple[float, int]]]:
    """The median level of some steps; by clip, how far it lies above the level of its time, and in how many batches."""
    if not measured:
        return math.nan, {}
    length = max(_LEVEL_STEPS, len(measured) // 10)
    levels = [median(loss for _, loss in measured[at : at + length]) for at in range(0, len(measured), length)]
    if len(measured) % length and len(measured) % length < _LEVEL_STEPS and len(levels) > 1:
        levels[-1] = levels[-2]  # a rest of a few steps is no level
    rest = [loss - levels[at // length] for at, (_, loss) in enumerate(measured)]
    batches: dict[int, list[int]] = {}
    for at, (clips, _) in enumerate(measured):
        for number in set(clips):
            batches.setdefault(number, []).append(at)
    effect = dict.fromkeys(batches, 0.0)
    for _ in range(_ROUNDS):
        moved = 0.0
        for number, found in batches.items():
            share = [measured[at][0].count(number) / len(measured[at][0]) for at in found]
            wanted = sum(part * (rest[at] + part * effect[number]) for part, at in zip(share, found, strict=True))
            weight = sum(part * part for part in share) + _SHRINK * share[0] ** 2
            new = wanted / weight
            for part, at in zip(share, found, strict=True):
                rest[at] -= part * (new - effect[number])
            moved = max(moved, abs(new - effect[number]))
            effect[number] = new
        if moved < 1e-6:
            break
    return median(levels), {number: (effect[number], len(found)) for number, found in batches.items()}


def _estimate(effects: Mapping[int, tuple[float, int]], number: int, level: float) -> float | None:
    effect, draws = effects.get(number, (0.0, 0))
    return level + effect if draws >= _ENOUGH_DRAWS else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if isinstance(found, dict):
                    yield found
    except OSError:
        return

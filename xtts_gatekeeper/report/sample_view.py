"""The samples of a run as a page shows them: prompt by prompt, the sets over time side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.report.samples import LINES
from xtts_gatekeeper.samples.calibration import Spread, read_calibration
from xtts_gatekeeper.samples.comparison import Comparison, compare, label
from xtts_gatekeeper.samples.sampling import CALIBRATION, samples_folder
from xtts_gatekeeper.samples.score import ROWS, kinds_of, rows
from xtts_gatekeeper.samples.sets import Measured, Sample, SampleSet
from xtts_gatekeeper.samples.speak import sets_in

Audio = Literal["few", "all", "none"]

#: So many sets stand side by side unless all are asked for: more are no comparison.
FEW = 6
#: What is shown of the measures, in this order.
_MEASURES = ("wer", "cer", "dnsmos", "naturalness", "likeness", "pitch_spread_semitones")

Play = Callable[[Path], str | None]


@dataclass(frozen=True)
class Cell:
    """What one set has of one prompt, a take.

    `sound` is a data URI, None where nothing can be played; `faults` are kinds with a sentence each; `measures` names
    with values as text; `score` of 25, `rows` of 5.
    """

    sound: str | None
    error: str
    seconds: float
    score: float | None
    rows: Mapping[str, float]
    faults: tuple[tuple[str, str], ...]
    heard: str | None
    measures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Column:
    """A set: its name, what it is shown for (`first`, `best`, `latest`), and its marks by name without `sample.`."""

    name: str
    step: int
    shown_as: tuple[str, ...]
    marks: Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """A prompt, and what each set has of it: a list of takes."""

    prompt: str
    text: str
    language: str
    own: bool
    cells: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class SampleView:
    """What is shown: `columns` of `all` sets there are, `rows` of prompts, and how neighbours compare."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    comparisons: tuple[Mapping[str, Any], ...]
    all: int
    notes: tuple[str, ...]

    @property
    def mark_names(self) -> list[str]:
        """The rows that any of the sets has a mark in."""
        return [name for name in (*ROWS, "other_languages") if any(name in column.marks for column in self.columns)]

    @property
    def lines(self) -> Mapping[str, tuple[str, int]]:
        """What is compared -> its words and decimals."""
        return LINES


def sample_view(run: Path, best_step: int | None, audio: Audio, play: Play) -> SampleView | None:
    """Read the samples of a run; None where there are none.

    Args:
        run: its folder.
        best_step: of the weights that the verdict calls the best.
        audio: which sets can be heard, and with that are shown: see `chosen`.
        play: makes a data URI of a file.
    """
    found = sets_in(samples_folder(run))
    same = [made for made in found if made.prompts == found[-1].prompts]
    if not same:
        return None
    picked = chosen(same, best_step, len(same) if audio == "all" else FEW)
    shown = [same[at] for at in picked]
    scale = samples_folder(run) / CALIBRATION
    spread: Mapping[str, Spread] = {}
    with contextlib.suppress(UserError):
        spread = read_calibration(scale).spread if scale.is_file() else {}
    comparisons, notes = _comparisons(shown, spread)
    others = len(found) - len(same)
    if others:
        sets = f"{others} sets" if others > 1 else "1 set"
        notes.append(f"{sets} of other prompts, voice or settings {'are' if others > 1 else 'is'} left out.")
    quiet: Play = (lambda path: None) if audio == "none" else play
    return SampleView(
        tuple(
            Column(label(made), made.step, said_for, {k.removeprefix("sample."): v for k, v in made.scores.items()})
            for made, said_for in zip(shown, picked.values(), strict=True)
        ),
        tuple(_rows(shown, spread, quiet)),
        tuple(comparisons),
        len(same),
        tuple(notes),
    )


def chosen(sets: Sequence[SampleSet], best_step: int | None, most: int) -> dict[int, tuple[str, ...]]:
    """At most `most` (2 or more) of comparable sets, by their place, with what each is shown for.

    The first and the latest; the one of the best weights, else that with the highest score; those in between as even as
    may be.
    """
    last = len(sets) - 1
    rated = [at for at, made in enumerate(sets) if "sample.score" in made.scores]
    best = next((at for at, made in enumerate(sets) if made.step == best_step), None)
    if best is None and rated:
        best = max(rated, key=lambda at: sets[at].scores["sample.score"])
    reasons: dict[int, list[str]] = {}
    for at, reason in ((last, "latest"), (0, "first"), (best, "best")):
        if at is not None and (at in reasons or len(reasons) < most):
            reasons.setdefault(at, []).append(reason)
    taken = set(reasons)
    while len(taken) < min(most, len(sets)):
        # In the middle of the widest gap.
        left, right = max(pairwise(sorted(taken)), key=lambda ends: ends[1] - ends[0])
        taken.add((left + right) // 2)
    order = ("first", "best", "latest")
    return {at: tuple(word for word in order if word in reasons.get(at, ())) for at in sorted(taken)}


def _comparisons(sets: Sequence[SampleSet], spread: Mapping[str, Spread]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Each set against the one before it, and why some are not compared."""
    found: list[Comparison] = []
    notes: dict[str, None] = {}
    for before, after in pairwise(sets):
        if before.measured and after.measured:
            try:
                found.append(compare(before, after, spread, resamples=1000))
            except UserError as error:
                notes[str(error)] = None
    return [comparison.to_dict() for comparison in found], list(notes)


def _rows(sets: Sequence[SampleSet], spread: Mapping[str, Spread], play: Play) -> list[Row]:
    prompts = {sample.prompt: sample for made in reversed(sets) for sample in made.samples}
    return [
        Row(
            prompt,
            sample.text,
            sample.language,
            sample.own,
            tuple(
                tuple(_cell(made, take, spread, play) for take in made.samples if take.prompt == prompt)
                for made in sets
            ),
        )
        for prompt, sample in prompts.items()
    ]


def _cell(made: SampleSet, sample: Sample, spread: Mapping[str, Spread], play: Play) -> Cell:
    measured = made.of(sample)
    marks = rows(sample, measured, spread)
    return Cell(
        sound=play(made.folder / sample.file) if _own_file(sample.file) else None,
        error=sample.error or (measured.error if measured is not None else ""),
        seconds=sample.seconds,
        score=sum(marks.values()) if all(row in marks for row in ROWS) else None,
        rows=marks,
        faults=_faults(sample, measured),
        heard=measured.heard if measured is not None else None,
        measures=_measures(measured),
    )


def _own_file(name: str) -> bool:
    """Whether a name in `samples.json` is that of a file of the set, and of none elsewhere."""
    return bool(name) and Path(name).name == name and "\\" not in name


def _faults(sample: Sample, measured: Measured | None) -> tuple[tuple[str, str], ...]:
    said = {fault.kind: fault.message for fault in measured.faults} if measured is not None else {}
    return tuple((kind.replace("_", " "), said.get(kind, "")) for kind in sorted(kinds_of(sample, measured)))


def _measures(measured: Measured | None) -> tuple[tuple[str, str], ...]:
    if measured is None:
        return ()
    found = ((name, measured.values.get(name)) for name in _MEASURES)
    return tuple((LINES[name][0], f"{value:.{LINES[name][1]}f}") for name, value in found if value is not None)

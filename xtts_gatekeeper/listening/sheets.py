"""What one listener said, by samples and no longer by tokens; and how far they agree with themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xtts_gatekeeper.listening.answers import NONE_BETTER, Answer
from xtts_gatekeeper.listening.trials import Trial

#: Mean differences of a row up to which a listener marks alike, and from which on hardly so: dice differ by 1.6.
_ALIKE, _UNLIKE = 0.5, 1.0


@dataclass(frozen=True)
class Rating:
    """The marks of one sample in one trial, row -> 1 to 5, and the kinds of faults that were heard."""

    group: str
    source: str
    rows: Mapping[str, int]
    faults: frozenset[str] = frozenset()
    repeat: bool = False

    @property
    def total(self) -> int:
        """Of 25."""
        return sum(self.rows.values())


@dataclass(frozen=True)
class Ballot:
    """Which of `sources` was preferred in one trial; None: none was."""

    group: str
    sources: tuple[str, ...]
    preferred: str | None
    repeat: bool = False


@dataclass(frozen=True)
class Sheet:
    """Everything that one listener said, all trials being complete."""

    listener: str
    ratings: tuple[Rating, ...]
    ballots: tuple[Ballot, ...]


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """How a listener judged the samples that came twice.

    `repeats` counts these samples; `difference` is the mean absolute difference of their totals of 25,
    `row_difference` that of a row; `same_preference` the share of trials in which the same one was preferred, None
    where nothing was to prefer.
    """

    repeats: int
    difference: float
    row_difference: float
    same_preference: float | None
    sentence: str


def sheet_of(listener: str, trials: Sequence[Trial], answers: Mapping[str, Answer]) -> Sheet:
    """Resolve the tokens of complete answers.

    Args:
        listener: the name.
        trials: the listener's.
        answers: by trial, all of them complete.
    """
    ratings, ballots = [], []
    for trial in trials:
        answer = answers[trial.id]
        for shown in trial.shown:
            marks = {str(row): int(mark) for row, mark in answer.marks[shown.token].items()}
            heard = frozenset(str(kind) for kind in answer.faults.get(shown.token, ()))
            ratings.append(Rating(trial.group.id, shown.source, marks, heard, trial.repeat))
        if trial.preference:
            best = trial.of(answer.preferred) if answer.preferred not in (None, NONE_BETTER) else None
            sources = tuple(shown.source for shown in trial.shown)
            ballots.append(Ballot(trial.group.id, sources, best.source if best is not None else None, trial.repeat))
    return Sheet(listener, tuple(ratings), tuple(ballots))


def consistency_of(sheets: Iterable[Sheet]) -> Consistency | None:
    """How far the first and the second judgement of the same samples agree; None where none came twice.

    Args:
        sheets: of one person.
    """
    totals, rows, same = [], [], []
    for sheet in sheets:
        first = {(rating.group, rating.source): rating for rating in sheet.ratings if not rating.repeat}
        for again in (rating for rating in sheet.ratings if rating.repeat):
            before = first[again.group, again.source]
            totals.append(abs(again.total - before.total))
            rows += [abs(mark - before.rows[row]) for row, mark in again.rows.items()]
        voted = {ballot.group: ballot.preferred for ballot in sheet.ballots if not ballot.repeat}
        same += [ballot.preferred == voted[ballot.group] for ballot in sheet.ballots if ballot.repeat]
    if not totals:
        return None
    difference, row_difference = _mean(totals), _mean(rows)
    share = _mean(same) if same else None
    return Consistency(
        repeats=len(totals),
        difference=difference,
        row_difference=row_difference,
        same_preference=share,
        sentence=_sentence(len(totals), difference, row_difference, share),
    )


def _sentence(repeats: int, difference: float, row_difference: float, share: float | None) -> str:
    samples, they = (f"{repeats} samples", "were") if repeats > 1 else ("One sample", "was")
    if row_difference <= _ALIKE:
        judged = "much alike"
    elif row_difference < _UNLIKE:
        judged = "somewhat otherwise the second time"
    else:
        judged = "quite otherwise the second time, so that little can be built on these marks"
    told = (
        f"{samples} came twice, unannounced, and {they} marked {judged}: the totals differ by {difference:.1f} of 25, "
    )
    told += f"a row by {row_difference:.1f}"
    return told + (f"; the preference was the same in {share:.0%} of the cases." if share is not None else ".")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)

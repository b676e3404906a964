"""From what listeners said to scores: the rubric's rows and total of each system, faults, and who is preferred to whom.

Pure. What a listener heard twice counts once, by its mean. A sample that could not be spoken has 1 in every row from
everybody, and a fault, as when measures judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.listening.crossed import crossed_interval
from xtts_gatekeeper.listening.session import REAL, Session, System
from xtts_gatekeeper.listening.sheets import Ballot, Consistency, Rating, Sheet, consistency_of
from xtts_gatekeeper.listening.trials import listener_key
from xtts_gatekeeper.record.events import SampleScore
from xtts_gatekeeper.record.run import LISTENERS
from xtts_gatekeeper.samples.score import ROWS, WORST

#: A fault is one of a sample where so large a share of those who heard it named it.
_AGREED = 0.5
_NOT_SPOKEN = "not_spoken"


@dataclass(frozen=True)
class Estimate:
    """A mean, and the ends of its 95 % interval; None where there are too few prompts for one."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """The marks of a system, or of the real clips (`source` and `name` then say so), over `prompts`.

    `metrics` by their names in a record: `sample.score` (of 25), the five rows (of 5), and `sample.faults`, the share
    of samples with a fault. `faults` counts samples by kind: those where at least half of the listeners heard it.
    `preferred` counts how often it was preferred to everything beside it.
    """

    source: str
    name: str
    step: int | None
    prompts: int
    metrics: Mapping[str, Estimate]
    faults: Mapping[str, int] = field(default_factory=dict)
    preferred: int = 0

    @property
    def score(self) -> float:
        """The total of 25."""
        return self.metrics["sample.score"].mean

    @property
    def rows(self) -> dict[str, float]:
        """Row -> mark of 5."""
        return {row: self.metrics[f"sample.{row}"].mean for row in ROWS}


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Two systems against each other.

    `votes` of listeners at prompts: for the first, for the second, for neither of them. `prompts`: at how many the
    first, and the second, had more votes; `p` is that of a two-sided sign test over them, `share` the part of them that
    the first had, with Wilson's interval, None where there are none. `difference`: the first's total of 25 minus the
    second's, prompt by prompt, None where they have no prompt in common.
    """

    first: str
    second: str
    votes: tuple[int, int, int]
    prompts: tuple[int, int]
    p: float
    share: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Somebody who has answered everything."""

    name: str
    consistency: Consistency | None


@dataclass(frozen=True, kw_only=True)
class Results:
    """What all complete listeners of a session said; `real` are the speaker's own clips, where some were heard."""

    session: str
    created: str
    prompts: str
    listeners: tuple[Listener, ...]
    systems: tuple[Score, ...]
    preferences: tuple[Preference, ...]
    real: Score | None

    def to_dict(self) -> dict[str, Any]:
        """The results as `--json` prints them."""
        return asdict(self)


def results_of(session: Session, sheets: Sequence[Sheet]) -> Results:
    """Score a session.

    Args:
        session: what was heard.
        sheets: complete ones, at least one; those under the same name are of one person.
    """
    people: dict[str, list[Sheet]] = {}
    for sheet in sheets:
        people.setdefault(listener_key(sheet.listener), []).append(sheet)
    persons = list(people.values())
    real = any(group.of(REAL) is not None for group in session.groups)
    return Results(
        session=session.id,
        created=session.created,
        prompts=session.prompts,
        listeners=tuple(Listener(name=person[0].listener, consistency=consistency_of(person)) for person in persons),
        systems=tuple(_score(session, system, persons) for system in session.systems),
        preferences=tuple(_preference(session, a, b, persons) for a, b in combinations(reversed(session.systems), 2)),
        real=_score(session, None, persons) if real else None,
    )


def to_events(results: Results, epochs: Mapping[str, int], folder: str, time: str) -> list[SampleScore]:
    """The scores as the journal has them.

    Args:
        results: of a session.
        epochs: of the weights of each system, by source.
        folder: of the samples, relative to the run.
        time: now.
    """
    return [
        SampleScore(
            step=score.step or 0,
            epoch=epochs[score.source],
            time=time,
            metrics={name: round(found.mean, 6) for name, found in score.metrics.items()},
            prompts=results.prompts,
            by=LISTENERS,
            folder=f"{folder}/{score.source}",
            faults=dict(score.faults),
            listeners=len(results.listeners),
            intervals={
                name: [round(found.low, 6), round(found.high, 6)]
                for name, found in score.metrics.items()
                if found.low is not None and found.high is not None
            },
        )
        for score in results.systems
    ]


# Marks


def _score(session: Session, system: System | None, persons: Sequence[Sequence[Sheet]]) -> Score:
    """The score of a system; None: of the real clips."""
    source = system.source if system is not None else REAL
    groups = [group for group in session.groups if group.of(source) is not None or source in group.failed]
    failed = {group.id for group in groups if source in group.failed}

    def over(value: Callable[[Rating], float], of_failed: float) -> Estimate:
        return _estimate(
            [[_cell(person, g.id, source, value, of_failed, failed) for g in groups] for person in persons]
        )

    metrics = {"sample.score": over(lambda rating: rating.total, WORST * len(ROWS))}
    for row in ROWS:
        metrics[f"sample.{row}"] = over(_mark(row), WORST)
    metrics["sample.faults"] = over(lambda rating: float(bool(rating.faults)), 1.0)
    ballots = [ballot for person in persons for ballot in _first(person)]
    return Score(
        source=source,
        name=system.name if system is not None else "real clips",
        step=system.step if system is not None else None,
        prompts=len(groups),
        metrics=metrics,
        faults=_faults([group.id for group in groups], source, failed, persons),
        preferred=sum(ballot.preferred == source for ballot in ballots),
    )


def _mark(row: str) -> Callable[[Rating], float]:
    return lambda rating: rating.rows[row]


def _cell(
    person: Iterable[Sheet],
    group: str,
    source: str,
    value: Callable[[Rating], float],
    of_failed: float,
    failed: Iterable[str],
) -> float:
    """A value of one sample by one person: the mean over the times that they heard it."""
    return of_failed if group in failed else _mean([value(rating) for rating in _ratings(person, group, source)])


def _ratings(person: Iterable[Sheet], group: str, source: str) -> list[Rating]:
    return [r for sheet in person for r in sheet.ratings if (r.group, r.source) == (group, source)]


def _faults(groups: Sequence[str], source: str, failed: set[str], persons: Sequence[Sequence[Sheet]]) -> dict[str, int]:
    counts = {_NOT_SPOKEN: len(failed)} if failed else {}
    for group in (group for group in groups if group not in failed):
        heard: dict[str, float] = {}
        for person in persons:
            ratings = _ratings(person, group, source)
            for rating in ratings:
                for kind in rating.faults:
                    heard[kind] = heard.get(kind, 0.0) + 1 / (len(ratings) * len(persons))
        for kind, share in heard.items():
            if share >= _AGREED - 1e-9:
                counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _estimate(values: Sequence[Sequence[float]]) -> Estimate:
    """Over listeners (rows) and prompts."""
    return Estimate(_mean([_mean(row) for row in values]), *(crossed_interval(values) or (None, None)))


# Preference


def _preference(session: Session, a: System, b: System, persons: Sequence[Sequence[Sheet]]) -> Preference:
    """The first of two systems against the second, at the prompts where both were heard, or failed."""
    votes = [0, 0, 0]
    prompts = [0, 0]
    differences: list[list[float]] = [[] for _ in persons]
    for group in session.groups:
        if group.of(a.source) is not None and group.of(b.source) is not None:
            cast = [_vote(person, group.id, a.source, b.source) for person in persons]
            for number, vote in enumerate((1, -1, 0)):
                votes[number] += cast.count(vote)
            if sum(cast):
                prompts[sum(cast) < 0] += 1
        totals = [_totals(session, group.id, system.source, persons) for system in (a, b)]
        for found, one, other in zip(differences, *totals, strict=True):
            if one is not None and other is not None:
                found.append(one - other)
    decided = sum(prompts)
    p, share = 1.0, None
    if decided:
        test = import_extra("scipy.stats", "listen").binomtest(prompts[0], decided)
        between = test.proportion_ci(method="wilson")
        p, share = float(test.pvalue), Estimate(prompts[0] / decided, float(between.low), float(between.high))
    return Preference(
        first=a.name,
        second=b.name,
        votes=(votes[0], votes[1], votes[2]),
        prompts=(prompts[0], prompts[1]),
        p=p,
        share=share,
        difference=_estimate(differences) if differences[0] else None,
    )


def _totals(session: Session, group: str, source: str, persons: Sequence[Sequence[Sheet]]) -> list[float | None]:
    """The total of one sample by each person; None where it was not to be had."""
    found = next(one for one in session.groups if one.id == group)
    if source in found.failed:
        return [WORST * len(ROWS)] * len(persons)
    if found.of(source) is None:
        return [None] * len(persons)
    return [_mean([rating.total for rating in _ratings(person, group, source)]) for person in persons]


def _vote(person: Iterable[Sheet], group: str, a: str, b: str) -> int:
    """1 for `a`, -1 for `b`, 0 for neither; of somebody who voted on several sheets, what most of them say."""
    cast = [(ballot.preferred == a) - (ballot.preferred == b) for ballot in _first(person) if ballot.group == group]
    return (sum(cast) > 0) - (sum(cast) < 0)


def _first(person: Iterable[Sheet]) -> list[Ballot]:
    """The ballots of first hearings: a repeat is no vote more."""
    return [ballot for sheet in person for ballot in sheet.ballots if not ballot.repeat]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)

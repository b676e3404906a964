"""`RunRecord`: everything that is known of one run, as plain data, whatever it was read from."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from xtts_gatekeeper.record.events import (
    Action,
    BadBatch,
    Checkpoint,
    Crash,
    End,
    Evaluation,
    Event,
    Incident,
    PhaseStart,
    Pruned,
    Renamed,
    SampleScore,
    Start,
    TrainEpoch,
    VerdictEvent,
)
from xtts_gatekeeper.record.models import HIGHER_IS_BETTER, Model, model_of, resolve
from xtts_gatekeeper.series import median_slope, noise_allowance

#: Who judged samples, where people did: `SampleScore.by`.
LISTENERS = "listeners"

Source = Literal["journal", "console", "tensorboard", "table"]


@dataclass(frozen=True)
class Segment:
    """A stretch of evaluations that may be compared with each other; `why` it is cut off from those before it.

    `leaked` of its eval clips were trained on. `doubtful`: for that, or for a fall that no training explains, it looks
    better than the model is.
    """

    eval_set: str | None
    evaluations: tuple[Evaluation, ...]
    why: str = ""
    leaked: int = 0
    doubtful: bool = False


@dataclass(frozen=True)
class Note:
    """Something that a reader could not read, or had to assume, and how often."""

    code: str
    message: str
    count: int = 1


@dataclass(frozen=True)
class Series:
    """The comparable values of one metric, in order, at GLOBAL_STEPs `steps`.

    `metric` is the name it has in the run, which for a role (`eval.objective`) is another than was asked for.
    `intervals` holds, by the index of a value, the ends of its 95 % interval, for those that have one.
    """

    metric: str
    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    intervals: Mapping[int, Sequence[float]] = field(default_factory=dict)

    @property
    def losses(self) -> tuple[float, ...]:
        """The values with the sign that makes lower better."""
        return tuple(-v for v in self.values) if self.metric in HIGHER_IS_BETTER else self.values

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class RunRecord:
    """One run as its events tell it.

    A resume can go back to an earlier step, and a rewind to the weights of one. What the abandoned stretch measured is
    left out of `evaluations` and `train_epochs`, which follow the line of weights that is in use; `events` has it.

    `name` tells one run from another where a source holds several; `notes` are what the reader has to say; `names` are
    a policy's own names for metrics.
    """

    events: tuple[Event, ...]
    source: str = "journal"
    name: str = ""
    notes: tuple[Note, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    #: Shared with every record made of this one by `upto` or `naming`; for results that depend on its events alone.
    memo: dict[Any, bool] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _line(self) -> tuple[tuple[Evaluation, ...], tuple[TrainEpoch, ...], frozenset[int]]:
        """Evaluations, training epochs, and the ids of the evaluations that were the first after a resume."""
        line = line_of(self.events)
        evaluations: list[Evaluation] = []
        epochs: list[TrainEpoch] = []
        first_after_resume: set[int] = set()
        resumed = False
        for event in line:
            if isinstance(event, Start):
                resumed = bool(evaluations)
            elif isinstance(event, Action) and event.name == "rewind":
                back = int(event.values.get("to_step", event.step))
                evaluations = [e for e in evaluations if e.step <= back]
                epochs = [e for e in epochs if e.step <= back]
            elif isinstance(event, Evaluation):
                if resumed:
                    first_after_resume.add(id(event))
                resumed = False
                evaluations.append(event)
            elif isinstance(event, TrainEpoch):
                epochs.append(event)
        return tuple(evaluations), tuple(epochs), frozenset(first_after_resume)

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Evaluations in the order they were made, those of abandoned stretches left out."""
        return self._line[0]

    @property
    def train_epochs(self) -> tuple[TrainEpoch, ...]:
        """Finished training epochs, those of abandoned stretches left out."""
        return self._line[1]

    @cached_property
    def metrics(self) -> frozenset[str]:
        """The name of every metric that the run logs."""
        found: set[str] = set()
        for event in self.events:
            if isinstance(event, Evaluation | TrainEpoch | SampleScore):
                found.update(event.metrics)
        return frozenset(found)

    @property
    def model(self) -> Model:
        """The kind of model, by the metrics that it logs."""
        return model_of(self.metrics)

    def resolve(self, name: str) -> str | None:
        """The metric of this run that a name or a role (`eval.objective`) means; None when it has none such."""
        return resolve(name, self.metrics, self.names)

    def series(self, name: str) -> Series:
        """The comparable values of a metric or role.

        `eval.*` over the latest segment, `train.*` over all epochs, `sample.*` over the prompts of the latest score.
        """
        metric = self.resolve(name)
        if metric is None:
            return Series(name)
        points: Sequence[Evaluation | TrainEpoch | SampleScore]
        if metric.startswith("eval."):
            points = self.segments[-1].evaluations if self.segments else ()
        elif metric.startswith("train."):
            points = self.train_epochs
        else:
            points = self.sample_scores
        found = [point for point in points if metric in point.metrics]
        heard = {number: point for number, point in enumerate(found) if isinstance(point, SampleScore)}
        return Series(
            metric,
            tuple(point.step for point in found),
            tuple(point.metrics[metric] for point in found),
            {number: point.intervals[metric] for number, point in heard.items() if metric in point.intervals},
        )

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """`evaluations`, cut where the eval set changed, or must have changed, since no training explains the jump."""
        objective = self.resolve("eval.objective")
        cuts: list[tuple[list[Evaluation], str, bool]] = []
        for evaluation in self.evaluations:
            why, doubtful = self._cut(cuts[-1][0], evaluation, objective) if cuts else ("", bool(evaluation.leaked))
            if not cuts or why:
                cuts.append(([], why, doubtful))
            cuts[-1][0].append(evaluation)
        return tuple(
            Segment(_eval_set(group), tuple(group), why, group[0].leaked, doubtful) for group, why, doubtful in cuts
        )

    @property
    def believed(self) -> tuple[Evaluation, ...]:
        """The evaluations among which the best is: those of the latest segment that can be believed.

        Not one whose eval clips were trained on, and after a fall that no training explains not the value that the same
        weights got then. Where nothing is left, those of the latest segment.
        """
        for number, segment in reversed([*enumerate(self.segments)]):
            found = () if segment.leaked else segment.evaluations
            if segment.doubtful:
                before = {e.step for earlier in self.segments[:number] for e in earlier.evaluations}
                found = tuple(e for e in found if e.step not in before)
            if found:
                return found
        return self.segments[-1].evaluations if self.segments else ()

    def _cut(self, before: Sequence[Evaluation], after: Evaluation, objective: str | None) -> tuple[str, bool]:
        """Why `after` cannot be compared with the evaluations `before` it, or an empty text; whether it is doubtful."""
        before_set = _eval_set(before)
        told = self.source == "journal" or None not in (before_set, after.eval_set)  # a log names its set only once
        if told and before_set != after.eval_set:
            if after.leaked:
                had = "had" if after.leaked > 1 else "has"
                return f"from step {after.step} on {after.leaked} of the eval clips {had} been trained on before", True
            return f"the eval set changed before step {after.step} ({before_set} to {after.eval_set})", False
        known = after.eval_set is not None and self.source == "journal"  # a fingerprint, not a mere count of clips
        if known or objective is None or id(after) not in self._line[2]:
            return "", False
        why = unexplained_jump(before, after, objective)
        return why, bool(why) and after.metrics[objective] < before[-1].metrics.get(objective, math.inf)

    def epochs_done(self, at: Evaluation | TrainEpoch) -> int:
        """How many epochs of training were finished at `at`: what the checklist calls "end of epoch N".

        Counted, not derived from the Trainer's number, which starts at 0, counts an epoch that only evaluated
        (`start_with_eval`) and repeats the one in which a resumed checkpoint was saved.
        """
        steps, epochs = self._finished
        return min(bisect_right(steps, at.step), bisect_right(epochs, at.epoch))

    @cached_property
    def _finished(self) -> tuple[list[int], list[int]]:
        """Steps and numbers of the distinct epochs that were finished, each ascending."""
        first: dict[int, int] = {}
        for epoch in self.train_epochs:
            first.setdefault(epoch.epoch, epoch.step)
        return sorted(first.values()), sorted(first)

    @property
    def start(self) -> Start | None:
        """The latest start or resume."""
        return next((e for e in reversed(self.events) if isinstance(e, Start)), None)

    @property
    def phases(self) -> tuple[PhaseStart, ...]:
        """The phase starts, in order."""
        return tuple(e for e in self.events if isinstance(e, PhaseStart))

    @property
    def actions(self) -> tuple[Action, ...]:
        """What the gatekeeper did by itself."""
        return tuple(e for e in self.events if isinstance(e, Action))

    @property
    def bad_batches(self) -> tuple[BadBatch, ...]:
        """The batches that stood out."""
        return tuple(e for e in self.events if isinstance(e, BadBatch))

    @property
    def crashes(self) -> tuple[Crash, ...]:
        """The crashes that a supervisor has seen."""
        return tuple(e for e in self.events if isinstance(e, Crash))

    @cached_property
    def sample_scores(self) -> tuple[SampleScore, ...]:
        """The scores that can be compared with the latest, by step; those of abandoned stretches left out.

        They are of the same prompts, one a step (the last to be recorded), and of one kind of judge: the listeners
        where they have heard the latest samples, else the measures. The two are no one scale, and are never mixed.
        """
        scores = scores_on_line(self.events)
        if not scores:
            return ()
        latest = [score for score in scores if score.step == scores[-1].step and score.prompts == scores[-1].prompts]
        judge = max(latest, key=lambda score: score.by == LISTENERS).by
        chosen = {score.step: score for score in scores if (score.prompts, score.by) == (scores[-1].prompts, judge)}
        return tuple(chosen.values())

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint file that was written, those pruned since included."""
        return tuple(e for e in self.events if isinstance(e, Checkpoint))

    @property
    def files(self) -> tuple[Checkpoint, ...]:
        """The checkpoint files that should be in the run folder now: written whole and not pruned since."""
        files: dict[str, Checkpoint] = {}
        for event in self.events:
            if isinstance(event, Checkpoint) and event.intact is not False:
                files.pop(event.path, None)
                files[event.path] = event
            elif isinstance(event, Pruned):
                for name in event.removed:
                    files.pop(name, None)
            elif isinstance(event, Renamed) and event.old in files:
                if "/" in event.new:  # put aside, in a folder of its own
                    del files[event.old]
                else:
                    files = {(event.new if n == event.old else n): f for n, f in files.items()}
                    files[event.new] = replace(files[event.new], path=event.new)
        return tuple(files.values())

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """What went wrong."""
        return tuple(e for e in self.events if isinstance(e, Incident))

    @property
    def verdicts(self) -> tuple[VerdictEvent, ...]:
        """What the live gates said."""
        return tuple(e for e in self.events if isinstance(e, VerdictEvent))

    @property
    def pruned(self) -> tuple[Pruned, ...]:
        """What retention removed."""
        return tuple(e for e in self.events if isinstance(e, Pruned))

    @property
    def end(self) -> End | None:
        """How the last process left the run; None while it runs, or when it was killed."""
        last = next((event for event in reversed(self.events) if isinstance(event, End | Start)), None)
        return last if isinstance(last, End) else None

    def upto(self, evaluation: Evaluation) -> RunRecord:
        """The record as it was when `evaluation` had just been made: what the live gate saw then."""
        return replace(self, events=self.events[: self._position[id(evaluation)] + 1])

    def as_heard(self) -> RunRecord:
        """The record up to its last evaluation, and what listeners have said of samples since.

        People listen when they find the time, often after a run has ended, and no evaluation comes after that.
        """
        after = self._position[id(self.evaluations[-1])] + 1
        heard = (e for e in self.events[after:] if isinstance(e, SampleScore) and e.by == LISTENERS)
        return replace(self, events=(*self.events[:after], *heard))

    @cached_property
    def _position(self) -> dict[int, int]:
        return {id(event): i for i, event in enumerate(self.events) if isinstance(event, Evaluation)}

    def naming(self, names: Mapping[str, str]) -> RunRecord:
        """The record with a policy's own names for its metrics."""
        return replace(self, names=names) if names != self.names else self


def moves_on(event: Event) -> bool:
    """Whether the event tells of the training itself, so that a resume behind it takes it back."""
    return isinstance(event, Evaluation | TrainEpoch | Action | PhaseStart)


def line_of(events: Iterable[Event]) -> list[Event]:
    """The starts, and the events that move on, of the line of weights in use.

    A resume takes back what came after the point it goes back to, a rewind included: by the number of events that were
    on record then, and where that is not known, as after a checkpoint of stock code, by the step.
    """
    line: list[tuple[int, Event]] = []
    told = 0
    for event in events:
        if isinstance(event, Start):
            line = [(n, e) for n, e in line if isinstance(e, Start) or _lies_before(n, e, event)]
            line.append((told, event))
        elif moves_on(event):
            line.append((told, event))
            told += 1
    return [event for _, event in line]


def scores_on_line(events: Sequence[Event]) -> list[SampleScore]:
    """The scores of samples of weights on the line in use, by step.

    A score is known by the step of its samples, not by its place among the events: judging takes a while, and what it
    tells may come after a later evaluation. So a resume takes back what lies behind the step it goes back to, and a
    rewind, after which steps count on, what lies between the step it goes back to and its own.
    """
    kept: list[SampleScore] = []
    for event in events:
        if isinstance(event, Start):
            kept = [score for score in kept if score.step <= event.step]
        elif isinstance(event, SampleScore):
            kept.append(event)
    for event in line_of(events):
        if isinstance(event, Action) and event.name == "rewind":
            back = int(event.values.get("to_step", event.step))
            kept = [score for score in kept if not back < score.step <= event.step]
    return sorted(kept, key=lambda score: score.step)


def _lies_before(number: int, event: Event, start: Start) -> bool:
    return event.step <= start.step if start.told is None else number < start.told


def _eval_set(evaluations: Sequence[Evaluation]) -> str | None:
    """The eval set of comparable evaluations."""
    return next((e.eval_set for e in evaluations if e.eval_set is not None), None)


def unexplained_jump(before: Sequence[Evaluation], after: Evaluation, metric: str) -> str:
    """A sentence when `metric` changed at a resume by more than training explains, else empty.

    Training explains twice the pace it had, the faster of its latest five evaluations and of all of them (robust
    slopes), over the steps in between, and the noise: one percent of the level or twice the scatter, ten percent for a
    rise, which an unlucky resume can make. Below three evaluations there is no pace to judge by.
    """
    points = [(e.step, e.metrics[metric]) for e in before if math.isfinite(e.metrics.get(metric, math.nan))]
    value = after.metrics.get(metric, math.nan)
    if len(points) < 3 or not math.isfinite(value):
        return ""
    steps = [step for step, _ in points]
    values = [value for _, value in points]
    pace = max(abs(median_slope(values[-5:], steps[-5:])), abs(median_slope(values, steps)))
    jump = value - values[-1]
    explained = 2 * pace * max(0, after.step - steps[-1]) + noise_allowance(values, 0.01 if jump < 0 else 0.1)
    if abs(jump) <= explained:
        return ""
    return (
        f"{metric} went from {values[-1]:.4g} at step {steps[-1]} to {value:.4g} at step {after.step} with a resume in "
        f"between, where training explains {explained:.2g}: another eval set, or clips in it that were trained on"
    )


def best_of(evaluations: Iterable[Evaluation], metric: str) -> Evaluation | None:
    """The evaluation with the lowest finite `metric` (the first of equals), or None when there is none."""
    finite = [e for e in evaluations if math.isfinite(e.metrics.get(metric, math.nan))]
    return min(finite, key=lambda e: e.metrics[metric], default=None)

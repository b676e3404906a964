"""`RunRecord`: everything that is known of one run, as plain data, whatever it was read from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.events import (
    Checkpoint,
    End,
    Evaluation,
    Event,
    Incident,
    PhaseStart,
    Pruned,
    Start,
    TrainEpoch,
    VerdictEvent,
)
from xtts_gatekeeper.record.journal import FOLDER, JOURNAL, journal_path, read_events


@dataclass(frozen=True)
class Segment:
    """A stretch of evaluations over one eval set: only these may be compared with each other."""

    eval_set: str | None
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Note:
    """Something that a reader could not read, or had to assume, and how often."""

    code: str
    message: str
    count: int = 1


@dataclass(frozen=True)
class RunRecord:
    """One run as its events tell it.

    A resume can go back to an earlier step. What the abandoned stretch measured is left out of `evaluations` and
    `train_epochs`, which follow the line of weights that is in use; `events` still holds it.

    `source` is `journal`, `console`, `tensorboard` or `table`; `name` tells one run from another where a source holds
    several; `notes` are what the reader has to say.
    """

    events: tuple[Event, ...]
    source: str = "journal"
    name: str = ""
    notes: tuple[Note, ...] = ()

    @cached_property
    def _line(self) -> tuple[tuple[Evaluation, ...], tuple[TrainEpoch, ...]]:
        evaluations: list[Evaluation] = []
        epochs: list[TrainEpoch] = []
        for event in self.events:
            if isinstance(event, Start):
                evaluations = [e for e in evaluations if e.step <= event.step]
                epochs = [e for e in epochs if e.step <= event.step]
            elif isinstance(event, Evaluation):
                evaluations.append(event)
            elif isinstance(event, TrainEpoch):
                epochs.append(event)
        return tuple(evaluations), tuple(epochs)

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Evaluations in the order they were made, those of abandoned stretches left out."""
        return self._line[0]

    @property
    def train_epochs(self) -> tuple[TrainEpoch, ...]:
        """Finished training epochs, those of abandoned stretches left out."""
        return self._line[1]

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """`evaluations`, cut wherever the eval set changed."""
        segments: list[Segment] = []
        for evaluation in self.evaluations:
            if segments and segments[-1].eval_set == evaluation.eval_set:
                segments[-1] = Segment(evaluation.eval_set, (*segments[-1].evaluations, evaluation))
            else:
                segments.append(Segment(evaluation.eval_set, (evaluation,)))
        return tuple(segments)

    def epochs_done(self, at: Evaluation | TrainEpoch) -> int:
        """How many epochs of training were finished at `at`: what the checklist calls "end of epoch N".

        Counted, not derived from the Trainer's number, which starts at 0, counts an epoch that only evaluated
        (`start_with_eval`) and repeats the one in which a resumed checkpoint was saved.
        """
        return len({epoch.epoch for epoch in self.train_epochs if epoch.step <= at.step and epoch.epoch <= at.epoch})

    @property
    def start(self) -> Start | None:
        """The latest start or resume."""
        return next((e for e in reversed(self.events) if isinstance(e, Start)), None)

    @property
    def phases(self) -> tuple[PhaseStart, ...]:
        """The phase starts, in order."""
        return tuple(e for e in self.events if isinstance(e, PhaseStart))

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint file that was written, those pruned since included."""
        return tuple(e for e in self.events if isinstance(e, Checkpoint))

    @property
    def files(self) -> tuple[Checkpoint, ...]:
        """The checkpoint files that should be in the run folder now: written whole and not pruned since."""
        files: dict[str, Checkpoint] = {}
        for event in self.events:
            if isinstance(event, Checkpoint) and event.intact:
                files.pop(event.path, None)
                files[event.path] = event
            elif isinstance(event, Pruned):
                for name in event.removed:
                    files.pop(name, None)
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
        last = self.events[-1] if self.events else None
        return last if isinstance(last, End) else None

    def upto(self, evaluation: Evaluation) -> RunRecord:
        """The record as it was when `evaluation` had just been made: what the live gate saw then."""
        position = next(i for i, event in enumerate(self.events) if event is evaluation)
        return RunRecord(self.events[: position + 1], self.source)


def best_of(evaluations: Iterable[Evaluation], metric: str) -> Evaluation | None:
    """The evaluation with the lowest finite `metric` (the first of equals), or None when there is none."""
    finite = [e for e in evaluations if math.isfinite(e.metrics.get(metric, math.nan))]
    return min(finite, key=lambda e: e.metrics[metric], default=None)


def find_run(path: Path) -> Path:
    """The run folder meant by `path`: the folder itself, its `gatekeeper` folder, its journal, or its only child run.

    Raises:
        UserError: nothing there, no journal, or several runs.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give the folder of a run.")
    if path.is_dir():
        folder = path.resolve()
    elif path.name == JOURNAL:
        folder = path.resolve().parent
    else:
        raise UserError(f"{path} is not a run folder or a {JOURNAL}; give the folder of a run.")
    if folder.name == FOLDER and (folder / JOURNAL).is_file():
        return folder.parent
    if _journal_in(folder) is not None:
        return folder
    runs = sorted(child.name for child in folder.iterdir() if journal_path(child).is_file())
    if len(runs) == 1:
        return folder / runs[0]
    if runs:
        raise UserError(f"{path} holds {len(runs)} runs; name one of them: {', '.join(runs)}.")
    raise UserError(f"{path} holds no {FOLDER}/{JOURNAL}: it is not a run that the gatekeeper has watched.")


def _journal_in(folder: Path) -> Path | None:
    """The journal of a run folder, or one that was copied out of its run and lies in `folder` alone."""
    return next((file for file in (journal_path(folder), folder / JOURNAL) if file.is_file()), None)


def read_run(path: str | Path) -> RunRecord:
    """Read the record of a run that the gatekeeper watched, finished or still running.

    Args:
        path: the run folder, or a folder that holds just one run.

    Raises:
        UserError: see `find_run`; also for a journal that is no journal.
    """
    file = _journal_in(find_run(Path(path)))
    assert file is not None
    events = tuple(read_events(file))
    if not events:
        raise UserError(f"{file} is empty: the run has recorded nothing yet.")
    return RunRecord(events)


def evaluation_at(record: RunRecord, at: str) -> Evaluation:
    """The evaluation meant by `epoch:N` (the one that ended the Nth epoch) or `step:N` (the last up to there).

    Raises:
        UserError: another form, or no evaluation there.
    """
    kind, _, number = at.partition(":")
    if kind not in ("epoch", "step") or not number.isdecimal():
        raise UserError(f"--at {at!r} is neither epoch:N nor step:N, with N a whole number.")
    limit = int(number)
    if kind == "epoch":
        found = [e for e in record.evaluations if not e.mid_epoch and record.epochs_done(e) == limit]
    else:
        found = [e for e in record.evaluations if e.step <= limit]
    if not found:
        raise UserError(f"the run has no evaluation at {at}; it has {len(record.evaluations)} evaluations.")
    return found[0] if kind == "epoch" else found[-1]

"""What lies in a run folder, and what the run's record says of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.contents import Contents, peek
from xtts_gatekeeper.checkpoints.retention import Candidate
from xtts_gatekeeper.checkpoints.writer import PARTIAL
from xtts_gatekeeper.record import Checkpoint, Evaluation, RunRecord, Start
from xtts_gatekeeper.record.events import Renamed, SampleScore, VerdictEvent

#: The names under which the Trainer saves; nothing else is ever taken for a checkpoint of a run.
NUMBERED = re.compile(r"(checkpoint|best_model)_([0-9]{1,15})\.pth", re.ASCII)
#: Names of ours that stock code passes over: weights for want of room, and a best that it must not resume from.
SPARE = re.compile(r"weights_([0-9]{1,15})\.pth", re.ASCII)
PARKED = re.compile(r"best_([0-9]{1,15})\.pth", re.ASCII)
#: The name under which stock tools look for the best model: a hard link here, where the Trainer makes a second copy.
BEST_NAME = "best_model.pth"
#: The metric of the best where a model does not log the objective: the Trainer's own target loss, taken exactly.
TARGET_LOSS = "target loss"
#: Settings by which runs are told apart.
_ORIGIN = ("run_name", "output_path")


def number_in(name: str) -> int | None:
    """The step in a checkpoint's own name, its folders left out; None for any other name."""
    match = NUMBERED.fullmatch(name) or SPARE.fullmatch(name) or PARKED.fullmatch(name)
    return int(match[match.lastindex or 1]) if match else None


def steps_in(name: str) -> int:
    """The micro-batches that the weights of a stock file of this name hold.

    Saved inside a step, a checkpoint_N holds the update of step N, too; a best model never is.
    """
    return (number_in(name) or 0) + name.startswith("checkpoint")


def left_behind(run: Path) -> list[str]:
    """What our writer had half written when its process was killed; no `.partial` file of any other name."""
    names = (path.name.removesuffix(PARTIAL) for path in run.glob(f"*.pth{PARTIAL}") if is_plain(path))
    return sorted(name + PARTIAL for name in names if name == BEST_NAME or number_in(name) is not None)


def is_plain(path: Path) -> bool:
    """Whether the path is a file itself and no link to one."""
    return path.is_file() and not path.is_symlink()


def run_files(run: Path) -> dict[str, int]:
    """The checkpoint files of a run folder and their bytes; names of one file (hard links) count once."""
    files: dict[tuple[int, int], tuple[str, int]] = {}
    for path in sorted(run.glob("*.pth")):
        try:
            stat = path.stat()
        except FileNotFoundError:  # pruned since, or a link to nowhere
            continue
        files.setdefault((stat.st_dev, stat.st_ino), (path.name, stat.st_size))
    return dict(files.values())


@dataclass(frozen=True)
class _Measured:
    """What is known of weights of one step: by an evaluation, by samples, or both."""

    metrics: Mapping[str, float]
    segment: str | None
    gates: tuple[str, ...] = ()


def candidates(run: Path, record: RunRecord) -> list[Candidate]:
    """The checkpoint files in `run`, in the order they were written, with what the record says of each.

    With a journal these are the files that it lists and that have still the size it says, and then files of the stock
    names that it does not list but that were written since it began: the process was killed before it could, or stock
    code went on. Without one they are all files of the stock names, in the order of the log or of their numbers, and
    `best_model.pth` where it is the only name of its step. Files of another run are left out.
    """
    settings = run_settings(run)
    return [file for file in found_in(run, record) if of_another_run(file, settings) is None]


def found_in(run: Path, record: RunRecord) -> list[Candidate]:
    """As `candidates`, with files of other runs among them."""
    measured = _Measurements(record)
    if record.source == "journal":
        return _with_unlisted(run, record, measured)
    measured.claim(path.name for path in numbered_files(run))
    stock = [file for path in numbered_files(run) if (file := _stock(path, measured)) is not None]
    lone = _lone_best(run, measured)
    place = {file.path: i for i, file in enumerate(record.checkpoints)}
    if lone is not None:
        stock.append(lone)
        place[BEST_NAME] = place.get(f"best_model_{lone.number}.pth", -1)
    return sorted(stock, key=lambda file: (place.get(file.path, -1), file.number or 0))


def _with_unlisted(run: Path, record: RunRecord, measured: _Measurements) -> list[Candidate]:
    """The files that the journal lists, and those of the run that it does not list, by the time of their writing."""
    listed = [file for file in _in_order(record) if _is_there(run, file)]
    found = [(file.mtime_ns, _journaled(file, measured)) for file in listed]
    known = {file.path for file in record.files}
    began = _began(record)
    unlisted = [p for p in numbered_files(run) if p.name not in known and p.stat().st_mtime >= began]
    for path in sorted(unlisted, key=lambda p: p.stat().st_mtime_ns):
        if (file := _stock(path, measured)) is not None:
            written = path.stat().st_mtime_ns
            position = next((i for i, (time, _) in enumerate(found) if time > written), len(found))
            found.insert(position, (written, file))
    return [file for _, file in found]


def left_out(run: Path, record: RunRecord, found: Collection[str]) -> list[Path]:
    """Numbered files that must be this run's and are not among those `found`, so that something is wrong with them."""
    ours = {file.path for file in record.files} if record.source == "journal" else None
    return [p for p in numbered_files(run) if p.name not in found and (ours is None or p.name in ours)]


def numbered_files(run: Path) -> list[Path]:
    """The plain files of a folder that have a stock name with a number, or that of a parked best, by number."""
    patterns = (NUMBERED, PARKED)
    named = [path for path in run.iterdir() if any(p.fullmatch(path.name) for p in patterns) and is_plain(path)]
    return sorted(named, key=lambda path: (number_in(path.name), path.name))


def run_settings(run: Path) -> dict[str, Any]:
    """The Trainer's settings of a run, from its config.json; empty where that cannot be read."""
    try:
        found = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def of_another_run(file: Candidate, settings: Mapping[str, Any]) -> str | None:
    """Why a file is none of the run with these settings, by those that lie in the file; None when it may be."""
    for key, value in zip(_ORIGIN, file.origin or (), strict=False):
        if key in settings and str(settings[key]) != value:
            return f"it is of another run: its {key} is {value}"
    return None


def _in_order(record: RunRecord) -> list[Checkpoint]:
    """The files of the record in the order of writing; one that training went on from counts as just written."""
    place: dict[str, int] = {}
    for i, event in enumerate(record.events):
        if isinstance(event, Checkpoint) and event.intact is not False:
            place[event.path] = i
        elif isinstance(event, Renamed) and event.old in place:
            place[event.new] = place[event.old]
        elif isinstance(event, Start) and event.resume_mode == "continue" and event.resumed_from:
            name = Path(event.resumed_from).name
            if name in place:
                place[name] = i
    return sorted(record.files, key=lambda file: place.get(file.path, -1))


def _began(record: RunRecord) -> float:
    """When the journal was begun, in seconds since the epoch; infinite when it does not tell."""
    try:
        return datetime.strptime(record.events[0].time, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (IndexError, ValueError):
        return math.inf


def _is_there(run: Path, file: Checkpoint) -> bool:
    path = run / file.path
    ours = Path(file.path).name == file.path and number_in(file.path) is not None
    return ours and is_plain(path) and path.stat().st_size == file.bytes


class _Measurements:
    """What was measured of the weights of a file: by step, within one process's stretch of the run."""

    def __init__(self, record: RunRecord) -> None:
        segments = {id(e): str(i) for i, s in enumerate(record.segments) for e in s.evaluations}
        journal = record.source == "journal"
        comparable = {id(score) for score in record.sample_scores}
        self._numbers = {number_in(file.path) for file in record.checkpoints} if record.source == "console" else None
        self._by_step: dict[tuple[int, int], _Measured] = {}
        self._stretch: dict[str, int] = {}
        honest = any(not evaluation.leaked for evaluation in record.evaluations)
        stretch = 0
        latest: tuple[int, int] | None = None
        for event in record.events:
            at = (stretch, event.step)
            if isinstance(event, Start):
                stretch += 1
            elif isinstance(event, Evaluation):
                latest = None if event.nonfinite_batches else at
                if latest is not None:
                    segment = event.eval_set if journal else segments.get(id(event), f"abandoned {stretch}")
                    metrics = {} if event.leaked and honest else event.metrics
                    self._by_step[at] = _Measured({**self._before(at), **metrics}, segment)
            elif isinstance(event, SampleScore) and id(event) in comparable:
                before = self._by_step.get(at) or _Measured({}, None)
                self._by_step[at] = replace(before, metrics={**before.metrics, **event.metrics})
            elif isinstance(event, VerdictEvent) and latest is not None:
                self._by_step[latest] = replace(self._by_step[latest], gates=tuple(event.gates))
            elif isinstance(event, Checkpoint):
                self._stretch[event.path] = stretch
            elif isinstance(event, Renamed) and event.old in self._stretch:
                self._stretch[event.new] = self._stretch[event.old]
        self._last = stretch
        self._claimed: set[tuple[int, int]] = set()

    def claim(self, names: Iterable[str]) -> None:
        """Leave the evaluations of exactly the weights of these files to them."""
        self._claimed = {at for name in names for at in self._places(name, steps_in(name), 0)}

    def _before(self, at: tuple[int, int]) -> Mapping[str, float]:
        return self._by_step[at].metrics if at in self._by_step else {}

    def of(self, name: str, step: int, tolerance: int = 0) -> _Measured | None:
        """What was measured of the weights of file `name`, which hold `step` micro-batches.

        `tolerance`: how many micro-batches apart an evaluation may be, where a log tells no better. A file of a number
        of which the log says nothing was not written by the run that it tells of.
        """
        for distance in range(tolerance + 1):
            for at in self._places(name, step, distance):
                if not distance or at not in self._claimed:
                    return self._by_step[at]
        return None

    def _places(self, name: str, step: int, distance: int) -> Iterator[tuple[int, int]]:
        """Where something was measured so many micro-batches from a step; the process that wrote the file is known."""
        if self._numbers is not None and number_in(name) not in self._numbers:
            return
        for stretch in [self._stretch[name]] if name in self._stretch else range(self._last, -1, -1):
            for at in {step - distance: None, step + distance: None}:
                if (stretch, at) in self._by_step:
                    yield stretch, at
                    if not distance:
                        return


def _journaled(file: Checkpoint, measured: _Measurements) -> Candidate:
    found = measured.of(file.path, file.step)
    metrics = dict(found.metrics) if found else {}
    if file.metric is not None and file.value is not None:  # journals before 0.2 note only this
        metrics.setdefault(file.metric, file.value)
    return Candidate(
        path=file.path,
        step=file.step,
        number=number_in(file.path),
        bytes=file.bytes or 0,
        resumable=file.resumable is not False,
        metrics=metrics,
        segment=found.segment if found and found.segment is not None else file.eval_set,
        gates=found.gates if found else (),
        spare=file.kind == "weights",
    )


def _stock(path: Path, measured: _Measurements, name: str | None = None) -> Candidate | None:
    """A file that stock code wrote; None when it cannot be looked into, so that nothing can rest on it.

    `name`: the one that it has for the record, by default its own.
    """
    try:
        contents = peek(path)
    except (ValueError, OSError):
        return None
    name = name or path.name
    number = number_in(name)
    if not contents.is_checkpoint or number is None:
        return None
    step = steps_in(name)
    found = measured.of(name, step, tolerance=1)
    has_origin = any(key in contents.config for key in _ORIGIN)
    return Candidate(
        path=path.name,
        step=step,
        number=number,
        bytes=path.stat().st_size,
        resumable=contents.resumable,
        metrics=dict(found.metrics) if found else dict(_own_metrics(name, contents)),
        segment=found.segment if found else None,
        gates=found.gates if found else (),
        origin=tuple(str(contents.config.get(key)) for key in _ORIGIN) if has_origin else None,
    )


def _lone_best(run: Path, measured: _Measurements) -> Candidate | None:
    """`best_model.pth` where the file with the number of its step is gone: then it is no second copy."""
    path = run / BEST_NAME
    try:
        step = peek(path).step if is_plain(path) else None
    except (ValueError, OSError):
        return None
    if step is None or any((run / name).exists() for name in (f"best_model_{step}.pth", f"best_{step}.pth")):
        return None
    inode = path.stat().st_ino
    if any(other.stat().st_ino == inode for other in numbered_files(run)):
        return None
    return _stock(path, measured, f"best_model_{step}.pth")


def _own_metrics(name: str, contents: Contents) -> Iterator[tuple[str, float]]:
    """The eval loss that the Trainer put into a best model; its average misses the first batch, but it is all there is.

    That in a checkpoint is of an earlier evaluation.
    """
    loss = contents.model_loss if name.startswith("best_") else None
    value = loss.get("eval_loss") if isinstance(loss, dict) else None
    if isinstance(value, int | float):
        yield "eval.loss", float(value)

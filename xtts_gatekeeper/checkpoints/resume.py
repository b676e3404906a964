"""Which file of a run to go on from, and what to do with those that are broken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from xtts_gatekeeper.checkpoints.integrity import damage
from xtts_gatekeeper.checkpoints.inventory import (
    BEST_NAME,
    NUMBERED,
    TARGET_LOSS,
    candidates,
    found_in,
    is_plain,
    left_out,
    number_in,
    of_another_run,
    run_settings,
)
from xtts_gatekeeper.checkpoints.lock import held, writer_of
from xtts_gatekeeper.checkpoints.names import give_name, parking
from xtts_gatekeeper.checkpoints.retention import Candidate
from xtts_gatekeeper.checkpoints.verify import verify_file
from xtts_gatekeeper.checkpoints.writer import sync_folder
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.gates import load_policy
from xtts_gatekeeper.record import Journal, RunRecord, journal_path
from xtts_gatekeeper.record.events import Incident, Renamed
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.record.sources import find_input, read_run

Which = Literal["best", "latest"]

#: Folder, in the run's folder of ours, of the files that were put aside because they are broken.
QUARANTINE = "quarantine"

#: Files that this process has read whole: (path, size, mtime, digest) -> what is wrong. A resume looks more than once.
_verified: dict[tuple[str, int, int, str | None, bool], str | None] = {}


@dataclass(frozen=True)
class Considered:
    """A file that was looked at; `problem` says why it was passed over, None that it was chosen."""

    path: str
    step: int | None
    problem: str | None


@dataclass(frozen=True)
class Choice:
    """The file to go on from, or None, why, and what was looked at on the way. `broken` are names to put aside."""

    file: Path | None
    step: int | None
    why: str
    considered: tuple[Considered, ...]
    broken: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "file": str(self.file) if self.file else None}


def choose(run: Path, which: Which = "latest") -> Choice:
    """The newest whole file of a run folder that training can go on from, or the best whole one to start anew from.

    The newest is the last one written: in a run of ours the journal knows, in a stock run the log, else the number in
    the file's own name. The best is by recorded evaluations; where there are none, the best model of the highest
    number, which the Trainer took for the best last. Every file is read whole before it is chosen.
    """
    record = record_of(run)
    settings = run_settings(run)
    found = found_in(run, record)
    foreign = {file.path: why for file in found if (why := of_another_run(file, settings)) is not None}
    considered = [Considered(file.path, file.step, foreign[file.path]) for file in found if file.path in foreign]
    files = [file for file in found if file.path not in foreign]
    digests = {file.path: file.digest for file in record.files}
    # What we write is looked through before, and the digest says that not a bit of it has changed since.
    finite = {file.path for file in record.files if file.digest is not None and not file.reason}
    broken = []
    for path in left_out(run, record, {file.path for file in found}):
        said = problem(path, digests.get(path.name)) or "it is not the file that the journal lists under this name"
        considered.append(Considered(path.name, number_in(path.name), said))
        if damage(path) is not None:  # one that is whole, but another than the journal's, is not ours to move
            broken.append(path.name)
    for file, why in _wanted(run, files, which, record):
        wrong = problem(run / file.path, digests.get(file.path), finite=file.path in finite)
        considered.append(Considered(file.path, file.step, wrong))
        if wrong is None:
            passed = f"; passed over as broken: {', '.join(broken)}" if broken else ""
            return Choice(run / file.path, file.step, why + passed, tuple(considered), tuple(broken))
        broken.append(file.path)
    if considered:
        why = f"no {which} file can be used: " + "; ".join(f"{c.path}: {c.problem}" for c in considered)
    else:
        why = "there is no checkpoint_N.pth or best_model_N.pth to go on from"
    return Choice(None, None, why, tuple(considered), tuple(broken))


def _wanted(run: Path, files: Sequence[Candidate], which: Which, record: RunRecord) -> Iterator[tuple[Candidate, str]]:
    """Candidates in the order in which to try them, with the reason to take one."""
    if which == "latest":
        why = "the newest resumable file"
        for file in reversed(files):
            # A checkpoint_N without optimizer is broken: stock code would take it.
            if file.resumable or file.path.startswith("checkpoint_"):
                yield file, why
                why = "the newest resumable file that is whole"
        return
    metric = metric_of_best(record, objective_of(run), files)
    measured = [file for file in files if file.loss(metric) < float("inf")]
    latest_first = sorted(measured, key=lambda f: (f.segment != measured[-1].segment, f.loss(metric), f.resumable))
    for file in latest_first:
        yield file, f"the best file by {metric} ({file.metrics[metric]:.4f})"
    named = [file for file in files if file not in measured and file.path.startswith("best_")]
    for file in sorted(named, key=lambda file: -(file.number or 0)):
        yield file, "the best model of the highest number; no evaluation of it is on record"


def objective_of(run: Path) -> str:
    """The name or role of the metric of the best, from the run's own policy where it has one.

    Raises:
        UserError: its policy cannot be read.
    """
    kept = run / FOLDER / "policy.yaml"
    return load_policy(kept).objective if kept.is_file() else "eval.objective"


def metric_of_best(record: RunRecord, objective: str, files: Sequence[Candidate]) -> str:
    """The metric that the objective means in this run; else the Trainer's target loss, as far as it is on record."""
    metric = record.resolve(objective)
    if metric is not None:
        return metric
    return TARGET_LOSS if any(TARGET_LOSS in file.metrics for file in files) else "eval.loss"


def quarantine(run: Path, broken: Sequence[str], reason: str) -> dict[str, str]:
    """Put broken files aside, into `gatekeeper/quarantine/`: renamed and kept, and out of stock code's sight.

    Returns:
        New name by old name, relative to the run; a file that cannot be renamed is left out.
    """
    folder = run / FOLDER / QUARANTINE
    moved = {}
    for name in broken:
        target = folder / name
        number = 1
        while target.exists():
            number += 1
            target = folder / f"{name}.{number}"
        alias = run / BEST_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if name != BEST_NAME and is_plain(alias) and alias.samefile(run / name):
                alias.unlink()  # a second name of the broken file
            (run / name).rename(target)
        except OSError:
            continue
        moved[name] = target.relative_to(run).as_posix()
    if moved:
        sync_folder(run)
        with contextlib.suppress(OSError):  # on record or not, they are aside
            _journal(run, [(old, new, reason) for old, new in moved.items()], "quarantined")
    return moved


def rename(run: Path, renames: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Give files other names (old, new, why), as far as that is possible and no file stands in the way."""
    done = []
    for old, new, why in renames:
        try:
            if give_name(run, old, new):
                done.append((old, new, why))
        except OSError:
            continue
    if done:
        sync_folder(run)
        with contextlib.suppress(OSError):
            _journal(run, done)
    return {old: new for old, new, _ in done}


def _journal(run: Path, moved: Iterable[tuple[str, str, str]], code: str = "") -> None:
    if not journal_path(run).is_file():
        return
    journal = Journal(journal_path(run))
    last = journal.events[-1] if journal.events else None
    step, epoch = (last.step, last.epoch) if last else (0, 0)
    for old, new, reason in moved:
        journal.append(Renamed(step=step, epoch=epoch, old=old, new=new, reason=reason))
        if code:
            message = f"{old} is broken and is now {new}: {reason}"
            journal.append(Incident(step=step, epoch=epoch, code=code, message=message))


def resume_document(run: Path, *, dry_run: bool) -> dict[str, Any]:
    """What the `resume` verb does, and what it prints with `--json`.

    Unless somebody trains in the run, broken files that are newer than the one chosen are put aside, and a best model
    of weights alone is renamed while stock code would resume from it.

    Raises:
        UserError: no folder there.
    """
    if not run.is_dir():
        raise UserError(f"{run} is no folder; give the folder of a run.")
    choice = choose(run)
    in_use = writer_of(run)
    moved: dict[str, str] = {}
    renamed: dict[str, str] = {}
    if choice.file is not None and not (dry_run or in_use):
        with held(run):
            renamed = _park(run, choice.broken)
            moved = quarantine(run, choice.broken, choice.why)
    return {
        "run": str(run),
        **choice.to_dict(),
        "quarantined": moved,
        "renamed": renamed,
        "in_use": in_use,
        "arguments": ["--continue_path", str(run)] if choice.file else None,
    }


def resumable_or_refuse(run: Path) -> Path:
    """The file with which training goes on in the run folder; broken ones that are newer are put aside.

    Raises:
        UserError: there is none that is whole; nothing has been renamed then.
    """
    choice = choose(run)
    if choice.file is None:
        raise UserError(f"{run} cannot be resumed: {choice.why}.")
    _park(run, choice.broken)
    quarantine(run, choice.broken, choice.why)
    return choice.file


def _park(run: Path, broken: Sequence[str]) -> dict[str, str]:
    """First the names: whenever this is killed, what stock code would choose is no file of weights alone."""
    files = [file for file in candidates(run, record_of(run)) if file.path not in broken]
    return rename(run, [move for move in parking(files) if NUMBERED.fullmatch(move[0])])


def resume_file(path: Path, which: Which = "best") -> Path:
    """The whole checkpoint to restore from `path`: a file itself, or the best or latest one of a run folder.

    Raises:
        UserError: nothing there, or nothing whole.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give the folder of a run or one of its checkpoints.")
    if path.is_file():
        wrong = damage(path, legacy=True, threads=2)  # a base's own file may have any name and content
        if wrong is not None:
            raise UserError(f"{path} cannot be resumed from: {wrong}.")
        return path
    choice = choose(path, which)
    if choice.file is None and not choice.considered:
        raise UserError(
            f"{path} holds no {which} checkpoint; give a run folder with checkpoint_N.pth or best_model_N.pth."
        )
    if choice.file is None:
        raise UserError(f"{path} cannot be resumed from: {choice.why}.")
    return choice.file


def record_of(run: Path) -> RunRecord:
    """The record of a run folder; an empty one where there is no log that can be read."""
    try:
        if find_input(run).folder == run.resolve():
            return read_run(run)
    except UserError:
        pass
    return RunRecord((), "files")


def newest_state(run: Path, record: RunRecord) -> int | None:
    """How many micro-batches the newest file holds that training can go on from; None where there is none.

    By the record; where the Trainer saves by itself, by the numbers in the names.
    """
    steps = [file.step for file in record.files if file.resumable]
    if not record.files:
        steps = [number for path in run.glob("*.pth") if (number := number_in(path.name)) is not None]
    return max(steps, default=None)


def problem(path: Path, digest: str | None = None, *, finite: bool = False) -> str | None:
    """What is wrong with a file, as a fragment of a sentence; None when it is whole and its weights are finite.

    Args:
        path: the file.
        digest: that of the file as it was written.
        finite: its numbers were looked at then.
    """
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns, digest, finite)
    if key not in _verified:
        _verified[key] = "; ".join(verify_file(path, digest, threads=2, numbers=not finite).problems) or None
    return _verified[key]

"""`prune`: retention on a run that is not being trained, one of ours or a stock one, and its bookkeeping put right."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.contents import Unreadable, peek
from xtts_gatekeeper.checkpoints.integrity import damage
from xtts_gatekeeper.checkpoints.inventory import (
    BEST_NAME,
    PARKED,
    candidates,
    found_in,
    is_plain,
    left_behind,
    left_out,
    run_files,
    run_settings,
)
from xtts_gatekeeper.checkpoints.lock import held, writer_of
from xtts_gatekeeper.checkpoints.names import name_best, parking
from xtts_gatekeeper.checkpoints.ownership import Owner
from xtts_gatekeeper.checkpoints.removal import delete, refusal
from xtts_gatekeeper.checkpoints.resume import metric_of_best, objective_of, problem, record_of, rename
from xtts_gatekeeper.checkpoints.retention import (
    DEFAULT,
    Candidate,
    Policy,
    best_candidate,
    named_metrics,
    parse_policy,
    retain,
    split_terms,
)
from xtts_gatekeeper.checkpoints.weights import extract_weights, weights_bytes
from xtts_gatekeeper.errors import UserError, nearest
from xtts_gatekeeper.record import Checkpoint, Journal, RunRecord, journal_path
from xtts_gatekeeper.record.events import Pruned
from xtts_gatekeeper.record.journal import FOLDER


@dataclass(frozen=True)
class Move:
    """What happens to one file, and why."""

    path: str
    bytes: int
    why: str
    step: int | None = None


@dataclass(frozen=True)
class PrunePlan:
    """What `prune` will do with the files of a run.

    `shrink` are full files of which only the weights are to be kept, by the name of the file to write; they are among
    `drop`, too. `stays` are files that nothing asks for, or that cannot be shown to be this run's, and that may not be
    deleted; `broken` ones are not whole. `refused` says why nothing is to be deleted at all.
    """

    run: Path
    objective: str
    keep: tuple[Move, ...]
    drop: tuple[Move, ...]
    shrink: Mapping[str, Move]
    stays: tuple[Move, ...]
    broken: tuple[Move, ...]
    best: str | None
    bytes_before: int
    over_budget: int = 0
    notes: tuple[str, ...] = ()
    refused: str | None = None
    files: Mapping[str, Candidate] = field(default_factory=dict, repr=False)
    record: RunRecord = field(default_factory=lambda: RunRecord(()), repr=False, compare=False)

    @property
    def bytes_freed(self) -> int:
        """Bytes that the disk gets back, those of weights files still to be written taken off, about."""
        written = sum(weights_bytes(self.run / move.path) for move in self.shrink.values())
        return sum(move.bytes for move in self.drop) - written

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        moves = {key: [vars(move) for move in getattr(self, key)] for key in ("keep", "drop", "stays", "broken")}
        return {
            "run": str(self.run),
            "objective": self.objective,
            "best": self.best,
            **moves,
            "shrink": [{**vars(move), "to": name} for name, move in self.shrink.items()],
            "bytes_before": self.bytes_before,
            "bytes_freed": self.bytes_freed,
            "over_budget": self.over_budget,
            "notes": list(self.notes),
            "refused": self.refused,
        }


def plan(run: Path, policy: Policy, objective: str, budget: int | None = None, *, deep: bool = True) -> PrunePlan:
    """Decide what `prune` does; nothing is changed.

    What is kept is read back first, all of it: a file that is broken is no reason to delete another.

    Args:
        run: a run folder.
        policy: what to keep; the newest resumable file and the best always are.
        objective: the role or name of the best's metric.
        budget: bytes that the run's files may have.
        deep: load the kept files, too, to see that their numbers are finite (needs torch).

    Raises:
        UserError: no run folder.
    """
    _check_run(run)
    record = record_of(run)
    owner = Owner(run, record)
    found = found_in(run, record)
    foreign = {file.path: why for file in found if (why := owner.foreign(file)) is not None}
    files = [file for file in found if file.path not in foreign]
    metric = metric_of_best(record, objective, files)
    _check_metrics(policy, record, files)
    digests = {file.path: file.digest for file in record.files}
    broken = {
        path.name: damage(path) or "it is not the file that the log or journal has under this name"
        for path in left_out(run, record, {file.path for file in found})
    }
    while True:
        decided = retain(files, policy, metric, budget)
        problems = {n: wrong for n in decided.keep if (wrong := _wrong(run / n, digests.get(n), deep)) is not None}
        if not problems:
            break
        broken |= problems
        files = [file for file in files if file.path not in problems]
    best = best_candidate(files, metric)
    by_name = {file.path: file for file in found}
    undeletable = {file.path: why for file in files if (why := refusal(run, file.path)) is not None}
    shrink = _to_shrink(run, files, policy, metric, {n: w for n, w in decided.keep.items() if n not in undeletable})
    replaced = {move.path: f"its weights are kept as {name}" for name, move in shrink.items()}
    drop = {name: why for name, why in decided.drop.items() if name not in undeletable} | replaced
    stays = foreign | {name: undeletable[name] for name in decided.drop if name in undeletable}
    keep = {name: why for name, why in decided.keep.items() if name not in replaced}
    refused = None
    if drop and not any(by_name[name].resumable for name in keep):
        refused = "no resumable file of the run is whole"
    return PrunePlan(
        run=run,
        objective=metric,
        keep=tuple(_move(by_name[name], why) for name, why in keep.items()),
        drop=(
            *(_move(by_name[name], why) for name, why in drop.items()),
            *_left_behind(run),
            *_second_copy(run, best, next((n for n, m in shrink.items() if best and m.path == best.path), None), owner),
        ),
        shrink=shrink,
        stays=tuple(_move(by_name[name], why) for name, why in stays.items()),
        broken=tuple(Move(name, (run / name).stat().st_size, wrong) for name, wrong in broken.items()),
        best=best.path if best is not None else None,
        bytes_before=sum(run_files(run).values()),
        over_budget=decided.over_budget,
        notes=_notes(run, best, files, metric),
        refused=refused,
        files=by_name,
        record=record,
    )


def execute(planned: PrunePlan) -> tuple[list[str], int, dict[str, str]]:
    """Do what was planned: weights first, then the names, then the deletions.

    Whenever the process is killed on the way, a resumable file and the best are there, and stock code resumes from a
    file that it can resume from.

    Returns:
        The names deleted, the bytes that the disk got back, and why a file that was to go is still there.

    Raises:
        OSError: a weights file could not be written; nothing has been deleted then.
    """
    run = planned.run
    journal = Journal(journal_path(run)) if journal_path(run).is_file() else None
    going = [move.path for move in planned.drop]
    before = _bytes(run)
    for name, move in planned.shrink.items():
        digest = extract_weights(run / move.path, run / name)
        if journal is not None:
            journal.append(_weights_event(run, name, move.path, planned, digest))
    best = next((name for name, move in planned.shrink.items() if move.path == planned.best), planned.best)
    best = _park(planned, {*going} - {BEST_NAME}).get(best or "", best)
    failed = _name_best(planned, best, going)
    removed = delete(run, [name for name in going if name != BEST_NAME])
    listed = {file.path for file in planned.record.files}
    if journal is not None and listed & set(removed.names):
        journal = Journal(journal_path(run))
        journal.append(
            Pruned(
                step=journal.events[-1].step,
                epoch=journal.events[-1].epoch,
                removed=[name for name in removed.names if name in listed],
                kept=[*(move.path for move in planned.keep), *planned.shrink],
                bytes_freed=removed.freed,
            )
        )
    numbered = [(name, name.replace("best_", "best_model_")) for name in planned.shrink if PARKED.fullmatch(name)]
    renamed = rename(run, [(name, new, "the full file of this name is gone") for name, new in numbered])
    renamed |= _park(planned, set())
    if best in renamed:
        failed |= _name_best(planned, renamed[best], [])
    gone = [name for name in going if name in removed.names or (name == BEST_NAME and not failed)]
    return gone, before - _bytes(run), removed.kept | failed


def _bytes(run: Path) -> int:
    return sum(run_files(run).values()) + sum(move.bytes for move in _left_behind(run))


def _park(planned: PrunePlan, gone: Collection[str]) -> dict[str, str]:
    """Rename bests of weights alone as stock code needs it."""
    record = record_of(planned.run)
    owner = Owner(planned.run, record)
    files = [f for f in candidates(planned.run, record) if f.path not in gone and owner.foreign(f) is None]
    return rename(planned.run, parking(files))


def _name_best(planned: PrunePlan, best: str | None, going: Sequence[str]) -> dict[str, str]:
    """Let `best_model.pth` be a second name of the best; why that could not be, by this name."""
    run = planned.run
    if best is None or _links_are_unsafe(run, planned.record):
        return {}
    try:
        if BEST_NAME in going:
            (run / BEST_NAME).unlink()
    except OSError as error:
        return {BEST_NAME: f"it could not be replaced ({error.strerror or error})"}
    why_not = name_best(run, best, [best, *(move.path for move in planned.keep), *planned.shrink, *going])
    return {} if why_not is None else {BEST_NAME: why_not}


def _links_are_unsafe(run: Path, record: RunRecord) -> bool:
    """Whether stock code would write through `best_model.pth` into the file that it is a second name of.

    It does where it keeps all best models: then it does not delete the name before it copies the next best over it.
    """
    return bool(run_settings(run).get("save_all_best"))


def prune_document(run: Path, keep: Sequence[str], budget_gb: float | None, *, dry_run: bool) -> dict[str, Any]:
    """What the `prune` verb does, and what it prints with `--json`: the plan, and what came of it.

    Nothing is deleted while somebody trains in the run (`in_use`), or when no resumable file is whole (`refused`).

    Args:
        run: a run folder.
        keep: retention terms; none: those of the run's own settings, else the default.
        budget_gb: gigabytes that the files may have.
        dry_run: change nothing.

    Raises:
        UserError: no run folder, or a term that cannot be used.
    """
    _check_run(run)
    settings = _settings(run)
    terms = [term for given in keep or [settings.get("keep") or ""] for term in split_terms(given)] or list(DEFAULT)
    budget = settings.get("disk_budget_gb") if budget_gb is None else budget_gb
    policy, objective = parse_policy(terms), objective_of(run)
    budget_bytes = round(budget * 1e9) if budget is not None else None
    in_use = writer_of(run)
    document: dict[str, Any] = {"terms": terms, "dry_run": dry_run, "in_use": in_use}
    document |= {"removed": [], "freed": 0, "not_removed": {}}
    if dry_run or in_use:
        return {**document, **_plan_in_passing(run, policy, objective, budget_bytes).to_dict()}
    with held(run):
        planned = plan(run, policy, objective, budget_bytes)
        document |= planned.to_dict()
        if not planned.refused:
            document["removed"], document["freed"], document["not_removed"] = execute(planned)
    return document


def _plan_in_passing(run: Path, policy: Policy, objective: str, budget: int | None) -> PrunePlan:
    """A plan that will not be executed; where files come and go meanwhile, it is begun again."""
    for _ in range(20):
        with contextlib.suppress(FileNotFoundError, Unreadable):
            return plan(run, policy, objective, budget, deep=False)
    return plan(run, policy, objective, budget, deep=False)


def _settings(run: Path) -> Mapping[str, Any]:
    """The run's own settings for checkpoints, as far as they are such."""
    try:
        found = json.loads((run / FOLDER / "config.json").read_text(encoding="utf-8"))["checkpoints"]
        keep, budget = found.get("keep"), found.get("disk_budget_gb")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {
        "keep": keep if isinstance(keep, str) else None,
        "disk_budget_gb": budget if isinstance(budget, int | float) and budget > 0 else None,
    }


def _check_run(run: Path) -> None:
    if not run.is_dir():
        raise UserError(f"{run} is no folder; give the folder of a run.")
    signs = [run / "config.json", journal_path(run), *run.glob("trainer_*_log.txt")]
    if not any(sign.is_file() for sign in signs):
        raise UserError(f"{run} is no run folder: it has no config.json, no log of the Trainer and no journal.")


def _check_metrics(policy: Policy, record: RunRecord, files: Sequence[Candidate]) -> None:
    """Refuse a metric that the run does not log: a slip of the pen would let go of all that it was to keep."""
    logged = {*record.metrics, *(metric for file in files for metric in file.metrics)}
    for metric in named_metrics(policy):
        if logged and metric not in logged:
            raise UserError(f"the run logs no {metric!r} to pick the best by; {nearest(metric, logged)}")


def _wrong(path: Path, digest: str | None, deep: bool) -> str | None:
    return problem(path, digest) if deep else damage(path, legacy=True, digest=digest, threads=2)


def _move(file: Candidate, why: str) -> Move:
    return Move(file.path, file.bytes, why, file.step)


def _left_behind(run: Path) -> list[Move]:
    """What our writer had half written when its process was killed."""
    return [
        Move(name, (run / name).stat().st_size, "left by a process that was killed while it wrote")
        for name in left_behind(run)
        if refusal(run, name) is None
    ]


def _second_copy(run: Path, best: Candidate | None, kept_as: str | None, owner: Owner) -> list[Move]:
    """The stock `best_model.pth` is a second full copy of what was the best; a link to the best takes its place."""
    path = run / BEST_NAME
    if best is None or best.path == BEST_NAME or not is_plain(path) or _links_are_unsafe(run, owner.record):
        return []
    if path.stat().st_nlink > 1 or refusal(run, BEST_NAME) is not None:  # a second name already
        return []
    try:
        contents = peek(path)
    except (ValueError, OSError):
        return []
    origin = tuple(str(contents.config.get(key)) for key in ("run_name", "output_path"))
    copied = any((run / name.format(contents.step)).exists() for name in ("best_model_{}.pth", "best_{}.pth"))
    mine = copied and owner.foreign(Candidate(BEST_NAME, contents.step or 0, contents.step, origin=origin)) is None
    return [Move(BEST_NAME, path.stat().st_size, f"becomes a second name of {kept_as or best.path}")] if mine else []


def _to_shrink(
    run: Path, files: Sequence[Candidate], policy: Policy, metric: str, kept: Mapping[str, str]
) -> dict[str, Move]:
    """Full files that are only kept as one of the best: their weights are enough. Not without torch.

    The weights of a `best_model_N.pth` are written beside it, and get its name when it is gone.
    """
    if importlib.util.find_spec("torch") is None:
        return {}
    resumable = [file for file in files if file.resumable and file.path in kept]
    unmeasured = [replace(file, metrics={}) for file in files]
    for_other_reasons = retain(unmeasured, policy, metric).keep
    highest = max((file.number or 0 for file in resumable if file.path in for_other_reasons), default=-1)
    found = {}
    for file in resumable:
        if file.path not in for_other_reasons and file.number is not None and file.number <= highest:
            names = (f"best_model_{file.number}.pth", f"best_{file.number}.pth")
            free = next((name for name in names if name not in found and not os.path.lexists(run / name)), None)
            if free is not None:
                found[free] = _move(file, f"{kept[file.path]}: its weights are enough")
    return found


def _weights_event(run: Path, name: str, source: str, planned: PrunePlan, digest: str | None) -> Checkpoint:
    """With the value of the best, for the evaluation may be of an earlier process."""
    file = planned.files[source]
    stat = (run / name).stat()
    return Checkpoint(
        step=file.step,
        epoch=next((event.epoch for event in planned.record.files if event.path == source), 0),
        kind="best",
        path=name,
        bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        digest=digest,
        intact=True,
        resumable=False,
        value=file.metrics.get(planned.objective),
        metric=planned.objective if planned.objective in file.metrics else None,
        eval_set=file.segment,
        reason=f"weights of {source}",
    )


def _notes(run: Path, best: Candidate | None, files: Sequence[Candidate], metric: str) -> tuple[str, ...]:
    """What the stock code had got wrong."""
    if best is None:
        return ("no evaluation of any of the files is known: none can be called the best",) if files else ()
    path = run / BEST_NAME
    if not is_plain(path) or path.samefile(run / best.path):
        return ()
    try:
        named = peek(path).step
    except (ValueError, OSError):
        return (f"{BEST_NAME} cannot be read",)
    if named == best.number:
        return ()
    return (
        f"{BEST_NAME} holds step {named}; by the recorded evaluations the best file is {best.path} "
        f"({metric} {best.metrics[metric]:.4f})",
    )

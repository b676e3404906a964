"""Everything that can be found out about a checkpoint file: is it whole, is it safe, is it what its name says."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.contents import Contents, Unreadable, UnsafePickle, peek
from xtts_gatekeeper.checkpoints.integrity import NOT_AS_WRITTEN, is_legacy, scan
from xtts_gatekeeper.checkpoints.snapshot import not_finite
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.processors import usable
from xtts_gatekeeper.record.journal import journal_path
from xtts_gatekeeper.record.sources import read_run

#: Names that the Trainer writes, and takes for its own.
_NAME = re.compile(r"(checkpoint|best_model)(?:_(\d+))?\.pth")
_KEYS = ("model", "step", "epoch", "config")
#: More threads than this wait for the disk.
_MOST_THREADS = 4


@dataclass(frozen=True)
class FileReport:
    """What was found out about one file.

    `also` are its other names (hard links); `problems` and `not_checked` are sentence fragments about the file, and it
    is `intact` when there is no problem. `kind` is `resumable` (model and optimizer), `weights` (a model alone),
    `other` (no checkpoint) or `unreadable`. `digest` is that of `checkpoints.integrity`; `digest_known` says that it
    was compared with the one from the time of writing.
    """

    path: str
    bytes: int
    kind: str
    also: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    step: int | None = None
    epoch: int | None = None
    digest: str | None = None
    digest_known: bool = False
    seconds: float = 0.0

    @property
    def intact(self) -> bool:
        """No problem was found."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {**asdict(self), "intact": self.intact}


@dataclass(frozen=True)
class _File:
    """One file under all its names, the Trainer's numbered ones first, and what the journal knows of it."""

    paths: Sequence[Path]
    digest: str | None = None
    not_checked: Sequence[str] = ()


def verify_file(
    path: Path, digest: str | None = None, threads: int | None = None, *, numbers: bool = True
) -> FileReport:
    """Check one file in every way there is; never raises for what the file holds.

    Args:
        path: the file.
        digest: that of the file as it was written; by default from the journal of the run that it lies in.
        threads: see `checkpoints.integrity.scan`; by default as many as there are cores, up to four.
        numbers: whether to look for some that are not finite, for which torch has to load it.
    """
    return _verify(_known([path], {}) if digest is None else _File([path], digest), threads, numbers=numbers)


def verify_paths(
    paths: Iterable[Path], threads: int | None = None, progress: Callable[[str], None] | None = None
) -> list[FileReport]:
    """Check files, and all checkpoints of folders; several names of one file are checked once.

    Args:
        paths: files; run folders, of which the Trainer's `checkpoint_N.pth` and `best_model*.pth` are meant; other
            folders, of which every `.pth` file is meant.
        threads: see `verify_file`.
        progress: called with the path of a file before it is read.

    Raises:
        UserError: a path does not exist, or a folder holds no such file.
    """
    files: dict[object, list[Path]] = {}
    for file in (file for path in paths for file in _files(path)):
        names = files.setdefault(_identity(file), [])
        if file not in names:
            names.append(file)
    digests: dict[Path, dict[str, str | None] | None] = {}
    reports = []
    for names in files.values():
        names.sort(key=_numbered_first)
        if progress is not None:
            progress(str(names[0]))
        report = _verify(_known(names, digests), threads)
        if report.intact or any(_is_there(name) for name in names):  # else it was pruned meanwhile
            reports.append(report)
    return reports


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def verify_document(
    paths: Iterable[str], threads: int | None = None, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """What `verify --json` prints: every file's report, and whether all are whole.

    Args:
        paths: see `verify_paths`; also remote runs, as URLs, whose files are compared with their mirror's manifest.
        threads: see `verify_file`.
        progress: called with the path of a file, or a URL, before it is read.

    Raises:
        UserError: see `verify_paths`; also a remote that cannot be read.
    """
    given = list(paths)
    reports = verify_paths([Path(path) for path in given if "://" not in path], threads, progress)
    for url in (path for path in given if "://" in path):
        from xtts_gatekeeper.checkpoints.remote import verify_remote

        if progress is not None:
            progress(url)
        for file in verify_remote(url):
            problems = [file.wrong] if file.wrong is not None else []
            reports.append(FileReport(f"{url}/{file.name}", file.bytes, "remote", problems=problems, digest_known=True))
    return {"files": [report.to_dict() for report in reports], "intact": all(report.intact for report in reports)}


def _files(path: Path) -> list[Path]:
    if not _is_there(path):
        raise UserError(f"{path} does not exist; give a checkpoint file or the folder of a run.")
    if not path.is_dir():
        return [path]
    found = [file for file in sorted(path.glob("*.pth"), key=_by_number) if not file.is_dir()]
    if not found:
        raise UserError(f"{path} holds no .pth file; give a checkpoint file or the folder of a run.")
    return [file for file in found if _NAME.fullmatch(file.name)] or found


def _by_number(path: Path) -> tuple[str, int, str]:
    match = _NAME.fullmatch(path.name)
    return (match[1], int(match[2] or -1), "") if match else (path.name, 0, path.name)


def _numbered_first(path: Path) -> bool:
    """A key to sort by; the order stays otherwise."""
    match = _NAME.fullmatch(path.name)
    return match is None or match[2] is None


def _identity(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError:  # a link to nowhere is a file of its own, and a broken one
        return path
    return (stat.st_dev, stat.st_ino) if stat.st_ino else path.resolve()


def _known(paths: Sequence[Path], digests: dict[Path, dict[str, str | None] | None]) -> _File:
    """The file with the digest that its run's journal has for it; `digests` keeps what was read before, by run."""
    for path in paths:
        run = path.parent
        if run not in digests:
            try:
                digests[run] = _journaled(run)
            except (UserError, OSError):
                digests[run] = None
        of_run = digests[run]
        if of_run is None:
            return _File(paths, None, ["the digest from the time of writing: the run's journal cannot be read"])
        if of_run.get(path.name) is not None:
            return _File(paths, of_run[path.name])
    return _File(paths)


def _journaled(run: Path) -> dict[str, str | None]:
    if not journal_path(run).is_file():
        return {}
    return {file.path: getattr(file, "digest", None) for file in read_run(run).files}


def _verify(file: _File, threads: int | None, *, numbers: bool = True) -> FileReport:
    began = time.perf_counter()
    path = file.paths[0]
    problems: list[str] = []
    not_checked = list(file.not_checked)
    size, digest, whole = _check_bytes(
        path, file.digest, threads or min(usable(), _MOST_THREADS), problems, not_checked
    )
    contents = _check_pickle(path, problems)
    if contents is not None:
        for one in file.paths:
            problems += _name_problems(one.name, contents)
        if not contents.is_checkpoint:
            not_checked.append("its numbers: it is no checkpoint")
        elif not numbers:
            not_checked.append("its numbers, which were when it was written")
        elif whole:
            _check_numbers(path, contents, problems, not_checked)
        else:
            not_checked.append("its numbers: the file is damaged")
    return FileReport(
        path=str(path),
        also=[str(other) for other in file.paths[1:]],
        bytes=size,
        kind=_kind(contents),
        problems=list(dict.fromkeys(problems)),
        not_checked=not_checked,
        step=contents.step if contents else None,
        epoch=contents.epoch if contents else None,
        digest=digest,
        digest_known=file.digest is not None,
        seconds=round(time.perf_counter() - began, 3),
    )


def _kind(contents: Contents | None) -> str:
    if contents is None:
        return "unreadable"
    if not contents.is_checkpoint:
        return "other"
    return "resumable" if contents.resumable else "weights"


def _check_bytes(
    path: Path, digest: str | None, threads: int, problems: list[str], not_checked: list[str]
) -> tuple[int, str | None, bool]:
    """Size and digest of the file, and whether every byte of it holds as far as it has checksums."""
    if digest is None and is_legacy(path):
        not_checked.append("its checksums: torch's format before 1.6 has none")
        return path.stat().st_size, None, True
    found = scan(path, threads)
    if found.problem is not None:
        problems.append(found.problem)
    elif digest is not None and digest != found.digest:
        problems.append(NOT_AS_WRITTEN)
    return found.bytes, found.digest, not problems


def _check_pickle(path: Path, problems: list[str]) -> Contents | None:
    try:
        return peek(path)
    except UnsafePickle as error:
        problems.append(f"its pickle is not safe: {error}; do not load it unless you trust who made it")
    except Unreadable as error:
        if not problems:  # else the reason was already told, better
            problems.append(str(error))
    return None


def _name_problems(name: str, contents: Contents) -> list[str]:
    """What the Trainer's file of this name should have and has not."""
    match = _NAME.fullmatch(name)
    if match is None:
        return []
    if not contents.is_checkpoint:
        return [f"it is named {name} and is no checkpoint: it has no model"]
    problems = []
    missing = [key for key in _KEYS if key not in contents.keys]
    if missing:
        problems.append(f"it lacks {', '.join(missing)}, which the Trainer stores in every checkpoint")
    if not contents.model:
        problems.append("its model has no tensors")
    if match[2] is not None and contents.step is not None and contents.step != int(match[2]):
        problems.append(f"it is named {name} and holds step {contents.step}")
    if match[1] == "checkpoint" and not contents.resumable:
        problems.append("it has no optimizer: continue_path would choose it and it cannot be resumed")
    return problems


# With torch


def _check_numbers(path: Path, contents: Contents, problems: list[str], not_checked: list[str]) -> None:
    """Load the file as the Trainer does on a resume, and look for numbers that are not finite."""
    try:
        import torch
    except Exception as error:  # a torch that is there and broken fails with an OSError
        not_checked.append(
            f"whether torch loads it, and its numbers: torch cannot be imported ({type(error).__name__})"
        )
        return
    if contents.classes and not hasattr(torch.serialization, "safe_globals"):
        not_checked.append(f"whether torch loads it, and its numbers: torch {torch.__version__} is too old for that")
        return
    try:
        with _allowing(contents.classes):
            state = torch.load(path, map_location="cpu", mmap=not is_legacy(path), weights_only=True)
        bad = not_finite({key: state[key] for key in ("model", "optimizer") if key in state})
    except Exception as error:  # torch meets damage with any kind of error
        problems.append(f"torch cannot load it ({type(error).__name__}: {_first_line(error)})")
        return
    if bad:
        more = f", and so have {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        problems.append(f"{bad[0]} has values that are not finite{more}")


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return line if len(line) <= 160 else f"{line[:160]}..."


def _allowing(classes: Iterable[str]) -> AbstractContextManager[Any]:
    """Let torch fill empty classes where the file holds objects of Coqui's config classes, which stay unimported."""
    import torch

    empty = [_empty_class(*name.rsplit(".", 1)) for name in sorted(classes)]
    return torch.serialization.safe_globals(empty) if empty else nullcontext()


def _empty_class(module: str, name: str) -> type:
    return type(name, (), {"__module__": module})

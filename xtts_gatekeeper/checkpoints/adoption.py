"""What a killed process had done to a run's files and not recorded yet, so that the next one can put it on record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xtts_gatekeeper.checkpoints.integrity import scan
from xtts_gatekeeper.checkpoints.inventory import SPARE, candidates, is_plain, number_in
from xtts_gatekeeper.checkpoints.names import other_names
from xtts_gatekeeper.record import Checkpoint, RunRecord


def unrecorded_renames(run: Path, record: RunRecord) -> Iterator[tuple[str, str]]:
    """Old and new names of files on record that lie in the folder under the other name that they can have."""
    files = {file.path: file for file in record.files}
    for file in files.values():
        if (run / file.path).exists():
            continue
        for name in other_names(file.path):
            path = run / name
            if name not in files and is_plain(path) and path.stat().st_mtime_ns == file.mtime_ns:
                yield file.path, name


def unrecorded_files(run: Path, record: RunRecord, epoch: int) -> Iterator[Checkpoint]:
    """The events of this run's files that are whole, every byte read, and not on record.

    Args:
        run: the run folder.
        record: what its journal says.
        epoch: what to note as the epoch, which the file's name does not tell.
    """
    known = {file.path for file in record.files}
    evaluated = {evaluation.step for evaluation in record.evaluations}
    for file in candidates(run, record):
        # We write a best as weights alone: a full one that is not on record is stock code's, and stays as it is.
        if file.path not in known and not (file.resumable and file.path.startswith("best_")):
            # A checkpoint saved inside a step holds one more than its number; one beside an evaluation does not.
            step = file.number if file.number in evaluated and file.number is not None else file.step
            yield from _if_whole(run, file.path, "latest" if file.resumable else "best", step, epoch)
    for path in sorted(run.glob("weights_*.pth")):
        if SPARE.fullmatch(path.name) and path.name not in known and is_plain(path):
            yield from _if_whole(run, path.name, "weights", number_in(path.name) or 0, epoch)


def _if_whole(run: Path, name: str, kind: str, step: int, epoch: int) -> Iterator[Checkpoint]:
    path = run / name
    found = scan(path)
    if found.problem is None:
        yield Checkpoint(
            step=step,
            epoch=epoch,
            kind=kind,
            path=name,
            bytes=found.bytes,
            mtime_ns=path.stat().st_mtime_ns,
            digest=found.digest,
            intact=True,
            resumable=kind == "latest",
            reason="found whole in the folder and not on record",
        )

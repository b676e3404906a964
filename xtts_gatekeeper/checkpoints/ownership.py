"""Whose a checkpoint file is: only this run's own are deleted, renamed or chosen."""

from __future__ import annotations

from pathlib import Path

from xtts_gatekeeper.checkpoints.integrity import scan
from xtts_gatekeeper.checkpoints.inventory import BEST_NAME, of_another_run, run_settings
from xtts_gatekeeper.checkpoints.retention import Candidate
from xtts_gatekeeper.record import Checkpoint, RunRecord

#: (path, size, time of writing) -> digest, of files that were looked at because their time is not the journal's.
_digests: dict[tuple[str, int, int], str | None] = {}


def as_written(path: Path, listed: Checkpoint) -> bool:
    """Whether a file is the one that the journal lists: by its time of writing, or else by its digest.

    A copy of a run folder need not keep the times.

    Raises:
        OSError: it cannot be looked at.
    """
    stat = path.stat()
    if stat.st_mtime_ns == listed.mtime_ns:
        return True
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if listed.digest is not None and key not in _digests:
        _digests[key] = scan(path).digest
    return listed.digest is not None and _digests[key] == listed.digest


class Owner:
    """Whether a file is this run's own: by its journal, else by its log and by the settings inside the file."""

    def __init__(self, run: Path, record: RunRecord) -> None:
        self.run = run
        self.record = record
        self._journal = {file.path: file for file in record.files} if record.source == "journal" else {}
        self._logged = {file.path for file in record.checkpoints} if record.source == "console" else None
        self._settings = run_settings(run)

    def foreign(self, file: Candidate) -> str | None:
        """Why the file cannot be shown to be this run's; None when it can."""
        listed = self._journal.get(file.path)
        if listed is not None:
            path = self.run / file.path
            if as_written(path, listed):
                return None
            return "it is not the file that the journal lists under this name"
        names = {file.path} if file.resumable else {file.path, f"checkpoint_{file.number}.pth"}
        names |= {f"best_model_{file.number}.pth"} if file.path in (BEST_NAME, f"best_{file.number}.pth") else set()
        if self._logged is not None and not self._logged & names:
            return "the run's log does not say that it wrote it"
        if file.origin is None or "output_path" not in self._settings:
            return "there are no settings, in it or in config.json, to tell whose file it is"
        return of_another_run(file, self._settings)

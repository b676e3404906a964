"""The way back from a mirror: a run folder on this machine, to go on with."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from xtts_gatekeeper.checkpoints.integrity import damage
from xtts_gatekeeper.checkpoints.inventory import BEST_NAME, NUMBERED
from xtts_gatekeeper.checkpoints.remote_store import (
    CONFIG,
    MANIFEST,
    Manifest,
    RemoteFile,
    RemoteFolder,
    check_names,
    digest_of,
    find_run,
    is_small,
    reading,
)
from xtts_gatekeeper.checkpoints.writer import PARTIAL, sync_folder
from xtts_gatekeeper.errors import UserError


def fetch_resumable(url: str, target: Path, log: Callable[[str], None] | None = None) -> Path:
    """Download a run to go on with it: its newest resumable checkpoint, its best one, and its small files.

    Every file is compared with the manifest; where the newest does not hold, the next older one is taken. Without a
    manifest the checkpoints go by the numbers in their names and must hold their CRCs. All of it lies in
    `<target>.partial` until it is complete.

    Args:
        url: a run on the remote, or the folder above when it holds just one.
        target: the run folder to make. A mirror goes on where it was if it has the run's name.
        log: told which files were passed over, and why.

    Returns:
        The checkpoint to resume from, the one that `--continue_path <target>` takes.

    Raises:
        UserError: `target` is there already, nothing to resume from, or the remote cannot be read.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already; give a folder that is not.")
    remote, there = find_run(url)
    if CONFIG not in there:
        raise UserError(f"{remote.url} has no {CONFIG}, without which the Trainer cannot go on.")
    check_names({*there}, remote.url)
    with reading(remote.url):
        return _Fetch(remote, there, target, log or (lambda message: None)).run()


class _Fetch:
    def __init__(self, remote: RemoteFolder, there: dict[str, int], target: Path, log: Callable[[str], None]) -> None:
        self.remote = remote
        self.there = there
        self.target = target
        self.folder = target.with_name(target.name + PARTIAL)
        self.log = log
        self.manifest = Manifest.parse(remote.read(MANIFEST), remote.url) if MANIFEST in there else Manifest("")

    def run(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        chosen = next((name for name in self._candidates() if self._checkpoint(name)), None)
        if chosen is None:
            raise UserError(f"{self.remote.url} holds no checkpoint that is whole and can be resumed from.")
        kept = {chosen, self._best(chosen)}
        for path in self.folder.glob("*.pth"):  # of an earlier attempt
            if path.name not in kept:
                path.unlink()
        for name in sorted(filter(is_small, self.there)):
            self._small(name)
        self._link_aliases()
        sync_folder(self.folder)
        with contextlib.suppress(FileNotFoundError):
            self.target.rmdir()  # empty, as was seen; on Windows a folder does not replace another
        self.folder.replace(self.target)
        sync_folder(self.target.parent)
        if self.target.name != self.remote.url.rpartition("/")[2]:
            self.log(f"{self.target.name} is another name than {self.remote.url} has: a mirror of it begins anew")
        return self.target / chosen

    def _candidates(self) -> list[str]:
        """Checkpoints to resume from, the newest first; after those that the manifest lists what else is there."""
        listed = [name for name, file in self.manifest.files.items() if file.resumable]
        listed.sort(key=lambda name: self.manifest.files[name].order, reverse=True)
        other = [n for n in self.there if NUMBERED.fullmatch(n) and n not in self.manifest.files]
        # Of one number the Trainer takes checkpoint_N, which is a step ahead of best_model_N.
        return listed + sorted(other, key=lambda name: (_number(name), name.startswith("checkpoint")), reverse=True)

    def _best(self, chosen: str) -> str | None:
        """Download the best file, too: without it the next evaluation would count as the best, however bad."""
        bests = [name for name, file in self.manifest.files.items() if file.kind == "best"]
        last = max(bests, key=lambda name: self.manifest.files[name].order, default=chosen)  # each beat those before
        name = self.manifest.aliases.get(BEST_NAME, last)
        if name == chosen or name not in self.manifest.files:
            return None
        if _number(name) > _number(chosen):
            self.log(f"{name} holds weights alone: `xtts-gatekeeper resume` puts it out of stock code's sight")
        return name if self._checkpoint(name) else None

    def _checkpoint(self, name: str) -> bool:
        """Download a checkpoint; False, and a message, when what came does not hold."""
        known = self.manifest.files.get(name)
        path = self.folder / name
        if not (path.exists() and _wrong(path, known) is None):  # else it is of an earlier attempt
            partial = path.with_name(path.name + PARTIAL)
            try:
                with partial.open("wb") as file:
                    self.remote.copy(name, file)
                    file.flush()
                    os.fsync(file.fileno())
            except FileNotFoundError:
                self.log(f"{name} is passed over: it is not on the remote")
                partial.unlink()
                return False
            wrong = _wrong(partial, known)
            if wrong is not None:
                self.log(f"{name} is passed over: {wrong}")
                partial.unlink()
                return False
            partial.replace(path)
        if known is not None and known.mtime_ns:  # by which pruning knows the file for the run's own
            os.utime(path, ns=(known.mtime_ns, known.mtime_ns))
        return True

    def _small(self, name: str) -> None:
        data = self.remote.read(name)
        known = self.manifest.files.get(name)
        if known is not None:
            # The files that only grow may be ahead of the manifest; its state is the one that fits the checkpoints.
            if hashlib.sha256(data[: known.bytes]).hexdigest() == known.sha256:
                data = data[: known.bytes]
            else:
                self.log(f"{name} is not as the manifest says, and taken as it is")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)

    def _link_aliases(self) -> None:
        for name, of in self.manifest.aliases.items():
            if (self.folder / of).exists() and not (self.folder / name).exists():
                try:
                    os.link(self.folder / of, self.folder / name)
                except OSError as error:
                    self.log(f"{name} could not be made a link, use {of}: {error}")


def _wrong(path: Path, known: RemoteFile | None) -> str | None:
    """What is wrong with a downloaded checkpoint, read back from the disk."""
    if known is None:
        return damage(path, legacy=True)
    with path.open("rb") as file:
        return known.difference(digest_of(file))


def _number(name: str) -> int:
    """The number in a checkpoint's name, by which stock code chooses; -1 without one."""
    match = NUMBERED.fullmatch(name)
    return int(match[2]) if match else -1

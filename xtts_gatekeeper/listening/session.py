"""A listening session: what is heard in it, kept in `<run>/gatekeeper/listening/<id>/session.json`.

Plain data. Which samples it is made of is chosen in `plan`, in which order a listener hears them in `trials`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xtts_gatekeeper.checkpoints.writer import sync_folder
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.samples.sets import write_json

LISTENING = "listening"
SAMPLES = "samples"
SESSION = "session.json"
VERSION = 1
#: The source of a stimulus that is a real clip; no folder has this name.
REAL = ""


@dataclass(frozen=True)
class Place:
    """Where sessions are kept, and where the samples lie; `run` is None for a plain folder of sets."""

    listening: Path
    samples: Path
    run: Path | None = None


@dataclass(frozen=True, kw_only=True)
class System:
    """Whose samples are judged: a set's folder, and of which weights it is, in words."""

    source: str
    name: str
    step: int
    epoch: int | None
    weights: str


@dataclass(frozen=True, kw_only=True)
class Stimulus:
    """A file to hear: of which system (`REAL`: the speaker's own clip), and how loud it is.

    `file` is relative to the folder of the samples, that of a real clip absolute. `loudness` is in LUFS, `peak` in dBFS
    (`stimuli.probe`).
    """

    source: str
    file: str
    sha256: str
    loudness: float
    peak: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """What is heard side by side: one text, by every system that could speak it; those in `failed` could not."""

    id: str
    text: str
    language: str
    stimuli: tuple[Stimulus, ...]
    failed: tuple[str, ...] = ()

    def of(self, source: str) -> Stimulus | None:
        """The stimulus of a system, or the real clip."""
        return next((stimulus for stimulus in self.stimuli if stimulus.source == source), None)


@dataclass(frozen=True, kw_only=True)
class Session:
    """One choice of samples, and all answers about them.

    `id` is made of the choice and the content of the files: the same choice goes on with the same session. `secret`, 32
    hexadecimal digits, draws orders and tokens. `prompts` is the fingerprint by which scores are compared.
    """

    id: str
    created: str
    secret: str
    prompts: str
    systems: tuple[System, ...]
    groups: tuple[Group, ...]

    @property
    def stimuli(self) -> tuple[Stimulus, ...]:
        """Every file of the session."""
        return tuple(stimulus for group in self.groups for stimulus in group.stimuli)

    @cached_property
    def heard(self) -> tuple[Group, ...]:
        """The groups in which there is something to hear."""
        return tuple(group for group in self.groups if group.stimuli)


def write_session(folder: Path, session: Session) -> None:
    """Keep a new session, readable for its owner alone: who knows the secret is not blind.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    write_json(folder / SESSION, {"version": VERSION, **asdict(session)})
    sync_folder(folder)


def read_session(folder: Path) -> Session:
    """The session that is kept in a folder.

    Raises:
        UserError: there is none, or it is not what we write.
    """
    path = folder / SESSION
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return _session(told)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no listening session ({SESSION} is missing).") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not what we write ({type(error).__name__}: {error}); move it away.") from None


def sessions_in(listening: Path) -> list[tuple[Path, Session]]:
    """The sessions that are kept, with their folders, the oldest first.

    Raises:
        UserError: one of them cannot be read.
    """
    folders = [path.parent for path in listening.glob(f"*/{SESSION}")] if listening.is_dir() else []
    return sorted(((folder, read_session(folder)) for folder in folders), key=lambda item: (item[1].created, item[0]))


@contextlib.contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file against other threads and processes; where the file system has no locks, go on without.

    Args:
        path: the file.
        timeout: so many seconds are waited for who holds it; -1: as long as it takes.

    Raises:
        Timeout: somebody still holds it.
    """
    lock = FileLock(path, thread_local=False)
    held = True
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except (OSError, NotImplementedError):
        held = False
    try:
        yield
    finally:
        if held:
            lock.release()


def place_in(run: Path) -> Place:
    """The place of a run folder."""
    return Place(run / FOLDER / LISTENING, run / FOLDER / SAMPLES, run)


def _session(told: Mapping[str, Any]) -> Session:
    if told["version"] != VERSION:
        raise ValueError(f"version {told['version']}, and this is for {VERSION}")
    values = {key: value for key, value in told.items() if key != "version"}
    groups = [
        Group(**{**group, "stimuli": tuple(Stimulus(**s) for s in group["stimuli"]), "failed": tuple(group["failed"])})
        for group in values["groups"]
    ]
    systems = tuple(System(**system) for system in values["systems"])
    return Session(**{**values, "groups": tuple(groups), "systems": systems})

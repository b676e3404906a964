"""`<run>/gatekeeper/clips.jsonl`: every clip that a run, or one that it grew out of, was trained on, by its content."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from xtts_gatekeeper.record.journal import FOLDER

#: File, in the run's folder of ours. The number of a line, from 0, is the number of its clip in the step log.
CLIPS = "clips.jsonl"


@dataclass(frozen=True, slots=True)
class Trained:
    """A clip: as its batches name it, the digest of its file (empty where that is not known), and the run it is of.

    `run` is empty for a clip of the run itself.
    """

    name: str
    digest: str = ""
    run: str = ""


class Roster:
    """The clips of one run, only ever added to. A clip whose content changes is another one.

    Args:
        run: its folder.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / FOLDER / CLIPS
        self.clips = _read(self.path)
        self._numbers = {clip.name: number for number, clip in enumerate(self.clips) if not clip.run}

    @property
    def digests(self) -> frozenset[str]:
        """The content of every clip, as far as it is known."""
        return frozenset(clip.digest for clip in self.clips if clip.digest)

    def enter(self, clips: Iterable[Trained]) -> None:
        """Add the clips that are not there yet.

        Raises:
            OSError: the file cannot be written; the clips are known to this object all the same.
        """
        known = set(self.clips)
        new = [clip for clip in dict.fromkeys(clips) if clip not in known]
        for clip in new:
            if not clip.run:
                self._numbers[clip.name] = len(self.clips)
            self.clips.append(clip)
        if not new:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({k: v for k, v in asdict(clip).items() if v}) + "\n" for clip in new)
        with self.path.open("ab+") as file:  # the end of a line that a kill has cut off stays a line, of no clip
            torn = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
            file.write(b"\n" * torn + lines.encode())

    def numbers(self, names: Iterable[str]) -> list[int]:
        """The numbers by which the step log names clips of this run; one that is not here yet is added."""
        asked = list(names)
        self.enter(Trained(name) for name in asked if name not in self._numbers)
        return [self._numbers[name] for name in asked]


def _read(path: Path) -> list[Trained]:
    """One entry a line; a line that is damaged is a clip without a name, so that the numbers stay."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    clips = []
    for line in lines:
        try:
            found = json.loads(line)
            clips.append(Trained(*(str(found.get(key, "")) for key in ("name", "digest", "run"))))
        except (ValueError, AttributeError):
            clips.append(Trained(""))
    return clips

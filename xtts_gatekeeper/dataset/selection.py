"""Lists of clips that a user writes, or an audit does: to leave out, or to evaluate with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from xtts_gatekeeper.errors import UserError

#: File in a run's folder of ours: a JSON list of the held-out clips, with `audio_file`, `text`, `language` and
#: `speaker_name`.
EVAL_CLIPS = "eval_clips.json"


def leave_out(samples: Sequence[dict[str, Any]], names: Iterable[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Leave out the clips that `names` name, each by its path, the name of its file, its id, or as its batches name it.

    Returns:
        The clips that stay, in order, and the names that none of them has.
    """
    paths = {name: _normal(name) for name in names}
    by_path: dict[str, list[str]] = {}
    for name, path in paths.items():
        by_path.setdefault(path, []).append(name)
    used: set[str] = set()
    kept = []
    for sample in samples:
        audio = str(sample["audio_file"])
        unique = str(sample.get("audio_unique_name", audio))
        own = {Path(audio).name, Path(audio).stem, unique, unique.partition("#wavs/")[2] or unique}
        hits = {name for name in own if name in paths} | set(by_path.get(_normal(audio), ()))
        used |= hits
        if not hits:
            kept.append(sample)
    return kept, [name for name in paths if name not in used]


def read_names(file: Path, purpose: str = "leave out") -> list[str]:
    """The names in a list of clips, one a line; blank lines and those that begin with # count for nothing.

    A `.json` file holds a list of samples with `audio_file`, as `eval_clips.json` in a run's folder of ours.

    Raises:
        UserError: it cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".json":
            return [str(clip["audio_file"]) for clip in json.loads(text)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"the list of clips to {purpose} cannot be read: {file}: {error}.") from None
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _normal(path: str) -> str:
    # Without "..", and without following a link, which may be what the data set is made of.
    return os.path.normcase(os.path.abspath(path))  # noqa: PTH100

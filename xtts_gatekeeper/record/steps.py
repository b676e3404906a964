"""The values of every training step, one JSON object a line, in `<run>/gatekeeper/steps.jsonl`.

Not the journal: nothing is decided by them, a kill may cost the last hundred, and they are not synced.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtts_gatekeeper.record.journal import to_json

STEPS = "steps.jsonl"
_LINES = 100


class StepLog:
    """Appends a line for each training step; written a hundred at a time and at the end of an epoch."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lines: list[str] = []

    def add(self, values: Mapping[str, Any]) -> None:
        """Add the values of a step; those that are no finite numbers are written as `nan`, `inf` or `-inf`."""
        self._lines.append(to_json(dict(values)) + "\n")
        if len(self._lines) >= _LINES:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting.

        Raises:
            OSError: it could not be written; it is forgotten.
        """
        lines, self._lines = self._lines, []
        if lines:
            with self.path.open("ab+") as file:
                torn = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
                file.write(("\n" if torn else "").encode() + "".join(lines).encode(errors="backslashreplace"))

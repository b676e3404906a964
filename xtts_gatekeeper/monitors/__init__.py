"""What is measured while the Trainer works. Each monitor is fed by `watch.py` and gives a part of an epoch's event."""

from __future__ import annotations

from typing import Any, Protocol


class Monitor(Protocol):
    """Measures something over the training part of an epoch."""

    def begin_epoch(self) -> None:
        """A new epoch begins: what was added up is forgotten."""

    def epoch(self) -> dict[str, Any]:
        """What was measured since the epoch began, as plain JSON values; finite numbers or None."""

"""How many processors this process may use."""

from __future__ import annotations

import os


def usable() -> int:
    """Those that the system, a container or a job leaves to this process; all of the machine's where nothing tells."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

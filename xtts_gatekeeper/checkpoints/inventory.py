"""What lies in a run folder."""

from __future__ import annotations

from pathlib import Path


def run_files(run: Path) -> dict[str, int]:
    """The checkpoint files of a run folder and their bytes; names of one file (hard links) count once."""
    files: dict[tuple[int, int], tuple[str, int]] = {}
    for path in sorted(run.glob("*.pth")):
        try:
            stat = path.stat()
        except FileNotFoundError:  # pruned since, or a link to nowhere
            continue
        files.setdefault((stat.st_dev, stat.st_ino), (path.name, stat.st_size))
    return dict(files.values())

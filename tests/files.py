"""Looking at folders."""

from pathlib import Path


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder` with its content: equal before and after means that nothing was written or deleted."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }

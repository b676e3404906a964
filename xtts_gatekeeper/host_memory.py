"""The memory of this machine, or of the container that limits it."""

from __future__ import annotations

from pathlib import Path

#: Where a container's limit and use stand (versions 2 and 1), and the statistic of memory that can be taken back.
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
)

#: Where the kills for want of memory are counted, beside the process's own group: version 1, then the whole system.
_KILLS = (("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill"), ("/proc/vmstat", "oom_kill"))


def available_bytes() -> int:
    """Bytes that can still be had, by the system's count and the container's limit."""
    import psutil

    return max(0, min([int(psutil.virtual_memory().available), *(left for left, _ in _containers())]))


def total_bytes() -> int:
    """All the memory there is, by the system's count and the container's limit."""
    import psutil

    return min([int(psutil.virtual_memory().total), *(limit for _, limit in _containers())])


def process_bytes() -> int:
    """Bytes of this process in memory."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def kills() -> int:
    """How many processes the system has killed here for want of memory; 0 where it does not say.

    The container's count, where there is one: that of the system holds everybody's.
    """
    for path, key in (*((f"{folder}/memory.events", "oom_kill") for folder in _own_cgroups()), *_KILLS):
        try:
            counts = dict(line.split(maxsplit=1) for line in Path(path).read_text().splitlines() if " " in line)
            return int(counts[key])
        except (OSError, ValueError, KeyError):
            continue
    return 0


def _own_cgroups() -> list[str]:
    """The folder of this process's own group (version 2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    return [f"/sys/fs/cgroup{line.removeprefix('0::').rstrip('/')}" for line in lines if line.startswith("0::/")]


def _containers() -> list[tuple[int, int]]:
    """What is left and what is allowed, for each limit that there is."""
    found = []
    for limit, used, statistics, cache in _CGROUPS:
        try:
            allowed, taken = int(Path(limit).read_text()), int(Path(used).read_text())
        except (OSError, ValueError):  # no such file, or no limit ("max")
            continue
        found.append((allowed - taken + _cached(statistics, cache), allowed))
    return found


def _cached(statistics: str, name: str) -> int:
    """Bytes of a container that can be taken back; 0 where nothing tells."""
    try:
        return int(dict(line.split() for line in Path(statistics).read_text().splitlines()).get(name, 0))
    except (OSError, ValueError):
        return 0

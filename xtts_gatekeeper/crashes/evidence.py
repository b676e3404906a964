"""What is kept of a crash, in `<run>/gatekeeper/crashes/`: for whoever has to find out why."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtts_gatekeeper import host_memory
from xtts_gatekeeper.crashes.kinds import Error
from xtts_gatekeeper.record.journal import FOLDER, to_json
from xtts_gatekeeper.record.steps import STEPS

#: Folder, in the run's folder of ours.
CRASHES = "crashes"

_LAST_STEPS = 20
#: Runs of which this process knows a crash, whether it could be written or not.
_crashed: set[Path] = set()
#: A GPU that is lost can keep its own tool waiting for ever.
_GPU_SECONDS = 10.0
_GPU_QUERY = (
    "name,uuid,driver_version,pstate,temperature.gpu,power.draw,power.limit,clocks.sm,memory.used,memory.total,"
    "utilization.gpu,ecc.errors.uncorrected.volatile.total,clocks_throttle_reasons.active"
)
_PACKAGES = ("xtts-gatekeeper", "coqui-tts", "coqui-tts-trainer", "torch", "torchaudio", "transformers", "numpy")


def error_of(error: BaseException) -> Error:
    """The exception as plain text; its innermost frame, for a chain the one of the exception itself."""
    kind = type(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    try:
        said = str(error)
    except Exception:  # as the traceback has it
        said = "<exception str() failed>"
    return Error(name, said, "".join(traceback.format_exception(error)), where)


def stamp() -> str:
    """The time as the names of files have it: in order of time."""
    return time.strftime("%Y%m%d-%H%M%S")


def evidence_path(run: Path, pid: int) -> Path:
    """A name for the evidence of a crash of process `pid`, now."""
    return run / FOLDER / CRASHES / f"{stamp()}-{pid}.json"


def evidence_of(run: Path, pid: int, since: str) -> Path | None:
    """What the process itself has left, if anything.

    `since` is the `stamp` of its start: another may have had its number before, and in a container mostly has.
    """
    found = sorted(path for path in (run / FOLDER / CRASHES).glob(f"*-{pid}.json") if path.name >= since)
    return found[-1] if found else None


def has_evidence(run: Path) -> bool:
    """Whether something is known of a crash of the run."""
    return run.resolve() in _crashed or any((run / FOLDER / CRASHES).glob("*.json"))


def write_evidence(path: Path, facts: Mapping[str, Any]) -> None:
    """Write, or complete, the evidence at `path`; what stood there stays where it is not said anew.

    The facts come first and the state of the machine after them, for asking a broken one may take long or end badly.
    Errors are let go of: they must not hide the crash itself.
    """
    known: dict[str, Any] = read_evidence(path)
    known.update(facts)
    _crashed.add(path.parents[2].resolve())
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, known)
        if "machine" not in known:
            _write(path, {**known, "machine": machine_state(path.parent)})


def read_evidence(path: Path | None) -> dict[str, Any]:
    """The evidence in a file; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def error_in(known: Mapping[str, Any]) -> Error | None:
    """The exception that evidence tells of; None where it tells of none, or is damaged."""
    try:
        return Error(*(str(known["error"][key]) for key in ("type", "message", "traceback", "where")))
    except (KeyError, TypeError):
        return None


def last_steps(run: Path) -> list[Any]:
    """The last lines of the step log."""
    try:
        with (run / FOLDER / STEPS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 512 * _LAST_STEPS))
            lines = file.read().splitlines()[-_LAST_STEPS:]
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def machine_state(folder: Path) -> dict[str, Any]:
    """Memory, the disk of a folder, GPUs and versions, as far as they can be had without torch."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    state: dict[str, Any] = {"versions": versions, "command": sys.argv}
    with contextlib.suppress(Exception):
        state["memory"] = {"available": host_memory.available_bytes(), "total": host_memory.total_bytes()}
        state["out_of_memory_kills"] = host_memory.kills()
    with contextlib.suppress(OSError):
        state["disk_free"] = shutil.disk_usage(folder).free
    return {**state, "gpu": gpu_state()}


def gpu_state() -> str:
    """What `nvidia-smi` says of every GPU: temperature, power, clocks, memory, ECC errors; or why there is nothing."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "there is no nvidia-smi"
    try:
        process = subprocess.Popen(
            [tool, f"--query-gpu={_GPU_QUERY}", "--format=csv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return f"nvidia-smi cannot be started: {error}"
    try:
        return process.communicate(timeout=_GPU_SECONDS)[0].strip()
    except subprocess.TimeoutExpired:
        process.kill()  # and not waited for: one that hangs in the driver does not die
        return f"nvidia-smi did not answer within {_GPU_SECONDS:g} s"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(to_json(dict(content), indent=1) + "\n", encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise

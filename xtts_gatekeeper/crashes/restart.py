"""What a supervisor tells the process that it starts, and what that tells it: through the environment and a file."""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from xtts_gatekeeper.errors import UserError

#: The variable that holds a `Restart` as JSON.
VARIABLE = "XTTS_GATEKEEPER_RESTART"
#: The clips that a run leaves out, one path a line, in the run's folder of ours; read at each start.
EXCLUDED = "exclude.txt"
_REPORTS = "runs.jsonl"


@dataclass(frozen=True)
class Restart:
    """How a process is to begin.

    `scratch` is a folder in which it says where its run is. `runs` are those that the command has trained so far and
    that can be gone on with, the latest last; none: a new one. `spare_memory`: save without a copy in host memory.
    `eval_batch_size`: clips in a batch of an evaluation of the latest run. `exclude`: clips that a new run leaves out;
    one that goes on has a list of its own.
    """

    scratch: str
    runs: tuple[str, ...] = ()
    spare_memory: bool = False
    eval_batch_size: int | None = None
    exclude: tuple[str, ...] = ()

    @staticmethod
    def asked(environ: Mapping[str, str] = os.environ) -> Restart | None:
        """What the supervisor of this process asks for; None without one.

        Raises:
            UserError: the variable holds something else.
        """
        text = environ.get(VARIABLE)
        if not text:
            return None
        try:
            found = Restart(**json.loads(text))
            runs, exclude = tuple(map(str, found.runs)), tuple(map(str, found.exclude))
            return replace(found, scratch=str(Path(found.scratch)), runs=runs, exclude=exclude)
        except (ValueError, TypeError):
            raise UserError(f"{VARIABLE} is set to {text!r}, which is not ours; unset it.") from None

    @staticmethod
    def end_soon() -> None:
        """Let this process not look for garbage when it ends: with torch and TTS loaded that takes 1.5 s of 1.7."""
        atexit.register(gc.freeze)

    def environment(self) -> dict[str, str]:
        """The variable to start a process with."""
        return {VARIABLE: json.dumps(asdict(self))}

    def run_for(self, run_name: str) -> str:
        """The run that a training of this name goes on with; an empty string for a new one.

        A command may train several runs, one after the other. Each training gets the latest of its own name that none
        before it, since the command was started, has got; of another name only where the command has trained one run.
        """
        together = int(os.environ.get("WORLD_SIZE") or 1) > 1  # the processes of one training
        taken = set() if together else {str(report.run) for report in reports(Path(self.scratch))}
        left = [run for run in self.runs if run not in taken]
        own = [run for run in left if Path(run).name.startswith(f"{run_name}-")]
        if own:
            return own[-1]
        return left[-1] if len(self.runs) == 1 and not taken and left else ""

    def report(self, run: Path, newest: int | None) -> None:
        """Say where the run of this process is, and how many micro-batches its newest state to go on from holds."""
        told = {"run": str(run.resolve()), "pid": os.getpid(), "newest": newest}
        with contextlib.suppress(OSError), (Path(self.scratch) / _REPORTS).open("ab", buffering=0) as file:
            file.write(json.dumps(told).encode() + b"\n")


@dataclass(frozen=True)
class Report:
    """The run of a process, and the number of the process that trains it: a launcher's child, perhaps.

    `newest` counts the micro-batches in the newest state that it could have gone on from; None: it began anew.
    """

    run: Path
    pid: int
    newest: int | None


def reports(scratch: Path) -> list[Report]:
    """What the processes of the command have said since it was started, in order."""
    found = []
    with contextlib.suppress(OSError):
        for line in (scratch / _REPORTS).read_bytes().splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                told = json.loads(line)
                found.append(Report(Path(told["run"]), int(told["pid"]), told["newest"]))
    return found


def forget_reports(scratch: Path) -> None:
    """Before the command is started once more."""
    with contextlib.suppress(OSError):
        (scratch / _REPORTS).unlink(missing_ok=True)

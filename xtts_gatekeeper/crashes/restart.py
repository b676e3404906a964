"""What a supervisor tells the process that it starts, and what that tells it: through the environment and a file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from xtts_gatekeeper.errors import UserError

#: The variable that holds a `Restart` as JSON.
VARIABLE = "XTTS_GATEKEEPER_RESTART"
#: The clips that a run leaves out, one path a line, in the run's folder of ours; read at each start.
EXCLUDED = "exclude.txt"
_REPORT = "run.json"


@dataclass(frozen=True)
class Restart:
    """How a process is to begin.

    `scratch` is a folder in which it says where its run is. `run` is the one to go on with; empty: a new one.
    `spare_memory`: save without a copy in host memory. `eval_batch_size`: clips in a batch of an evaluation.
    """

    scratch: str
    run: str = ""
    spare_memory: bool = False
    eval_batch_size: int | None = None

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
            return Restart(**json.loads(text))
        except (ValueError, TypeError):
            raise UserError(f"{VARIABLE} is set to {text!r}, which is not ours; unset it.") from None

    def environment(self) -> dict[str, str]:
        """The variable to start a process with."""
        return {VARIABLE: json.dumps(asdict(self))}

    def report(self, run: Path, newest: int | None) -> None:
        """Say where the run of this process is, and how many micro-batches its newest state to go on from holds."""
        partial = Path(self.scratch) / f"{_REPORT}.{os.getpid()}"
        with contextlib.suppress(OSError):
            told = {"run": str(run.resolve()), "pid": os.getpid(), "newest": newest}
            partial.write_text(json.dumps(told), encoding="utf-8")
            partial.replace(Path(self.scratch) / _REPORT)


@dataclass(frozen=True)
class Report:
    """The run of a process, and the number of the process that trains it: a launcher's child, perhaps.

    `newest` counts the micro-batches in the newest state that it could have gone on from; None: it began anew.
    """

    run: Path
    pid: int
    newest: int | None


def reported(scratch: Path) -> Report | None:
    """What the process has said; None before that."""
    try:
        found = json.loads((scratch / _REPORT).read_text(encoding="utf-8"))
        return Report(Path(found["run"]), int(found["pid"]), found["newest"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def forget_report(scratch: Path) -> None:
    """Before the next process is started."""
    (scratch / _REPORT).unlink(missing_ok=True)

"""The process behind `worker.Worker`: jobs come in and answers go out, a JSON object a line."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.samples.calibration import Reference, read_calibration
from xtts_gatekeeper.samples.measures.models import Models
from xtts_gatekeeper.samples.measuring import Ears, first_line, measure_set

#: How far it gives way to other processes, by the system's own number for it.
_NICE = 10


def main() -> None:
    """Work until the input ends: then at once, for who gave the jobs is gone."""
    options = json.loads(sys.argv[1])
    with contextlib.suppress(AttributeError, OSError):  # not on every system
        os.nice(_NICE)
    folder = Path(options["models"]) if options["models"] else None
    models = Models(folder, bool(options["download"]), str(options["whisper"]), int(options["threads"]))
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_take, args=(jobs,), daemon=True).start()
    ears = Ears(models)
    tried: set[Path] = set()
    while True:
        job = json.loads(jobs.get())
        error = work(ears, job, tried)
        answers.write(json.dumps({"folder": job["folder"], "error": error}) + "\n")
        answers.flush()


def work(ears: Ears, job: dict[str, Any], tried: set[Path]) -> str:
    """Measure a folder by the speaker's scale, made first where it is not there; an error's sentence, or ""."""
    scale = Path(job["calibration"])
    try:
        if scale.is_file():
            ears.calibration = read_calibration(scale)
        # A scale without a voice was made where the models were not there: they may be now, which is tried once.
        if job["references"] and scale not in tried and not (scale.is_file() and ears.calibration.speaker):
            tried.add(scale)
            ears.calibrate([Reference(**reference) for reference in job["references"]]).write(scale)
        measure_set(Path(job["folder"]), ears)
    except UserError as error:
        return str(error)
    except Exception as error:  # one folder must not cost the next
        return first_line(error)
    return ""


def _take(jobs: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()

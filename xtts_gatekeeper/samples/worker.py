"""Measuring beside a training: a process of its own, on the CPU, that gives way to everything else.

A job is a folder of samples; its answer is that folder's `measures.json`. The training only ever looks into a queue.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from xtts_gatekeeper.samples.calibration import Reference

#: Seconds that the process gets to end by itself when it is closed.
_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Finished:
    """A job that is done; `error` says in one sentence why it could not be."""

    folder: Path
    error: str = ""


class Worker:
    """Measures folders of samples, one after the other.

    The process starts with the first job and ends when this one does, however that ends. When it dies at a job, that
    job is reported as failed and a new one begins with the next.

    Args:
        models: folder with the measures' models; by default what `XTTS_GATEKEEPER_MODELS` names.
        threads: cores that it may use.
        download: whether missing models may be fetched from the hub.
        whisper: size of the recogniser.
    """

    def __init__(
        self, models: Path | None = None, threads: int = 1, download: bool = False, whisper: str = "base"
    ) -> None:
        self._options: dict[str, object] = {
            "models": str(models) if models else None,
            "threads": threads,
            "download": download,
            "whisper": whisper,
        }
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._pending: list[Path] = []
        self._lock = threading.Condition()

    def submit(self, folder: Path, calibration: Path, references: Sequence[Reference] = ()) -> None:
        """Have a folder measured.

        Args:
            folder: holds `samples.json`.
            calibration: the speaker's scale; made out of `references` where it is not there yet.
            references: real clips of the speaker.
        """
        job = {
            "folder": str(folder),
            "calibration": str(calibration),
            "references": [asdict(reference) for reference in references],
        }
        with self._lock:
            self._pending.append(folder)
        try:
            process = self._running()
            assert process.stdin is not None
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        except OSError as error:
            self._answer(folder, f"the process that measures could not be reached ({error.strerror or error})")

    def finished(self) -> list[Finished]:
        """What was done since this was asked before. Never waits."""
        done = []
        with contextlib.suppress(queue.Empty):
            while True:
                done.append(self._answers.get_nowait())
        return done

    def wait(self, seconds: float) -> bool:
        """Wait until everything is done, at most so long; whether it is."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._pending, timeout=seconds)

    def close(self, seconds: float = 0.0) -> None:
        """End the process, after waiting so long for what is not done yet. What is not then can be measured later."""
        if seconds > 0:
            self.wait(seconds)
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = process = _start(self._options)
            threading.Thread(target=self._listen, args=(process,), name="measures", daemon=True).start()
        return self._process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Pass on what the process answers; when it ends, give up what it had not done."""
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # closed under us
            for line in process.stdout:
                try:
                    answer = json.loads(line)
                    folder, error = Path(answer["folder"]), str(answer["error"])
                except (ValueError, KeyError, TypeError):
                    continue  # a library of a measure that prints
                self._answer(folder, error)
        code = process.wait()
        with self._lock:
            left = list(self._pending) if process is self._process or self._process is None else []
        for folder in left:
            self._answer(folder, f"the process that measures ended with exit code {code}")

    def _answer(self, folder: Path, error: str) -> None:
        with self._lock:
            if folder in self._pending:
                self._pending.remove(folder)
                self._answers.put(Finished(folder, error))
            self._lock.notify_all()


def _start(options: dict[str, object]) -> subprocess.Popen[str]:
    threads = str(options["threads"])
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",  # the GPU is the training's
        **{f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")},
    }
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # it is no rank of the training
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-m", "xtts_gatekeeper.samples.work", json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env=environment,
        start_new_session=True,  # Ctrl-C is the training's, which then closes this one
    )

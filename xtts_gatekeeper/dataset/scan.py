"""Measure the audio that is not in the cache yet, with a few processes at once."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.dataset.clip import Audio
from xtts_gatekeeper.dataset.store import MISSING, Store, digest_of
from xtts_gatekeeper.dataset.worker import decode
from xtts_gatekeeper.processors import usable

#: A file on which a decoder spends longer is given up. A second of audio takes milliseconds.
PATIENCE_SECONDS = 120.0
_AT_ONCE = 500
_MOST_WORKERS = 16

Measured = tuple[Audio, bytes]


def scan(
    store: Store,
    paths: Iterable[str],
    *,
    verify: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Measure every file that is new or has changed; afterwards `store.audio` knows them all.

    Args:
        store: where the measures go.
        paths: of the files; they are taken a few hundred at a time.
        verify: read every file, and do not trust its size and time of change.
        workers: processes; as many as there are processors for this process by default.
        progress: called with the number of files that are done, and the number that was asked for so far.

    Raises:
        UserError: soundfile is not installed.
    """
    done = asked = 0
    batches = iter(paths)
    with Pool(workers or min(usable(), _MOST_WORKERS)) as pool:
        while batch := list(dict.fromkeys(islice(batches, _AT_ONCE))):
            asked += len(batch)
            if verify:
                digests = store.digests(batch, verify=True)
                known = store.measured(sorted(set(digests.values()) - {MISSING}))
                new = {path: digest for path, digest in digests.items() if digest != MISSING and digest not in known}
            else:
                audio = store.audio(batch)
                digests = store.digests([path for path in batch if path not in audio])
                known = store.measured(sorted(set(digests.values()) - {MISSING}))
                new = {path: digest for path, digest in digests.items() if digest != MISSING and digest not in known}
            # Of files with the same bytes, one is measured.
            first = {digest: path for path, digest in reversed(new.items())}
            done += len(batch) - len(first)
            if progress:
                progress(done, asked)
            measured = []
            for one in pool.measure(list(first.values())):
                measured.append(one)
                done += 1
                if progress:
                    progress(done, asked)
                if len(measured) >= 100:
                    store.add_measures(measured)
                    measured = []
            store.add_measures(measured)


class Pool:
    """Worker processes, started when there is work, each with a thread that hands it one file after the other.

    A file on which a worker dies or stays is the file's fault, and costs a new worker.
    """

    def __init__(
        self, workers: int, command: tuple[str, ...] | None = None, patience: float = PATIENCE_SECONDS
    ) -> None:
        self._command = command or (sys.executable, "-m", "xtts_gatekeeper.dataset.worker")
        self._patience = patience
        self._count = workers
        self._tasks: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Measured | BaseException] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._closed = False

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for _thread in self._threads:
            self._tasks.put(None)
        for process in list(self._processes.values()):
            process.kill()
        for thread in self._threads:
            thread.join()

    def measure(self, paths: list[str]) -> Iterator[Measured]:
        """Yield what was measured of each file, in the order in which they are done."""
        if paths and not self._threads:
            import_extra("soundfile")  # its absence is said here, and not by every worker
            self._threads = [threading.Thread(target=self._serve, args=(n,), daemon=True) for n in range(self._count)]
            for thread in self._threads:
                thread.start()
        for path in paths:
            self._tasks.put(path)
        for _ in paths:
            answer = self._answers.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    def _serve(self, number: int) -> None:
        try:
            while (path := self._tasks.get()) is not None and not self._closed:
                process = self._processes.get(number)
                if process is None or process.poll() is not None:
                    process = self._start(number)
                self._answers.put(self._ask(process, path))
        except BaseException as error:  # no process can be started: the one who waits must know
            self._answers.put(error)
        finally:
            process = self._processes.pop(number, None)
            if process is not None:
                _end(process)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        old = self._processes.pop(number, None)
        if old is not None:
            _end(old)
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Each worker has one processor: threads of numpy's would only get into each other's way.
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        self._processes[number] = process
        return process

    def _ask(self, process: subprocess.Popen[bytes], path: str) -> Measured:
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(self._patience, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(path).encode() + b"\n")
            process.stdin.flush()
            return decode(process.stdout.readline())
        except (OSError, ValueError, TypeError):
            process.kill()
            process.wait()
            return Audio(digest=digest_of(path), error="the file makes the decoder crash or hang"), b""
        finally:
            timer.cancel()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()

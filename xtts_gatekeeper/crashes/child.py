"""A command as a child process: in a group of its own, its output passed on as it comes and kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from xtts_gatekeeper.errors import UserError

#: So much of the end of the output is held in memory, in bytes: enough for every traceback.
_TAIL = 1 << 18
_CHUNK = 1 << 16
#: A process that outlives its parent can hold the pipes open for ever.
_PIPE_SECONDS = 5.0


class Output:
    """Passes bytes on, unchanged and at once, and keeps them in a file that can be moved meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        with contextlib.suppress(OSError):
            self._file = path.open("ab", buffering=0)
        self._tail, self._errors = bytearray(), bytearray()
        self._lock = threading.Lock()

    def pass_on(self, source: BinaryIO, target: BinaryIO | None, *, errors: bool) -> None:
        """Until `source` ends. A target that takes no more, such as a closed terminal, is given no more."""
        while chunk := os.read(source.fileno(), _CHUNK):
            self.keep(chunk, errors=errors)
            if target is not None:
                try:
                    target.write(chunk)
                    target.flush()
                except (OSError, ValueError):
                    target = None

    def keep(self, chunk: bytes, *, errors: bool = False) -> None:
        """Add to what is kept, to what came by stderr where `errors` says so. A full disk costs lines, nothing else."""
        with self._lock:
            for tail in (self._tail, self._errors)[: 1 + errors]:
                tail += chunk
                del tail[:-_TAIL]
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.write(chunk)

    def move(self, path: Path) -> None:
        """Keep it there from now on; where that cannot be, it stays where it is."""
        with self._lock, contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._close()  # Windows moves no open file
            try:
                shutil.move(self.path, path)
                self.path = path
            finally:
                self._file = self.path.open("ab", buffering=0)

    @property
    def tail(self) -> str:
        """The end of it."""
        with self._lock:
            return self._tail.decode(errors="replace")

    @property
    def errors(self) -> str:
        """The end of what came by stderr, where nothing stands between the lines of a traceback."""
        with self._lock:
            return self._errors.decode(errors="replace")

    def close(self) -> None:
        """No more is kept."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Child:
    """The running command.

    A group of its own, so that Ctrl-C on the terminal reaches it once, through us, and so that all it has started can
    be ended with it. Standard input is ours.

    Args:
        command: program and arguments.
        environment: its variables.
        output: takes what it prints.

    Raises:
        UserError: there is no such program, or it cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], output: Output) -> None:
        self._output = output
        group = 0
        if sys.platform == "win32":
            group = subprocess.CREATE_NEW_PROCESS_GROUP
        try:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=sys.platform != "win32",
                creationflags=group,
            )
        except OSError as error:
            raise UserError(f"{command[0]} cannot be started: {error.strerror or error}.") from None
        streams = ((self._process.stdout, sys.stdout, False), (self._process.stderr, sys.stderr, True))
        self._pumps = [
            threading.Thread(
                target=output.pass_on,
                args=(source, getattr(target, "buffer", None)),
                kwargs={"errors": errors},
                daemon=True,
                name="output",
            )
            for source, target, errors in streams
        ]
        for pump in self._pumps:
            pump.start()
        self._family: set[int] = set()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """Its exit code, negative for a signal, once it has ended; None when it has not within so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            if sys.platform == "win32":  # groups cannot be killed there, so its descendants have to be known before
                self._family |= _descendants(self.pid)
            return None

    def ask(self, number: int, pid: int) -> None:
        """Ask it, or a process that it has started, to leave, as the signal that we were sent asks us."""
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self._process.send_signal(signal.CTRL_BREAK_EVENT)
            elif pid == self.pid:
                self._process.send_signal(number)
            else:
                os.kill(pid, number)

    def kill(self) -> None:
        """End it and all that it has started, at once."""
        if sys.platform == "win32":
            import psutil

            for pid in self._family | _descendants(self.pid):
                with contextlib.suppress(psutil.Error):
                    psutil.Process(pid).kill()
            with contextlib.suppress(OSError):
                self._process.kill()
        else:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    def drain(self) -> None:
        """Take the rest of its output; not for ever, where something that it started still holds the pipes."""
        for pump in self._pumps:
            pump.join(_PIPE_SECONDS)


def _descendants(pid: int) -> set[int]:
    import psutil

    try:
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    except psutil.Error:
        return set()

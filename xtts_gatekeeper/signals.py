"""SIGTERM and Ctrl-C as requests: finish the batch in hand, save, and only then go."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

#: The signals that are taken, and the handler that each must have for that: a program's own is left alone.
_STOCK: dict[int, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
if sys.platform == "win32":  # Ctrl-Break, the one signal that a process of Windows can send to another's group
    _STOCK[signal.SIGBREAK] = signal.SIG_DFL
#: A second SIGTERM within so many seconds is the first once more.
SAME_SECONDS = 2.0


class Requests:
    """Between `watch` and `unwatch` the first signal only sets `asked`; the second acts as ever.

    A SIGTERM within two seconds of another is the same one: an engine that ends every process of a job sends it, and a
    supervisor that it has sent it to hands it on.

    An interrupt in the middle of an optimizer's update would leave, and save, a state that is half of one step and half
    of the next, and one in the middle of a queue's or a lock's own code can leave it locked. Between two batches it can
    do neither. Outside of the main thread nothing is taken.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._since = 0.0
        self._watching: list[int] = []

    def watch(self) -> None:
        """Begin to take the signals as requests."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, stock in _STOCK.items():
            if signal.getsignal(number) is stock:
                signal.signal(number, self._take)
                self._watching.append(number)

    def unwatch(self) -> None:
        """The signals act as ever again, unless the program has set a handler of its own since."""
        for number in self._watching:
            if signal.getsignal(number) == self._take:
                signal.signal(number, _STOCK[number])
        self._watching = []

    def obey(self) -> None:
        """End the process by the signal that was asked for, so that whoever sent it sees it; 143 in a shell."""
        if self.asked is not None:
            self.unwatch()
            signal.raise_signal(signal.Signals(self.asked))  # os.kill() ends a process of Windows at once

    def _take(self, number: int, frame: FrameType | None) -> None:
        stock: Callable[[int, FrameType | None], Any] | Any = _STOCK[number]
        if number == self.asked == signal.SIGTERM and time.monotonic() - self._since < SAME_SECONDS:
            return
        if self.asked is not None:
            self.unwatch()
            if callable(stock):
                stock(number, frame)
            signal.raise_signal(signal.Signals(number))
        self.asked, self._since = number, time.monotonic()
        # Neither print() nor logging may be entered twice by one thread, which is where a handler runs.
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):
            os.write(2, f"\n > gatekeeper: {name}: leaving after this batch; once more to leave at once\n".encode())

"""What a training process leaves behind however it ends: what it was at, where it hung, and why it crashed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.crashes.evidence import CRASHES, error_of, evidence_path, last_steps, write_evidence
from xtts_gatekeeper.crashes.flight import FlightRecorder
from xtts_gatekeeper.crashes.hang import HangWatch
from xtts_gatekeeper.monitors.batch import files_in
from xtts_gatekeeper.record.events import now
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.recorder import Recorder
from xtts_gatekeeper.trainer_port import TrainerPort

if TYPE_CHECKING:
    from xtts_gatekeeper.config import HangConfig
#: A crashed process that a supervisor waits for has so many seconds to end.
_ENDING_SECONDS = 600.0


class BlackBox:
    """Wraps the Trainer's steps, evaluations and samples; only the process that writes has one.

    Args:
        port: the Trainer.
        recorder: the live record.
        settings: the section `hang`.
        leave: whether a hang ends the process.
        flush: writes what is known of steps and not yet on the disk.
    """

    def __init__(
        self, port: TrainerPort, recorder: Recorder, settings: HangConfig, *, leave: bool, flush: Callable[[], None]
    ) -> None:
        self.port = port
        self.recorder = recorder
        self.pid = os.getpid()
        self.trained = 0
        self._flush = flush
        self._leave = leave
        self._crashed = False
        self._patient = not settings.evaluation
        self._doing, self._files = "loading", tuple[str, ...]()
        (port.run_folder / FOLDER).mkdir(parents=True, exist_ok=True)
        self.flight = FlightRecorder(port.run_folder)
        self.hang = HangWatch(port.run_folder, self.pid, settings, leave=leave)

    def install(self) -> None:
        """Wrap what takes its time."""
        self.port.wrap("train_step", self._around_step)
        around_slow = self._around_slow if self._patient else self._around_watched
        self.port.wrap("eval_epoch", around_slow("evaluating"))
        self.port.wrap("test_run", around_slow("sampling"))
        self.port.wrap("eval_step", self._around_eval_step)
        # Within a step; W&B, ClearML and MLflow copy the whole run folder then.
        self.port.wrap("update_training_dashboard_logger", self._around_slow("saving"))

    def epoch_begins(self) -> None:
        """The training of an epoch begins."""
        self.hang.begin()
        self._say("loading")

    def epoch_ends(self) -> None:
        """The training of an epoch is over: no step comes for a while."""
        self.hang.rest()
        self._say("evaluating")

    @contextlib.contextmanager
    def during(self, doing: str) -> Iterator[None]:
        """Something other than a step is done, and takes as long as it takes."""
        before = self._doing, self._files
        with self.hang.paused():
            self._say(doing)
            yield
        self._say(*before)

    def leaves_loop(self) -> None:
        """No step comes any more, whatever is still to be done: none of it hangs."""
        self.hang.rest()
        self._say(self._doing, self._files)

    def crashed(self, error: BaseException) -> None:
        """Keep what is known of an exception that ends the training."""
        self._crashed = True
        self.hang.end()
        run = self.port.run_folder
        with contextlib.suppress(Exception):
            self._flush()
        path = evidence_path(run, self.pid)
        facts: dict[str, Any] = {
            "time": now(),
            "pid": self.pid,
            "error": asdict(error_of(error)),
            "doing": self._doing,
            "step": self.port.step,
            "epoch": self.port.epoch,
            "trained": self.trained,
            "files": list(self._files),
            "last_steps": last_steps(run),
        }
        try:
            facts["device_memory"] = asdict(self.port.memory())
        except Exception as failed:  # a CUDA context that is broken answers every call with the same error
            facts["device_memory"] = f"{type(failed).__name__}: {failed}"
        write_evidence(path, facts)
        self.port.log(f"what is known of the crash is in {path}")
        # A process whose GPU is broken can hang while it ends.
        limit = _ENDING_SECONDS if self._leave else None
        self.flight.write(self._doing, self.port.step, self.port.epoch, self.trained, self._files, limit)

    def close(self) -> None:
        """Training is over."""
        self.hang.end()
        if not self._crashed:
            self._say(self._doing, self._files)
        self.flight.close()

    def _around_step(self, stock: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
        self._say("training", files_in(batch))
        found = stock(batch, *args, **kwargs)
        self.trained += 1
        hung = self.hang.step_ends()
        if hung is not None:
            said = f"no step came for {hung:.0f} s; where it hung is in {self.hang.path.name} of gatekeeper/{CRASHES}"
            self.recorder.incident("hang", said)
        self._say("loading")
        return found

    def _around_slow(self, doing: str) -> Callable[..., Any]:
        def around(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with self.during(doing):
                return stock(*args, **kwargs)

        return around

    def _around_watched(self, doing: str) -> Callable[..., Any]:
        """What is slow by nature, and yet to be watched (`hang.evaluation`)."""

        def around(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            before, watched = self._doing, self.hang.watching
            self.hang.begin()
            self._say(doing)
            found = stock(*args, **kwargs)
            if watched:
                self.hang.begin()
            else:
                self.hang.rest()
            self._say(before)
            return found

        return around

    def _around_eval_step(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = stock(*args, **kwargs)
        if self.hang.sign_of_life():
            self._say(self._doing, self._files)  # a supervisor looks at the file
        return found

    def _say(self, doing: str, files: Sequence[str] = ()) -> None:
        self._doing, self._files = doing, tuple(files)
        self.flight.write(doing, self.port.step, self.port.epoch, self.trained, files, self.hang.limit)

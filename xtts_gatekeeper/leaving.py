"""How training ends: by itself, by a verdict, a refusal, Ctrl-C, SIGTERM or a crash; always saved and on record."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper import trainer_port
from xtts_gatekeeper.black_box import BlackBox
from xtts_gatekeeper.checkpoints import lock
from xtts_gatekeeper.checkpoints.keeper import CheckpointKeeper
from xtts_gatekeeper.checkpoints.remote import Mirror
from xtts_gatekeeper.dashboard import Dashboard
from xtts_gatekeeper.errors import UserError, refuse
from xtts_gatekeeper.gates import Policy
from xtts_gatekeeper.record.events import End
from xtts_gatekeeper.recorder import Recorder
from xtts_gatekeeper.report.console import status_text
from xtts_gatekeeper.report.table import status
from xtts_gatekeeper.signals import Requests
from xtts_gatekeeper.trainer_port import StopTraining, TrainerPort

if TYPE_CHECKING:
    from xtts_gatekeeper.samples.sampling import Sampling


class Leaving:
    """Wraps `fit` and `_fit` of one Trainer.

    Args:
        port: the Trainer.
        recorder: the live record.
        policy: the rules, for the summary at the end.
        dashboard: the Trainer's own.
        keeper: saves, when saving is ours.
        mirror: keeps a copy of the run elsewhere, when there is to be one.
        black_box: keeps what is known of a crash; only the process that writes has one.
    """

    def __init__(
        self,
        port: TrainerPort,
        recorder: Recorder,
        policy: Policy,
        dashboard: Dashboard,
        keeper: CheckpointKeeper | None,
        mirror: Mirror | None = None,
        black_box: BlackBox | None = None,
    ) -> None:
        self.port = port
        self.recorder = recorder
        self.policy = policy
        self.dashboard = dashboard
        self.keeper = keeper
        self.mirror = mirror
        self.black_box = black_box
        #: Whether the weights are those from which a resume would go on.
        self.whole: Callable[[], bool] = lambda: True
        #: Whether to write the run as a page in the end.
        self.report = False
        #: Has samples measured, where there are any.
        self.sampling: Sampling | None = None
        #: Whether an epoch is being trained, as against evaluated or between two.
        self.in_training = False
        #: The last epoch that was trained to its end.
        self.trained_epoch: int | None = None
        self._first_step = port.step
        self._requests = Requests()
        self._refusal: UserError | None = None
        self._in_fit = False

    @property
    def asked(self) -> bool:
        """Whether SIGTERM or Ctrl-C has asked to leave."""
        return self._requests.asked is not None

    @property
    def next_epoch(self) -> int:
        """The epoch at which a resume from now goes on: the next one after a whole one, else this one again."""
        whole = self.trained_epoch == self.port.epoch and not self.in_training
        return self.port.epoch + (1 if whole else 0)

    def install(self) -> None:
        """Wrap the two methods."""
        self.port.wrap("fit", self._around_fit)
        self.port.wrap("_fit", self._around_inner_fit)
        if self.keeper is not None:
            self.keeper.hurry = lambda: self.asked

    def if_asked(self) -> None:
        """Leave, when SIGTERM or Ctrl-C has asked for it; to be called between two batches."""
        if self._requests.asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self._requests.asked is not None:
            raise StopTraining("SIGTERM")

    def interrupted(self) -> None:
        """Record Ctrl-C; the Trainer has asked for a checkpoint and exits with 130 next, whatever threads do."""
        self._flush()
        self._end("interrupted")
        self._close_mirror()

    def _around_inner_fit(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Inside the Trainer's `fit`: whatever leaves here as an exception ends the process and may delete the run."""
        try:
            stock(*args, **kwargs)
        except StopTraining as stop:
            self._out_of_loop()
            self.port.left_by_exception(in_training=self.in_training)
            self._leave("stopped" if self._requests.asked is None else "terminated", str(stop), stop.cause)
        except UserError as error:
            self._out_of_loop()
            self.port.left_by_exception(in_training=self.in_training)
            if self._trained and self.keeper is not None:
                with self.recorder.softly("save_checkpoint"):
                    self.keeper.save_latest(patient=False)  # the update that was refused has not been made
            self._flush()
            self._end("refused", str(error))
            if not self._in_fit:
                raise refuse(error) from None
            self._refusal = error
        except KeyboardInterrupt:
            self._out_of_loop()
            raise  # the Trainer saves, then calls on_keyboard_interrupt
        except BaseException as error:
            self._out_of_loop()
            if self._ended_with_workers(error):
                self.port.left_by_exception(in_training=self.in_training)
                self._leave("terminated", "SIGTERM")
                return
            if self.black_box is not None:
                self.black_box.crashed(error)
            self._flush()  # before the Trainer removes a folder that holds no checkpoint yet
            self._end("crashed", f"{type(error).__name__}: {error}")
            raise
        else:
            self._out_of_loop()
            self._leave("finished")

    def _around_fit(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._in_fit = True
        if self.keeper is not None:
            self._requests.watch()
        try:
            stock(*args, **kwargs)
        finally:
            self._flush()
            if self.sampling is not None:
                self.sampling.close()
            self._close_mirror()
            self._requests.unwatch()
            if self.black_box is not None:
                self.black_box.close()
            lock.release(self.port.run_folder)
        if self._refusal is not None:
            if not self._trained:
                trainer_port.discard_run_folder(self.port)
            raise refuse(self._refusal)
        if self.recorder.journal is not None:
            with self.recorder.softly("summary"):
                found = status(self.port.run_folder, self.recorder.seen(), self.policy)
                self.port.log("\n" + status_text(found))
            if self.report:
                self._report()
        self._requests.obey()

    def _report(self) -> None:
        """Write the run as a page. That its packages are missing is no incident: the run has all that is in it."""
        from xtts_gatekeeper.offline import open_run
        from xtts_gatekeeper.report.verb import write_report

        with self.recorder.softly("report"):
            try:
                self.port.log(f"report: {write_report(open_run(self.port.run_folder))['file']}")
            except UserError as error:
                self.port.log(f"no report: {error}")

    def _out_of_loop(self) -> None:
        if self.black_box is not None:
            self.black_box.leaves_loop()

    def _ended_with_workers(self, error: BaseException) -> bool:
        """Whether loader workers have died of the SIGTERM that we were sent, too, and took the training with them.

        An engine that ends every process of a job does that. The weights are whole, unless it was within an update.
        """
        asked = self._requests.asked not in (None, signal.SIGINT)
        return asked and trainer_port.is_lost_worker(error) and not self.port.updates.under_way and self.whole()

    @property
    def _trained(self) -> bool:
        return self.port.step > self._first_step

    def _leave(self, how: str, message: str = "", cause: str = "") -> None:
        """Save the state in which training is left, then say that it is over."""
        if self.keeper is not None and self._trained:
            with self.recorder.softly("final_checkpoint"):
                self.keeper.save_latest(self.next_epoch, patient=False)
            self._flush()
        elif how == "stopped" and self._trained:
            with self.recorder.softly("final_checkpoint"):
                self.port.save_checkpoint()
        if self.sampling is not None:
            self.sampling.finish(wait=how != "terminated")
        self._end(how, message, cause)
        if self.recorder.journal is not None:
            with self.recorder.softly("dashboard"):
                self.dashboard.curves(self.recorder.seen(), self.policy, last=True)
        self.port.log(f"{how} at step {self.port.step}{': ' if message else ''}{message}")

    def _flush(self) -> None:
        if self.keeper is not None:
            self.keeper.flush()

    def _close_mirror(self) -> None:
        mirror, self.mirror = self.mirror, None  # waited for once
        if mirror is not None:
            mirror.request()
            self.port.log(f"finishing the copy at {mirror.url}")
            mirror.close()

    def _end(self, how: str, message: str = "", cause: str = "") -> None:
        self.recorder.record(End(step=self.port.step, epoch=self.port.epoch, how=how, message=message, cause=cause))

"""The actor that saves, picks the best and prunes, in place of the Trainer's own saving and deleting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from xtts_gatekeeper.checkpoints.retention import retain
from xtts_gatekeeper.checkpoints.writer import link, sync_folder, write_verified
from xtts_gatekeeper.record import Checkpoint, RunRecord
from xtts_gatekeeper.record.events import Event, Incident, Pruned
from xtts_gatekeeper.trainer_port import TrainerPort

#: The name under which stock tools look for the best model: a hard link here, where the Trainer makes a second copy.
BEST_NAME = "best_model.pth"


class CheckpointKeeper:
    """Keeps two files: the latest checkpoint and the best one by the objective over comparable evaluations.

    For a model that does not log the objective the best is by the Trainer's own target loss, taken exactly.

    The Trainer picks its best by other numbers (after a resume even by the training loss), deletes before it knows
    that the new file is whole, and copies the best a second time. So its two save methods are routed here; the
    content of the files and their names stay the stock ones.
    """

    def __init__(
        self, port: TrainerPort, objective: str, record: Callable[[Event], None], seen: Callable[[], RunRecord]
    ) -> None:
        self.port = port
        self.objective = objective
        self.record = record
        self.seen = seen

    def save_latest(self, epoch: int | None = None) -> None:
        """Save `checkpoint_STEP.pth`, then prune.

        Args:
            epoch: the epoch at which a resume shall go on; by default the current one, which a resume then repeats.
        """
        name = f"checkpoint_{self.port.step}.pth"
        if self._write(name, "latest", epoch):
            self.prune()

    def save_best(self) -> None:
        """Save `best_model_STEP.pth` if the evaluation just made beats the best file over its eval set, then prune."""
        record = self.seen()
        evaluation = record.evaluations[-1] if record.evaluations else None
        if evaluation is None or evaluation.step != self.port.step or evaluation.nonfinite_batches:
            return
        value = evaluation.metrics.get(self.objective, self.port.target_loss(evaluation.metrics))
        if not math.isfinite(value) or evaluation.step <= (self.port.config.save_best_after or 0):
            return
        best = self._best(self._files(record))
        if best is not None and best.eval_set == evaluation.eval_set and not value < _value(best):
            return
        name = f"best_model_{evaluation.step}.pth"
        if self._write(name, "best", value=value, eval_set=evaluation.eval_set):
            try:
                link(self.port.run_folder / name, self.port.run_folder / BEST_NAME)
            except OSError as error:
                self._incident("no_link", f"{BEST_NAME} could not be made a link, use {name}: {error}")
            self.prune()

    def prune(self) -> None:
        """Delete what retention lets go of: only plain files of this folder that this run's journal says we wrote."""
        folder = self.port.run_folder
        files = self._files(self.seen())
        best = self._best(files)
        retention = retain(files, best.path if best is not None else None)
        removed, freed = [], 0
        for name in retention.drop:
            try:
                size = (folder / name).stat().st_size
                (folder / name).unlink()
            except OSError as error:
                self._incident("prune_failed", f"{name} could not be deleted: {error}")
                continue
            removed.append(name)
            freed += size
        if removed:
            sync_folder(folder)
            self.record(
                Pruned(
                    step=self.port.step,
                    epoch=self.port.epoch,
                    removed=removed,
                    kept=list(retention.keep),
                    bytes_freed=freed,
                )
            )
            self.port.log(f"pruned {', '.join(removed)}: {freed / 1e9:.2f} GB freed")

    def _files(self, record: RunRecord) -> list[Checkpoint]:
        """The files of this run that are really there."""
        return [file for file in record.files if _is_plain_file(self.port.run_folder / file.path)]

    def _best(self, files: list[Checkpoint]) -> Checkpoint | None:
        """The best file over the eval set of the last best one: values over different sets cannot be compared."""
        best = [file for file in files if file.kind == "best"]
        return min((file for file in best if file.eval_set == best[-1].eval_set), key=_value, default=None)

    def _write(
        self,
        name: str,
        kind: str,
        epoch: int | None = None,
        value: float | None = None,
        eval_set: str | None = None,
    ) -> bool:
        """Write one file and record how it went; a failure is reported and training goes on with the last good file."""
        path = self.port.run_folder / name
        begin = time.perf_counter()
        reason = ""
        try:
            write_verified(path, lambda partial: self.port.save(partial, self.port.epoch if epoch is None else epoch))
        except OSError as error:
            reason = str(error)
        except RuntimeError as error:  # torch's zip writer reports a full disk as a RuntimeError
            reason = str(error).splitlines()[0]
        self.record(
            Checkpoint(
                step=self.port.steps_trained,
                epoch=self.port.epoch,
                kind=kind,
                path=name,
                bytes=0 if reason else path.stat().st_size,
                intact=not reason,
                seconds=round(time.perf_counter() - begin, 3),
                value=value,
                eval_set=eval_set,
                reason=reason,
            )
        )
        if reason:
            self._incident("save_failed", f"{name} was not saved: {reason}")
            return False
        self.port.log(f"saved {name}" + (f", {self.objective} {value:.4f}" if value is not None else ""))
        return True

    def _incident(self, code: str, message: str) -> None:
        self.record(Incident(step=self.port.step, epoch=self.port.epoch, code=code, message=message))
        self.port.log(f"WARNING: {message}")


def _value(file: Checkpoint) -> float:
    return math.inf if file.value is None else file.value


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()

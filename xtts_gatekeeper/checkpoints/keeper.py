"""The actor that saves, picks the best and prunes, in place of the Trainer's own saving and deleting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from xtts_gatekeeper.checkpoints.retention import best_files, retain
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
        self._said: set[str] = set()

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
        objective = record.resolve(self.objective)
        metric = objective if objective is not None and objective in evaluation.metrics else "target loss"
        value = evaluation.metrics.get(metric, self.port.target_loss(evaluation.metrics))
        if not math.isfinite(value) or evaluation.step <= (self.port.config.save_best_after or 0):
            return
        comparable = [f for f in self._files(record) if (f.metric, f.eval_set) == (metric, evaluation.eval_set)]
        if any(file.value is not None and file.value <= value for file in comparable):
            return
        # The epoch's training is over, so a resume from here goes on with the next one.
        epoch = self.port.epoch + (0 if evaluation.mid_epoch else 1)
        name = f"best_model_{evaluation.step}.pth"
        if self._write(name, "best", epoch, value=value, metric=metric, eval_set=evaluation.eval_set):
            self.prune()

    def prune(self) -> None:
        """Delete what retention lets go of: only plain files that are still as the journal says we wrote them."""
        folder = self.port.run_folder
        files = self._files(self.seen())
        retention = retain(files, all_best=bool(self.port.config.save_all_best))
        self._name_best(files)
        removed, freed = [], 0
        for file in files:
            path = folder / file.path
            if file.path not in retention.drop or path.stat().st_mtime_ns != file.mtime_ns:
                continue
            try:
                path.unlink()
            except OSError as error:
                self._incident("prune_failed", f"{file.path} could not be deleted: {error}")
                continue
            removed.append(file.path)
            freed += file.bytes or 0
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

    def _name_best(self, files: list[Checkpoint]) -> None:
        """Let `best_model.pth` be a second name of the best file, unless a file that is not ours has that name."""
        best = best_files(files)
        if not best:
            return
        folder = self.port.run_folder
        name = folder / BEST_NAME
        if name.is_symlink() or name.exists():
            if name.is_symlink() or not any(name.samefile(folder / file.path) for file in files):
                self._once("foreign_best", f"{BEST_NAME} is not from this run and stays; the best is {best[-1].path}")
                return
            if name.samefile(folder / best[-1].path):
                return
        try:
            link(folder / best[-1].path, name)
        except OSError as error:
            self._once("no_link", f"{BEST_NAME} could not be made a link, use {best[-1].path}: {error}")

    def _files(self, record: RunRecord) -> list[Checkpoint]:
        """The files of this run that are really there, as far as size tells."""
        folder = self.port.run_folder
        return [
            file
            for file in record.files
            if _is_plain_file(folder / file.path) and (folder / file.path).stat().st_size == file.bytes
        ]

    def _write(
        self,
        name: str,
        kind: str,
        epoch: int | None = None,
        value: float | None = None,
        metric: str | None = None,
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
                mtime_ns=0 if reason else path.stat().st_mtime_ns,
                intact=not reason,
                seconds=round(time.perf_counter() - begin, 3),
                value=value,
                metric=metric,
                eval_set=eval_set,
                reason=reason,
            )
        )
        if reason:
            self._incident("save_failed", f"{name} was not saved: {reason}")
            return False
        self.port.log(f"saved {name}" + (f", {metric} {value:.4f}" if value is not None else ""))
        return True

    def _once(self, code: str, message: str) -> None:
        if code not in self._said:
            self._said.add(code)
            self._incident(code, message)

    def _incident(self, code: str, message: str) -> None:
        self.record(Incident(step=self.port.step, epoch=self.port.epoch, code=code, message=message))
        self.port.log(f"WARNING: {message}")


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()

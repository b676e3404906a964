"""The actor that saves, picks the best and prunes, in place of the Trainer's own saving and deleting."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.adoption import unrecorded_files, unrecorded_renames
from xtts_gatekeeper.checkpoints.contents import CARRIED
from xtts_gatekeeper.checkpoints.disk import Forecast, forecast
from xtts_gatekeeper.checkpoints.inventory import BEST_NAME, TARGET_LOSS, candidates, left_behind
from xtts_gatekeeper.checkpoints.names import give_name, name_best, parking
from xtts_gatekeeper.checkpoints.ownership import as_written
from xtts_gatekeeper.checkpoints.removal import delete
from xtts_gatekeeper.checkpoints.retention import Candidate, Policy, best_candidate, named_metrics, retain
from xtts_gatekeeper.checkpoints.room import Room, make_room, memory_allows
from xtts_gatekeeper.checkpoints.snapshot import HostCopy, area_bytes, difference, not_finite, state_bytes
from xtts_gatekeeper.checkpoints.weights import weights_only
from xtts_gatekeeper.checkpoints.writer import BackgroundWriter, write_verified
from xtts_gatekeeper.errors import nearest
from xtts_gatekeeper.record import Checkpoint, RunRecord
from xtts_gatekeeper.record.events import Event, Incident, Pruned, Renamed, VerdictEvent
from xtts_gatekeeper.trainer_port import TrainerPort

__all__ = ["BEST_NAME", "CheckpointKeeper", "Saving"]


@dataclass(frozen=True)
class Saving:
    """How to save: what to keep, in how many bytes, beside training or not, and how long to wait for a full disk."""

    policy: Policy
    budget: int | None = None
    asynchronous: bool = True
    pause_seconds: float = 3600.0


@dataclass(frozen=True)
class _File:
    """A file to write of the state in hand."""

    name: str
    kind: str
    value: float | None = None
    metric: str | None = None
    eval_set: str | None = None

    @property
    def resumable(self) -> bool:
        return self.kind == "latest"


@dataclass(frozen=True)
class _Moment:
    """When a save was asked for: how far the training was, the time, and how long it waited; None: until the end."""

    step: int
    epoch: int
    began: float
    blocked: float | None


class CheckpointKeeper:
    """Saves the Trainer's states and keeps of them what the retention policy says, by default the latest and the best.

    The latest is resumable; the best is its weights alone, written beside a resumable file of the same step, so that
    no best model has a higher number than the file to go on from: stock code resumes the highest number.

    The Trainer picks its best by other numbers (after a resume even by the training loss), deletes before it knows
    that the new file is whole, and copies the best a second time. So its two save methods are routed here; the
    content of the files and their names stay the stock ones.

    A save copies the state to host memory and goes on; a thread writes, checks, records and prunes. One save is in
    flight at a time, the next one waits for it. Where host memory has no room for the copy, saving is synchronous.
    """

    def __init__(
        self,
        port: TrainerPort,
        objective: str,
        record: Callable[[Event], None],
        seen: Callable[[], RunRecord],
        saving: Saving,
        after_change: Callable[[], None] | None = None,
    ) -> None:
        self.port = port
        self.objective = objective
        self.record = record
        self.seen = seen
        self.saving = saving
        self.after_change = after_change or (lambda: None)
        #: What the phases put into each state beside what the Trainer does, for the epoch that it goes on with.
        self.carry: Callable[[int], Mapping[str, Any]] | None = None
        #: The fingerprint of what is trained on.
        self.train_set: str | None = None
        #: Whether somebody wants the training to end: then nothing waits for room on the disk.
        self.hurry: Callable[[], bool] = lambda: False
        self._writer = BackgroundWriter()
        self._host = HostCopy()
        self._preparing: threading.Thread | None = None
        self._saved: tuple[str, int] | None = None
        self._restored: set[str] = set()
        self._said: set[str] = set()
        self._state_bytes = 0
        self._pruning = threading.RLock()

    # Before training

    def foresee(self, steps: int, gates: int) -> Forecast:
        """The disk that the run will need, from the live state."""
        state = self.port.state(self.port.epoch)
        full = state_bytes(state) + self.port.optimizer_bytes_to_come()
        weights = state_bytes(weights_only(state, self.port.reloaded_weights))
        self._state_bytes = full
        folder = self.port.run_folder
        present = sum(file.bytes for file in candidates(folder, self.seen()))
        present += sum((folder / name).stat().st_size for name in left_behind(folder))
        return forecast(
            checkpoint=full,
            weights=weights,
            policy=self.saving.policy,
            steps=steps,
            gates=gates,
            present=present,
            folder=folder,
            budget=self.saving.budget,
        )

    def begin(self) -> None:
        """Clear away what a killed process left half-written, and have memory for the first copy touched."""
        delete(self.port.run_folder, left_behind(self.port.run_folder))
        for old, new in unrecorded_renames(self.port.run_folder, self.seen()):
            self._renamed(old, new, "a killed process had renamed it")
        for file in unrecorded_files(self.port.run_folder, self.seen(), self.port.epoch):
            self.record(file)
        self.prune()
        if self.saving.asynchronous:
            self._writer.start()
        size = self._state_bytes + (16 << 20)  # gaps between the storages
        if self.saving.asynchronous and memory_allows(area_bytes(size, pinned=self.port.on_gpu)):
            self._preparing = threading.Thread(
                target=self._prepare, args=(size,), name="gatekeeper-memory", daemon=True
            )
            self._preparing.start()

    def _prepare(self, size: int) -> None:
        with contextlib.suppress(MemoryError, RuntimeError, OSError):  # the copy will meet it again and say it
            self._host.prepare(size, pinned=self.port.on_gpu)

    # Saving

    def save_latest(self, epoch: int | None = None, *, patient: bool = True) -> None:
        """Save `checkpoint_STEP.pth`, unless that has just been done.

        Args:
            epoch: the epoch at which a resume shall go on; by default the current one, which a resume then repeats.
            patient: wait for room on a full disk; not when training is over.
        """
        began = time.perf_counter()
        self._save([_File(f"checkpoint_{self.port.step}.pth", "latest")], epoch, patient, began)

    def save_again(self, epoch: int) -> None:
        """Save `checkpoint_STEP.pth` although that may have been done: the state is another one."""
        self._writer.wait()
        self._saved = None
        self.save_latest(epoch)

    def save_best(self) -> None:
        """Save the evaluation just made if retention wants its weights: as one of the best, or for its gate."""
        began = time.perf_counter()
        self._writer.wait()  # what is in flight may be the best until now
        record = self.seen()
        evaluation = record.evaluations[-1] if record.evaluations else None
        usable = evaluation is not None and evaluation.metrics and not evaluation.nonfinite_batches
        if evaluation is None or evaluation.step != self.port.step or not usable:
            # No best, but the stock Trainer leaves a state after an epoch, and deletes a crashed run that has none.
            if not self.port.config.run_eval or not any(file.resumable for file in self._files(record)):
                mid_epoch = evaluation is not None and evaluation.step == self.port.step and evaluation.mid_epoch
                self.save_latest(self.port.epoch + (0 if mid_epoch else 1))
            return
        self._check_metrics(record)
        metric = self._metric(record)
        metrics = self._metrics(evaluation.metrics, metric)
        now = Candidate("", evaluation.step, resumable=False, metrics=metrics, segment=evaluation.eval_set)
        files = self._files(record)
        # On clips that were trained on the model is no better than it was on others.
        doubtful = evaluation.leaked and any(not one.leaked for one in record.evaluations)
        early = doubtful or evaluation.step <= (self.port.config.save_best_after or 0)
        best = not early and self._wants(files, now, metric)
        pinned = replace(now, metrics={} if early else metrics, gates=_gates(record))
        if not best and not self._wants(files, pinned, metric):
            return
        # The epoch's training is over, so a resume from here goes on with the next one.
        epoch = self.port.epoch + (0 if evaluation.mid_epoch else 1)
        value = metrics.get(metric)
        wanted = [_File(f"checkpoint_{evaluation.step}.pth", "latest")]
        if best:
            name = f"best_model_{evaluation.step}.pth"
            wanted.append(_File(name, "best", value=value, metric=metric, eval_set=evaluation.eval_set))
        self._save(wanted, epoch, True, began)

    def _check_metrics(self, record: RunRecord) -> None:
        """Say that a retention term names a metric that the run does not log: it keeps nothing."""
        for name in named_metrics(self.saving.policy) - record.metrics:
            self._once("unknown_metric", f"checkpoints.keep names {name!r}, {nearest(name, record.metrics)}", name)

    def flush(self) -> None:
        """Wait until what is being written is on the disk."""
        self._writer.wait()

    def _wants(self, files: list[Candidate], now: Candidate, metric: str) -> bool:
        if self.port.config.save_all_best and math.isfinite(now.loss(metric)):
            before = [f for f in files if f.segment == now.segment]
            return all(now.loss(metric) < file.loss(metric) for file in before)
        return now.path in retain([*files, now], self.saving.policy, metric).keep

    def _save(self, files: list[_File], epoch: int | None, patient: bool, began: float) -> None:
        epoch = self.port.epoch if epoch is None else epoch
        if patient and all((file.name, epoch) == self._saved for file in files):
            return  # it is there, or in flight; only a last save has to know that it arrived
        self._writer.wait()
        files = [file for file in files if (file.name, epoch) != self._saved]
        if not files:
            return
        state = self.port.state(epoch)
        if self.carry is not None:
            state[CARRIED] = dict(self.carry(epoch))
        room = self._room(files, state, patient)
        if room is Room.NONE:
            return
        if room is Room.WEIGHTS:
            files = [_File(f"weights_{self.port.step}.pth", "weights")]
            if (files[0].name, epoch) == self._saved:
                return
        held = self._host_copy(state)
        if files[0].kind != "best":
            self._saved = (files[0].name, epoch)
        blocked = None if held is None else time.perf_counter() - began
        moment = _Moment(self.port.steps_trained, self.port.epoch, began, blocked)

        def work() -> None:
            try:
                self._write(files, state if held is None else held, moment)
            except Exception as error:  # a thread's error would only be printed
                self._saved = None
                self._incident("gatekeeper_error", f"saving: {type(error).__name__}: {error}")

        if held is None:
            work()
        else:
            self._writer.submit(work)

    def _host_copy(self, state: Mapping[str, Any]) -> Any:
        """A copy of the state to write from, or None where it has to be written at once."""
        if self._preparing is not None:
            self._preparing.join()
            self._preparing = None
        if not self.saving.asynchronous:
            return None
        size = state_bytes(state)
        if size > self._host.bytes and not memory_allows(area_bytes(size, pinned=self.port.on_gpu)):
            self._once("no_memory", "host memory has no room for a copy of the state: saving holds up training")
            return None
        try:
            return self._host.copy(state)
        except (MemoryError, RuntimeError, OSError) as error:
            self._once("no_memory", f"the state could not be copied, saving holds up training: {error}")
            return None

    def _room(self, files: list[_File], state: Mapping[str, Any], patient: bool) -> Room:
        """Where there is no room for the files, first prune, then be content with weights, then wait, then stop."""
        weights = state_bytes(weights_only(state, self.port.reloaded_weights))
        needed = state_bytes(state) if files[0].resumable else weights
        if len(files) > 1:  # what the first file lets go of makes room for the second
            needed = max(needed, needed + weights - self._freed_by_checkpoint(needed))

        def prune(short_of: int) -> None:
            present = sum(file.bytes for file in self._files(self.seen()))
            self.prune(budget=max(0, present - short_of))

        return make_room(
            self.port.run_folder,
            needed,
            weights if any(file.resumable for file in files) else None,
            prune=prune,
            report=lambda code, message: self._incident(code, message),
            pause_seconds=self.saving.pause_seconds if patient and not self.hurry() else None,
            hurry=self.hurry,
        )

    def _freed_by_checkpoint(self, size: int) -> int:
        """Bytes that retention lets go of once there is a checkpoint of the evaluation just made."""
        record = self.seen()
        metric = self._metric(record)
        evaluation = record.evaluations[-1]
        metrics = self._metrics(evaluation.metrics, metric)
        new = Candidate("", evaluation.step, bytes=size, metrics=metrics, segment=evaluation.eval_set)
        files = self._files(record)
        drop = retain([*files, new], self.saving.policy, metric, self.saving.budget).drop
        return sum(file.bytes for file in files if file.path in drop)

    def _write(self, files: list[_File], state: Mapping[str, Any], moment: _Moment) -> None:
        """Write the files one after the other, each with its journal line and the pruning that it allows."""
        bad = not_finite({"model": state["model"], "optimizer": state.get("optimizer")})
        for file in files:
            reason = f"{len(bad)} of its tensors hold NaN or infinity, {bad[0]} first" if bad else ""
            path = self.port.run_folder / file.name
            found = None
            before = [known for known in self.seen().files if known.path == file.name]
            if not reason:
                content = state if file.resumable else weights_only(state, self.port.reloaded_weights)
                try:
                    found = write_verified(path, partial(_torch_save, content), partial(self._check, file, content))
                except OSError as error:
                    reason = str(error)
                    for event in before:
                        if event not in self.seen().files:  # withdrawn, and still there
                            self.record(event)
            seconds = time.perf_counter() - moment.began
            self.record(
                Checkpoint(
                    step=moment.step,
                    epoch=moment.epoch,
                    kind=file.kind,
                    path=file.name,
                    bytes=found.bytes if found else 0,
                    mtime_ns=path.stat().st_mtime_ns if found else 0,
                    digest=found.digest if found else None,
                    intact=found is not None,
                    resumable=file.resumable,
                    seconds=round(seconds, 3),
                    blocked_seconds=round(seconds if moment.blocked is None else moment.blocked, 3),
                    value=file.value,
                    metric=file.metric,
                    eval_set=file.eval_set,
                    train_set=self.train_set,
                    reason=reason,
                )
            )
            if reason:
                self._saved = None
                self._incident("save_failed", f"{file.name} was not saved: {reason}")
                return
            of = f", {file.metric} {file.value:.4f}" if file.value is not None else ""
            self.port.log(f"saved {file.name}{of}")
            self.prune()
        self.after_change()

    def _check(self, file: _File, content: Mapping[str, Any], path: Path) -> str | None:
        """What is wrong with the file just written; if nothing is, what the record says of its name is withdrawn.

        Killed before the new line is written, the file is one that is not on record, old or new, and not one that
        differs from its record, which a resume would put aside as broken.
        """
        if file.kind not in self._restored:
            wrong = _restore_test(path, content)
            if wrong is not None:
                return wrong
            self._restored.add(file.kind)
        if any(known.path == file.name for known in self.seen().files):
            self.record(Pruned(step=self.port.step, epoch=self.port.epoch, removed=[file.name], kept=[], bytes_freed=0))
        return None

    # Pruning

    def prune(self, budget: int | None = None) -> None:
        """Delete what retention lets go of: only plain files that are still as the journal says we wrote them."""
        with self._pruning:
            record = self.seen()
            files = self._files(record)
            metric = self._metric(record)
            budget = self.saving.budget if budget is None else budget
            decided = retain(files, self.saving.policy, metric, budget)
            if decided.over_budget and budget == self.saving.budget:
                over = f"{decided.over_budget / 1e9:.2f} GB"
                self._once("over_budget", f"what must stay is {over} over checkpoints.disk_budget_gb")
            if self.port.config.save_all_best:
                decided = replace(decided, drop={p: w for p, w in decided.drop.items() if not p.startswith("best_")})
            # First the names: whenever the process is killed, what stock code would choose can be resumed from.
            self._park([file for file in files if file.path not in decided.drop])
            self._name_best(metric)
            written = {file.path: file for file in record.files}
            # Weights first: a best model must not outlive the resumable file of its number.
            drop = sorted((file for file in files if file.path in decided.drop), key=lambda file: file.resumable)
            ours = [file.path for file in drop if file.path in written and self._unchanged(written[file.path])]
            removed = delete(self.port.run_folder, ours)
            for name, why in removed.kept.items():
                self._once("prune_failed", f"{name} stays: {why}", name)
            if removed.names:
                self.record(
                    Pruned(
                        step=self.port.step,
                        epoch=self.port.epoch,
                        removed=removed.names,
                        kept=list(decided.keep),
                        bytes_freed=removed.freed,
                    )
                )
                self.port.log(f"pruned {', '.join(removed.names)}: {removed.freed / 1e9:.2f} GB freed")

    def _unchanged(self, file: Checkpoint) -> bool:
        try:
            return as_written(self.port.run_folder / file.path, file)
        except OSError:  # gone since, or not to be looked at
            return False

    def _name_best(self, metric: str) -> None:
        """Let `best_model.pth` be a second name of the best file, unless a file that is not ours has that name."""
        if self.port.config.save_all_best:  # stock code that goes on here copies its next best over that name
            return
        files = self._files(self.seen())
        best = best_candidate(files, metric)
        if best is not None:
            why_not = name_best(self.port.run_folder, best.path, [file.path for file in files])
            if why_not is not None:
                self._once("best_name", f"{why_not}; the best is {best.path}")

    def _park(self, files: list[Candidate]) -> None:
        """Rename a best model of weights alone while stock code would resume from it, and back when it would not."""
        for old, new, why in parking(files):
            try:
                if give_name(self.port.run_folder, old, new):
                    self._renamed(old, new, why)
            except OSError as error:
                self._once("park_failed", f"{old} could not be renamed: {error}", old)

    def _renamed(self, old: str, new: str, why: str) -> None:
        self.record(Renamed(step=self.port.step, epoch=self.port.epoch, old=old, new=new, reason=why))
        self.port.log(f"renamed {old} to {new}: {why}")

    # The run's files and metrics

    def _files(self, record: RunRecord) -> list[Candidate]:
        """The files on record that are really there, as far as size tells; on another no decision may rest."""
        metric = self._metric(record)
        known = {file.path for file in record.files}
        return [
            replace(file, metrics=self._metrics(file.metrics, metric))
            for file in candidates(self.port.run_folder, record)
            if file.path in known
        ]

    def _metric(self, record: RunRecord) -> str:
        objective = record.resolve(self.objective)
        latest = next((e.metrics for e in reversed(record.evaluations) if e.metrics), {})
        return objective if objective is not None and objective in latest else TARGET_LOSS

    def _metrics(self, metrics: Mapping[str, float], metric: str) -> dict[str, float]:
        if metric != TARGET_LOSS or TARGET_LOSS in metrics:
            return dict(metrics)
        return {**metrics, TARGET_LOSS: self.port.target_loss(metrics)}

    # Telling

    def _once(self, code: str, message: str, about: str = "") -> None:
        if code + about not in self._said:
            self._said.add(code + about)
            self._incident(code, message)

    def _incident(self, code: str, message: str) -> None:
        self.record(Incident(step=self.port.step, epoch=self.port.epoch, code=code, message=message))
        self.port.log(f"WARNING: {message}")


def _torch_save(state: Mapping[str, Any], path: Path) -> None:
    import torch

    torch.save(state, path)


def _restore_test(path: Path, content: Mapping[str, Any]) -> str | None:
    """Whether what stock code would load from the file is what was to be saved; what is wrong, or None."""
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:
        return f"it cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0]})"
    where = difference(loaded, content)
    return None if where is None else f"{where} is not what was saved"


def _gates(record: RunRecord) -> tuple[str, ...]:
    """The gates decided by the latest evaluation."""
    for event in reversed(record.events):
        if isinstance(event, VerdictEvent):
            return tuple(event.gates)
        if event is record.evaluations[-1]:
            break
    return ()

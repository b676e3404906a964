"""The actor that takes an out-of-memory error for what it is: a batch too large, not the end of a training."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.record.events import BatchParts
from xtts_gatekeeper.record.names import is_loss
from xtts_gatekeeper.record.run import RunRecord
from xtts_gatekeeper.recorder import Recorder
from xtts_gatekeeper.trainer_port import StopTraining, TrainerPort, clips_in, is_out_of_memory, split

if TYPE_CHECKING:
    from xtts_gatekeeper.config import OutOfMemoryConfig

Stock = Callable[..., Any]


#: So many batches in a row that cannot be trained end the training: it does not train.
_MOST_LEFT_OUT = 10


class SkipBatch(Exception):
    """The batch in hand cannot be trained; its text says why."""


class OutOfMemory:
    """Trains a batch that does not fit in parts, each weighing what it has of the batch's clips, in one update.

    The sum of the parts' gradients is the gradient that the whole batch has where its loss is a mean over clips; XTTS
    takes the mean over tokens, and is as near to it as gradient accumulation is. A clip that does not fit alone, a
    batch that cannot be cut, and one whose backward pass had begun to write into gradients that others had accumulated,
    are left out, and with one that was to bring the update what had been accumulated for it. Of several optimizers
    those before the one that ran out have made their update. From `lower_after` times on every batch is trained in
    parts that have fitted: batch size goes down and accumulation up inside of the Trainer's step, so that their
    product, the step numbers and the loader's order stay.

    Memory that runs out while the optimizer itself works cannot be taken back and ends the process, as without us.
    """

    def __init__(self, port: TrainerPort, recorder: Recorder, settings: OutOfMemoryConfig, before: RunRecord) -> None:
        self.port = port
        self.recorder = recorder
        self.settings = settings
        #: The files of the batch in hand, for the record.
        self.files: tuple[str, ...] = ()
        self._times = self._left_out_in_a_row = 0
        parts = [event.batch_size for event in before.events if isinstance(event, BatchParts)]
        self._size: int | None = parts[-1] if parts and port.continued else None

    def install(self) -> None:
        """Wrap what trains a batch."""
        self.port.wrap("optimize", self._around_optimize)

    def around_step(self, step: Callable[[], Any], due: Callable[[], bool]) -> Any:
        """Do a training step; `(None, None)`, at which the Trainer goes on with the next, where it is left out.

        Args:
            step: the step.
            due: tells, once it has begun, whether the optimizer is to be stepped with it.

        Raises:
            StopTraining: too many in a row had to be left out.
        """
        before = self._marks()
        try:
            found = step()
        except SkipBatch as skip:
            said = str(skip)
        except Exception as error:
            if self.port.updates.under_way or not is_out_of_memory(error):
                raise
            said = _short(error)
        else:
            self._left_out_in_a_row = 0
            return found
        # Gradients that wait for the update that this batch was to bring would only swell the next one.
        lost = bool(before) and (due() or self._marks() != before)
        if lost or self._marks() != before:
            self.port.clear_gradients()
        self._tell(f"the batch is left out{', with what was accumulated before it' if lost else ''}: {said}")
        self._left_out_in_a_row += 1
        if self._left_out_in_a_row >= _MOST_LEFT_OUT:
            raise StopTraining(f"{self._left_out_in_a_row} batches in a row ran out of memory", "out_of_memory")
        return None, None

    def _around_optimize(self, stock: Stock, batch: Any, *args: Any, **kwargs: Any) -> Any:
        clips = clips_in(batch)
        if self._size is not None and clips > self._size and self._can_be_cut(batch):
            return self._in_parts(stock, batch, self._size, args, kwargs)
        before = self._marks()
        found, said = self._tried(stock, batch, args, kwargs)
        if said is None:
            return found
        if self._spoilt(before) or clips < 2 or not self._can_be_cut(batch):
            raise SkipBatch(f"in a batch of {clips}; {said}")
        self._tell(f"it is trained in parts: in a batch of {clips}; {said}")
        return self._in_parts(stock, batch, -(-clips // 2), args, kwargs, told=True)

    def _tried(self, stock: Stock, batch: Any, args: Any, kwargs: Any) -> tuple[Any, str | None]:
        """What the step gives, or what it said when memory ran out."""
        try:
            return stock(batch, *args, **kwargs), None
        except Exception as error:
            # Whatever else it is, or in the middle of the update: it is not ours to take back.
            if not is_out_of_memory(error) or self.port.updates.under_way:
                raise
            said = _short(error)
        self.port.updates.forget_scaling()
        return None, said

    def _in_parts(self, stock: Stock, batch: Any, size: int, args: Any, kwargs: Any, told: bool = False) -> Any:
        """Train the batch in parts of `size` clips, or fewer where even they do not fit.

        Args:
            stock: trains a batch.
            batch: a formatted one.
            size: clips in a part.
            args: further arguments of `stock`.
            kwargs: likewise.
            told: whether it is on record that this batch ran out of memory.

        Raises:
            SkipBatch: a single clip does not fit, or gradients of other parts were spoilt.
        """
        clips = clips_in(batch)
        parts = deque(split(batch, size, longest_first=True) or ())
        outputs: Any = None
        seconds, results = 0.0, []
        step_optimizer = kwargs.get("step_optimizer", True)
        try:
            while parts:
                part = parts.popleft()
                share = clips_in(part) / clips
                self.port.updates.share = share
                before = self._marks()
                last = {**kwargs, "step_optimizer": step_optimizer and not parts}
                found, said = self._tried(stock, part, args, last)
                if said is None:
                    outputs, losses, took = found  # of earlier parts the losses are enough: memory is short
                    seconds += took
                    results.append((share, losses))
                    continue
                if clips_in(part) == 1 or self._spoilt(before):
                    self.port.clear_gradients()
                    raise SkipBatch(f"in a part of {clips_in(part)}; {said}")
                size = -(-clips_in(part) // 2)
                if not told:
                    self._tell(f"it is trained in smaller parts: in one of {clips_in(part)}; {said}")
                    told = True
                _free_memory()
                parts.extendleft(reversed(split(part, size, longest_first=True) or ()))
        finally:
            self.port.updates.share = 1.0
        if told and self._times >= self.settings.lower_after:
            self._lower(clips, size)
        return outputs, _together(results), seconds

    def _can_be_cut(self, batch: Any) -> bool:
        """Several optimizers may share what the first computed; Accelerate counts the micro-batches itself."""
        return len(self.port.optimizers) == 1 and not self.port.accelerated and split(batch, 1) is not None

    def _marks(self) -> list[tuple[int, int]]:
        """What tells later whether a gradient was written to: its identity and torch's own counter of changes."""
        numbers = range(len(self.port.optimizers))
        return [(id(g), g._version) for number in numbers for g in self.port.updates.gradients(number)]

    def _spoilt(self, before: list[tuple[int, int]]) -> bool:
        """Whether a backward pass that broke off has written into gradients that waited; fresh ones are taken away."""
        if not before:
            self.port.clear_gradients()
        return self._marks() != before

    def _lower(self, whole: int, size: int) -> None:
        if self._size is not None and size >= self._size:
            return
        self._size = size
        accumulation = -(-whole // size) * self.port.grad_accum_steps
        product = whole * self.port.grad_accum_steps
        self.recorder.record(
            BatchParts(
                step=self.port.step,
                epoch=self.port.epoch,
                batch_size=size,
                grad_accum_steps=accumulation,
                whole=product,
            )
        )
        self.port.log(
            f"from now on batches are trained in parts of at most {size} clips; an update still sees {product}. To "
            f"begin with that next time: batch_size {size}, grad_accum_steps {accumulation}"
        )

    def _tell(self, what: str) -> None:
        """Free what can be freed, and put it on record."""
        self._times += 1
        _free_memory()
        names = f" ({', '.join(self.files)})" if self.files else ""
        self.recorder.incident("oom", f"out of memory at step {self.port.step}{names}, {what}")


def _together(results: list[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    """The losses of the whole batch, by those of its parts and their shares."""
    losses: dict[str, Any] = {}
    for share, part in results:
        for key, value in part.items():
            if key == "loss":  # it was weighed before the backward pass
                losses[key] = losses.get(key, 0.0) + value
            elif is_loss(key):
                losses[key] = losses.get(key, 0.0) + share * value
            else:
                losses[key] = value
    return losses


def _short(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()

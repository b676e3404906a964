"""The updates of the Trainer's optimizers: when their gradients are ready, and what loss they are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Ready = Callable[[int], None]

#: Losses of these types keep their value on the way to the host as 32-bit floats.
_NARROW = ("torch.float32", "torch.bfloat16", "torch.float16")

#: How errors of CUDA, MPS, cuDNN, cuBLAS and the CPU allocator say it where they have no class of their own.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class Updates:
    """Hooks around every update of one Trainer's optimizers.

    The order in one update: `loss of a batch` (once for each micro-batch), `gradients ready`, `before`, the update,
    `after`. An update that a gradient scaler leaves out has no `before` and no `after`.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        #: Whether an optimizer is changing weights at this moment: what fails now cannot be tried again.
        self.under_way = False
        #: What the loss of the micro-batch counts for: below 1 while a batch is trained in parts.
        self.share = 1.0
        self._losses: dict[str, Any] | None = None
        self._number = 0
        self._measured: set[int] = set()
        self._met = False

    def around(self, before: Ready, after: Ready) -> None:
        """Call `before(number)` and `after(number)` around every update of optimizer `number`."""
        for number, optimizer in enumerate(self._optimizers):
            optimizer.register_step_pre_hook(lambda o, args, kwargs, number=number: before(number))
            optimizer.register_step_post_hook(lambda o, args, kwargs, number=number: after(number))

    def install(self, ready: Ready, missed: Ready) -> None:
        """Call `ready(number)` once an update, when its gradients are whole: accumulated, unscaled, and not clipped.

        The Trainer announces them right before it clips. Where it does not (a gradient scaler without clipping, a model
        with an optimization of its own) they are met as the update begins; `missed(number)` tells of an update that a
        gradient scaler has left out before that.
        """

        def measure(number: int) -> None:
            if number not in self._measured:
                self._measured.add(number)
                ready(number)

        def begin(number: int) -> None:
            measure(number)
            self.under_way = self._met = True

        def end(number: int) -> None:
            self.under_way = False
            self._measured.discard(number)

        def optimize(stock: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
            self._number = kwargs.get("optimizer_idx") or 0
            self._measured.discard(self._number)  # left from an update that the gradient scaler left out
            self._met = False
            try:
                found = stock(batch, *args, **kwargs)
            finally:
                self._losses = None
            due = self.scaler_at_work and kwargs.get("step_optimizer", True) and found[1]
            if due and not self._met and self._number not in self._measured:
                missed(self._number)
            return found

        def clipping(stock: Callable[..., Any], *args: Any) -> None:
            stock(*args)
            measure(self._number)

        self.around(begin, end)
        self._wrap(self.trainer, "optimize", optimize)
        callbacks = self.trainer.callbacks
        self._wrap(callbacks, "before_backward_pass", self._before_backward)
        self._wrap(callbacks, "before_gradient_clipping", clipping)

    def forget_scaling(self) -> None:
        """Let the gradient scaler forget what it has begun with an update that will be begun again."""
        if self.scaler_at_work:
            for optimizer in self._optimizers:
                self.trainer.scaler._per_optimizer_states.pop(id(optimizer), None)

    def gradients(self, number: int) -> list[Any]:
        """The gradients that optimizer `number` has."""
        groups = self._optimizers[number].param_groups
        return [p.grad for group in groups for p in group["params"] if p.grad is not None]

    def drop_gradients(self, number: int) -> None:
        """Take the gradients away: the update that follows changes neither weights nor the optimizer's state."""
        for group in self._optimizers[number].param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def norm(self, number: int) -> float | None:
        """The global 2-norm of the gradients of optimizer `number`; None when it has none.

        Computed where the gradients are, and brought to the host together with the losses of the batch, which the
        Trainer would otherwise fetch one by one: it takes not one more synchronisation, but fewer.
        """
        import torch

        gradients = [g.coalesce().values() if g.is_sparse else g for g in self.gradients(number)]
        if not gradients:
            return None
        with torch.no_grad():
            if hasattr(torch.nn.utils, "get_total_norm"):  # torch 2.6
                norm = torch.nn.utils.get_total_norm(gradients)
            else:
                norms = [torch.linalg.vector_norm(g).to(gradients[0].device) for g in gradients]
                norm = torch.linalg.vector_norm(torch.stack(norms))
            return self._fetch(norm)

    def _fetch(self, norm: Any) -> float:
        """The norm as a number, and the losses put into the Trainer's dict as numbers, in one transfer."""
        import torch

        losses = self._losses or {}
        keys = [
            key
            for key, value in losses.items()
            if isinstance(value, torch.Tensor)
            and value.dim() == 0
            and str(value.dtype) in _NARROW
            and value.device == norm.device
        ]
        norm, *values = torch.stack([norm.float(), *(losses[key].detach().float() for key in keys)]).tolist()
        losses.update(zip(keys, values, strict=True))
        return float(norm)

    @property
    def scaler_at_work(self) -> bool:
        """Whether a gradient scaler decides about the updates (fp16)."""
        scaler = self.trainer.scaler
        return bool(self.trainer.use_amp_scaler and scaler is not None and scaler.is_enabled())

    @property
    def _optimizers(self) -> Sequence[Any]:
        return [getattr(optimizer, "optimizer", optimizer) for optimizer in self.trainer.optimizer]

    def _before_backward(self, stock: Callable[..., Any], trainer: Any, losses: dict[str, Any]) -> None:
        stock(trainer, losses)
        if self.share != 1.0:
            losses["loss"] = losses["loss"] * self.share
        self._losses = losses

    @staticmethod
    def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
        stock = getattr(owner, name)
        setattr(owner, name, lambda *args, **kwargs: around(stock, *args, **kwargs))


def split(batch: Any, size: int, *, longest_first: bool = False) -> list[dict[str, Any]] | None:
    """A formatted batch in parts of at most `size` clips; None when it is no dict of tensors and lists by clips.

    Args:
        batch: values by name; each tensor and list has one row a clip, the rest belongs to all of them.
        size: clips in a part.
        longest_first: begin with the longest clips: a last part of short ones is the least likely to fail.
    """
    import torch

    if not isinstance(batch, Mapping):
        return None
    rows = {len(value) for value in batch.values() if _has_rows(value)}
    if len(rows) != 1 or not all(
        value is None or isinstance(value, str | int | float) or _has_rows(value) for value in batch.values()
    ):
        return None
    clips = rows.pop()
    order = list(range(clips))
    lengths = batch.get("wav_lengths")
    if longest_first and isinstance(lengths, torch.Tensor) and lengths.dim() == 1:
        order = torch.argsort(lengths, descending=True, stable=True).tolist()

    def pick(value: Any, chosen: list[int]) -> Any:
        if isinstance(value, torch.Tensor):
            return value[chosen]
        return type(value)(value[row] for row in chosen) if isinstance(value, list | tuple) else value

    chunks = [sorted(order[start : start + size]) for start in range(0, clips, size)]
    return [{key: pick(value, chosen) for key, value in batch.items()} for chosen in chunks]


def clips_in(batch: Any) -> int:
    """How many clips a formatted batch holds, by its first value that has rows; 1 where nothing tells."""
    values = batch.values() if isinstance(batch, Mapping) else ()
    return next((len(value) for value in values if _has_rows(value)), 1)


def _has_rows(value: Any) -> bool:
    import torch

    return isinstance(value, list | tuple) or (isinstance(value, torch.Tensor) and value.dim() > 0)


def is_lost_worker(error: BaseException) -> bool:
    """Whether the error says that a worker process of a data loader is gone."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the host on a CPU, had no memory left: then trying with less makes sense."""
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):  # since torch 2.5 that of every device
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)

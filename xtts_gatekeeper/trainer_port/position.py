"""Where a training stands, to the batch and the random number, and how to go on from there."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xtts_gatekeeper.trainer_port.base import BasePort


def random_states() -> dict[str, Any]:
    """The state of every random number generator, of numbers and tensors alone, as a checkpoint can hold it."""
    import numpy
    import torch

    version, python, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
    states = {
        "python": {"version": version, "state": torch.tensor(python, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(numpy.asarray(keys).astype("int64")),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put generators into the states that `random_states` took. GPUs that are not here any more are passed over."""
    import numpy
    import torch

    python, arrays = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["state"].tolist()), python["gauss"]))
    keys = arrays["keys"].numpy().astype("uint32")
    numpy.random.set_state((arrays["kind"], keys, arrays["position"], arrays["has_gauss"], arrays["cached"]))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        for device, state in enumerate(states.get("cuda", ())[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)
    if torch.backends.mps.is_available() and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


class RestOfEpoch:
    """Stands for a Trainer's loader while an epoch is gone on with: its batches from `done` on.

    The iterator begins with the random numbers of the epoch's beginning, so that samplers and worker processes draw
    what they drew; then it is moved on. In this process that is done without loading anything; worker processes load
    the batches again, for what they draw depends on it.

    Args:
        loader: the Trainer's.
        done: batches of the epoch that have been trained.
        begin: puts the random numbers of the epoch's beginning in place.
        go_on: puts those of the present in place.
        passing: goes around the passing over of batches.
        each: called for each of them.
    """

    def __init__(
        self,
        loader: Any,
        done: int,
        begin: Callable[[], None],
        go_on: Callable[[], None],
        *,
        passing: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        each: Callable[[], None] = lambda: None,
    ) -> None:
        self.loader = loader
        self._done = done
        self._begin = begin
        self._go_on = go_on
        self._passing = passing
        self._each = each

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        self._begin()
        batches = iter(self.loader)
        with self._passing():
            for _ in range(self._done):
                self._each()
                try:
                    _pass_over(batches)
                except StopIteration:  # fewer than there were: the data has changed
                    break
        self._go_on()
        yield from batches


def _pass_over(batches: Iterator[Any]) -> None:
    """Move the iterator of a loader on by one batch."""
    from torch.utils.data.dataloader import _DatasetKind, _SingleProcessDataLoaderIter

    if isinstance(batches, _SingleProcessDataLoaderIter) and batches._dataset_kind == _DatasetKind.Map:
        batches._next_index()
    else:
        next(batches)


class PositionPort(BasePort):
    """The part of the port that an exact resume works with."""

    def at_position(self, step: int, epoch: int, *, evaluate: bool) -> None:
        """Let the Trainer go on at GLOBAL_STEP `step` in `epoch`, with its evaluation if that is what comes next.

        The Trainer takes the number in a file for a step that has been done, which that of an epoch's end is not.
        """
        self.trainer.total_steps_done = step
        self.trainer.epochs_done = epoch
        self.trainer.start_with_eval = evaluate

    @property
    def batch_size(self) -> int:
        """Clips in a batch."""
        return int(self.config.batch_size)

    @property
    def running_means(self) -> dict[str, Any]:
        """The Trainer's own means of the epoch so far, and what else it counts in it.

        Those of evaluations, too: it adds up all that it makes within one epoch.
        """
        means = {}
        for side, keeper in (("train", self.trainer.keep_avg_train), ("eval", self.trainer.keep_avg_eval)):
            values, counts = (keeper.avg_values, keeper.iters) if keeper is not None else ({}, {})
            means[side] = {"values": {name: float(value) for name, value in values.items()}, "counts": dict(counts)}
        return {**means, "stepped": list(self.trainer._stepped_optimizers)}

    @running_means.setter
    def running_means(self, found: Mapping[str, Any]) -> None:
        for side, keeper in (("train", self.trainer.keep_avg_train), ("eval", self.trainer.keep_avg_eval)):
            if keeper is not None:
                keeper.avg_values = dict(found[side]["values"])
                keeper.iters = dict(found[side]["counts"])
        self.trainer._stepped_optimizers = set(found["stepped"])

    @property
    def failed_samples(self) -> list[str]:
        """What XTTS's training set has found that it cannot load: its draws go on in another way from then on.

        Worker processes begin each epoch without this knowledge.
        """
        loader = self.trainer.train_loader
        failed = getattr(getattr(loader, "dataset", None), "failed_samples", None)
        return sorted(failed) if isinstance(failed, set) and not loader.num_workers else []

    @failed_samples.setter
    def failed_samples(self, names: list[str]) -> None:
        with contextlib.suppress(AttributeError):
            self.trainer.train_loader.dataset.failed_samples.update(names)

    def go_on_in_epoch(self, done: int, begin: Callable[[], None], go_on: Callable[[], None], **around: Any) -> None:
        """Let the epoch that begins train what comes after its first `done` batches; see `RestOfEpoch`."""
        self.step_in_epoch = self._passed_over = done
        self.trainer.train_loader = RestOfEpoch(self.trainer.train_loader, done, begin, go_on, **around)

    def around_rest(self, stock: Callable[..., Any], batch: Any, batches: int, index: int, *rest: Any) -> Any:
        """For `wrap("train_step")`: the batch has the index in the epoch that it has without an interruption."""
        return stock(batch, batches, index + self._passed_over, *rest)

    def epoch_trained(self) -> None:
        """The rest of the epoch is trained: the loader is the Trainer's own again."""
        if isinstance(self.trainer.train_loader, RestOfEpoch):
            self.trainer.train_loader = self.trainer.train_loader.loader
        self._passed_over = 0

    @property
    def evaluation_due(self) -> bool:
        """Whether the Trainer evaluates in the middle of an epoch, at the present step."""
        every = self.config.run_eval_steps
        return bool(self.config.run_eval and every and self.step % every == 0)

    def evaluate(self) -> None:
        """Evaluate in the middle of an epoch as the Trainer does."""
        self.trainer.eval_epoch()
        self.trainer.model.train()

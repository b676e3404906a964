"""The gradients of every update: their true norm, those that are no numbers, and those that stand out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Any

from xtts_gatekeeper.monitors.spikes import Spikes
from xtts_gatekeeper.trainer_port import TrainerPort

#: Norms of an epoch that are remembered: an epoch may be as long as a training.
_NORMS = 1000


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


class GradientMonitor:
    """Looks at the gradients right before an update: accumulated, unscaled, before they are clipped.

    The stock Trainer shows the norm as 0 without clipping and where it is NaN, and steps NaN into the weights. Here an
    update whose norm is no finite number is left out: the gradients are taken away, so that the optimizer changes
    neither weights nor its own state. With a gradient scaler that is the scaler's doing, and counted apart: while its
    scale is 1 or more it looks for a smaller one, and it is no fault.

    Args:
        port: the Trainer.
        skip: whether to leave such updates out; False only counts them.
        bad: told of an update that stands out: its kind, the norm, and the limit that it went beyond.
        failed: told of an error of ours; gradients are not looked at any more then.
    """

    def __init__(
        self,
        port: TrainerPort,
        *,
        skip: bool,
        bad: Callable[[str, float, float | None], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.port = port
        self.skip = skip
        self.bad = bad
        self.failed = failed
        self._broken = False
        #: Updates up to now.
        self.updates = 0
        self._in_a_row = [0] * len(port.optimizers)
        #: The norm of the latest update; None before the first, and where a gradient scaler has left it out unseen.
        self.latest: float | None = None
        self._spikes = [Spikes() for _ in port.optimizers]
        self.begin_epoch()

    def install(self) -> None:
        """Hook into every update; not where Accelerate does them, which unscales and clips in ways of its own."""
        if not self.port.accelerated:
            self.port.updates.install(self._ready, self._scaled_away)

    @property
    def nonfinite_in_a_row(self) -> int:
        """Updates in a row that were no numbers, of the optimizer that has the most."""
        return max(self._in_a_row)

    def forgive(self) -> None:
        """Count them anew."""
        self._in_a_row = [0] * len(self._in_a_row)

    def begin_epoch(self) -> None:
        """See `Monitor`."""
        self._norms: deque[float] = deque(maxlen=_NORMS)
        self._highest: float | None = None
        self._count = {"updates": 0, "nonfinite_updates": 0, "skipped_updates": 0, "scaler_skips": 0, "spikes": 0}

    def epoch(self) -> dict[str, Any]:
        """Updates, those with NaN or infinity, those left out by us and by the gradient scaler, spikes, and norms.

        `norm_median` (of the latest thousand) and `norm_max` are of the finite ones, before clipping; None without any.
        """
        norm = median(self._norms) if self._norms else None
        return {**self._count, "norm_median": _digits(norm), "norm_max": _digits(self._highest)}

    def _scaled_away(self, number: int) -> None:
        """The gradient scaler has left out an update whose gradients nobody has looked at."""
        self.updates += 1
        self._count["updates"] += 1
        self.latest = None
        self._lost_to_the_scaler(number)

    def _lost_to_the_scaler(self, number: int) -> None:
        self._count["nonfinite_updates"] += 1
        self._count["scaler_skips"] += 1
        searching = (self.port.loss_scale or 0.0) >= 1
        self._in_a_row[number] = 0 if searching else self._in_a_row[number] + 1

    def _ready(self, number: int) -> None:
        norm = None
        if not self._broken:
            try:
                norm = self.port.updates.norm(number)
            except Exception as error:  # in the middle of an update: it must not end the training
                self._broken = True
                self.failed(error)
        if norm is None:
            return
        self.latest = norm
        self.updates += 1
        self._count["updates"] += 1
        if math.isfinite(norm):
            self._in_a_row[number] = 0
            self._norms.append(norm)
            self._highest = norm if self._highest is None else max(norm, self._highest)
            limit = self._spikes[number].limit(norm)
            if limit is not None:
                self._count["spikes"] += 1
                self.bad("gradient_spike", norm, limit)
            return
        if self.port.loss_scale is not None:
            self._lost_to_the_scaler(number)
            return
        self._in_a_row[number] += 1
        self._count["nonfinite_updates"] += 1
        if self.skip:
            self._count["skipped_updates"] += 1
            self.port.updates.drop_gradients(number)
        self.bad("nonfinite_gradient", norm, None)

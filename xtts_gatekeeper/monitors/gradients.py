"""The gradients of every update: their true norm, those that are no numbers, and those that stand out."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import Any

from xtts_gatekeeper.monitors.spikes import Spikes
from xtts_gatekeeper.trainer_port import TrainerPort


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
    """

    def __init__(self, port: TrainerPort, *, skip: bool, bad: Callable[[str, float, float | None], None]) -> None:
        self.port = port
        self.skip = skip
        self.bad = bad
        #: Updates up to now.
        self.updates = 0
        #: Updates in a row that were no numbers, up to now.
        self.nonfinite_in_a_row = 0
        #: The norm of the latest update; None before the first.
        self.latest: float | None = None
        self._spikes = [Spikes() for _ in port.optimizers]
        self.begin_epoch()

    def install(self) -> None:
        """Hook into every update."""
        self.port.updates.install(self._ready, self._scaled_away)

    def begin_epoch(self) -> None:
        """See `Monitor`."""
        self._norms: list[float] = []
        self._count = {"updates": 0, "nonfinite_updates": 0, "skipped_updates": 0, "scaler_skips": 0, "spikes": 0}

    def epoch(self) -> dict[str, Any]:
        """Updates, those with NaN or infinity, those left out by us and by the gradient scaler, spikes, and norms.

        `norm_median` and `norm_max` are of the finite ones, before clipping; None without any.
        """
        norms = self._norms
        return {
            **self._count,
            "norm_median": round(median(norms), 6) if norms else None,
            "norm_max": round(max(norms), 6) if norms else None,
        }

    def _scaled_away(self, number: int) -> None:
        """The gradient scaler has left out an update whose gradients nobody has looked at."""
        self.updates += 1
        self._count["updates"] += 1
        self._lost_to_the_scaler()

    def _lost_to_the_scaler(self) -> None:
        self._count["nonfinite_updates"] += 1
        self._count["scaler_skips"] += 1
        searching = (self.port.loss_scale or 0.0) >= 1
        self.nonfinite_in_a_row = 0 if searching else self.nonfinite_in_a_row + 1

    def _ready(self, number: int) -> None:
        norm = self.port.updates.norm(number)
        if norm is None:
            return
        self.latest = norm
        self.updates += 1
        self._count["updates"] += 1
        if math.isfinite(norm):
            self.nonfinite_in_a_row = 0
            self._norms.append(norm)
            limit = self._spikes[number].limit(norm)
            if limit is not None:
                self._count["spikes"] += 1
                self.bad("gradient_spike", norm, limit)
            return
        if self.port.loss_scale is not None:
            self._lost_to_the_scaler()
            return
        self.nonfinite_in_a_row += 1
        self._count["nonfinite_updates"] += 1
        if self.skip:
            self._count["skipped_updates"] += 1
            self.port.updates.drop_gradients(number)
        self.bad("nonfinite_gradient", norm, None)

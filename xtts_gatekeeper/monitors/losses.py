"""Exact losses: sample-weighted means over all batches of one epoch or one evaluation.

The stock averages miss the first batch, weigh a last batch of one clip like a full one, and run mid-epoch
evaluations together. These do not. Values are read from the dict that the Trainer has already moved to the host, so
nothing is synchronised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from xtts_gatekeeper.record.names import Side, is_loss, named_metrics


@dataclass
class LossMeter:
    """Adds up one epoch or one evaluation.

    A batch with any non-finite loss is counted and left out of the means, so that one bad clip does not hide the rest.
    """

    totals: dict[str, float] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    batches: int = 0
    samples: int = 0
    skipped_batches: int = 0
    nonfinite_batches: int = 0
    longest_nonfinite_run: int = 0
    _run: int = 0

    def add(self, losses: Mapping[str, Any] | None, size: int, scale: Mapping[str, float] | None = None) -> None:
        """Add one batch.

        Args:
            losses: what the Trainer's step returned; None or empty when it skipped the batch.
            size: samples in the batch.
            scale: factors by key that undo what the Trainer did to a value (its division by the accumulation steps).
        """
        values = {
            key: float(value) * (scale or {}).get(key, 1.0)
            for key, value in (losses or {}).items()
            if isinstance(value, Real) and is_loss(key)
        }
        self.batches += 1
        if not values:
            self.skipped_batches += 1
            return
        if not all(map(math.isfinite, values.values())):
            self.nonfinite_batches += 1
            self._run += 1
            self.longest_nonfinite_run = max(self.longest_nonfinite_run, self._run)
            return
        self._run = 0
        self.samples += size
        for key, value in values.items():
            self.totals[key] = self.totals.get(key, 0.0) + value * size
            self.weights[key] = self.weights.get(key, 0) + size

    def means(self, side: Side, named: Mapping[str, tuple[str, float]]) -> dict[str, float]:
        """The means by metric name: every logged key as it is, and ours with the loss weight taken off.

        Args:
            side: `train` or `eval`.
            named: logged key -> (our name, weight), for example `{"loss_text_ce": ("text_ce", 0.01)}`.
        """
        logged = {key: total / self.weights[key] for key, total in self.totals.items() if self.weights[key]}
        return named_metrics(side, logged, named)

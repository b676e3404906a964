"""How fast training goes, and how much of the time it waits for data."""

from __future__ import annotations

import time
from typing import Any

from xtts_gatekeeper.monitors.batch import Batch


class ThroughputMonitor:
    """Times the steps of an epoch. What evaluations in between take is not training and is left out.

    The Trainer's own `loader_time` holds them: it looks at the clock before an evaluation and again after it.
    """

    def __init__(self) -> None:
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """See `Monitor`."""
        self._steps = self._clips = 0
        self._audio = self._waited = self._worked = 0.0
        self._audio_known = True
        self._waiting_since = time.perf_counter()

    def step_begins(self) -> None:
        """The loader has given a batch."""
        self._began = time.perf_counter()
        self._waited += self._began - self._waiting_since

    def step_ends(self, batch: Batch) -> None:
        """The batch is trained, or left out."""
        self._waiting_since = time.perf_counter()
        self._worked += self._waiting_since - self._began
        self._steps += 1
        self._clips += batch.size
        self._audio += batch.audio_seconds or 0.0
        self._audio_known &= batch.audio_seconds is not None

    def waits_from_now(self) -> None:
        """Something else than training is over, such as an evaluation."""
        self._waiting_since = time.perf_counter()

    def epoch(self) -> dict[str, Any]:
        """Steps, clips and seconds of audio a second, and the share of the time in which training waited for data.

        `audio_seconds_per_second` is None where the model's batches do not tell how long their clips are.
        """
        seconds = self._waited + self._worked
        if not self._steps or seconds <= 0:
            return {}
        return {
            "steps_per_second": round(self._steps / seconds, 4),
            "clips_per_second": round(self._clips / seconds, 4),
            "audio_seconds_per_second": round(self._audio / seconds, 4) if self._audio_known else None,
            "data_wait_share": round(self._waited / seconds, 4),
        }

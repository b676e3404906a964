"""Values that stand out from those before them. Pure Python, robust: what stands out does not raise the limit."""

from __future__ import annotations

import math
from collections import deque
from statistics import median


class Spikes:
    """Tells the values of a positive series that lie far above its latest ones.

    A value stands out when its logarithm lies above the median of those before it by more than `times` their scaled
    median absolute deviation (Iglewicz and Hoaglin 1993 call 3.5 an outlier), and by at least the `factor`. Logarithms,
    for gradient norms and losses scatter by factors. With fewer than `least` values nothing stands out.

    >>> spikes = Spikes(least=5)
    >>> [spikes.limit(value) for value in (1.0, 1.1, 0.9, 1.0, 1.05, 1.0)]
    [None, None, None, None, None, None]
    >>> spikes.limit(40.0)
    3.0
    """

    def __init__(self, window: int = 100, least: int = 20, times: float = 6.0, factor: float = 3.0) -> None:
        self.least = least
        self.times = times
        self.factor = factor
        self._logs: deque[float] = deque(maxlen=window)

    def limit(self, value: float) -> float | None:
        """Add a value; the limit that it went beyond, or None where it does not stand out or is no positive number.

        A value that stands out is remembered like any other: a series that has moved to another level for good stops
        standing out once half of the window is there.
        """
        if not (math.isfinite(value) and value > 0):
            return None
        log, before = math.log(value), self._logs
        found = None
        if len(before) >= self.least:
            middle = median(before)
            if log > middle + math.log(self.factor):
                spread = 1.4826 * median(abs(other - middle) for other in before)
                above = max(self.times * spread, math.log(self.factor))
                if log > middle + above:
                    found = float(f"{math.exp(middle + above):.6g}")
        self._logs.append(log)
        return found

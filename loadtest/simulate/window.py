"""Averages and maxima over the last seconds, as the autoscaler keeps them.

After ``pkg/autoscaler/aggregation`` of knative/serving: a ring of one-second buckets whose average divides
by the *age* of a young window instead of its length, its exponentially weighted sibling, and a
descending-maxima window for scale-down-delay. Times are seconds as floats from any fixed origin; only their
whole-granularity part matters.
"""

import math
from collections import deque
from typing import Protocol

_MIN_EXPONENT = 0.2
_WEIGHT_PRECISION = 0.9999
_DIGITS = 6


class Averager(Protocol):
    """What the collector needs of a window."""

    def record(self, now: float, value: float) -> None: ...
    def average(self, now: float) -> float: ...
    def is_empty(self, now: float) -> bool: ...


def smoothing_coefficient(buckets: float) -> float:
    """Weight of the newest of ``buckets`` buckets, so that all weights together reach 0.9999; at least
    0.2.
    """
    return max(1 - math.pow(1 - _WEIGHT_PRECISION, 1 / buckets), _MIN_EXPONENT)


class TimedBuckets:
    """Sum per bucket over ``window`` seconds in steps of ``granularity`` seconds, with a running total.

    A gap of a whole window or more forgets everything; a shorter gap counts as zeros.
    """

    __slots__ = ("_first", "_last", "_total", "buckets", "granularity", "window")

    def __init__(self, window: float, granularity: float = 1.0) -> None:
        self.window = window
        self.granularity = granularity
        self.buckets = [0.0] * math.ceil(window / granularity)
        self._first: int | None = None  # bucket numbers, not times
        self._last: int | None = None
        self._total = 0.0

    def _span(self, buckets: int) -> float:
        return buckets * self.granularity

    def is_empty(self, now: float) -> bool:
        """True if nothing was recorded during the last window."""
        return self._last is None or self._span(math.floor(now / self.granularity) - self._last) > self.window

    def record(self, now: float, value: float) -> None:
        """Adds ``value`` to the bucket of ``now``; what is a whole window older than the newest write is
        ignored.
        """
        here = math.floor(now / self.granularity)
        n = len(self.buckets)
        if here != self._last:
            if self._last is not None and self._span(here - self._last) + self.window <= 0:
                return
            if self._first is None or here < self._first:
                self._first = here
            if self._last is None or here > self._last:
                if self._last is None or self._span(here - self._last) >= self.window:
                    self._first = here
                    self.buckets = [0.0] * n
                    self._total = 0.0
                else:
                    for i in range(self._last + 1, here + 1):
                        self._total -= self.buckets[i % n]
                        self.buckets[i % n] = 0.0
                self._last = here
        self.buckets[here % n] += value
        self._total += value

    def average(self, now: float) -> float:
        """Mean bucket over the window, over its age if it is younger, rounded to six digits; 0 without
        data.
        """
        if self._last is None or self._first is None:
            return 0.0
        here = math.floor(now / self.granularity)
        n = len(self.buckets)
        total, valid = self._total, n
        if here > self._last:
            if self._span(here - self._last) >= self.window:
                return 0.0
            for i in range(self._last + 1, here + 1):
                total -= self.buckets[i % n]
            valid = n - (here - self._last)
        return round(total / min(self._last - self._first + 1, valid), _DIGITS) + 0.0


class WeightedBuckets(TimedBuckets):
    """The same ring, averaged with exponentially falling weights (``metric-aggregation-algorithm:
    weighted-exponential``).
    """

    __slots__ = ("coefficient",)

    def __init__(self, window: float, granularity: float = 1.0) -> None:
        super().__init__(window, granularity)
        self.coefficient = smoothing_coefficient(len(self.buckets))

    def average(self, now: float) -> float:
        """Weighted mean, newest bucket first; seconds without a write weigh as zeros."""
        if self._last is None or self.is_empty(now):
            return 0.0
        n = len(self.buckets)
        weight, valid = self.coefficient, n
        silent = math.floor(now / self.granularity) - self._last
        if silent > 0:
            weight *= math.pow(1 - self.coefficient, silent)
            valid -= silent
        result = 0.0
        for i in range(valid):
            result += self.buckets[(self._last - i) % n] * weight
            weight *= 1 - self.coefficient
        return result


class MaxWindow:
    """Largest of the values recorded at the last ``size`` indices (ascending minima algorithm, turned
    over).
    """

    __slots__ = ("_maxima", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._maxima: deque[tuple[int, int]] = deque()  # (index, value), values strictly falling

    def record(self, index: int, value: int) -> None:
        """Adds ``value`` at ``index``; indices never fall. Of two values at one index the larger stays."""
        maxima = self._maxima
        while maxima and value >= maxima[-1][1]:
            maxima.pop()
        while maxima and index - maxima[0][0] >= self.size:
            maxima.popleft()
        if not (maxima and maxima[-1][0] == index):
            maxima.append((index, value))

    def current(self) -> int:
        """The largest value in the window as of the last record; 0 before the first."""
        return self._maxima[0][1] if self._maxima else 0


class TimeMaxWindow:
    """A :class:`MaxWindow` whose index is the time in steps of ``granularity`` seconds."""

    __slots__ = ("_granularity", "_window")

    def __init__(self, duration: float, granularity: float) -> None:
        self._window = MaxWindow(math.ceil(duration / granularity))
        self._granularity = granularity

    def record(self, now: float, value: int) -> None:
        self._window.record(int(now // self._granularity), value)

    def current(self) -> int:
        return self._window.current()

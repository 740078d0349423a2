"""A log of latencies whose memory doesn't grow with the run: exact while small, then a log-scaled
histogram.
"""

import math
from array import array
from collections.abc import Mapping
from typing import Final

from loadtest.statistics import bears, interval_ranks, rank

GROWTH: Final = 1.005
"""Upper over lower edge of a bucket: a value read from the histogram is at most 0.25 % off."""
EXACT: Final = 50_000
"""Values kept one by one (8 bytes each); beyond it the histogram answers."""
_SMALLEST: Final = 1e-6
_LOG: Final = math.log(GROWTH)


class Latencies:
    """Seconds, each >= 0. A million values take the memory of fifty thousand."""

    def __init__(self, exact: int = EXACT) -> None:
        self.count = 0
        self.total = 0.0
        self.low = math.inf
        self.high = 0.0
        self._limit = exact
        self._values: array[float] | None = array("d")
        self._sorted = True
        self._buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """Count one value."""
        self.count += 1
        self.total += seconds
        self.low = min(self.low, seconds)
        self.high = max(self.high, seconds)
        bucket = 0 if seconds <= _SMALLEST else 1 + int(math.log(seconds / _SMALLEST) / _LOG)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        if self._values is not None:
            if self.count > self._limit:
                self._values = None
            else:
                self._values.append(seconds)
                self._sorted = False

    @property
    def exact(self) -> bool:
        """True while every value is kept; False: values are at most 0.25 % off."""
        return self._values is not None

    @property
    def mean(self) -> float:
        """Arithmetic mean; 0 of nothing."""
        return self.total / self.count if self.count else 0.0

    def at(self, position: int) -> float:
        """The value at 0-based ``position`` of the sorted log; IndexError outside of it."""
        if not 0 <= position < self.count:
            raise IndexError(f"position {position} of {self.count} latencies")
        if self._values is not None:
            if not self._sorted:
                self._values = array("d", sorted(self._values))
                self._sorted = True
            return self._values[position]
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen > position:
                middle = _SMALLEST * GROWTH ** (bucket - 0.5) if bucket else _SMALLEST
                return min(max(middle, self.low), self.high)
        raise IndexError(position)  # pragma: no cover - the buckets hold every value

    def percentile(self, percent: float) -> float | None:
        """``percent`` (0..100), or None where the sample can't bear it (see :func:`statistics.needed`)."""
        if not bears(percent, self.count):
            return None
        return self.at(min(rank(percent, self.count), self.count - 1))

    def interval(self, percent: float) -> tuple[float | None, float | None]:
        """The interval of ``percent`` that the sample supports with 90 % confidence; None: no bound on that
        side.
        """
        low, high = interval_ranks(percent, self.count)
        return (None if low is None else self.at(low)), (None if high is None else self.at(high))

    def counts_between(self, edges: list[float]) -> list[int]:
        """How many values lie at or under each edge and over the one before (hey's histogram)."""
        counts = [0] * len(edges)
        for value, number in self._pairs():
            for index, edge in enumerate(edges):
                if value <= edge or index == len(edges) - 1:
                    counts[index] += number
                    break
        return counts

    def buckets(self) -> Mapping[float, int]:
        """Middle of each occupied bucket (seconds) to its count, ascending: what a report stores."""
        return {
            (_SMALLEST * GROWTH ** (bucket - 0.5) if bucket else _SMALLEST): self._buckets[bucket]
            for bucket in sorted(self._buckets)
        }

    def _pairs(self) -> list[tuple[float, int]]:
        if self._values is not None:
            return [(value, 1) for value in self._values]
        pairs = [(min(max(middle, self.low), self.high), number) for middle, number in self.buckets().items()]
        if self.count < 2:
            return pairs
        # The two ends are known exactly.
        for index, end in ((0, self.low), (len(pairs) - 1, self.high)):
            value, number = pairs[index]
            pairs[index] = (value, number - 1)
            pairs.append((end, 1))
        return pairs

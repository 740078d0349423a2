"""Who counts requests, and what reaches the autoscaler.

After ``networking/pkg/http/stats/request.go``, ``pkg/activator/handler/concurrency_reporter.go`` and
``pkg/autoscaler/metrics`` of knative/serving: each process integrates its concurrency and reports the
average once a second; the collector adds the reports of a second up in its windows. Times are seconds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from loadtest.simulate.window import Averager, TimedBuckets, WeightedBuckets

REPORT_SECONDS = 1.0
_SAMPLE_SIZE = 1.96 * 1.96 * 100.0 / (5.0 * 5.0)


def sample_size(pods: int) -> int:
    """How many of ``pods`` pods are scraped a second: all up to 3, about 15 of many (95 % confidence, ±5)."""
    if pods <= 3:
        return max(pods, 0)
    return math.ceil(pods * _SAMPLE_SIZE / (pods + _SAMPLE_SIZE - 1))


class RequestStats:
    """Concurrency integrated over time since the last report."""

    __slots__ = ("_area", "_changed", "_elapsed", "arrived", "concurrency")

    def __init__(self, now: float) -> None:
        self.concurrency = 0
        self.arrived = 0
        self._area = 0.0
        self._elapsed = 0.0
        self._changed = now

    def _advance(self, now: float) -> None:
        step = now - self._changed
        if step > 0:
            self._elapsed += step
            self._area += self.concurrency * step
            self._changed = now

    def enter(self, now: float) -> None:
        self._advance(now)
        self.concurrency += 1
        self.arrived += 1

    def leave(self, now: float) -> None:
        self._advance(now)
        self.concurrency -= 1

    def report(self, now: float) -> tuple[float, int]:
        """``(average concurrency, arrivals)`` since the last report; both start again."""
        self._advance(now)
        average = self._area / self._elapsed if self._elapsed > 0 else 0.0
        arrived = self.arrived
        self._area = self._elapsed = 0.0
        self.arrived = 0
        return average, arrived


@dataclass(frozen=True)
class Stat:
    """One report of one process: average concurrency and number of new requests over its second."""

    concurrency: float
    requests: float


class ConcurrencyReporter:
    """The activator's counting of one revision.

    The first request after silence is reported *at once* as concurrency 1, so that a cold start does not
    wait for the next second; the next report subtracts it. A second without any activity forgets the
    revision.
    """

    __slots__ = ("_discount", "_send", "_stats")

    def __init__(self, send: Callable[[float, Stat], None]) -> None:
        self._send = send
        self._stats: RequestStats | None = None
        self._discount = 0

    def enter(self, now: float) -> None:
        stats = self._stats
        if stats is None:
            stats = self._stats = RequestStats(now)
            stats.enter(now)
            self._discount = 1
            self._send(now, Stat(1.0, 1.0))
        else:
            stats.enter(now)

    def leave(self, now: float) -> None:
        stats = self._stats
        if stats is None:  # forgotten only with no request inside, so each leave has its enter
            raise RuntimeError("a request left that never entered")
        stats.leave(now)

    def tick(self, now: float) -> None:
        """Sends the report of the second that ends now, if the revision is known."""
        stats = self._stats
        if stats is None:
            return
        average, arrived = stats.report(now)
        discount, self._discount = self._discount, 0
        if average == 0 and stats.concurrency == 0:
            self._stats = None
        self._send(now, Stat(max(average - discount, 0.0), arrived - discount))


class Collector:
    """The autoscaler's windows of one revision: stable and panic, of concurrency or of requests a second."""

    def __init__(
        self,
        *,
        stable_window: float,
        panic_window: float,
        metric: str = "concurrency",
        weighted: bool = False,
        scraped: bool = True,
    ) -> None:
        kind: type[TimedBuckets] = WeightedBuckets if weighted else TimedBuckets
        self.stable: Averager = kind(stable_window)
        self.panic: Averager = kind(panic_window)
        self._rps = metric == "rps"
        self._scraped = scraped

    def record(self, now: float, stat: Stat) -> None:
        """Adds a report; its time is when it is received, in whole seconds."""
        value = stat.requests if self._rps else stat.concurrency
        self.stable.record(now, value)
        self.panic.record(now, value)

    def measured(self, now: float) -> tuple[float, float] | None:
        """``(stable, panic)`` averages, or None where pods are scraped and a whole window brought no
        report.
        """
        if self._scraped and self.stable.is_empty(now):
            return None
        return self.stable.average(now), self.panic.average(now)

"""Everything a run adds up, in memory that doesn't grow with it.

Counts and histograms take every request in; of the requests themselves a uniform sample of
:data:`RECORDS` is kept for plots and comparisons (all of them in a run that is no longer).
"""

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from loadtest.exchange import Exchange, Session
from loadtest.latencies import Latencies

RECORDS: Final = 10_000
NAMES: Final = 5_000
"""Pods, kinds of failure and groups told apart; further ones share the name ``(others)``."""
OTHERS: Final = "(others)"
BINS: Final = 600
SLOWEST: Final = 10


@dataclass(slots=True)
class PodTally:
    """One pod, as far as its answers tell."""

    first: float
    """Seconds since the start of the run at which its first answer ended."""
    last: float = 0.0
    answers: int = 0
    failures: int = 0
    cold_starts: int = 0
    latencies: Latencies = field(default_factory=lambda: Latencies(exact=0))


@dataclass(slots=True)
class FailureTally:
    """One kind of failure."""

    count: int = 0
    first: float = 0.0
    last: float = 0.0
    example: str = ""


@dataclass(slots=True)
class ColdStart:
    """A request that was the first of a process."""

    at: float
    """Seconds since the start of the run at which its answer ended."""
    latency: float
    pod: str


class Timeline:
    """Starts, ends and requests in flight over time: at most :data:`BINS` bins, whose width doubles."""

    def __init__(self) -> None:
        self.width = 0.1
        self.started = np.zeros(BINS)
        self.succeeded = np.zeros(BINS)
        self.failed = np.zeros(BINS)
        self.busy = np.zeros(BINS)
        """Request-seconds: divided by the width it is the mean concurrency."""
        self.used = 0

    def add(self, begin: float, end: float, ok: bool) -> None:
        """Count one request that was in flight from ``begin`` to ``end`` (seconds since the start of the
        run).
        """
        begin = max(0.0, begin)
        while end >= self.width * BINS:
            self._double()
        first, last = int(begin / self.width), int(end / self.width)
        self.used = max(self.used, last + 1)
        self.started[first] += 1
        (self.succeeded if ok else self.failed)[last] += 1
        if first == last:
            self.busy[first] += end - begin
        else:
            self.busy[first] += (first + 1) * self.width - begin
            self.busy[first + 1 : last] += self.width
            self.busy[last] += end - last * self.width

    def _double(self) -> None:
        for row in (self.started, self.succeeded, self.failed, self.busy):
            row[: BINS // 2] = row[0::2] + row[1::2]
            row[BINS // 2 :] = 0
        self.width *= 2
        self.used = (self.used + 1) // 2


class Tally:
    """Takes in every :class:`Exchange` of a run."""

    def __init__(self, seed: int = 0) -> None:
        self.count = 0
        self.succeeded = 0
        self.retries = 0
        self.bytes = 0
        self.last_done = 0.0
        self.latencies = Latencies()
        self.start_delays = Latencies(exact=0)
        """How late requests were sent, after their intended start (open loop)."""
        self.phases = {name: Latencies(exact=0) for name in ("connect", "write", "wait", "read")}
        self.statuses: Counter[int] = Counter()
        self.failures: dict[str, FailureTally] = {}
        self.pods: dict[str, PodTally] = {}
        self.groups: dict[str, Latencies] = {}
        self.cold_starts = 0
        self.cold_latencies = Latencies(exact=RECORDS)
        self.warm_latencies = Latencies()
        self.cold_marks: list[ColdStart] = []
        self.timeline = Timeline()
        self.records: list[Exchange] = []
        self.stuck = self.moved = 0
        """Answers of a session's later requests: from the same pod as its previous one, and from another."""
        self.cookies = 0
        self.started_after = Latencies(exact=RECORDS)
        self.progress_after = Latencies(exact=RECORDS)
        self.silences = Latencies(exact=0)
        self.progress_events = 0
        self._slowest: list[tuple[float, int, Exchange]] = []
        self._order = itertools.count()
        self._chance = random.Random(seed)

    def add(self, one: Exchange, session: Session | None = None) -> None:
        """Count one request that has ended."""
        self.count += 1
        self.retries += one.attempts - 1
        self.bytes += one.size
        self.last_done = max(self.last_done, one.done)
        self.start_delays.add(max(0.0, one.sent - one.intended))
        self.timeline.add(one.sent, one.done, one.ok)
        if one.status:
            self.statuses[one.status] += 1
        if one.ok:
            self._success(one)
        else:
            self._failure(one)
        if one.pod:
            self._pod(one, session)
        if one.cold:
            self.cold_starts += 1
            if len(self.cold_marks) < RECORDS:
                self.cold_marks.append(ColdStart(one.done, one.latency, one.pod))
        self._keep(one)

    def sample(self) -> list[Exchange]:
        """The kept requests in the order in which they were sent."""
        return sorted(self.records, key=lambda one: (one.sent, one.number))

    def slowest(self) -> list[Exchange]:
        """The slowest successful requests, slowest first."""
        return [one for _, _, one in sorted(self._slowest, key=lambda entry: -entry[0])]

    def _success(self, one: Exchange) -> None:
        self.succeeded += 1
        self.latencies.add(one.latency)
        (self.cold_latencies if one.cold else self.warm_latencies).add(one.latency)
        self.phases["connect"].add(one.connect)
        self.phases["write"].add(one.write)
        self.phases["wait"].add(one.wait)
        self.phases["read"].add(one.read)
        if one.group:
            self.groups.setdefault(_bounded(one.group, self.groups), Latencies(exact=0)).add(one.latency)
        if one.started is not None:
            self.started_after.add(one.started)
        if one.first_progress is not None:
            self.progress_after.add(one.first_progress)
        if one.progress_events or one.longest_silence:
            self.progress_events += one.progress_events
            self.silences.add(one.longest_silence)
        entry = (one.latency, next(self._order), one)
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, entry)
        else:
            heapq.heappushpop(self._slowest, entry)

    def _failure(self, one: Exchange) -> None:
        failure = self.failures.setdefault(_bounded(one.failure, self.failures), FailureTally(first=one.done))
        failure.count += 1
        failure.first = min(failure.first, one.done)
        failure.last = max(failure.last, one.done)
        failure.example = failure.example or one.message

    def _pod(self, one: Exchange, session: Session | None) -> None:
        pod = self.pods.setdefault(_bounded(one.pod, self.pods), PodTally(first=one.done))
        pod.first = min(pod.first, one.done)
        pod.last = max(pod.last, one.done)
        pod.answers += 1
        pod.failures += not one.ok
        pod.cold_starts += one.cold
        if one.ok:
            pod.latencies.add(one.latency)
        if session is not None:
            if session.last_pod:
                self.stuck += session.last_pod == one.pod
                self.moved += session.last_pod != one.pod
            session.last_pod = one.pod

    def _keep(self, one: Exchange) -> None:
        """Reservoir sampling (Vitter 1985, algorithm R): each request is kept with the same probability."""
        if len(self.records) < RECORDS:
            self.records.append(one)
        elif (place := self._chance.randrange(self.count)) < RECORDS:
            self.records[place] = one


def _bounded(name: str, known: dict[str, PodTally] | dict[str, FailureTally] | dict[str, Latencies]) -> str:
    return name if name in known or len(known) < NAMES else OTHERS

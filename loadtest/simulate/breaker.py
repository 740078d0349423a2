"""A limit on what runs at once, with a bounded queue behind it.

After ``pkg/queue/breaker.go`` of knative/serving. queue-proxy has one per pod (``containerConcurrency``
running, ten times as many waiting), the activator one per revision. Waiters go in order of arrival.
"""

from collections import deque
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")


class Admission(Enum):
    """What a breaker answers to an offer."""

    RUN = "run"
    WAIT = "wait"
    FULL = "full"


class Breaker(Generic[T]):
    """At most ``capacity`` items running and ``queue_depth + max_concurrency`` inside; beyond that: full.

    Raises ``ValueError`` for a queue depth below 1 or a capacity outside 0..``max_concurrency``.
    """

    __slots__ = ("capacity", "inside", "running", "slots", "waiting")

    def __init__(self, queue_depth: int, max_concurrency: int, initial_capacity: int) -> None:
        if queue_depth <= 0:
            raise ValueError(f"queue depth must be above 0, not {queue_depth}")
        if not 0 <= initial_capacity <= max_concurrency:
            raise ValueError(f"initial capacity must be in 0..{max_concurrency}, not {initial_capacity}")
        self.slots = queue_depth + max_concurrency
        self.capacity = initial_capacity
        self.running = 0
        self.inside = 0
        self.waiting: deque[T] = deque()

    def offer(self, item: T) -> Admission:
        """Lets ``item`` run, keeps it waiting, or refuses it."""
        if self.inside >= self.slots:
            return Admission.FULL
        self.inside += 1
        if self.running < self.capacity:
            self.running += 1
            return Admission.RUN
        self.waiting.append(item)
        return Admission.WAIT

    def reserve(self) -> bool:
        """Takes a running place without ever waiting; give it back with :meth:`release`."""
        if self.inside >= self.slots or self.running >= self.capacity:
            return False
        self.inside += 1
        self.running += 1
        return True

    def release(self) -> T | None:
        """Ends one that runs; returns the waiter that runs in its place, if any may."""
        if self.running == 0:
            raise RuntimeError("released more than was admitted")
        self.running -= 1
        self.inside -= 1
        if self.waiting and self.running < self.capacity:
            self.running += 1
            return self.waiting.popleft()
        return None

    def resize(self, capacity: int) -> list[T]:
        """Sets the capacity; returns the waiters that run now."""
        self.capacity = capacity
        woken: list[T] = []
        while self.waiting and self.running < capacity:
            self.running += 1
            woken.append(self.waiting.popleft())
        return woken

    def withdraw(self, item: T) -> bool:
        """Takes a waiter out of the queue; False if it does not wait here."""
        try:
            self.waiting.remove(item)
        except ValueError:
            return False
        self.inside -= 1
        return True

"""The activator: queues requests of a revision until a pod has room, and chooses the pod.

After ``pkg/activator/net/throttler.go`` and ``lb_policy.go`` of knative/serving. Up to a
containerConcurrency of 3 the first pod with room in address order is taken, above that round robin. Several
activators divide the pods into slices. Where pods cannot be addressed (the *ClusterIP fallback*) only the
number of ready pods limits what is sent, and kube-proxy pins each kept-alive connection to whatever pod it
was dialled to.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from loadtest.simulate.breaker import Admission, Breaker

QUEUE_DEPTH = 10_000
MAX_CAPACITY = 2**31 - 1
FIRST_AVAILABLE_UP_TO = 3
IDLE_CONNECTION_SECONDS = 90.0


class Target(Protocol):
    """A pod as the activator sees it: an address to sort by, and whether its process still answers."""

    address: int
    gone: bool


class Routed(Protocol):
    """A request as the activator sees it: the place that it holds."""

    place: "Place | None"


class Policy(Protocol):
    """Chooses among the pods that have room: an index out of ``free``, a bit set of ``size`` that is never 0."""

    def pick(self, free: int, size: int) -> int: ...


P = TypeVar("P", bound=Target)
R = TypeVar("R", bound=Routed)
T = TypeVar("T")


class Place:
    """One pod's slots in one activator's view (a *pod tracker*)."""

    __slots__ = ("capacity", "in_flight", "index", "target")

    def __init__(self, target: Target, capacity: int) -> None:
        self.target = target
        self.capacity = capacity
        self.in_flight = 0
        self.index = -1  # in the assigned slice; -1 outside of it


def pick_indices(pods: int, index: int, activators: int) -> tuple[int, int, int]:
    """``(begin, end, remnants)``: the slice of ``pods`` sorted pods for activator ``index`` of
    ``activators``.

    With fewer pods than activators each gets pod ``index % pods``, shared; else equal exclusive slices, and
    ``remnants`` pods are left over at the end.
    """
    if activators > pods:
        begin = index % pods
        return begin, begin + 1, 0
    size = pods // activators
    return index * size, (index + 1) * size, pods % activators


def assign_slice(pods: Sequence[T], index: int, activators: int) -> list[T]:
    """The pods (sorted by address) that activator ``index`` uses; all of them for an unknown index (−1)."""
    if index == -1 or len(pods) <= 1 or activators == 1:
        return list(pods)
    begin, end, remnants = pick_indices(len(pods), index, activators)
    mine = list(pods[begin:end])
    if index < remnants:
        mine.append(pods[len(pods) - remnants + index])
    return mine


def calculate_capacity(container_concurrency: int, backends: int, places: int, activators: int) -> int:
    """How many requests an activator lets through: by its slice, or without one by its share of ready
    pods.
    """
    if places > 0:
        capacity = container_concurrency * places
    else:
        capacity = container_concurrency * backends
        if capacity > 0:
            capacity = max(1, capacity // max(1, activators))
    if backends > 0 and (container_concurrency == 0 or capacity > MAX_CAPACITY):
        return MAX_CAPACITY
    return capacity


class FirstAvailable:
    """Picks the lowest free index: packs the load on few pods."""

    def pick(self, free: int, size: int) -> int:
        """``free``: bit set of indices with room, never 0; ``size``: number of places."""
        return (free & -free).bit_length() - 1


class RoundRobin:
    """Picks the next free index after the one picked last."""

    def __init__(self) -> None:
        self._next = 0

    def pick(self, free: int, size: int) -> int:
        """``free``: bit set of indices with room, never 0; ``size``: number of places."""
        if self._next >= size:
            self._next = 0
        ahead = free >> self._next << self._next
        chosen = ((ahead or free) & -(ahead or free)).bit_length() - 1
        self._next = chosen + 1
        return chosen


class RandomAvailable:
    """Picks any index with room: what is left of the power of two choices where a replica takes one request."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def pick(self, free: int, size: int) -> int:
        """``free``: bit set of indices with room, never 0; ``size``: number of places."""
        for _ in range(int(self._rng.integers(free.bit_count()))):
            free &= free - 1
        return (free & -free).bit_length() - 1


def policy_for(container_concurrency: int) -> Policy:
    """The balancing policy for a containerConcurrency of 1 or more."""
    return FirstAvailable() if container_concurrency <= FIRST_AVAILABLE_UP_TO else RoundRobin()


class ConnectionPool(Generic[P]):
    """Kept-alive connections through a ClusterIP: newest idle one first, each pinned to one pod.

    ``dial`` chooses the pod of a new connection (kube-proxy), or None when the Service has no endpoint.
    """

    def __init__(self, dial: Callable[[], P | None]) -> None:
        self._dial = dial
        self._idle: list[tuple[P, float]] = []

    def take(self, now: float) -> P | None:
        while self._idle:
            pod, since = self._idle.pop()
            if not pod.gone and now - since < IDLE_CONNECTION_SECONDS:
                return pod
        return self._dial()

    def give_back(self, pod: P, now: float) -> None:
        self._idle.append((pod, now))


class Throttler(Generic[R]):
    """One activator's queue and choice for one revision.

    ``send(request, target)`` passes a request on; ``target`` None means: over the ClusterIP. Each request
    that was sent must come back through :meth:`done` exactly once. A request that waits can be taken out by
    :meth:`withdraw`.
    """

    def __init__(
        self,
        container_concurrency: int,
        send: Callable[[R, Target | None], None],
        *,
        cluster_ip: bool = False,
        policy: Policy | None = None,
    ) -> None:
        self.breaker: Breaker[R] = Breaker(QUEUE_DEPTH, MAX_CAPACITY, 0)
        self.places: list[Place] = []
        self._known: dict[int, Place] = {}
        self._free = 0
        self._cc = container_concurrency
        self._policy = policy or policy_for(container_concurrency)
        self._send = send
        self._cluster_ip = cluster_ip
        self._homeless: deque[R] = deque()  # through the revision's breaker, but every place was taken

    @property
    def free(self) -> int:
        """How many pods have room."""
        return self._free.bit_count()

    @property
    def waiting(self) -> int:
        return len(self.breaker.waiting) + len(self._homeless)

    def update(self, targets: Sequence[Target], backends: int, index: int, activators: int) -> None:
        """Takes a new set of usable pods. A pod that left and came back starts with all its slots free."""
        if self._cluster_ip:
            woken = self.breaker.resize(calculate_capacity(self._cc, backends, 0, activators))
            for request in woken:
                self._send(request, None)
            return
        known = {t.address: self._known.get(t.address) or Place(t, self._cc) for t in targets}
        for place in self._known.values():
            place.index = -1
        self._known = known
        self.places = assign_slice([known[a] for a in sorted(known)], index, activators)
        self._free = 0
        for i, place in enumerate(self.places):
            place.index = i
            if place.in_flight < place.capacity:
                self._free |= 1 << i
        waiting = list(self._homeless)
        self._homeless.clear()
        waiting += self.breaker.resize(calculate_capacity(self._cc, len(known), len(self.places), activators))
        for request in waiting:
            self._place(request)

    def offer(self, request: R) -> bool:
        """Sends the request or queues it; False if even the queue is full."""
        admission = self.breaker.offer(request)
        if admission is Admission.RUN:
            self._place(request)
        return admission is not Admission.FULL

    def done(self, request: R) -> None:
        """The request left its pod: its slots are free, and whoever waits goes."""
        place = request.place
        if place is not None:
            request.place = None
            place.in_flight -= 1
            if place.index >= 0:
                self._free |= 1 << place.index
            if self._homeless:
                self._place(self._homeless.popleft())
        successor = self.breaker.release()
        if successor is not None:
            self._place(successor)

    def withdraw(self, request: R) -> bool:
        """Takes a waiting request out; False if it does not wait here."""
        if self.breaker.withdraw(request):
            return True
        if request in self._homeless:
            self._homeless.remove(request)
            successor = self.breaker.release()
            if successor is not None:
                self._place(successor)
            return True
        return False

    def _place(self, request: R) -> None:
        if self._cluster_ip:
            self._send(request, None)
        elif not self._free:
            self._homeless.append(request)
        else:
            index = self._policy.pick(self._free, len(self.places))
            place = self.places[index]
            place.in_flight += 1
            if place.in_flight >= place.capacity:
                self._free &= ~(1 << index)
            request.place = place
            self._send(request, place.target)

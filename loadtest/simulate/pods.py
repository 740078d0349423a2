"""Pods and the GPUs under them: provisioning, cold start, readiness, drain, termination.

The :class:`Fleet` is Deployment, ReplicaSet, scheduler and kubelet in one; :class:`Nodes` hands out GPUs
within the quota and bills them. The order in which pods are taken away is the ReplicaSet's: unscheduled,
not ready, youngest.
"""

from collections import deque
from collections.abc import Callable, Generator
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import simpy

from loadtest.simulate.breaker import Breaker
from loadtest.simulate.scenario import Cluster, Scenario
from loadtest.simulate.stats import RequestStats

if TYPE_CHECKING:
    from loadtest.simulate.requests import Request

PROBE_SECONDS = 0.2  # the activator probes pods that it does not know to be healthy this often
QUEUE_DEPTH_PER_SLOT = 10

Wait = Generator[simpy.Event, Any, None]


class State(IntEnum):
    """How far a pod has come; the order is the order of removal."""

    PENDING = 0
    STARTING = 1
    READY = 2


class Pod:
    """One replica: queue-proxy's breaker in front, ``busy`` generations on its GPU, a ``backlog`` at the
    GPU's lock.
    """

    __slots__ = (
        "address",
        "backlog",
        "breaker",
        "busy",
        "created",
        "gone",
        "last_arrival",
        "node",
        "on_idle",
        "programmed",
        "ready_at",
        "served",
        "started_at",
        "state",
        "stats",
        "usable",
    )

    def __init__(self, address: int, created: float, concurrency: int) -> None:
        self.address = address
        self.created = created
        self.state = State.PENDING
        self.usable = False  # the activator's probe has passed
        self.programmed = False  # kube-proxy and the ingress know it
        self.gone = False
        self.node: Node | None = None
        self.started_at: float | None = None
        self.ready_at: float | None = None
        self.breaker: Breaker[Request] = Breaker(QUEUE_DEPTH_PER_SLOT * concurrency, concurrency, concurrency)
        self.busy = 0
        self.backlog: deque[Request] = deque()
        self.stats = RequestStats(created)  # requests that came past the activator
        self.last_arrival = created
        self.on_idle: simpy.Event | None = None
        self.served = 0

    @property
    def idle(self) -> bool:
        return self.busy == 0 and self.breaker.inside == 0


class Node:
    """A machine with ``size`` GPUs. ``permanent`` ones are always there; others go after standing idle."""

    __slots__ = ("has_image", "idle_since", "permanent", "size", "used")

    def __init__(self, size: int, *, permanent: bool) -> None:
        self.size = size
        self.permanent = permanent
        self.used = 0
        self.has_image = False
        self.idle_since = 0.0


class Nodes:
    """Hands out GPUs, never more than the quota, first come first served; adds nodes where the scenario has
    them.
    """

    def __init__(self, env: simpy.Environment, cluster: Cluster, rng: np.random.Generator) -> None:
        self._env = env
        self._cluster = cluster
        self._most = -(-cluster.gpu_quota // cluster.gpus_per_node)
        warm = self._most if cluster.warm_nodes is None else min(cluster.warm_nodes, self._most)
        self.nodes = [Node(cluster.gpus_per_node, permanent=True) for _ in range(warm)]
        self._coming = 0
        self._provision = cluster.node_provisioning.sampler(rng)
        self._queue: deque[tuple[Pod, simpy.Event]] = deque()
        self.held = 0
        self.peak = 0
        self.gpu_seconds = 0.0
        self.node_gpu_seconds = 0.0
        self.zero_seconds = 0.0
        self._changed = 0.0

    def settle(self) -> None:
        """Brings the bills up to now."""
        step = self._env.now - self._changed
        self._changed = self._env.now
        self.gpu_seconds += self.held * step
        self.node_gpu_seconds += sum(n.size for n in self.nodes) * step
        if self.held == 0:
            self.zero_seconds += step

    def acquire(self, pod: Pod) -> simpy.Event:
        """An event that fires when ``pod`` has its GPU."""
        event = self._env.event()
        self._queue.append((pod, event))
        self._assign()
        return event

    def forget(self, pod: Pod) -> None:
        """Takes a pod that still waits out of the queue."""
        self._queue = deque(entry for entry in self._queue if entry[0] is not pod)

    def release(self, pod: Pod) -> None:
        node = pod.node
        if node is None:
            return
        self.settle()
        pod.node = None
        node.used -= 1
        self.held -= 1
        if node.used == 0 and not node.permanent:
            node.idle_since = self._env.now
            self._env.process(self._remove_idle(node))
        self._assign()

    def _assign(self) -> None:
        while self._queue and self.held < self._cluster.gpu_quota:
            node = next((n for n in self.nodes if n.used < n.size), None)
            if node is None:
                self._grow()
                return
            self.settle()
            pod, event = self._queue.popleft()
            node.used += 1
            self.held += 1
            self.peak = max(self.peak, self.held)
            pod.node = node
            event.succeed()

    def _grow(self) -> None:
        missing = -(-len(self._queue) // self._cluster.gpus_per_node) - self._coming
        room = self._most - len(self.nodes) - self._coming
        for _ in range(min(missing, room)):
            self._coming += 1
            self._env.process(self._add())

    def _add(self) -> Wait:
        yield self._env.timeout(self._provision())
        self.settle()
        self._coming -= 1
        node = Node(self._cluster.gpus_per_node, permanent=False)
        node.idle_since = self._env.now
        self.nodes.append(node)
        self._assign()
        if node.used == 0:
            self._env.process(self._remove_idle(node))

    def _remove_idle(self, node: Node) -> Wait:
        since = node.idle_since
        yield self._env.timeout(self._cluster.node_idle)
        if node.used == 0 and node.idle_since == since and node in self.nodes:
            self.settle()
            self.nodes.remove(node)


class Fleet:
    """All pods of the revision. ``changed()`` is called whenever a pod's standing changed, ``killed(pod)``
    when a pod
    dies with requests inside.
    """

    def __init__(
        self,
        env: simpy.Environment,
        scenario: Scenario,
        rng: np.random.Generator,
        *,
        changed: Callable[[], None],
        killed: Callable[[Pod], None],
    ) -> None:
        self._env = env
        self._pods = scenario.pods
        self._lag = scenario.cluster.kube_proxy_lag
        self._concurrency = scenario.concurrency
        self._grace = scenario.autoscaling.timeout_seconds
        self._rng = rng
        self._start = scenario.pods.start.sampler(rng)
        self._overhead = scenario.pods.overhead.sampler(rng)
        self._pull = scenario.pods.image_pull.sampler(rng)
        self._changed = changed
        self._killed = killed
        self.nodes = Nodes(env, scenario.cluster, rng)
        self.alive: list[Pod] = []
        self.leaving: list[Pod] = []
        self._created = 0
        self.starts = 0  # pods that got a GPU and began to load
        self.served: list[int] = []  # by pods that are gone
        for _ in range(scenario.pods.initial):
            self._warm()

    @property
    def replicas(self) -> int:
        return len(self.alive)

    @property
    def ready(self) -> int:
        """Ready and not terminating, as the autoscaler counts."""
        return sum(1 for pod in self.alive if pod.state is State.READY)

    def counts(self) -> tuple[int, int, int, int]:
        """``(pods, ready, pending, terminating)``; the first three without those that terminate."""
        pending = sum(1 for pod in self.alive if pod.state is State.PENDING)
        return len(self.alive), self.ready, pending, len(self.leaving)

    def usable(self) -> list[Pod]:
        """What an activator that addresses pods may send to."""
        return [pod for pod in self.alive if pod.usable]

    def programmed(self) -> list[Pod]:
        """What kube-proxy and the ingress may send to."""
        return [pod for pod in self.alive if pod.programmed]

    def resize(self, replicas: int) -> None:
        """Creates or takes away pods."""
        for _ in range(replicas - len(self.alive)):
            self._created += 1
            pod = Pod(self._created, self._env.now, self._concurrency)
            self.alive.append(pod)
            self._env.process(self._live(pod))
        if replicas < len(self.alive):
            order = sorted(self.alive, key=lambda p: (p.state, -(p.ready_at or 0.0), -p.created, -p.address))
            for pod in order[: len(self.alive) - replicas]:
                self.alive.remove(pod)
                self.leaving.append(pod)
                self._env.process(self._leave(pod))
        self._changed()

    def _warm(self) -> None:
        self._created += 1
        pod = Pod(self._created, self._env.now, self._concurrency)
        self.nodes.acquire(pod)
        pod.state = State.READY
        pod.usable = pod.programmed = True
        pod.started_at = pod.ready_at = self._env.now
        self.alive.append(pod)

    def _live(self, pod: Pod) -> Wait:
        yield self.nodes.acquire(pod)
        if pod.gone or pod.node is None:
            return
        self.starts += 1
        pod.state = State.STARTING
        pod.started_at = self._env.now
        delay = self._overhead() + self._start()
        if not pod.node.has_image:
            pod.node.has_image = True
            delay += self._pull()
        self._changed()
        yield self._env.timeout(delay)
        yield from self._become_ready(pod)

    def _become_ready(self, pod: Pod) -> Wait:
        """From the end of the load to the first request: kubelet and activator find out, each at its own pace."""
        probe = PROBE_SECONDS * self._rng.random()
        kubelet = self._pods.readiness_period * self._rng.random()
        yield self._env.timeout(min(probe, kubelet))
        if pod not in self.alive:
            return
        pod.usable = True
        if probe < kubelet:
            self._changed()
            yield self._env.timeout(kubelet - probe)
        if pod not in self.alive:
            return
        pod.state = State.READY
        pod.ready_at = self._env.now
        self._changed()
        yield self._env.timeout(self._lag)
        pod.programmed = True
        self._changed()

    def _leave(self, pod: Pod) -> Wait:
        if pod.state is State.PENDING:
            self.nodes.forget(pod)
        else:
            yield from self._drain(pod)
            pod.gone = True
            if not pod.idle:
                self._killed(pod)
            yield self._env.timeout(self._pods.stop)
        pod.gone = True
        self.leaving.remove(pod)
        self.served.append(pod.served)
        self.nodes.release(pod)
        self._changed()

    def _drain(self, pod: Pod) -> Wait:
        """Until no request has come for a while and none is inside, or the grace has passed."""
        deadline = self._env.now + self._grace
        pod.last_arrival = self._env.now
        while self._env.now < deadline:
            quiet = pod.last_arrival + self._pods.drain
            if self._env.now < quiet:
                yield self._env.timeout(min(quiet, deadline) - self._env.now)
            elif not pod.idle:
                pod.on_idle = self._env.event()
                yield pod.on_idle | self._env.timeout(deadline - self._env.now)
            else:
                return

"""Ray Serve in place of Knative: the handle's router, replicas and how they stop, the controller's loop.

After ``_private/request_router``, ``deployment_state.py``, ``deployment_scheduler.py`` and ``replica.py`` of Ray 2.60.
A pod is a replica on a GPU of its own; nodes stand for the worker group with the machines under it.
"""

import math
from collections.abc import Callable

import numpy as np
import simpy

from loadtest.simulate.pods import Fleet, Pod, State, Wait
from loadtest.simulate.scenario import RayServe, Scenario
from loadtest.simulate.serve_autoscaler import TICK_SECONDS, HandleMetrics, ServeAutoscaler, ServeSpec

START_SECONDS = 0.1
"""The controller looks at starting replicas once in each loop."""


class Handle:
    """The handle's router: power of two choices, with back-off while both choices are busy."""

    def __init__(self, settings: RayServe, rng: np.random.Generator) -> None:
        self._first = settings.initial_backoff_s
        self._most = settings.max_backoff_s
        self._rng = rng

    def delay(self, waiting: int, free: int, replicas: int) -> float:
        """Seconds until a request finds one of ``free`` among ``replicas`` while ``waiting`` others look as well."""
        busy = max(0, replicas - free)
        miss = busy * (busy - 1) / (replicas * (replicas - 1)) if replicas > 1 else 0.0
        if waiting == 0:  # it has just come, or is alone: it looks at once, then after growing back-offs
            delay, backoff = 0.0, self._first
            while self._rng.random() < miss:
                delay += backoff
                backoff = min(2 * backoff, self._most)
            return delay
        # Every routing task sleeps its longest; whichever wakes first serves the oldest request.
        between = self._most / min(waiting + 1, 2 * replicas)
        return between * (self._rng.random() + float(self._rng.geometric(1 - miss)) - 1)


class Replicas(Fleet):
    """Replicas in place of pods: seen as ready by the next loop, stopped when idle, the newest first."""

    def __init__(
        self,
        env: simpy.Environment,
        scenario: Scenario,
        rng: np.random.Generator,
        *,
        changed: Callable[[], None],
        killed: Callable[[Pod], None],
    ) -> None:
        self._wait_loop = scenario.ray.graceful_shutdown_wait_loop_s
        self._patience = scenario.ray.graceful_shutdown_timeout_s
        super().__init__(env, scenario, rng, changed=changed, killed=killed)

    def _become_ready(self, pod: Pod) -> Wait:
        yield self._env.timeout(START_SECONDS * self._rng.random())
        if pod in self.alive:
            pod.usable = pod.programmed = True
            pod.state = State.READY
            pod.ready_at = self._env.now
            self._changed()

    def _drain(self, pod: Pod) -> Wait:
        """A stopping replica gets no more requests, and looks now and then whether it is idle."""
        deadline = self._env.now + self._patience
        while self._env.now < deadline:
            yield self._env.timeout(min(self._wait_loop, deadline - self._env.now))
            if pod.idle:
                return


class ServeControl:
    """Serve's controller: decides ten times a second on what the handle has reported."""

    direct = False

    def __init__(
        self, env: simpy.Environment, settings: RayServe, fleet: Fleet, queued: Callable[[], int]
    ) -> None:
        self._env = env
        self._fleet = fleet
        self._queued = queued
        spec = ServeSpec(**{name: getattr(settings, name) for name in ServeSpec.__dataclass_fields__})
        self._spec = spec
        self._metrics = HandleMetrics(spec.look_back_period_s, spec.aggregation_function)
        self._autoscaler = ServeAutoscaler(spec)
        self._ready = fleet.ready
        self._used = {
            pod.address for pod in fleet.alive
        }  # replicas that are there at the start have worked before
        self.target = self._autoscaler.bounded(fleet.replicas)

    def start(self, tick_phase: float, scrape_phase: float) -> None:
        """Begin to look. The handle has been there, idle, for longer than it looks back."""
        seconds = self._spec.record_seconds
        for back in range(math.ceil(self._spec.look_back_period_s / seconds), 0, -1):
            self._metrics.record((scrape_phase - back) * seconds, 0, dict.fromkeys(self._used, 0))
        if self.target != self._fleet.replicas:
            self._fleet.resize(self.target)
        self._env.process(self._every(seconds, scrape_phase, self._record))
        self._env.process(self._every(self._spec.metrics_interval_s, scrape_phase, self._push))
        self._env.process(self._every(TICK_SECONDS, tick_phase % 1, self._tick))

    def pods_changed(self) -> None:
        """What a replica that stops still does counts no more."""
        self._ready = self._fleet.ready
        self._metrics.keep({pod.address for pod in self._fleet.alive if pod.usable})

    def activators_in_path(self) -> int:
        """One handle."""
        return 1

    def _every(self, seconds: float, phase: float, call: Callable[[], None]) -> Wait:
        yield self._env.timeout(phase * seconds)
        while True:
            call()
            yield self._env.timeout(seconds)

    def _running(self) -> dict[int, int]:
        """Requests on each replica that has had one."""
        return {
            pod.address: pod.breaker.inside
            for pod in self._fleet.alive
            if pod.usable and (pod.breaker.inside or pod.served or pod.address in self._used)
        }

    def _record(self) -> None:
        self._metrics.record(self._env.now, self._queued(), self._running())

    def _push(self) -> None:
        self._metrics.push(self._env.now, self._queued(), self._running())

    def _tick(self) -> None:
        if self._ready == 0 and self._queued():
            self._push()  # a request that finds no replica is reported at once
        now = self._env.now
        target = self._autoscaler.decide(now, self._ready, self.target, self._metrics.total(now))
        if target != self.target:
            self.target = target
            self._fleet.resize(target)

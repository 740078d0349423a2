"""Runs a scenario: traffic, activators, pods and the control loop on one simpy clock.

On Ray Serve a deployment handle takes the activator's place, and Serve's controller that of the KPA.

Requests are plain objects moved by callbacks; only what lives long (pods, reporters, the autoscaler,
traffic) is a simpy process, which is what lets a day of a million images run in seconds. Everything random
comes from one seed.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import simpy

from loadtest.simulate.activator import ConnectionPool, RandomAvailable, Target, Throttler
from loadtest.simulate.arrivals import arrivals
from loadtest.simulate.breaker import Admission
from loadtest.simulate.control import Control
from loadtest.simulate.front import Front
from loadtest.simulate.pods import Fleet, Pod, Wait
from loadtest.simulate.requests import OK, Request, Stage, Tally
from loadtest.simulate.scenario import Closed, Scenario
from loadtest.simulate.serve import Handle, Replicas, ServeControl
from loadtest.simulate.stats import REPORT_SECONDS, ConcurrencyReporter


class Controller(Protocol):
    """What adds and takes away pods, and says which way requests go."""

    direct: bool
    """Requests go past the activators."""

    def start(self, tick_phase: float, scrape_phase: float) -> None: ...
    def pods_changed(self) -> None: ...
    def activators_in_path(self) -> int: ...


Journal = list[tuple[str, float, int, int]]
"""``(event, seconds, request, pod)``: arrive, work, free and an outcome for each request; for tests and
plots.
"""


class Simulation:
    """One run of ``scenario``. ``seed`` overrides the scenario's; ``journal`` collects every event if
    given.
    """

    def __init__(
        self, scenario: Scenario, *, seed: int | None = None, journal: Journal | None = None
    ) -> None:
        self.scenario = scenario
        self.seed = scenario.seed if seed is None else seed
        self.journal = journal
        self.env = simpy.Environment()
        self.tally = Tally()
        streams = np.random.default_rng(self.seed).spawn(5)
        self._rng_traffic, rng_service, rng_pods, self._rng_route, rng_phase = streams
        self._service = scenario.service.time.sampler(rng_service)
        self._patience, self._timed_out = scenario.timeout, "504"
        if 0 < scenario.service.client_timeout < self._patience:
            self._patience, self._timed_out = scenario.service.client_timeout, "client timeout"
        self._cc = scenario.concurrency
        self._handle: Handle | None = None
        self._front = Front(scenario.front) if scenario.front is not None else None
        self._reporters: list[ConcurrencyReporter] = []
        self._cluster_ip = False
        if scenario.platform == "ray":
            self._on_ray(scenario, rng_pods)
        else:
            self._on_knative(scenario, rng_pods, wall_clock=2.0 * rng_phase.random())
        self._pools: list[ConnectionPool[Pod]] = [ConnectionPool(self._dial) for _ in self._throttlers]
        self._in_path = 1
        self._turn = 0
        self._pod_turn = 0
        self._direct: list[Pod] = []
        self._ready = 0
        # By deadline; what has ended is dropped when it reaches the front.
        self._pending: deque[Request] = deque()
        self._expiring = False
        self._traffic_over = False
        self._over = self.env.event()
        self.busy_seconds = 0.0
        self.series: list[tuple[float, int, int, int, int]] = []
        for reporter in self._reporters:
            self.env.process(self._report(reporter, float(rng_phase.random())))
        self.control.start(2.0 * float(rng_phase.random()), float(rng_phase.random()))
        self._pods_changed()

    def _on_knative(self, scenario: Scenario, rng: np.random.Generator, *, wall_clock: float) -> None:
        """Activators in front of pods, the KPA over them."""
        self._cluster_ip = scenario.cluster.addressing == "cluster-ip"
        self.fleet = Fleet(self.env, scenario, rng, changed=self._pods_changed, killed=self._killed)
        control = Control(self.env, scenario, self.fleet, wall_clock=wall_clock, routed=self._routed)
        self.control: Controller = control
        activators = range(scenario.cluster.activators)
        self._reporters = [ConcurrencyReporter(control.receive) for _ in activators]
        self._throttlers: list[Throttler[Request]] = [
            Throttler(self._cc, self._send, cluster_ip=self._cluster_ip) for _ in activators
        ]

    def _on_ray(self, scenario: Scenario, rng: np.random.Generator) -> None:
        """One handle (the ingress deployment's) in front of replicas, Serve's controller over them."""
        self.fleet = Replicas(self.env, scenario, rng, changed=self._pods_changed, killed=self._killed)
        queue: Throttler[Request] = Throttler(
            self._cc, self._send_after_a_while, policy=RandomAvailable(self._rng_route)
        )
        self._throttlers = [queue]
        self._handle = Handle(scenario.ray, self._rng_route)
        self.control = ServeControl(self.env, scenario.ray, self.fleet, lambda: queue.waiting)

    def run(self) -> None:
        """Simulates until every request has ended, and ``tail`` seconds more."""
        traffic = self.scenario.traffic
        if isinstance(traffic, Closed):
            share = traffic.requests // traffic.concurrency
            think = traffic.think.sampler(self._rng_traffic)
            self._think: Callable[[], float] = think
            self._left = [share] * traffic.concurrency
            self._busy_workers = traffic.concurrency
            for worker in range(traffic.concurrency):
                self._next_of(worker, 0.0)
        else:
            self.env.process(self._arrive_all())
        self.env.run(until=self._over)
        if self.scenario.tail:
            self.env.run(until=self.env.now + self.scenario.tail)
        self.fleet.nodes.settle()

    # --- traffic

    def _arrive_all(self) -> Wait:
        env = self.env
        assert not isinstance(self.scenario.traffic, Closed)
        for at, service in arrivals(self.scenario.traffic, self._rng_traffic):
            if at > env.now:
                yield env.timeout(at - env.now)
            self._arrive(-1, self._service() if service is None else service)
        self._traffic_over = True
        self._check_over()

    def _next_of(self, worker: int, delay: float) -> None:
        if self._left[worker] == 0:
            self._busy_workers -= 1
            if self._busy_workers == 0:
                self._traffic_over = True
                self._check_over()
            return
        self._left[worker] -= 1
        self._later(delay, lambda _: self._arrive(worker, self._service()))

    def _check_over(self) -> None:
        if self._traffic_over and self.tally.ended == self.tally.issued and not self._over.triggered:
            self._over.succeed()

    def _arrive(self, worker: int, service: float) -> None:
        now = self.env.now
        tally = self.tally
        tally.issued += 1
        request = Request(tally.issued, worker, now, now + self._patience, service, self._ready == 0)
        if self.journal is not None:
            self.journal.append(("arrive", now, request.number, 0))
        self._pending.append(request)
        if not self._expiring:
            self._expiring = True
            self._later(self._patience, self._expire)
        if self._front is None:
            self._enter_fleet(request)
            return
        request.stage = Stage.FRONT
        taken = self._front.offer(request)
        if taken:
            self._enter_fleet(request)
        elif taken is None:
            request.stage = Stage.REFUSED
            self._end(request, "503")

    def _enter_fleet(self, request: Request) -> None:
        """At the fleet's door: for the first time, or once more from the front."""
        now = self.env.now
        request.attempts += 1
        request.stage, request.pod, request.activator, request.place = Stage.ACTIVATOR, None, -1, None
        if self._direct:
            self._send_direct(request)
            return
        self._turn = (self._turn + 1) % self._in_path
        request.activator = self._turn
        if self._reporters:
            self._reporters[self._turn].enter(now)
        if not self._throttlers[self._turn].offer(request):
            self._end(request, "503")

    # --- routing

    def _send_direct(self, request: Request) -> None:
        """Past the activators, as the ingress does when there is burst capacity to spare."""
        pods = self._direct
        if self.scenario.cluster.ingress_policy == "least-request" and len(pods) > 1:
            a, b = self._rng_route.choice(len(pods), 2, replace=False).tolist()
            pod = min(pods[a], pods[b], key=lambda p: p.breaker.inside)
        else:
            self._pod_turn = (self._pod_turn + 1) % len(pods)
            pod = pods[self._pod_turn]
        pod.stats.enter(self.env.now)
        self._at_pod(request, pod)

    def _send(self, request: Request, target: Target | None) -> None:
        if target is None:
            pod = self._pools[request.activator].take(self.env.now)
        else:
            assert isinstance(target, Pod)
            pod = target
        if pod is None or pod.gone:
            # Not at once: an answer inside the throttler's own call would find it half updated.
            request.stage = Stage.REFUSED
            self._later(0.0, lambda _: self._end(request, "502"))
        else:
            self._at_pod(request, pod)

    def _send_after_a_while(self, request: Request, target: Target | None) -> None:
        """Once the handle's router has found out that ``target`` has room."""
        assert self._handle is not None
        queue = self._throttlers[0]
        delay = self._handle.delay(queue.waiting, queue.free + 1, len(queue.places))

        def send(_: simpy.Event) -> None:
            if request.stage is Stage.ROUTING:
                self._send(request, target)

        request.stage = Stage.ROUTING
        self._later(delay, send)

    def _dial(self) -> Pod | None:
        pods = self.fleet.programmed()
        return pods[int(self._rng_route.integers(len(pods)))] if pods else None

    def _at_pod(self, request: Request, pod: Pod) -> None:
        request.pod = pod
        pod.last_arrival = self.env.now
        admission = pod.breaker.offer(request)
        if admission is Admission.RUN:
            self._let_in(request, pod)
        elif admission is Admission.WAIT:
            request.stage = Stage.QUEUE_PROXY
        else:
            request.stage = Stage.REFUSED
            self._later(0.0, lambda _: self._end(request, "503"))

    # --- the pod

    def _let_in(self, request: Request, pod: Pod) -> None:
        if pod.busy < self._cc and not pod.gone:
            self._work(request, pod)
        else:
            request.stage = Stage.LOCK
            pod.backlog.append(request)

    def _work(self, request: Request, pod: Pod) -> None:
        pod.busy += 1
        request.stage = Stage.WORK
        if self.journal is not None:
            self.journal.append(("work", self.env.now, request.number, pod.address))
        timeout = simpy.Timeout(self.env, request.service, request)
        timeout.callbacks.append(self._worked)

    def _worked(self, event: simpy.Event) -> None:
        request = event.value
        assert isinstance(request, Request)
        pod = request.pod
        if request.stage is not Stage.WORK or pod is None:
            return  # given up meanwhile: the GPU was freed by then
        pod.served += 1
        self.busy_seconds += request.service
        self._free(pod, request.number)
        self._end(request, OK)

    def _free(self, pod: Pod, number: int) -> None:
        pod.busy -= 1
        if self.journal is not None:
            self.journal.append(("free", self.env.now, number, pod.address))
        if pod.backlog and not pod.gone:
            self._work(pod.backlog.popleft(), pod)
        elif pod.on_idle is not None and pod.idle and not pod.on_idle.triggered:
            pod.on_idle.succeed()

    def _leave_pod(self, request: Request, pod: Pod) -> None:
        """Gives queue-proxy's slot back and lets its next one in."""
        if request.stage is Stage.QUEUE_PROXY:
            pod.breaker.withdraw(request)
        else:
            successor = pod.breaker.release()
            if successor is not None:
                self._let_in(successor, pod)
        if pod.on_idle is not None and pod.idle and not pod.on_idle.triggered:
            pod.on_idle.succeed()

    # --- ends

    def _end(self, request: Request, outcome: str) -> None:
        """Ends a request wherever it is; everything that it held is free afterwards."""
        if request.stage is Stage.DONE:
            return
        now = self.env.now
        stage, pod = request.stage, request.pod
        if self._front is not None and stage is Stage.FRONT:
            self._end_at_front(request, outcome, now)
            return
        again = self._front.pause(request, outcome) if self._front is not None and request.attempts else None
        if self.journal is not None and again is None:
            self.journal.append((outcome, now, request.number, pod.address if pod else 0))
        if stage is Stage.ACTIVATOR:
            self._throttlers[request.activator].withdraw(request)
        elif pod is not None and stage is not Stage.REFUSED:
            if stage is Stage.LOCK:
                pod.backlog.remove(request)
            elif stage is Stage.WORK and outcome != OK:
                # Knative frees the slot at once; the GPU only notices at its next step.
                self._later(self.scenario.service.cancel_latency, lambda _: self._free(pod, request.number))
            self._leave_pod(request, pod)
        request.stage = Stage.DONE if again is None else Stage.FRONT
        if request.activator < 0:
            if pod is not None:
                pod.stats.leave(now)
        else:
            if self._reporters:
                self._reporters[request.activator].leave(now)
            if stage is not Stage.ACTIVATOR:
                if self._cluster_ip and pod is not None and outcome == OK:
                    self._pools[request.activator].give_back(pod, now)
                self._throttlers[request.activator].done(request)
        if again is not None:
            self._later(again * (0.5 + self._rng_route.random() / 2), lambda _: self._send_again(request))
            return
        self._leave_front(request)
        self._count(request, outcome, now)

    def _end_at_front(self, request: Request, outcome: str, now: float) -> None:
        """A request that waits in the front is given up there: in the queue, or between two attempts."""
        assert self._front is not None
        if self.journal is not None:
            self.journal.append((outcome, now, request.number, 0))
        request.stage = Stage.DONE
        if not self._front.withdraw(request):
            request.attempts = max(1, request.attempts)  # its place was given to it a moment ago
            self._leave_front(request)
        self._count(request, outcome, now)

    def _send_again(self, request: Request) -> None:
        if request.stage is Stage.FRONT:
            self._enter_fleet(request)

    def _leave_front(self, request: Request) -> None:
        """``request`` gives its place at the fleet to the one whose turn it is."""
        if self._front is None or not request.attempts:
            return
        successor = self._front.leave()
        if successor is not None:
            self._later(0.0, lambda _: self._enter_if_wanted(successor))

    def _enter_if_wanted(self, request: Request) -> None:
        if request.stage is Stage.FRONT:
            self._enter_fleet(request)

    def _count(self, request: Request, outcome: str, now: float) -> None:
        tally = self.tally
        network = self.scenario.service.network
        tally.outcomes[outcome] += 1
        tally.cold += request.cold
        tally.last_end = now + network
        if outcome == OK:
            tally.latencies.append(now - request.arrived + network)
        if request.worker >= 0:
            self._next_of(request.worker, network + self._think())
        elif self._traffic_over:
            self._check_over()

    def _expire(self, _: simpy.Event) -> None:
        pending, now = self._pending, self.env.now
        while pending and (pending[0].stage is Stage.DONE or pending[0].deadline <= now):
            request = pending.popleft()
            if request.stage is not Stage.DONE:
                self._end(request, self._timed_out)
        if pending:
            self._later(pending[0].deadline - now, self._expire)
        else:
            self._expiring = False

    def _killed(self, pod: Pod) -> None:
        """The pod's grace ended with requests inside: their connections break."""
        for request in [r for r in self._pending if r.pod is pod and r.stage is not Stage.DONE]:
            self._end(request, "502")

    # --- what the control plane tells the data plane

    def _pods_changed(self) -> None:
        pods, self._ready, pending, leaving = self.fleet.counts()
        standing = (pods, self._ready, pending, leaving)
        if not self.series or self.series[-1][1:] != standing:
            self.series.append((self.env.now, *standing))
        self.control.pods_changed()
        self._route()

    def _routed(self) -> None:
        self._route()

    def _route(self) -> None:
        programmed = self.fleet.programmed()
        self._direct = programmed if self.control.direct else []
        self._in_path = self.control.activators_in_path()
        usable = self.fleet.usable()
        backends = self._ready if programmed else 0
        for i, throttler in enumerate(self._throttlers):
            index = i if i < self._in_path else -1
            throttler.update(usable, backends, index, self._in_path)

    def _report(self, reporter: ConcurrencyReporter, phase: float) -> Wait:
        yield self.env.timeout(phase * REPORT_SECONDS)
        while True:
            reporter.tick(self.env.now)
            yield self.env.timeout(REPORT_SECONDS)

    def _later(self, delay: float, call: Callable[[Any], None]) -> None:
        self.env.timeout(delay).callbacks.append(call)

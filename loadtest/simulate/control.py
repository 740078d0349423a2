"""The control loop of one revision: reports in, replicas and route out.

Wires collector, autoscaler and scaler to the clock the way autoscaler and controller of Knative do: a tick
every two seconds (at once for the first request at scale zero), a reconcile when the decision changed, when
pods became ready and when the scaler asked to be called again.
"""

from collections.abc import Callable
from typing import Any

import simpy

from loadtest.simulate.autoscaler import (
    TICK_SECONDS,
    Autoscaler,
    DeciderSpec,
    activators_needed,
    resolve_target,
)
from loadtest.simulate.pods import Fleet, Pod, State, Wait
from loadtest.simulate.scaler import Activity, PodAutoscaler, Scaler, ScalerSettings
from loadtest.simulate.scenario import Scenario
from loadtest.simulate.stats import REPORT_SECONDS, Collector, Stat, sample_size

LEAST_SECONDS = 0.001
RECONCILE_SECONDS = 0.1


class Control:
    """Autoscaler and controller. ``routed()`` is called when requests take another way than before.

    ``wall_clock`` shifts the simulation's zero against whole seconds, where buckets begin.
    """

    def __init__(
        self,
        env: simpy.Environment,
        scenario: Scenario,
        fleet: Fleet,
        *,
        wall_clock: float,
        routed: Callable[[], None],
    ) -> None:
        a = scenario.autoscaling
        self._env = env
        self._fleet = fleet
        self._wall = wall_clock
        self._routed = routed
        self._programming = scenario.cluster.programming
        self._activators = scenario.cluster.activators
        self._scraped = a.target_burst_capacity != -1
        target, total = resolve_target(
            a.container_concurrency,
            metric=a.metric,
            target=a.target,
            utilization=a.target_utilization_percentage / 100,
        )
        self.spec = DeciderSpec(
            target_value=target,
            total_value=total,
            target_burst_capacity=a.target_burst_capacity,
            panic_threshold=a.panic_threshold_percentage / 100,
            max_scale_up_rate=a.max_scale_up_rate,
            max_scale_down_rate=a.max_scale_down_rate,
            stable_window=a.window,
            scale_down_delay=a.scale_down_delay,
            activation_scale=a.activation_scale,
            activator_capacity=a.activator_capacity,
        )
        self.collector = Collector(
            stable_window=a.window,
            panic_window=max(1.0, round(a.window * a.panic_window_percentage / 100)),
            metric=a.metric,
            weighted=a.metric_aggregation_algorithm == "weighted-exponential",
            scraped=self._scraped,
        )
        self.scaler = Scaler(
            ScalerSettings(
                min_scale=a.min_scale,
                max_scale=a.max_scale,
                initial_scale=a.initial_scale,
                stable_window=a.window,
                grace_period=a.scale_to_zero_grace_period,
                pod_retention=a.scale_to_zero_pod_retention_period,
                progress_deadline=a.progress_deadline,
                enable_scale_to_zero=a.enable_scale_to_zero,
                target_burst_capacity=a.target_burst_capacity,
            )
        )
        ready = fleet.ready
        self._deploying = scenario.pods.deploying
        if self._deploying:
            self.pa = PodAutoscaler(Activity.ACTIVATING, 0.0, False, 0.0)
        else:  # it has reached its initial scale once; with no pods it has since gone to zero
            self.pa = PodAutoscaler(Activity.ACTIVE if ready else Activity.INACTIVE, 0.0, True, 0.0)
        self.autoscaler = Autoscaler(self.spec, ready=ready, now=wall_clock)
        self.desired = -1 if self._deploying else ready
        self._excess = -1
        self._last_ready = ready
        self.direct = False  # requests go past the activators
        self._wanted_direct = False
        self._due: float | None = None

    def start(self, tick_phase: float, scrape_phase: float) -> None:
        """Begins ticking, ``tick_phase`` and ``scrape_phase`` seconds from now."""
        self._env.process(self._ticks(tick_phase))
        if self._scraped:
            self._env.process(self._scrapes(scrape_phase))
        if self._deploying:
            self._fleet.resize(max(self.scaler.settings.initial_scale, self.scaler.settings.min_scale))
        elif self.scaler.settings.min_scale > self._fleet.replicas:
            self._reconcile_in(0.0)

    def receive(self, now: float, stat: Stat) -> None:
        """A report from an activator. The first one at scale zero is acted on at once."""
        self.collector.record(now + self._wall, stat)
        if self.desired == 0 and stat.concurrency != 0:
            self._tick()

    def pods_changed(self) -> None:
        """Pods came or went: the controller looks again if the number of ready ones changed."""
        ready = self._fleet.ready
        if ready != self._last_ready:
            self._last_ready = ready
            self._reconcile_in(RECONCILE_SECONDS)

    def activators_in_path(self) -> int:
        return min(self._activators, activators_needed(self._last_ready, self.spec))

    def _ticks(self, phase: float) -> Wait:
        yield self._env.timeout(phase)
        while True:
            self._tick()
            yield self._env.timeout(TICK_SECONDS)

    def _tick(self) -> None:
        now = self._env.now + self._wall
        result = self.autoscaler.scale(now, self._fleet.ready, self.collector.measured(now))
        if not result.valid:
            return
        turned = (result.excess_burst_capacity < 0) != (self._excess < 0)
        changed = result.desired != self.desired
        self.desired = result.desired
        self._excess = result.excess_burst_capacity
        if changed or turned:
            self._reconcile_in(RECONCILE_SECONDS)

    def _scrapes(self, phase: float) -> Wait:
        """Reads requests that came past the activators off the pods; the rest is already counted."""
        yield self._env.timeout(phase * REPORT_SECONDS)
        while True:
            pods = [pod for pod in self._fleet.alive if pod.state is State.READY]
            if pods:
                self.collector.record(self._env.now + self._wall, self._scrape(pods))
            yield self._env.timeout(REPORT_SECONDS)

    def _scrape(self, pods: list[Pod]) -> Stat:
        size = sample_size(len(pods))
        # Turning through the pods stands for Knative's random sample.
        first = int(self._env.now) * size % len(pods)
        concurrency = requests = 0.0
        for i in range(size):
            average, arrived = pods[(first + i) % len(pods)].stats.report(self._env.now)
            concurrency += average
            requests += arrived
        scale = len(pods) / size
        return Stat(concurrency * scale, requests * scale)

    def _reconcile_in(self, delay: float) -> None:
        due = self._env.now + delay
        if self._due is not None and self._env.now <= self._due <= due:
            return  # an earlier look is already on its way, and asks for the next itself
        self._due = due
        self._env.timeout(delay).callbacks.append(self._reconcile)

    def _reconcile(self, _: Any) -> None:
        self._due = None
        now = self._env.now
        decision = self.scaler.scale(self.pa, self.desired, now)
        if decision.apply and decision.scale != self._fleet.replicas:
            self._fleet.resize(decision.scale)
        direct = decision.scale > 0 and self._excess >= 0
        if direct:
            self.pa.proxy_since = None
        elif self.pa.proxy_since is None:
            self.pa.proxy_since = now
        if direct != self._wanted_direct:
            self._wanted_direct = direct
            self._env.timeout(self._programming, direct).callbacks.append(self._programmed)
        self.scaler.observe(self.pa, decision.scale, self._fleet.ready, now)
        if decision.again_in is not None:
            # What is left of a period can be less than the clock can tell: without a least step time stood still.
            self._reconcile_in(max(decision.again_in, LEAST_SECONDS))

    def _programmed(self, event: simpy.Event) -> None:
        if event.value == self._wanted_direct and self.direct != self._wanted_direct:
            self.direct = self._wanted_direct
            self._routed()

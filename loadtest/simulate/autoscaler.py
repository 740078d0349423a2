"""The KPA's decision: how many pods the measured concurrency asks for.

After ``pkg/autoscaler/scaling/autoscaler.go`` and ``pkg/reconciler/autoscaling/resources/target.go`` of
knative/serving. The class keeps panic state and the scale-down delay; time, ready pods and measured values
come from the caller.
"""

import math
from dataclasses import dataclass

from loadtest.simulate.window import TimeMaxWindow

TICK_SECONDS = 2.0
TARGET_MIN = 0.01
RPS_TARGET_DEFAULT = 200.0
CONCURRENCY_TARGET_DEFAULT = 100.0


def resolve_target(
    container_concurrency: int,
    *,
    metric: str = "concurrency",
    target: float | None = None,
    utilization: float = 0.7,
) -> tuple[float, float]:
    """``(target, total)`` per pod: what the autoscaler aims at, and what a pod can bear at most.

    ``target`` is the annotation of that name (for concurrency clamped by ``container_concurrency``),
    ``utilization`` a fraction. With metric ``rps`` and no annotation the total is 200 requests/s.
    """
    default = float(container_concurrency) or CONCURRENCY_TARGET_DEFAULT
    total = RPS_TARGET_DEFAULT if metric == "rps" else default
    if target is not None:
        total = target
        if metric != "rps" and container_concurrency:
            total = min(target, float(container_concurrency))
    return max(TARGET_MIN, total * utilization), total


@dataclass
class DeciderSpec:
    """The settings of one revision that the decision reads. Rates are factors per tick, times are seconds."""

    target_value: float
    total_value: float
    target_burst_capacity: float = 211.0
    panic_threshold: float = 2.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    stable_window: float = 60.0
    scale_down_delay: float = 0.0
    activation_scale: int = 0
    activator_capacity: float = 100.0
    reachable: bool = True


@dataclass(frozen=True)
class ScaleResult:
    """``desired`` pods, ``excess_burst_capacity`` (negative: activator in the path), and whether to apply
    them.
    """

    desired: int
    excess_burst_capacity: int
    valid: bool = True


INVALID = ScaleResult(0, 0, False)


class Autoscaler:
    """One revision's decision state. ``ready`` at creation above 1 starts it in panic, holding that scale."""

    def __init__(self, spec: DeciderSpec, *, ready: int = 0, now: float = 0.0) -> None:
        self.spec = spec
        self.panic_since: float | None = now if ready > 1 else None
        self.max_panic_pods = ready
        self._delay = (
            TimeMaxWindow(spec.scale_down_delay, TICK_SECONDS) if spec.scale_down_delay > 0 else None
        )

    def scale(self, now: float, ready: int, measured: tuple[float, float] | None) -> ScaleResult:
        """The decision at ``now`` seconds for ``ready`` ready pods and ``measured`` (stable, panic) averages.

        ``measured`` None means that there is no data: no decision.
        """
        if measured is None:
            return INVALID
        spec = self.spec
        stable, panic = measured
        pods = max(1, ready)
        # At least one step up is always possible, whatever the rate: hence ceil here and floor below.
        most = math.ceil(spec.max_scale_up_rate * pods)
        least = math.floor(pods / spec.max_scale_down_rate) if spec.reachable else 0
        wanted_stable = math.ceil(stable / spec.target_value)
        wanted_panic = math.ceil(panic / spec.target_value)
        desired_stable = min(max(wanted_stable, least), most)
        desired_panic = min(max(wanted_panic, least), most)
        if spec.activation_scale > 1:
            if wanted_stable > 0:
                desired_stable = max(desired_stable, spec.activation_scale)
            if wanted_panic > 0:
                desired_panic = max(desired_panic, spec.activation_scale)

        if wanted_panic / pods >= spec.panic_threshold:
            self.panic_since = now
        elif self.panic_since is not None and self.panic_since + spec.stable_window < now:
            self.panic_since = None
            self.max_panic_pods = 0

        desired = desired_stable
        if self.panic_since is not None:
            self.max_panic_pods = max(self.max_panic_pods, desired_stable, desired_panic)
            desired = self.max_panic_pods

        if spec.reachable and self._delay is not None:
            self._delay.record(now, desired)
            desired = self._delay.current()
        return ScaleResult(desired, self._excess(ready, panic))

    def _excess(self, ready: int, panic: float) -> int:
        burst = self.spec.target_burst_capacity
        if burst == 0:
            return 0
        if burst > 0:
            return math.floor(ready * self.spec.total_value - burst - panic)
        return -1


def activators_needed(ready: int, spec: DeciderSpec) -> int:
    """How many activators are put into the path of a revision with ``ready`` pods
    (``computeNumActivators``); at least 2.
    """
    if spec.target_burst_capacity == 0:
        return 2
    cover = ready * spec.total_value + max(spec.target_burst_capacity, 0)
    return max(2, math.ceil(cover / spec.activator_capacity))

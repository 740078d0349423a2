"""Ray Serve's decision: how many replicas the ongoing requests ask for.

After ``autoscaling_policy.py``, ``_private/router.py`` and ``_private/autoscaling_state.py`` of Ray 2.60. A deployment
handle samples its queue and what it has sent to each replica, and reports the samples of the look-back period now and
then; the controller averages the last report, up to the present, ten times a second. Times are seconds.
"""

import bisect
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Literal

TICK_SECONDS = 0.1
RECORD_FACTOR = 0.2
"""A handle samples itself this often, as a part of the look-back period; never less often than it reports."""

_QUEUED = -1
_EPSILON = 1e-6
_CLOCK = 1e-3

Aggregation = Literal["mean", "max", "min"]
Series = list[tuple[float, float]]
"""A step function: (since when, value), rising in time."""


@dataclass(frozen=True)
class ServeSpec:
    """``autoscaling_config`` of a deployment, by Ray's own names."""

    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_requests: float = 2.0
    metrics_interval_s: float = 10.0
    look_back_period_s: float = 30.0
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None
    aggregation_function: Aggregation = "mean"

    @property
    def record_seconds(self) -> float:
        """How often a handle samples itself."""
        return min(self.look_back_period_s * RECORD_FACTOR, self.metrics_interval_s)


class HandleMetrics:
    """One handle's samples, and the total that the controller makes of the last report."""

    def __init__(self, look_back: float, aggregation: Aggregation = "mean") -> None:
        self._look_back = look_back
        self._aggregation = aggregation
        self._samples: dict[int, Series] = {}
        self._report: dict[int, Series] = {}
        self._steps: Series = []
        self._area = self._begin = 0.0

    def record(self, now: float, queued: int, running: Mapping[int, int]) -> None:
        """Sample ``queued`` requests and those ``running`` on each replica that has had one."""
        for key, value in ((_QUEUED, queued), *running.items()):
            self._samples.setdefault(key, []).append((now, value))
        self._prune(now)

    def _prune(self, now: float) -> None:
        start = now - self._look_back
        for key, series in list(self._samples.items()):
            del series[: bisect.bisect(series, (start, math.inf))]
            if not series:
                del self._samples[key]

    def push(self, now: float, queued: int, running: Mapping[int, int]) -> None:
        """Report: the samples of the look-back period; of what has none yet, its value now."""
        self._prune(now)
        shown = ((_QUEUED, queued), *running.items())
        self._report = {key: list(self._samples.get(key) or [(now, value)]) for key, value in shown}
        self._sum_up()

    def keep(self, replicas: Set[int]) -> None:
        """Leave out of the last report what is told of any replica but these."""
        kept = {key: series for key, series in self._report.items() if key == _QUEUED or key in replicas}
        if len(kept) < len(self._report):
            self._report = kept
            self._sum_up()

    def _sum_up(self) -> None:
        self._steps, begin = total_of(list(self._report.values()))
        self._area = 0.0  # from where all have begun to the last step
        for (since, value), (until, _) in zip(self._steps, self._steps[1:], strict=False):
            self._area += value * max(0.0, until - max(since, begin))
        self._begin = begin

    def total(self, now: float) -> float:
        """Requests queued and running, over the last report and the time since; 0 before the first."""
        if not self._steps:
            return 0.0
        if self._aggregation != "mean":
            return (max if self._aggregation == "max" else min)(
                v for at, v in self._steps if at >= self._begin
            )
        last, value = self._steps[-1]
        tail = now - last if now > last else _CLOCK
        return (self._area + value * tail) / (last - self._begin + tail)


def total_of(sources: list[Series]) -> tuple[Series, float]:
    """The sum of step functions, at each change of any, and when the window over it begins: when all have begun.

    Of several sources only changes count, from 0: an idle look-back is left out, and a replica that has just been
    given its first request cuts it short.
    """
    if len(sources) == 1:
        return sources[0], sources[0][0][0]
    changes: dict[float, float] = {}
    for source in sources:
        before = 0.0
        for at, value in source:
            if value != before:
                changes[at] = changes.get(at, 0.0) + value - before
            before = value
    steps: Series = []
    total = 0.0
    for at in sorted(changes):
        total += changes[at]
        steps.append((at, total))
    if not steps:
        return steps, 0.0
    begin = max(source[0][0] for source in sources)
    first, last = steps[0][0], steps[-1][0]
    return steps, first if begin > last else max(begin, first)


class ServeAutoscaler:
    """The decision of one deployment; keeps since when it has wanted more or fewer replicas."""

    def __init__(self, spec: ServeSpec) -> None:
        self.spec = spec
        self._wanting = 0  # 1: more, -1: fewer
        self._since = 0.0

    def bounded(self, replicas: int) -> int:
        """``replicas`` within the bounds."""
        return max(self.spec.min_replicas, min(self.spec.max_replicas, replicas))

    def decide(self, now: float, running: int, target: int, total: float) -> int:
        """The new target for ``running`` replicas, a ``target`` that was set before and ``total`` ongoing requests."""
        spec = self.spec
        if running == 0:
            # From zero the first request is enough, at once; while replicas start nothing changes.
            if total > 0:
                return self.bounded(max(math.ceil(spec.upscaling_factor), target))
            return self.bounded(self._delayed(now, 0, 0) if target == 0 else target)
        wanted = running * (total / (spec.target_ongoing_requests * running))
        factor = spec.upscaling_factor if wanted > running else spec.downscaling_factor
        scaled = math.ceil(running + factor * (wanted - running))
        if math.ceil(wanted) < running and scaled == running:
            scaled -= 1
        return self.bounded(self._delayed(now, max(0, scaled), target))

    def _delayed(self, now: float, wanted: int, target: int) -> int:
        spec = self.spec
        direction = (wanted > target) - (wanted < target)
        if direction == 0:
            self._wanting = 0
            return target
        if direction != self._wanting:
            self._wanting, self._since = direction, now
        delay = spec.upscale_delay_s
        if direction < 0:
            delay = spec.downscale_delay_s
            if target == 1 and spec.downscale_to_zero_delay_s is not None:
                delay = spec.downscale_to_zero_delay_s
            if target > 1:
                wanted = max(1, wanted)  # zero is reached from one alone
        if now - self._since + _EPSILON < delay:
            return target
        self._wanting = 0
        return wanted

"""Our series through Ray's metrics agent: every sample as a gauge of the same name.

The agent of each node is what Prometheus reads on Ray, for ``ray_serve_*`` and for these alike. It exports
``ray_sd_requests_total`` where Knative's pods have ``sd_requests_total``: a relabelling takes the prefix off, and
dashboards and alerts are the same on both. As gauges, because Ray's counters and histograms cannot take over what a
registry has counted already; Prometheus makes no difference.
"""

import asyncio
from typing import Any, Final

from prometheus_client import CollectorRegistry
from ray.util.metrics import Gauge

EVERY: Final = 5.0
"""Seconds between copies; the agent itself is told every ten."""

PREFIXES: Final = ("sd_", "process_")

Key = tuple[str, tuple[tuple[str, str], ...]]


class Mirror:
    """Copies ``registry`` to Ray with ``tags`` (which replica this is) added to each sample."""

    def __init__(self, registry: CollectorRegistry, tags: dict[str, str]) -> None:
        self._registry = registry
        self._tags = tags
        self._gauges: dict[str, Any] = {}
        self._shown: set[Key] = set()

    def copy(self) -> None:
        """Tell Ray what the registry says now. What is no longer there is 0 from now on."""
        shown: set[Key] = set()
        for family in self._registry.collect():
            for sample in family.samples:
                if sample.name.startswith(PREFIXES):
                    self._set(sample.name, sample.labels, sample.value)
                    shown.add((sample.name, tuple(sorted(sample.labels.items()))))
        for name, labels in self._shown - shown:
            self._set(name, dict(labels), 0.0)
        self._shown |= shown

    def _set(self, name: str, labels: dict[str, str], value: float) -> None:
        gauge = self._gauges.get(name)
        if gauge is None:
            keys = (*labels, *self._tags)
            gauge = self._gauges[name] = Gauge(
                name, "A series of the service, as its own /metrics has it.", tag_keys=keys
            )
        gauge.set(value, tags={**labels, **self._tags})

    async def run(self) -> None:
        """Copy now and then, until cancelled."""
        while True:
            await asyncio.to_thread(self.copy)
            await asyncio.sleep(EVERY)

"""Every Prometheus series of the service, named once, on a registry of its own.

Series are bounded: labels take values from fixed sets only, never a prompt, session, path or other free text.
Dashboards, alerts and tests read the names from here.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client import disable_created_metrics as _disable_created
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.core.budget import KINDS, Budget
from service.core.cancel import CANCEL_CAUSES
from service.core.events import Stage, Timings

LATENCY_BUCKETS: Final = (
    0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 420, 600,
)  # fmt: skip
"""Seconds. Knative's own histograms stop at 10 s; a request here may take 600."""

STAGES: Final[tuple[str, ...]] = get_args(Stage)
COLD_START_PARTS: Final = ("imports", "weights", "warm_up", "total")
STATES: Final = ("starting", "loading", "ready", "busy", "asleep", "draining", "failed")
ENDPOINTS: Final = ("txt2img", "img2img", "generate", "extras", "interrogate", "job", "other")
"""Kinds of request; "job" is one that a front sent, everything that makes no image is "other"."""
METHODS: Final = ("GET", "POST", "HEAD", "OPTIONS", "other")
OUTCOMES: Final = (
    "ok", "bad_request", "queue_full", "memory_full", "draining", "not_ready", "deadline", "cancelled", "out_of_memory",
    "device_lost", "error",
)  # fmt: skip
PLAN_KINDS: Final[tuple[str, ...]] = ("plan_limit", "plan_base", "plan_at_load", "plan_peak", "measured_peak")
"""Of the memory plan, among the kinds of :meth:`service.backends.port.Backend.memory`."""
CACHES: Final = ("conditioning", "checkpoint")
STATE_ERRORS: Final = ("unreachable", "refused", "garbage")
CLOSED: Final = ("malformed", "large_head", "slow_head", "slow_body", "slow_client", "too_many")
"""Why a connection is closed before its time; see :mod:`service.connections`."""

_disable_created()  # type: ignore[no-untyped-call]


class Metrics:
    """The series of one process (one application). Thread-safe, as prometheus-client is."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._device_since: float | None = None
        self._device_seconds = 0.0
        self._device_lock = threading.Lock()
        self._ready = False
        one = self.registry
        self.requests = Counter(
            "sd_requests_total",
            "Requests for images, by kind and how they ended.",
            ["endpoint", "outcome"],
            registry=one,
        )
        self.http_requests = Counter(
            "sd_http_requests_total",
            "HTTP requests on every route, by kind, method and status code.",
            ["endpoint", "method", "code"],
            registry=one,
        )
        self.request_duration = Histogram(
            "sd_request_duration_seconds",
            "Seconds from the arrival of a request for images to its last byte, by kind and whether it got them.",
            ["endpoint", "result"],
            buckets=LATENCY_BUCKETS,
            registry=one,
        )
        self.stage_duration = Histogram(
            "sd_stage_duration_seconds",
            "Seconds that a request spent in a stage.",
            ["stage"],
            buckets=LATENCY_BUCKETS,
            registry=one,
        )
        self.images = Counter("sd_images_total", "Images made.", registry=one)
        self.pixels = Counter("sd_pixels_total", "Pixels of the images made.", registry=one)
        self.steps = Counter("sd_steps_total", "Sampler steps done, per image.", registry=one)
        self.in_flight = Gauge("sd_in_flight", "Requests on the device now: 0 or 1.", registry=one)
        self.queue_depth = Gauge("sd_queue_depth", "Requests that wait for the device.", registry=one)
        self.queue_limit = Gauge(
            "sd_queue_limit", "Most requests that may wait (SD_QUEUE_SIZE).", registry=one
        )
        self.request_timeout = Gauge(
            "sd_request_timeout_seconds", "Deadline of a request (SD_REQUEST_TIMEOUT).", registry=one
        )
        self.cancellations = Counter(
            "sd_cancellations_total", "Requests that were cancelled, by cause.", ["cause"], registry=one
        )
        self.errors = Counter(
            "sd_errors_total", "Errors answered, by code of the exception tree.", ["code"], registry=one
        )
        self.cold_start = Gauge(
            "sd_cold_start_seconds",
            "Seconds this process took to get ready, by part.",
            ["part"],
            registry=one,
        )
        self.state = Gauge(
            "sd_lifecycle_state",
            "1 for the state the process is in, 0 for the others.",
            ["state"],
            registry=one,
        )
        self.state_changes = Counter(
            "sd_readiness_changes_total", "Times that readiness turned on or off.", ["to"], registry=one
        )
        self.model_info = Gauge(
            "sd_model_info",
            "1 for the checkpoint in use.",
            ["model", "hash", "device", "dtype"],
            registry=one,
        )
        self.cache_hits = Counter(
            "sd_cache_hits_total", "Look-ups that a cache answered.", ["cache"], registry=one
        )
        self.cache_misses = Counter(
            "sd_cache_misses_total", "Look-ups that a cache did not answer.", ["cache"], registry=one
        )
        self.upstream_waiting = Gauge(
            "sd_upstream_waiting", "Jobs that wait here for an upstream.", ["upstream"], registry=one
        )
        self.upstream_in_flight = Gauge(
            "sd_upstream_in_flight", "Jobs at an upstream now.", ["upstream"], registry=one
        )
        self.upstream_oldest = Gauge(
            "sd_upstream_oldest_seconds",
            "Seconds for which the job that has waited longest for an upstream has waited.",
            ["upstream"],
            registry=one,
        )
        self.upstream_retries = Counter(
            "sd_upstream_retries_total",
            "Attempts at an upstream that failed for no fault of the job, by cause.",
            ["upstream", "cause"],
            registry=one,
        )
        self.state_errors = Counter(
            "sd_state_errors_total",
            "Failures of the store of sessions and tasks (SD_STATE_URL), by kind.",
            ["kind"],
            registry=one,
        )
        self.weights_asleep = Gauge(
            "sd_weights_asleep",
            "1 for where the weights wait while nobody asks for images (SD_IDLE_SLEEP, SD_IDLE_UNLOAD).",
            ["where"],
            registry=one,
        )
        self.sessions = Gauge("sd_sessions", "Sessions that are kept.", registry=one)
        self.files_left_out = Gauge(
            "sd_files_left_out",
            "Files of the models folder that cannot be served; the log says why.",
            registry=one,
        )
        self.budget_refused = Counter(
            "sd_budget_refused_total",
            "Requests refused because the memory for requests was in use, by what they wanted it for.",
            ["kind"],
            registry=one,
        )
        self.connections_closed = Counter(
            "sd_connections_closed_total",
            "Connections that were closed before their time, by reason.",
            ["reason"],
            registry=one,
        )
        one.register(_DeviceTime(self._device_times))
        ProcessCollector(registry=one)
        for stage in STAGES:
            self.stage_duration.labels(stage)
        for cause in CANCEL_CAUSES:
            self.cancellations.labels(cause)
        for part in COLD_START_PARTS:
            self.cold_start.labels(part)
        for cache in CACHES:
            self.cache_hits.labels(cache)
            self.cache_misses.labels(cache)
        for kind in STATE_ERRORS:
            self.state_errors.labels(kind)
        for kind in KINDS:
            self.budget_refused.labels(kind)
        for reason in CLOSED:
            self.connections_closed.labels(reason)
        self.set_asleep(None)
        for to in ("ready", "not_ready"):
            self.state_changes.labels(to)
        for endpoint in ("txt2img", "img2img", "generate"):
            self.request_duration.labels(endpoint, "ok")
            for outcome in OUTCOMES:
                self.requests.labels(endpoint, outcome)
        for code in ("out_of_memory", "queue_full", "deadline", "device_lost", "model", "internal"):
            self.errors.labels(code)

    def _device_times(self) -> tuple[float, float]:
        """Seconds for which the device was held by requests that are done, and by the one that runs."""
        with self._device_lock:
            since = self._device_since
            return self._device_seconds, 0.0 if since is None else time.monotonic() - since

    def device_taken(self) -> None:
        """A request has the device from now on."""
        with self._device_lock:
            self._device_since = time.monotonic()
        self.in_flight.set(1)

    def device_freed(self) -> None:
        """The device is idle from now on."""
        with self._device_lock:
            if self._device_since is not None:
                self._device_seconds += time.monotonic() - self._device_since
            self._device_since = None
        self.in_flight.set(0)

    def request_done(self, endpoint: str, outcome: str, seconds: float) -> None:
        """A request for images was answered (or given up) ``seconds`` after its arrival.

        Latency is kept apart by result ("ok" or "failed"): refusals take a millisecond and would flatter P95.
        """
        endpoint = _bounded(endpoint, ENDPOINTS)
        outcome = outcome if outcome in OUTCOMES else "error"
        self.requests.labels(endpoint, outcome).inc()
        self.request_duration.labels(endpoint, "ok" if outcome == "ok" else "failed").observe(seconds)

    def http_done(self, endpoint: str, method: str, status: int) -> None:
        """An HTTP exchange ended; names from outside the fixed sets count as "other"."""
        code = str(status) if 100 <= status <= 599 else "other"
        self.http_requests.labels(_bounded(endpoint, ENDPOINTS), _bounded(method, METHODS), code).inc()

    def observe(self, timings: Timings) -> None:
        """Count the stages of one request."""
        for stage, seconds in timings.stages.items():
            self.stage_duration.labels(stage).observe(seconds)

    def connection_closed(self, reason: str) -> None:
        """A connection was closed before its time (one of :data:`CLOSED`)."""
        self.connections_closed.labels(_bounded(reason, CLOSED)).inc()

    def set_state(self, state: str) -> None:
        """The process is in ``state`` (one of :data:`STATES`) now."""
        for name in STATES:
            self.state.labels(name).set(1 if name == state else 0)

    def set_asleep(self, where: str | None) -> None:
        """Where the weights wait ("memory", "disk"); None if they are on the device."""
        for each in ("memory", "disk"):
            self.weights_asleep.labels(each).set(1 if each == where else 0)

    def set_ready(self, ready: bool) -> None:
        """Readiness as the probe answers it; counts the changes."""
        if ready != self._ready:
            self._ready = ready
            self.state_changes.labels("ready" if ready else "not_ready").inc()

    def set_model(self, model: str, short_hash: str, device: str, dtype: str) -> None:
        """The checkpoint in use; the previous one's series goes, so that there is only ever one."""
        self.model_info.clear()
        self.model_info.labels(model, short_hash, device, dtype).set(1)

    def watch_device_memory(self, read: Callable[[], dict[str, int]]) -> None:
        """Export ``sd_gpu_memory_bytes`` and ``sd_memory_plan_bytes`` from ``read`` at each scrape."""
        self.registry.register(_DeviceMemory(read))

    def watch_budget(self, budget: Budget) -> None:
        """Export ``sd_budget_bytes{kind}`` and ``sd_budget_limit_bytes`` at each scrape."""
        self.registry.register(_BudgetBytes(budget))

    def render(self) -> bytes:
        """The exposition in Prometheus' text format."""
        return generate_latest(self.registry)


class _DeviceTime(Collector):
    """How long the device was held. The running request counts too, or its minutes would all fall into one scrape."""

    def __init__(self, read: Callable[[], tuple[float, float]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        done, running = self._read()
        yield CounterMetricFamily(
            "sd_device_seconds", "Seconds for which requests held the device.", value=done + running
        )
        yield GaugeMetricFamily(
            "sd_running_seconds", "Seconds for which the running request has held the device.", value=running
        )


class _DeviceMemory(Collector):
    """Device memory read at scrape time; absent where there is no such device."""

    def __init__(self, read: Callable[[], dict[str, int]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        values = self._read()
        plan: dict[str, int] = {kind: values[kind] for kind in PLAN_KINDS if kind in values}
        if plan:
            family = GaugeMetricFamily(
                "sd_memory_plan_bytes",
                "Memory plan: the limit, what is taken before any weight, the peak that was planned at load, and "
                "those of the latest request as planned and as measured (device memory; on a CPU main memory).",
                labels=["kind"],
            )
            for kind, value in plan.items():
                family.add_metric([kind], value)
            yield family
        values = {kind: value for kind, value in values.items() if kind not in PLAN_KINDS}
        if values:
            family = GaugeMetricFamily(
                "sd_gpu_memory_bytes",
                "Device memory: total and used of the card or slice, allocated and reserved by this process.",
                labels=["kind"],
            )
            for kind, value in values.items():
                family.add_metric([kind], value)
            yield family


class _BudgetBytes(Collector):
    """Main memory that requests hold, and may hold."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "sd_budget_bytes",
            "Main memory that requests hold: bodies, decoded pixels, answers on their way.",
            labels=["kind"],
        )
        for kind in KINDS:
            family.add_metric([kind], self._budget.held(kind))
        yield family
        yield GaugeMetricFamily(
            "sd_budget_limit_bytes",
            "Main memory that requests may hold (SD_MEMORY_BUDGET_MB, or what the container's limit leaves).",
            value=self._budget.total,
        )


def _bounded(value: str, allowed: tuple[str, ...]) -> str:
    return value if value in allowed else "other"

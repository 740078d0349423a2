"""The two deployments, and how they are put together.

A GPU replica is the application of a single pod, without a socket: it loads, warms up, checks, counts, refuses and
stops like one. The ingress is the application of a front, whose one upstream is the GPU deployment.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import ray
import structlog
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from service.app import create_app
from service.backends.engine import Engine
from service.backends.port import Backend
from service.backends.ray import CONTROL_PATH, Head, RayBackend
from service.backends.wire import pack
from service.catalogue.folder import read_folder
from service.context import Context
from service.core.lifecycle import Lifecycle, State
from service.logs import configure
from service.metrics import Metrics
from service.ray import within
from service.ray.mirror import Mirror
from service.settings import Settings

log = structlog.get_logger(__name__)

DRAIN: Final = 60.0
"""Seconds a replica may take beyond a request's deadline to let go of it when it is stopped."""

GPU_OPTIONS: Final[dict[str, Any]] = {
    "max_ongoing_requests": 1,
    "autoscaling_config": {
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": 1,
        # A handle samples itself this often. With Ray's 10 s a request that finds no replica may wait 6 s to be seen.
        "metrics_interval_s": 2,
        "look_back_period_s": 30,
        "upscale_delay_s": 30,
        "downscale_delay_s": 600,
    },
    # Power of two choices: with one request a replica and a queue that is the handle's, a request finds the free one
    # after a back-off or two. Half a second, as Ray has it, would be a tenth of an image.
    "request_router_config": {"initial_backoff_s": 0.01, "max_backoff_s": 0.05},
    "health_check_period_s": 5,
    "health_check_timeout_s": 30,
    "graceful_shutdown_wait_loop_s": 1,
    "logging_config": {"enable_access_log": False},  # a line of ours tells more
}

INGRESS_OPTIONS: Final[dict[str, Any]] = {
    "num_replicas": 1,
    "max_ongoing_requests": 1000,
    "health_check_period_s": 5,
    "graceful_shutdown_wait_loop_s": 1,
    "logging_config": {"enable_access_log": False},
}


class Gpu:
    """One device, one engine thread, one image at a time."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, make_engine: Callable[[], Engine] | None = None
    ) -> None:
        replica = serve.get_replica_context().replica_id.unique_id
        configure(settings)
        self._name = replica
        self._app = create_app(
            settings.model_copy(
                update={
                    "pod_name": replica,
                    "pod_address": f"http://{replica}",
                    # The ingress has let them in, and keeps what outlives a request.
                    "api_auth": None,
                    "upstream": {},
                    "state_url": None,
                    # Serve sends one at a time. The next may come while the last one's engine still lets go.
                    "queue_size": 2,
                }
            ),
            make_engine,
        )
        self._life = AsyncExitStack()
        await self._life.enter_async_context(within.running(self._app))
        lifecycle = self._context.lifecycle
        while not lifecycle.accepts_work:
            if lifecycle.state is State.FAILED:
                raise RuntimeError(lifecycle.reason)
            await asyncio.sleep(0.05)
        mirror = Mirror(self._context.metrics.registry, {"deployment": "Gpu", "replica": replica})
        self._mirroring = asyncio.create_task(mirror.run())
        _here[replica] = self, asyncio.get_running_loop()

    @property
    def _context(self) -> Context:
        context: Context = self._app.state.context
        return context

    async def serve(self, path: str, body: bytes) -> AsyncIterator[Head | bytes]:
        """POST ``body`` to ``path`` of this replica's application, and stream the answer."""
        me = ray.get_runtime_context().current_actor
        try:
            async for part in within.post(self._app, path, body, self._name):
                if isinstance(part, tuple):
                    status, headers = part
                    yield status, headers, me
                else:
                    yield part
        finally:
            if not self._context.lifecycle.liveness().ok:
                # Serve would go on sending work here until it has asked three times for our health.
                asyncio.get_running_loop().call_later(1.0, os._exit, 1)

    async def control(self, body: bytes) -> int:
        """Interrupt or skip what runs; the status of the answer."""
        async for status, _ in within.post(self._app, CONTROL_PATH, body, self._name):
            return int(status)
        return 500

    async def describe(self) -> bytes:
        """What can be named in a request."""
        return pack(self._context.backend.catalogue)

    async def check_health(self) -> None:
        """Raise where ``/readyz`` would say no: Serve replaces the replica."""
        probe = self._context.backend.readiness()
        if not probe.ok and probe.state is not State.DRAINING:
            raise RuntimeError(probe.reason)

    async def __del__(self) -> None:
        _here.pop(self._name, None)
        self._mirroring.cancel()
        await self._life.aclose()


_here: Final[dict[str, tuple[Gpu, asyncio.AbstractEventLoop]]] = {}
"""The replica of this process."""


def control(actor: Any, body: bytes) -> int:
    """Run in a replica's process, in the actor's own thread while the replica's is busy: see ``RayTransport``."""
    for gpu, loop in _here.values():
        return asyncio.run_coroutine_threadsafe(gpu.control(body), loop).result(1.0)
    return 404


class Ingress:
    """The HTTP API, on CPUs."""

    def __init__(self, gpu: DeploymentHandle[Any], settings: Settings, places: int) -> None:
        replica = serve.get_replica_context().replica_id.unique_id
        configure(settings)
        self._settings = settings.model_copy(update={"pod_name": replica, "upstream": {}})
        self._gpu = gpu
        self._places = places
        self._name = replica
        self._mirroring: asyncio.Task[None] | None = None
        self._app: FastAPI | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        self._app = create_app(self._settings, make_backend=self._backend)
        return self._app

    def _backend(self, settings: Settings, lifecycle: Lifecycle, metrics: Metrics) -> Backend:
        mirror = Mirror(metrics.registry, {"deployment": "Ingress", "replica": self._name})
        self._mirroring = asyncio.create_task(mirror.run())
        return RayBackend(
            self._gpu,
            control,
            lifecycle,
            metrics,
            concurrency=self._places,
            queue_size=settings.queue_size,
            seconds=settings.request_timeout,
            tries=settings.upstream_tries,
            largest_event=int(settings.upstream_event_mb * 1e6),
            read_catalogue=partial(read_folder, settings.models_dir),
        )

    async def check_health(self) -> None:
        """Raise where ``/readyz`` would say no."""
        probe = self._app.state.context.backend.readiness() if self._app is not None else None
        if probe is not None and not probe.ok and probe.state is not State.DRAINING:
            raise RuntimeError(probe.reason)


def build(settings: Settings, make_engine: Callable[[], Engine] | None = None, **gpu_options: Any) -> Any:
    """The application for ``serve.run``. ``gpu_options`` go over those of the GPU deployment."""
    patience = settings.request_timeout + DRAIN
    options = {
        **GPU_OPTIONS,
        "graceful_shutdown_timeout_s": patience,
        "ray_actor_options": {"num_cpus": 1, "num_gpus": 0 if settings.device == "cpu" else 1},
        **gpu_options,
    }
    if "num_replicas" in gpu_options:
        options.pop("autoscaling_config")
    scaling = options.get("autoscaling_config", {})
    places = max(settings.upstream_concurrency, scaling.get("max_replicas", options.get("num_replicas", 1)))
    gpu = serve.deployment(name="Gpu", **options)(Gpu).bind(settings, make_engine)
    ingress = serve.deployment(
        name="Ingress",
        **INGRESS_OPTIONS,
        graceful_shutdown_timeout_s=patience,
        ray_actor_options={"num_cpus": 0.5},
    )(serve.ingress()(Ingress))
    return ingress.bind(gpu, settings, places)

"""The application: the ASGI chain and the routers as one readable list."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from starlette.middleware import Middleware

from service import context as contexts
from service.api import problems
from service.api.middleware.access import Access
from service.api.middleware.body import BodyGuard
from service.api.ops.routes import router as ops
from service.api.sdapi.generation import router as sdapi_generation
from service.api.sdapi.img2img import router as sdapi_img2img
from service.api.stream.routes import router as stream
from service.backends.local import LocalBackend
from service.backends.protocol import Engine
from service.context import Context
from service.lifecycle import Lifecycle, State
from service.metrics import Metrics
from service.settings import Settings
from service.tasks import TaskRegistry

VERSION: Final = "0.1.0"


def create_app(settings: Settings, make_engine: Callable[[], Engine] | None = None) -> FastAPI:
    """The application for ``settings``. ``make_engine`` (for tests) replaces the diffusers engine."""
    if not settings.pod_name:
        settings = settings.model_copy(update={"pod_name": socket.gethostname()})
    metrics = Metrics()
    metrics.request_timeout.set(settings.request_timeout)

    def state_changed(state: State, ready: bool) -> None:
        metrics.set_state(state.value)
        metrics.set_ready(ready)

    lifecycle = Lifecycle(state_changed)
    metrics.set_state(lifecycle.state.value)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        backend = LocalBackend(
            make_engine or _diffusers_engine(settings), lifecycle, metrics, settings.queue_size
        )
        context = Context(settings, lifecycle, metrics, TaskRegistry(), backend)
        contexts.attach(app, context)
        backend.start()
        yield
        context.close()

    app = FastAPI(
        title="knative-diffusion",
        version=VERSION,
        description="Serverless Stable Diffusion: a drop-in for the AUTOMATIC1111 HTTP API.",
        lifespan=lifespan,
        root_path=settings.root_path,
        strict_content_type=False,
        # From the outside in. All are pure ASGI: see middleware.access.
        middleware=[
            Middleware(Access, metrics=metrics, served_by=settings.pod_name),
            Middleware(BodyGuard, max_bytes=int(settings.max_body_mb * 1e6), timeout=settings.body_timeout),
        ],
    )
    problems.install(app)
    app.include_router(ops)
    app.include_router(stream)
    app.include_router(sdapi_generation)
    app.include_router(sdapi_img2img)
    return app


def _diffusers_engine(settings: Settings) -> Callable[[], Engine]:
    def make() -> Engine:
        # Here, in the engine's thread: torch takes seconds to import and the probes answer meanwhile.
        from service.engine.engine import DiffusersEngine

        return DiffusersEngine(settings)

    return make

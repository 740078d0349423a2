"""The application: the ASGI chain and the routers as one readable list."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from service import context as contexts
from service.api import problems
from service.api.middleware.access import Access
from service.api.middleware.auth import BasicAuth
from service.api.middleware.body import BodyGuard
from service.api.middleware.paths import Paths
from service.api.middleware.session import SessionCookie
from service.api.native.routes import router as stream
from service.api.ops.routes import router as ops
from service.api.sdapi.routes import admin, extras, internal, lists, memory, pnginfo, progress
from service.api.sdapi.routes import options as sdapi_options
from service.api.sdapi.routes.generation import router as sdapi_generation
from service.api.sdapi.routes.img2img import router as sdapi_img2img
from service.api.sdapi.styles import StyleBook
from service.backends.engine import Engine
from service.backends.local import LocalBackend
from service.context import Context
from service.core.lifecycle import Lifecycle, State
from service.core.tasks import TaskRegistry
from service.metrics import Metrics
from service.settings import Settings
from service.state.sessions import Sessions

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
            make_engine or _diffusers_engine(settings, metrics), lifecycle, metrics, settings.queue_size
        )
        context = Context(
            settings,
            lifecycle,
            metrics,
            TaskRegistry(),
            backend,
            Sessions(settings.session_ttl, settings.max_sessions, metrics.sessions.set),
            StyleBook.read(settings.models_dir),
        )
        contexts.attach(app, context)
        backend.start()
        yield
        context.close()

    app = FastAPI(
        title="knative-diffusion",
        version=VERSION,
        description="Serverless Stable Diffusion: a drop-in for the AUTOMATIC1111 HTTP API.",
        lifespan=lifespan,
        redirect_slashes=False,
        strict_content_type=False,
        # From the outside in. All are pure ASGI: see middleware.access.
        middleware=[
            Middleware(Access, metrics=metrics, served_by=settings.pod_name),
            Middleware(Paths, root_path=settings.root_path),
            *_cors(settings),
            Middleware(BasicAuth, users=settings.api_auth),
            # Answers with pictures say Content-Encoding: identity and pass as they are.
            Middleware(GZipMiddleware, minimum_size=1000, compresslevel=5),
            Middleware(SessionCookie, name=settings.session_cookie, ttl=settings.session_ttl),
            Middleware(BodyGuard, max_bytes=int(settings.max_body_mb * 1e6), timeout=settings.body_timeout),
        ],
    )
    problems.install(app)
    app.include_router(ops)
    app.include_router(stream)
    app.include_router(sdapi_generation)
    app.include_router(sdapi_img2img)
    for module in (extras, pnginfo, progress, sdapi_options, lists, memory, admin, internal):
        app.include_router(module.router)
    return app


def _cors(settings: Settings) -> list[Middleware]:
    """Which pages may call from a browser. Before auth: a preflight carries no credentials."""
    if not settings.cors_allow_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_allow_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            # With "*" any page would act with the credentials that the browser has stored for this server.
            allow_credentials="*" not in settings.cors_allow_origins,
            expose_headers=["X-Task-Id", "X-Request-Id", "X-Error-Code", "Retry-After"],
        )
    ]


def _diffusers_engine(settings: Settings, metrics: Metrics) -> Callable[[], Engine]:
    def count(cache: str, hit: bool) -> None:
        (metrics.cache_hits if hit else metrics.cache_misses).labels(cache).inc()

    def make() -> Engine:
        # Here, in the engine's thread: torch takes seconds to import and the probes answer meanwhile.
        from service.engine.engine import DiffusersEngine

        return DiffusersEngine(settings, count)

    return make

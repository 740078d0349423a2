"""The application: the ASGI chain and the routers as one readable list."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from service import __version__, main_memory
from service import context as contexts
from service.api import problems
from service.api.admission import Admission
from service.api.board import Board
from service.api.dialect import Dialect
from service.api.imagine.routes import DIALECT as IMAGINE
from service.api.lanes import Lanes
from service.api.middleware.access import Access
from service.api.middleware.auth import BasicAuth
from service.api.middleware.body import BodyGuard
from service.api.middleware.origin import SameOrigin
from service.api.middleware.paths import Paths
from service.api.middleware.session import SessionCookie
from service.api.native.routes import DIALECT as NATIVE
from service.api.openai.routes import DIALECT as OPENAI
from service.api.ops.routes import DIALECT as OPS
from service.api.sdapi.preferences import Preferences
from service.api.sdapi.routes import DIALECT as SDAPI
from service.api.sdapi.styles import StyleBook
from service.backends.engine import Engine
from service.backends.local import Idle, LocalBackend
from service.backends.port import Backend
from service.backends.remote import RemoteBackend
from service.backends.wire import from_plain, to_plain
from service.catalogue.catalogue import Catalogue
from service.catalogue.files import files_left_out
from service.catalogue.folder import read_folder
from service.context import Context
from service.core.budget import Budget
from service.core.errors import ServiceError
from service.core.lifecycle import Lifecycle, State
from service.core.tasks import TaskRegistry
from service.metrics import Metrics
from service.settings import Settings
from service.state.store import Store, open_store

if TYPE_CHECKING:
    from service.ui.mount import PageApp

DIALECTS: Final[tuple[Dialect, ...]] = (OPS, NATIVE, SDAPI, OPENAI, IMAGINE)


MakeBackend: TypeAlias = Callable[[Settings, Lifecycle, Metrics], Backend]


def create_app(
    settings: Settings,
    make_engine: Callable[[], Engine] | None = None,
    make_backend: MakeBackend | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application for ``settings``: a pod's, with the diffusers engine, or a front's, with upstreams.

    ``make_engine`` replaces that engine (in tests), ``make_backend`` all that is behind the port (on Ray). ``on_ready``
    is called once, when the first image can be made.
    """
    if not settings.pod_name:
        settings = settings.model_copy(update={"pod_name": socket.gethostname()})
    metrics = Metrics()
    metrics.files_left_out.set_function(files_left_out)
    metrics.request_timeout.set(settings.request_timeout)

    budget = Budget(_for_requests(settings), lambda kind: metrics.budget_refused.labels(kind).inc())
    metrics.watch_budget(budget)
    measured: list[bool] = []

    def state_changed(state: State, ready: bool) -> None:
        metrics.set_state(state.value)
        metrics.set_ready(ready)
        if state is State.READY and not measured:  # now it is known what the model leaves
            budget.resize(_for_requests(settings))
            measured.append(True)
            on_ready()

    page = _page(settings)
    lifecycle = Lifecycle(state_changed)
    metrics.set_state(lifecycle.state.value)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks, lanes, store = TaskRegistry(), Lanes(), _store(settings, metrics)
        if make_backend is not None:
            backend = make_backend(settings, lifecycle, metrics)
        elif settings.upstream:
            backend = _front(settings, lifecycle, metrics, store)
        else:
            make = make_engine or _diffusers_engine(settings, metrics)
            backend = LocalBackend(
                make,
                lifecycle,
                metrics,
                settings.queue_size,
                Idle(settings.idle_sleep, settings.idle_unload),
            )
        board = Board(tasks, store, lanes, shared=bool(settings.state_url))
        styles = StyleBook.read(settings.models_dir)
        context = Context(
            settings,
            lifecycle,
            metrics,
            tasks,
            backend,
            store,
            board,
            Preferences(store),
            styles,
            budget,
            lanes,
        )
        if page is not None:
            context.on_drained.append(page.finish)
        contexts.attach(app, context)
        await board.start()
        if isinstance(backend, RemoteBackend):
            await _remember(backend, settings, store)
        backend.start()
        async with page.running() if page is not None else nullcontext():
            yield
        await context.close()

    app = FastAPI(
        title="knative-diffusion",
        version=__version__,
        description="Serverless Stable Diffusion: a drop-in for the AUTOMATIC1111 HTTP API.",
        lifespan=lifespan,
        redirect_slashes=False,
        strict_content_type=False,
        # From the outside in. All are pure ASGI: see middleware.access.
        middleware=[
            Middleware(Access, metrics=metrics, served_by=settings.pod_name),
            Middleware(Paths, root_path=settings.root_path),
            *_cors(settings),
            Middleware(SameOrigin, allowed=settings.cors_allow_origins),
            Middleware(BasicAuth, users=settings.api_auth),
            *_page_middleware(page),
            # Answers with pictures say Content-Encoding: identity and pass as they are.
            Middleware(GZipMiddleware, minimum_size=1000, compresslevel=5),
            Middleware(SessionCookie, name=settings.session_cookie, ttl=settings.session_ttl),
            Middleware(Admission, work={route: kind for one in DIALECTS for route, kind in one.work.items()}),
            Middleware(BodyGuard, max_bytes=int(settings.max_body_mb * 1e6), timeout=settings.body_timeout),
        ],
    )
    app.state.connection_closed = metrics.connection_closed
    problems.install(app, [(one.paths, one.problem) for one in DIALECTS if one.problem is not None])
    for dialect in DIALECTS:
        for router in dialect.routers:
            app.include_router(router)
    return app


def _for_requests(settings: Settings) -> int:
    """Bytes of main memory for what clients send and get."""
    if settings.memory_budget_mb is not None:
        return int(settings.memory_budget_mb * 1e6)
    return main_memory.for_requests(main_memory.limit(), main_memory.resident())


def _page(settings: Settings) -> "PageApp | None":
    """The page for people, where it is asked for: a client of this very server, over its own address."""
    if not settings.ui:
        return None
    from service.ui.mount import PageApp

    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - compared
    return PageApp(
        f"http://{host}:{settings.port}",
        grafana=settings.ui_grafana,
        poll=settings.ui_poll,
        root_path=settings.root_path,
    )


def _page_middleware(page: "PageApp | None") -> list[Middleware]:
    if page is None:
        return []
    from service.ui.mount import PageBefore

    return [Middleware(PageBefore, page=page)]


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


def _store(settings: Settings, metrics: Metrics) -> Store:
    """Where sessions, tasks and catalogues are kept: here, or where SD_STATE_URL says."""
    return open_store(
        settings.state_url.get_secret_value() if settings.state_url is not None else None,
        session_ttl=settings.session_ttl,
        max_sessions=settings.max_sessions,
        on_sessions=metrics.sessions.set,
        on_error=lambda kind: metrics.state_errors.labels(kind).inc(),
    )


def _front(settings: Settings, lifecycle: Lifecycle, metrics: Metrics, store: Store) -> RemoteBackend:
    """Upstreams in place of an engine: no torch is imported."""
    return RemoteBackend(
        settings.upstream,
        lifecycle,
        metrics,
        concurrency=settings.upstream_concurrency,
        queue_size=settings.queue_size,
        seconds=settings.request_timeout,
        tries=settings.upstream_tries,
        largest_event=int(settings.upstream_event_mb * 1e6),
        on_catalogue=lambda name, known: store.see(name, to_plain(known)),
        read_catalogue=partial(read_folder, settings.models_dir),
    )


async def _remember(backend: RemoteBackend, settings: Settings, store: Store) -> None:
    """What upstreams said before this process began."""
    for name in settings.upstream:
        with suppress(ServiceError):
            if (known := await store.catalogue(name)) is not None:
                backend.know(name, from_plain(known, Catalogue))


def _diffusers_engine(settings: Settings, metrics: Metrics) -> Callable[[], Engine]:
    def count(cache: str, hit: bool) -> None:
        (metrics.cache_hits if hit else metrics.cache_misses).labels(cache).inc()

    def make() -> Engine:
        # Here, in the engine's thread: torch takes seconds to import and the probes answer meanwhile.
        from service.engine.start import start

        return start(settings, count)

    return make

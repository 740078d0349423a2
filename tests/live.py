"""A real uvicorn on 127.0.0.1 around the application, in a thread of the test process."""

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from service.app import MakeBackend, create_app
from service.backends.remote import RemoteBackend
from service.connections import guarded
from service.context import Context
from service.settings import Settings
from service.state.memory import MemoryStore
from tests.fakes import FakeEngine


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def post_raw(
    port: int, body: dict[str, Any], path: str = "/sdapi/v1/txt2img", accept: str = "*/*"
) -> socket.socket:
    """Send a request on a bare socket, so that the test decides when the client goes away."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n".encode()
        + content
    )
    return connection


@dataclass
class LiveServer:
    """A running server; ``call`` runs a function in its event loop's thread."""

    url: str
    port: int
    app: FastAPI
    loop: asyncio.AbstractEventLoop

    @property
    def context(self) -> Context:
        """What the routes see."""
        found = self.app.state.context
        assert isinstance(found, Context)
        return found

    @property
    def shared_options(self) -> dict[str, Any]:
        """What clients without a session have set."""
        store = self.context.store
        assert isinstance(store, MemoryStore)
        return store._everywhere

    def call(self, function: Callable[[], Any]) -> Any:
        """The value of ``function()``, run in the server's event loop."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client for it."""
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **options)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Return when ``condition()`` (in the server's loop) is true; fail after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not self.call(condition):
            assert time.monotonic() < deadline, "the server did not get there"
            time.sleep(0.005)

    def wait_idle(self) -> None:
        """Return when nothing runs or waits."""
        self.wait_until(
            lambda: (
                not (self.context.backend.running or self.context.backend.waiting or len(self.context.tasks))
            )
        )


THROUGH: Final = os.environ.get("SD_TEST_THROUGH", "")
"""``front``: tests of the API meet a front, and their engine is in a pod behind a proxy behind it."""


on_a_pod = pytest.mark.skipif(
    THROUGH == "front", reason="a front answers this itself, without loading anything on a device"
)


@contextmanager
def serve(
    engine: FakeEngine | None = None, *, wait_ready: bool = True, **settings: Any
) -> Iterator[LiveServer]:
    """Serve with ``engine`` (the real one with the shipped model where there is none) and ``settings``."""
    if THROUGH != "front" or not wait_ready or "upstream" in settings:
        with serve_here(engine, wait_ready=wait_ready, **settings) as live:
            yield live
        return
    from tests.front.queue_proxy import QueueProxy

    with (
        serve_here(engine, pod_name="pod") as pod,
        QueueProxy(lambda: [pod.port]) as proxy,
        serve_here(
            None, **{"upstream_concurrency": 1, "upstream": {"default": proxy.url}, **settings}
        ) as front,
    ):
        backend = front.context.backend
        assert isinstance(backend, RemoteBackend)
        catalogue = pod.call(lambda: pod.context.backend.catalogue)
        front.call(lambda: backend.know("default", catalogue))
        yield front


@contextmanager
def serve_here(
    engine: FakeEngine | None = None,
    *,
    wait_ready: bool = True,
    make_backend: MakeBackend | None = None,
    **settings: Any,
) -> Iterator[LiveServer]:
    """The same, in any case without a front."""
    port = settings.pop("port", None) or free_port()
    values: dict[str, Any] = {"port": port, "log_level": "ERROR", "pod_name": "test-pod", **settings}
    made = Settings.read(**values)
    app = create_app(made, (lambda: engine) if engine is not None else None, make_backend)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        http=guarded(made, app.state.connection_closed),
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=int(made.keep_alive),
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve()), daemon=True)
    thread.start()
    live = LiveServer(f"http://127.0.0.1:{port}", port, app, loop)
    try:
        deadline = time.monotonic() + 120
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        if wait_ready:
            live.wait_until(lambda: live.context.lifecycle.accepts_work, 120)
        yield live
    finally:
        if live.app.state._state.get("context") is not None:
            live.context.abort()
        server.should_exit = True
        thread.join(20)
        loop.close()

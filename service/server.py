"""uvicorn as this service needs it: patient with proxies, short with silent connections, graceful on SIGTERM."""

import asyncio
import contextlib
import resource
import signal
from asyncio import BaseTransport, TimerHandle
from collections.abc import Generator
from types import FrameType
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.context import Context
from service.settings import Settings

log = structlog.get_logger(__name__)


class GuardedProtocol(HttpToolsProtocol):
    """Closes connections that do not send a complete request head within ``header_timeout`` seconds.

    uvicorn alone waits forever for the first byte of a connection.
    """

    header_timeout: float = 20.0
    _patience: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Start the clock."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._patience = self.loop.call_later(self.header_timeout, transport.close)

    def on_headers_complete(self) -> None:
        """The head is there: stop the clock (keep-alive has its own)."""
        self._stop_clock()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_clock()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class DrainingServer(uvicorn.Server):
    """On SIGTERM keeps answering (probes: 503, new work: 503) until running and queued work is sent, then exits 0.

    uvicorn alone would close its listening socket at once: probes and late requests would meet a refused
    connection while images are still being made. A second signal cancels the work.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, grace: float) -> None:
        super().__init__(config)
        self._fastapi = app
        self._grace = grace
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle SIGTERM and SIGINT in the event loop; unlike uvicorn do not raise them again afterwards."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: cancel what runs and waits. Third: leave at once."""
        context: Context | None = getattr(self._fastapi.state, "context", None)
        if context is None:
            self.should_exit = True
            return
        if self._draining is None:
            log.info("draining", signal=signal.Signals(sig).name, tasks=len(context.tasks))
            self._draining = asyncio.get_running_loop().create_task(self._drain(context))
        elif not context.aborting:
            log.info("cancelling", signal=signal.Signals(sig).name, tasks=len(context.tasks))
            context.abort()
        else:
            self.should_exit = self.force_exit = True

    async def _drain(self, context: Context) -> None:
        await context.drain(self._grace)
        self.should_exit = True


def run(app: FastAPI, settings: Settings) -> None:
    """Serve until a signal ends it."""
    _raise_file_limit()
    # timeout_keep_alive exceeds the proxy's own idle time: who closes first must be the proxy, or it meets a
    # closed connection and answers 502.
    GuardedProtocol.header_timeout = settings.header_timeout
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "timeout_keep_alive": int(settings.keep_alive),
        "timeout_graceful_shutdown": 10,
        "http": GuardedProtocol,
        "loop": "uvloop",
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": True,
        "backlog": 2048,
    }
    DrainingServer(uvicorn.Config(app, **options), app, settings.drain_timeout).run()


def _raise_file_limit() -> None:
    """Let silent connections by the thousand not use up the file descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))

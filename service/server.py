"""uvicorn as this service needs it: patient with proxies, short with silent connections, graceful on SIGTERM."""

import asyncio
import contextlib
import faulthandler
import os
import resource
import signal
import socket
import time
from collections.abc import Generator
from types import FrameType
from typing import Any, Final, NoReturn

import structlog
import uvicorn
from fastapi import FastAPI

from service import signals
from service.connections import guarded
from service.context import Context
from service.settings import Settings

log = structlog.get_logger(__name__)

LAST_WORDS: Final = 0.4
"""Seconds after the second signal in which cancelled requests are answered by those who ran them."""

THE_END: Final = 0.8
"""Seconds after the second signal at which the process is gone, whatever its threads do."""


class DrainingServer(uvicorn.Server):
    """On SIGTERM keeps answering (probes: 503, new work: 503) until running and queued work is sent, then exits 0.

    uvicorn alone would close its listening socket at once: probes and late requests would meet a refused
    connection while images are still being made. A second signal cancels the work and ends the process within a
    second: the engine's thread may be in a call that nobody can interrupt (reading weights), and is not waited for.
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
        for number in signals.NUMBERS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals.NUMBERS:
                loop.remove_signal_handler(number)
            signals.leave_at_once()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: cancel what runs and waits, and leave. Third: leave at once."""
        context: Context | None = getattr(self._fastapi.state, "context", None)
        if context is None or context.aborting:
            self._leave()
        if self._draining is None:
            log.info("draining", signal=signal.Signals(sig).name, tasks=len(context.tasks))
            self._draining = asyncio.get_running_loop().create_task(self._drain(context))
            return
        log.info("cancelling", signal=signal.Signals(sig).name, tasks=len(context.tasks))
        # A thread of C that needs no interpreter: it ends the process even where one of ours holds that for good.
        faulthandler.dump_traceback_later(THE_END + 0.15, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
        loop = asyncio.get_running_loop()
        loop.call_later(LAST_WORDS, self._cut_short)
        loop.call_later(THE_END, self._leave)
        context.abort()

    def _cut_short(self) -> None:
        """Answer those whose engine does not let go: see ``middleware.access``."""
        self.should_exit = True
        for task in self.server_state.tasks:
            task.cancel()

    async def _drain(self, context: Context) -> None:
        until = time.monotonic() + self._grace
        await context.drain(self._grace)
        # What is answered may still be on its way to a slow client. Probes come and go meanwhile.
        while (under_way := self.server_state.tasks) and (left := until - time.monotonic()) > 0:
            await asyncio.wait(tuple(under_way), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        self.should_exit = True

    def _leave(self) -> NoReturn:
        log.info("stopped")
        os._exit(0)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal ends it; then the process is gone: nothing waits for a thread of the engine."""
        await super().serve(sockets)
        self._leave()


def run(app: FastAPI, settings: Settings) -> None:
    """Serve until a signal ends the process. Raises OSError where the address cannot be listened on."""
    _raise_file_limit()
    listening = _listen(settings.host, settings.port)
    # timeout_keep_alive exceeds the proxy's own idle time: who closes first must be the proxy, or it meets a
    # closed connection and answers 502.
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "timeout_keep_alive": int(settings.keep_alive),
        # By then everything is sent (see DrainingServer); what is left is idle.
        "timeout_graceful_shutdown": 1,
        "http": guarded(settings, app.state.connection_closed),
        "loop": "uvloop",
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": True,
        "backlog": 2048,
    }
    DrainingServer(uvicorn.Config(app, **options), app, settings.drain_timeout).run(listening)


def _listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of ``host``. Raises OSError: taken, not allowed, no such host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            bound.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
    except OSError:
        for one in bound:
            one.close()
        raise
    return bound


def _raise_file_limit() -> None:
    """Let silent connections by the thousand not use up the file descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))

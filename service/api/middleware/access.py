"""The outermost layer: arrival time, request id, trace id, response headers, the access line, HTTP counts."""

import asyncio
import re
import time
import uuid
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import scope as scopes
from service.api.problems import mistake, response_to
from service.connections import connection_of
from service.core.errors import Cancelled
from service.metrics import Metrics

log = structlog.get_logger("access")

_QUIET: Final = {"/livez", "/readyz", "/metrics", "/internal/ping"}
"""Asked every second or more often: not worth a line each, and no measure of how clients fare."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Access:
    """Pure ASGI: a ``BaseHTTPMiddleware`` would hide the client's disconnect from the routes."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, served_by: str) -> None:
        self.app = app
        self._metrics = metrics
        self._served_by = served_by

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        arrived = time.monotonic()
        scope[scopes.ARRIVED] = arrived
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        trace = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if trace:
            structlog.contextvars.bind_contextvars(trace_id=trace[1])
        status = 499  # unless a response starts: the client went away before
        started = False
        connection = connection_of(scope)

        async def send_with_headers(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                out = MutableHeaders(scope=message)
                out["X-Request-Id"] = request_id
                task = scope.get(scopes.TASK)  # behind a front or on Ray another process makes the images
                out["X-Served-By"] = (task and task.served_by) or self._served_by
                out["X-Process-Time"] = f"{time.monotonic() - arrived:.4f}"
            await send(message)
            if connection is not None and not message.get("more_body", False):
                # An answer is given when it is taken: who drains, counts or budgets must not believe it earlier.
                await connection.flushed()

        try:
            await self.app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            # A second SIGTERM: the process ends whether or not the engine lets go, and says so to who waits.
            if not started:
                gone = Cancelled("The server was told to stop before the image was done.", cause="shutdown")
                await response_to(scope, gone)(scope, receive, send_with_headers)
            raise
        except Exception as error:
            # Here and not in Starlette's own handler, which answers but then lets uvicorn drop the connection.
            log.error("unexpected error", path=scope["path"], exc_info=error)
            if started:
                raise
            await response_to(scope, mistake(error))(scope, receive, send_with_headers)
        finally:
            if scope["path"] not in _QUIET and not scope.get(scopes.QUIET):
                self._metrics.http_done(scope.get(scopes.KIND, "other"), scope["method"], status)
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    duration=round(time.monotonic() - arrived, 4),
                    **scopes.log_fields(scope),
                )

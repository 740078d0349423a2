"""The page as an ASGI application of its own: which paths are its, what guards them, and Gradio behind it.

Gradio offers far more than the page uses (uploads, a proxy, files, an API, a monitoring board). What is not named here
does not exist: such paths go on to the service, which answers 404. Who mounts it keeps strangers and pages of other
origins out (``api.middleware``).
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import orjson
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Before Gradio is imported: it asks for its newest version and counts its users unless it is told not to.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr

from service.api.scope import QUIET
from service.ui import fragments
from service.ui.client import Api
from service.ui.page import Page
from service.ui.visitors import Visitors
from service.ui.words import NAMES, words

_STATIC: Final = Path(__file__).parent / "static"
_GRADIO: Final = re.compile(
    r"/(theme\.css|config|favicon\.ico|(assets|static|svelte)/.+"
    r"|gradio_api/(queue/(join|data)|heartbeat/[a-z0-9]+|cancel|reset|startup-events|theme\.css|app_id|info))?"
)
_OWN: Final = re.compile(
    r"/page/(page\.(?:js|css)|mark\.svg|status|words/([a-z]{2})\.json|pictures/([\w-]+)/[\w.-]+)"
)

_LAST_NEWS: Final = 5.0
"""Seconds that open tabs get for the last pictures when the service ends."""

MOST_BYTES: Final = 64_000_000
"""Of a body: two pictures as base64, and the fields."""

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self' data:; "
    # Gradio's page carries its configuration as a script, and compiles its templates in the browser.
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}

_METAS: Final = re.compile(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*?/>', re.DOTALL)
"""What Gradio's page tells social networks: it is about Gradio."""


class PageApp:
    """Pure ASGI. ``url`` is the service that the page is a client of.

    ``poll``: seconds between questions for the service's state while somebody looks; 0 never asks, which is right for
    a service that a question would start.
    """

    def __init__(self, url: str, *, grafana: str = "", poll: float = 5.0, root_path: str = "") -> None:
        self.visitors = Visitors(url)
        self._poll = poll
        self._root_path = root_path.rstrip("/")
        self._probe = Api(url)
        self._host = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        self._blocks = blocks = Page(self.visitors, grafana).build()
        gr.mount_gradio_app(
            self._host,
            blocks,
            path="/",
            root_path=self._root_path or None,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            show_error=False,
            max_file_size=1,
            allowed_paths=[],
            theme=blocks.theme,
            favicon_path=str(_STATIC / "mark.svg"),
        )
        mounted = [route.app for route in self._host.routes if isinstance(route, Mount)]
        self._gradio = next(app for app in mounted if isinstance(app, gr.routes.App))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Gradio's own life; at its end everybody's pictures are cancelled."""
        async with self._host.router.lifespan_context(self._host):
            yield
            self.stop()
            await self.visitors.close()
            await self._probe.close()
            await asyncio.sleep(0.1)  # Gradio's own loops look now and then whether they shall end

    def stop(self) -> None:
        """End the streams of all open tabs: a server that waits for its connections would wait for them in vain."""
        self._blocks.is_running = False
        self._blocks._queue.close()  # type: ignore[no-untyped-call]
        self._gradio.stop_event.set()

    async def finish(self) -> None:
        """The service has answered all it will answer: bring that to the open tabs, then :meth:`stop`."""
        until = time.monotonic() + _LAST_NEWS
        while any(visitor.runs for visitor in self.visitors) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # for the pictures, to be sent
        self.stop()

    @staticmethod
    def serves(scope: Scope) -> bool:
        """True for the paths of the page."""
        if scope["type"] != "http":
            return False
        path = scope["path"]
        return bool(_GRADIO.fullmatch(path) or _OWN.fullmatch(path))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request of the page."""
        guarded = _guarded(send)
        if (own := _OWN.fullmatch(scope["path"])) is not None:
            answer = await self._own(own, scope)
            await answer(scope, receive, guarded)
        elif scope["path"] == "/":
            await self._host(scope, receive, _Index(guarded, self._index))
        else:
            await self._host(scope, _bounded(receive), guarded)

    # --- what is ours ----------------------------------------------------------------------------

    async def _own(self, path: re.Match[str], scope: Scope) -> Response:
        what, language, token = path.groups()
        if token:
            picture = self.visitors.album.find(token)
            if picture is None:
                return PlainTextResponse("This picture is no longer kept.", 404)
            return Response(
                picture.content,
                media_type=picture.media_type,
                headers={"Cache-Control": "private, max-age=86400, immutable"},
            )
        if language:
            if language not in NAMES:
                return PlainTextResponse("No such language.", 404)
            return JSONResponse(words(language).sentences, headers={"Cache-Control": "no-cache"})
        if what == "status":
            return await self._status(scope)
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[what.rpartition(".")[2]]
        return Response((_STATIC / what).read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})

    async def _status(self, scope: Scope) -> Response:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        say = words(query.get("language", ["en"])[0])
        if self._poll:
            state, reason, pod = await self._probe.readiness()
        else:
            state, reason, pod = "quiet", "", ""
        content = {"state": state, "html": fragments.status(state, reason, pod, say)}
        return Response(
            orjson.dumps(content), media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    def _index(self, page: bytes, scope: Scope) -> bytes:
        """Gradio's page with our script and style, told where it lives."""
        base = f"{self._root_path}/".encode()
        ours = (
            b'<link rel="icon" href="page/mark.svg"><link rel="stylesheet" href="page/page.css">'
            b'<meta name="description" content="Stable Diffusion: pictures from words.">'
            b'<script src="page/page.js"></script></head>'
        )
        page = _METAS.sub(b"", page)
        page = re.sub(rb'<base href="[^"]*" ?/>', b'<base href="' + base + b'">', page, count=1)
        page = re.sub(rb'<link rel="manifest"[^>]*>', b"", page)
        page = page.replace(b"<html", f'<html data-poll="{self._poll or 60:g}"'.encode(), 1)
        return page.replace(b"</head>", ours, 1)


class _Index:
    """Collects an answer, changes its body, and sends it on."""

    def __init__(self, send: Send, change: Callable[[bytes, Scope], bytes]) -> None:
        self._send = send
        self._change = change
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        """Take a message."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body") or self._start is None:
            return
        headers = MutableHeaders(scope=self._start)
        body = bytes(self._body)
        if headers.get("content-type", "").startswith("text/html"):
            body = self._change(body, {})
        headers["Content-Length"] = str(len(body))
        headers["Cache-Control"] = "no-store"
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body})


def _guarded(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
        await send(message)

    return guarded


def _bounded(receive: Receive) -> Receive:
    """``receive`` that breaks off a body beyond :data:`MOST_BYTES`."""
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        return {"type": "http.disconnect"} if taken > MOST_BYTES else message

    return bounded


class PageBefore:
    """Middleware: the page takes its paths, the application has the rest."""

    def __init__(self, app: ASGIApp, *, page: PageApp) -> None:
        self.app = app
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not PageApp.serves(scope):
            await self.app(scope, receive, send)
            return
        # Dozens of files a visit, and connections as long as visits: no measure of how the service fares.
        scope[QUIET] = True
        await self._page(scope, receive, send)

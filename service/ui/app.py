"""The page apart from the service: its own process, in front of any address where our API is served."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.middleware.origin import SameOrigin
from service.api.middleware.paths import Paths
from service.ui.mount import PageApp, PageBefore

_REMEMBERED: Final = 300.0
"""Seconds for which credentials that the service took are taken here without asking again."""
_MOST: Final = 1000


class Doorkeeper:
    """Pure ASGI: lets in whom the service lets in. This process knows no password of its own."""

    def __init__(self, app: ASGIApp, *, url: str) -> None:
        self.app = app
        self._url = url
        self._known: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] != "/livez":
            credentials = Headers(scope=scope).get("authorization", "")
            if not await self._admits(credentials):
                refusal = PlainTextResponse(
                    "The service asks for a user and a password.",
                    401,
                    {"WWW-Authenticate": 'Basic realm="knative-diffusion"'},
                )
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _admits(self, credentials: str) -> bool:
        now = time.monotonic()
        if self._known.get(credentials, 0.0) > now:
            return True
        headers = {"Authorization": credentials} if credentials else {}
        try:
            async with httpx.AsyncClient(base_url=self._url, timeout=5.0, trust_env=False) as client:
                answer = await client.get("/internal/ping", headers=headers)
        except httpx.HTTPError:
            # Nobody there to ask. The page alone tells and does nothing: each of its questions carries the
            # credentials, and the service decides.
            return True
        if answer.status_code == 401:
            return False
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[credentials] = now + _REMEMBERED
        return True


def create_page(url: str, *, grafana: str = "", poll: float = 5.0, root_path: str = "") -> FastAPI:
    """The application that serves the page for the service at ``url``."""
    page = PageApp(url, grafana=grafana, poll=poll, root_path=root_path)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with page.running():
            yield

    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        middleware=[
            Middleware(Paths, root_path=root_path),
            Middleware(SameOrigin, allowed=()),
            Middleware(Doorkeeper, url=url),
            Middleware(PageBefore, page=page),
        ],
    )
    app.state.page = page

    @app.get("/livez")
    async def livez() -> JSONResponse:
        """The process is alive."""
        return JSONResponse({"state": "ready"})

    return app

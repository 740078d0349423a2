"""Trailing slashes: ``/sdapi/v1/options/`` is ``/sdapi/v1/options``.

Served directly. A redirect would name the scheme that the last proxy spoke, and turn POST into GET for some clients.
"""

from starlette.types import ASGIApp, Receive, Scope, Send


class TrailingSlash:
    """Pure ASGI: takes the slashes off the end of the path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope["path"] = scope["path"].rstrip("/") or "/"
        await self.app(scope, receive, send)

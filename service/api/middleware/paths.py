"""One path for each route, however it is written: with or without the proxy's prefix, with or without a slash.

``/sdapi/v1/options/`` is served as ``/sdapi/v1/options``, directly: a redirect would name the scheme that the last
proxy spoke, and some clients turn a redirected POST into GET.
"""

from starlette.types import ASGIApp, Receive, Scope, Send


class Paths:
    """Pure ASGI. ``root_path`` is the prefix under which the world knows the server (SD_ROOT_PATH)."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self.app = app
        self._root_path = "/" + root_path.strip("/") if root_path.strip("/") else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if self._root_path:
                scope["root_path"] = self._root_path
                if path == self._root_path or path.startswith(self._root_path + "/"):
                    path = path.removeprefix(self._root_path)
            scope["path"] = path.rstrip("/") or "/"
        await self.app(scope, receive, send)

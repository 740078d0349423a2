"""Pages of other origins change nothing here: not with the credentials that a browser has stored for this server.

A browser sends a form, or JSON as ``text/plain``, to any server without asking it first, and its stored credentials
with it. It says where the page came from, in ``Sec-Fetch-Site`` and ``Origin``. Programs send neither and are not
concerned. (https://www.w3.org/TR/fetch-metadata/, https://fetch.spec.whatwg.org/#origin-header)
"""

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import response_to
from service.core.errors import CrossSite

_HARMLESS: Final = ("GET", "HEAD", "OPTIONS")
_ANY: Final = "*"


class SameOrigin:
    """Pure ASGI. ``allowed``: the origins of ``SD_CORS_ALLOW_ORIGINS``, whose pages may do what our own may."""

    def __init__(self, app: ASGIApp, *, allowed: tuple[str, ...]) -> None:
        self.app = app
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if (
            scope["type"] == "http"
            and scope["method"] not in _HARMLESS
            and not self._may(Headers(scope=scope))
        ):
            await response_to(
                scope,
                CrossSite(
                    "A page of another origin may change nothing here: let the operator add its origin to "
                    "SD_CORS_ALLOW_ORIGINS."
                ),
            )(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _may(self, headers: Headers) -> bool:
        site, origin = headers.get("sec-fetch-site"), headers.get("origin", "").rstrip("/").lower()
        if site in ("same-origin", "none") or (site is None and not origin):
            return True
        if origin in self._allowed:
            return True
        if _ANY in self._allowed:
            # Any page, but never with what the browser has stored: only a request that it had to ask leave for
            # (a preflight, which allows no credentials) may carry any.
            preflighted = headers.get("content-type", "").startswith("application/json")
            return preflighted or "authorization" not in headers
        # Pages that came over plain http send no Sec-Fetch-Site: their origin is compared with who they talk to.
        host = urlsplit(origin).netloc
        return site is None and host != "" and host in (headers.get("host"), headers.get("x-forwarded-host"))

"""The session cookie: given to clients of A1111's routes that have none, and kept alive while they come back."""

from http.cookies import CookieError, SimpleCookie
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.scope import SESSION
from service.state import sessions

GIVING: Final = "/sdapi/"
"""Only answers of these routes give a cookie: probes, metrics and the stateless endpoints do not."""

READING: Final = (GIVING, "/internal/")
"""These know whose request it is."""


class SessionCookie:
    """Pure ASGI. The id in the scope is what the *client sent*: the first request, which sends none, has no session."""

    def __init__(self, app: ASGIApp, *, name: str, ttl: float) -> None:
        self.app = app
        self._name = name
        self._ttl = ttl

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith(READING):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        known = self._read(headers)
        if known is not None:
            scope[SESSION] = known
        if not scope["path"].startswith(GIVING):
            await self.app(scope, receive, send)
            return
        secure = scope.get("scheme") == "https" or headers.get("x-forwarded-proto", "").startswith("https")
        # Sent with every answer: its lifetime counts from the last one.
        cookie = (
            f"{self._name}={known or sessions.new_id()}; Path=/; Max-Age={int(self._ttl)}; HttpOnly; SameSite=Lax"
            + ("; Secure" if secure else "")
        )

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("Set-Cookie", cookie)
            await send(message)

        await self.app(scope, receive, send_with_cookie)

    def _read(self, headers: Headers) -> str | None:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._name)
        except CookieError:
            return None
        return found.value if found is not None and sessions.is_id(found.value) else None

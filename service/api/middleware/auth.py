"""HTTP Basic on every route but the probes and the metrics, before anything else of the request is looked at."""

import base64
import binascii
import hashlib
import hmac
from typing import Final

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import response_to
from service.core.errors import NotAuthenticated

OPEN: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""The kubelet and Prometheus send no credentials. None of these answers tells a secret."""


class BasicAuth:
    """Pure ASGI. With ``users`` None every request passes, whatever credentials it carries."""

    def __init__(self, app: ASGIApp, *, users: SecretStr | None) -> None:
        self.app = app
        pairs = users.get_secret_value().split(",") if users else []
        self._users = [hashlib.sha256(pair.strip().encode()).digest() for pair in pairs]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and self._users and scope["path"] not in OPEN:
            problem = self._problem(Headers(scope=scope).get("authorization", ""))
            if problem is not None:
                await response_to(scope, NotAuthenticated(problem))(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _problem(self, header: str) -> str | None:
        """Why the credentials do not let the request in, in A1111's words; None if they do."""
        scheme, _, value = header.strip().partition(" ")
        if scheme.lower() != "basic":
            return "Not authenticated"
        try:
            given = base64.b64decode(value.strip(), validate=True)
        except (binascii.Error, ValueError):
            return "Invalid authentication credentials"
        if b":" not in given:
            return "Invalid authentication credentials"
        # All are compared, each in constant time: it tells neither which user matched nor how far.
        digest = hashlib.sha256(given).digest()
        matches = [hmac.compare_digest(digest, user) for user in self._users]
        return None if any(matches) else "Incorrect username or password"

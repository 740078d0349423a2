"""What may arrive as a body: how large, how slowly, and under which Content-Type."""

import asyncio
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import scope as scopes
from service.api.problems import note, response_to
from service.core.budget import Claim
from service.core.errors import BodyTooLarge, BodyTooSlow, MemoryFull, ServiceError, TooMuchMemory

_JSON: Final = "application/json"
_MESSAGE_PACK: Final = "application/msgpack"
"""What fronts send: see :mod:`service.backends.wire`."""
_FORM: Final = "multipart/form-data"


class BodyGuard:
    """Read the body before the application runs, within limits of size and time, and call it JSON.

    Every route that takes a body takes JSON, but for forms with files and the fronts' own; ``curl -d`` and clients
    that send no Content-Type mean JSON too. Reading first keeps a stalled upload out of the queue and lets the
    disconnect be watched from the start.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout: float) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        task = scopes.task_of(scope)
        claim = task.claim if task is not None else scope["app"].state.context.budget.claim()
        scope[scopes.CLAIM] = claim
        try:
            await self._serve(claim, scope, receive, send)
        finally:
            if task is None:
                claim.close()

    async def _serve(self, claim: Claim, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                body = await self._read(claim, scope, receive)
        except TimeoutError:
            slow = BodyTooSlow(
                f"The request's body did not arrive within {self._timeout:g} s (SD_BODY_TIMEOUT): send it faster."
            )
            await self._refuse(slow, scope, receive, send)
            return
        except (BodyTooLarge, TooMuchMemory, MemoryFull) as error:
            await self._refuse(error, scope, receive, send)
            return
        if body is None:  # the client went away
            return
        headers = MutableHeaders(scope=scope)
        if not headers.get("content-type", "").startswith((_JSON, _MESSAGE_PACK, _FORM)):
            headers["content-type"] = _JSON
        scope[scopes.BODY] = body
        del body
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": scope.pop(scopes.BODY, b""), "more_body": False}
            return await receive()

        await self.app(scope, replay, send)

    async def _read(self, claim: Claim, scope: Scope, receive: Receive) -> bytes | None:
        headers = MutableHeaders(scope=scope)
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise self._too_large()
        chunks = bytearray()
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                claim.take("bodies", len(message.get("body", b"")))
                chunks += message.get("body", b"")
                if len(chunks) > self._max_bytes:
                    raise self._too_large()
                if not message.get("more_body", False):
                    # Twice from here on: as pieces and whole, then whole and parsed (see json_route).
                    claim.take("bodies", len(chunks))
                    return bytes(chunks)
        finally:
            chunks.clear()  # an error that is still being answered keeps this frame

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"The request's body is larger than {self._max_bytes / 1e6:g} MB (SD_MAX_BODY_MB): "
            "send smaller or fewer images."
        )

    async def _refuse(self, error: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
        note(scope, error)
        # The rest of the body is thrown away as it comes (see service.connections): closing at once would reset the
        # connection under a client that still sends, and it would never read why.
        await response_to(scope, error)(scope, receive, send)

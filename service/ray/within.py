"""An ASGI application that is spoken to in its own process: no socket, no server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.types import ASGIApp, Message, Scope

Headers = list[tuple[str, str]]


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[None]:
    """The application between its start and its end. Raises ``RuntimeError`` if it does not start."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    life = asyncio.ensure_future(app(scope, inbox.get, outbox.put))
    try:
        await _said(inbox, outbox, "startup")
        yield
        await _said(inbox, outbox, "shutdown")
    finally:
        life.cancel()
        with suppress(asyncio.CancelledError):
            await life


async def _said(inbox: "asyncio.Queue[Message]", outbox: "asyncio.Queue[Message]", what: str) -> None:
    await inbox.put({"type": f"lifespan.{what}"})
    answer = await outbox.get()
    if answer["type"] != f"lifespan.{what}.complete":
        raise RuntimeError(f"{what} failed: {answer.get('message', '')}")


async def post(app: ASGIApp, path: str, body: bytes, client: str) -> AsyncIterator[Any]:
    """The answer to a POST of MessagePack: ``(status, headers)`` first, then the parts of its body.

    Whoever stops listening is a client that went away; this returns when the application has let go of the request.
    """
    gone = asyncio.Event()
    parts: asyncio.Queue[Message | None] = asyncio.Queue()
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"application/msgpack"),
            (b"content-length", str(len(body)).encode()),
        ],
        "client": (client, 0),
        "server": ("localhost", 80),
        "state": {},
    }
    serving = asyncio.ensure_future(app(scope, receive, parts.put))
    serving.add_done_callback(lambda _: parts.put_nowait(None))
    try:
        while (message := await parts.get()) is not None:
            if message["type"] == "http.response.start":
                headers = [
                    (name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]
                ]
                yield message["status"], headers
            elif chunk := message.get("body", b""):
                yield bytes(chunk)
        await serving
    finally:
        gone.set()
        while not serving.done():  # also while Serve cancels this call: the device must have been let go
            with suppress(asyncio.CancelledError, Exception):
                await asyncio.wait([serving])

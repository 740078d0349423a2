"""Servers on 127.0.0.1 that behave, and servers that don't."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from loadtest.cli import app

Behaviour = Callable[[socket.socket, bytes], None]
DATA = Path(__file__).parent / "data"


@pytest.fixture
def data() -> Path:
    """Folder of the test certificate."""
    return DATA


@pytest.fixture
def run_cli() -> Callable[..., Result]:
    """``python -m loadtest`` in this process; never raises what the command didn't mean to exit with."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False)

    return run


@pytest.fixture
def raw_server() -> Iterator[Callable[..., str]]:
    """``raw_server(behaviour)`` starts a server that calls it with each request's socket and bytes: its URL.

    A connection is closed when the behaviour returns ``False``-ly; it is kept and read again when the
    behaviour leaves it open and the client sends more.
    """
    with contextlib.ExitStack() as stack:

        def start(behaviour: Behaviour, *, tls: bool = False) -> str:
            port = stack.enter_context(_raw(behaviour, tls))
            return f"{'https' if tls else 'http'}://127.0.0.1:{port}/sdapi/v1/txt2img"

        yield start


@contextlib.contextmanager
def _raw(behaviour: Behaviour, tls: bool) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(DATA / "tls.pem", DATA / "tls.key")
    open_sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(plain: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection = context.wrap_socket(plain, server_side=True) if context else plain
            open_sockets.append(connection)
            with connection:
                while request := _read_request(connection):
                    behaviour(connection, request)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_sockets.append(connection)
                thread = threading.Thread(target=serve, args=(connection,), daemon=True)
                threads.append(thread)
                thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for one in open_sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        acceptor.join(10)
        for thread in threads:
            thread.join(10)
        for one in open_sockets:
            one.close()


def _read_request(connection: socket.socket) -> bytes:
    pending = b""
    while True:
        head, found, body = pending.partition(b"\r\n\r\n")
        if found:
            length = next(
                (int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n")
                 if line.startswith(b"content-length:")), 0,
            )  # fmt: skip
            if len(body) >= length:
                return pending
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        pending += chunk


@pytest.fixture
def answer() -> Callable[..., bytes]:
    """``answer(body, status=…, headers=…)``: the bytes of an HTTP response."""

    def make(body: bytes = b'{"images": ["x"]}', status: str = "200 OK", **headers: str) -> bytes:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    return make


@pytest.fixture
def serve_app() -> Iterator[Callable[[Any], str]]:
    """``serve_app(asgi_app)`` serves it with uvicorn in a thread: its base URL."""
    running: list[tuple[uvicorn.Server, threading.Thread, socket.socket]] = []

    def start(application: Any) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(application, log_level="error", lifespan="off", timeout_keep_alive=60)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        running.append((server, thread, listener))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread, listener in running:
        server.should_exit = True
        server.force_exit = True
        thread.join(20)
        listener.close()

"""Clients that begin and do not go on: many at once, on new connections and on used ones."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tests.attack.wire import Address, request

_GET = request("GET", "/internal/ping")
_POST = b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\n"
_MEGABYTE = b" " * 1_000_000


@dataclass(frozen=True, slots=True)
class Slow:
    """A kind of slow client. ``begin`` sends what it sends; ``drip`` is added every now and then."""

    name: str
    begin: Callable[[socket.socket], None]
    drip: bytes = b""
    clients: int = 40
    receive_buffer: int | None = None


def _used(then: bytes) -> Callable[[socket.socket], None]:
    def begin(connection: socket.socket) -> None:
        connection.sendall(_GET)
        found = b""
        while not found.endswith(b"{}"):
            found += connection.recv(4096)
        connection.sendall(then)

    return begin


def _sends(content: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(content)


def _uploads(size: int, sent: int) -> Callable[[socket.socket], None]:
    def begin(connection: socket.socket) -> None:
        connection.settimeout(5)
        with suppress(OSError):  # the service may have had enough
            connection.sendall(
                b"POST /sdapi/v1/img2img HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            )
            for _ in range(sent // len(_MEGABYTE)):
                connection.sendall(_MEGABYTE)

    return begin


_BODY = b'{"steps":1,"width":512,"height":512,"batch_size":4,"override_settings":{"samples_format":"png"}}'

KINDS = (
    Slow("silent", _sends(b""), clients=400),
    Slow("half a head", _sends(_GET[:30])),
    Slow("half a head on a used connection", _used(_GET[:30])),
    Slow("blank lines", _sends(b"\r\n"), b"\r\n"),
    Slow("blank lines on a used connection", _used(b"\r\n"), b"\r\n"),
    Slow("a header at a time", _sends(_GET[:-2]), b"X: y\r\n"),
    Slow(
        "a body on GET",
        _sends(b"GET /internal/ping HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n"),
        b"x",
    ),
    Slow("a body a byte at a time", _sends(_POST + b"Content-Length: 999999\r\n\r\n"), b" "),
    Slow("chunks a byte at a time", _sends(_POST + b"Transfer-Encoding: chunked\r\n\r\n"), b"1\r\n \r\n"),
    Slow("unfinished uploads", _uploads(60_000_000, 59_000_000)),
    Slow(
        "answers that nobody reads", _sends(request("POST", "/sdapi/v1/txt2img", _BODY)), receive_buffer=4096
    ),
)


def attack(address: Address, kind: Slow, seconds: float) -> int:
    """Keep the clients of one kind for ``seconds``; how many the service has closed by then."""
    connections = []
    for _ in range(kind.clients):
        connection = address.connect(10, kind.receive_buffer)
        connections.append(connection)
        with suppress(OSError):
            kind.begin(connection)
        connection.settimeout(10)
    until = time.monotonic() + seconds
    closed: set[int] = set()
    while time.monotonic() < until and len(closed) < len(connections):
        for number, connection in enumerate(connections):
            if number in closed:
                continue
            try:
                if kind.drip:
                    connection.sendall(kind.drip)
                if kind.receive_buffer is None:
                    connection.setblocking(False)
                    while connection.recv(65536):
                        pass
                    closed.add(number)
            except BlockingIOError:
                pass
            except OSError:
                closed.add(number)
            finally:
                with suppress(OSError):
                    connection.settimeout(10)
        time.sleep(0.1)
    for connection in connections:
        connection.close()
    return len(closed)

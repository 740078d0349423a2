"""Connections that are slow, silent, endless or many: each is closed in time, and the others do not notice."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from service.core.generation import GenerationRequest
from service.core.pixels import Pixels
from tests.fakes import FakeEngine
from tests.live import LiveServer, post_raw, serve

GET = b"GET /internal/ping HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = {"prompt": "a cat", "steps": 1, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def short() -> Iterator[LiveServer]:
    """A server with little patience."""
    values: dict[str, Any] = {
        "header_timeout": 0.4,
        "body_timeout": 0.4,
        "keep_alive": 1.0,
        "write_timeout": 0.4,
    }
    with serve(FakeEngine(), **values) as live:
        yield live


def closed_by(live: LiveServer, reason: str) -> float:
    text = httpx.get(f"{live.url}/metrics").text
    line = next(
        line
        for line in text.splitlines()
        if line.startswith(f'sd_connections_closed_total{{reason="{reason}"')
    )
    return float(line.split()[-1])


def opened(live: LiveServer, *, used: bool) -> socket.socket:
    """A connection; ``used``: one request was answered on it already."""
    connection = socket.create_connection(("127.0.0.1", live.port), timeout=20)
    if used:
        connection.sendall(GET)
        found = b""
        while not found.endswith(b"{}"):
            found += connection.recv(4000)
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    """What comes until the server closes; fails after 20 s."""
    found = b""
    while chunk := connection.recv(65536):
        found += chunk
    return found


@pytest.mark.parametrize("used", [False, True])
def test_half_a_head_is_not_waited_for(short: LiveServer, used: bool) -> None:
    before = closed_by(short, "slow_head")
    with opened(short, used=used) as connection:
        connection.sendall(GET[:20])
        assert read_to_the_end(connection) == b""
    assert closed_by(short, "slow_head") == before + 1


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("drop", [b"\r\n", b"X: y\r\n"])
def test_dribbling_keeps_no_connection(short: LiveServer, used: bool, drop: bytes) -> None:
    with opened(short, used=used) as connection:
        connection.settimeout(0.05)
        deadline = time.monotonic() + 20
        if drop != b"\r\n":
            connection.sendall(GET[:-2])
        while time.monotonic() < deadline:
            try:
                connection.sendall(drop)
                if connection.recv(100) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    raise AssertionError("still open")


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /internal/ping HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nxx",
        b"GET /internal/ping HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nxx",
    ],
)
def test_a_body_that_does_not_come_is_not_waited_for(short: LiveServer, used: bool, head: bytes) -> None:
    with opened(short, used=used) as connection:
        connection.sendall(head)
        assert read_to_the_end(connection).startswith(b"HTTP/1.1 ")


def test_a_body_after_a_refusal_is_not_waited_for() -> None:
    with (
        serve(FakeEngine(), api_auth="me:secret", body_timeout=0.4) as live,
        opened(live, used=False) as connection,
    ):
        connection.sendall(b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nxx")
        assert read_to_the_end(connection).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize(
    "endless",
    [
        b"GET /internal/ping HTTP/1.1\r\nX: " + b"a" * 300_000,
        b"GET /" + b"a" * 300_000,
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"e" * 300_000,
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 300_000,
    ],
)
def test_a_head_without_end_is_not_kept(short: LiveServer, used: bool, endless: bytes) -> None:
    before = closed_by(short, "large_head")
    # Who closes with data unread resets the connection: that is no failure.
    with opened(short, used=used) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(endless)
        read_to_the_end(connection)
    assert closed_by(short, "large_head") == before + 1


class NoisyEngine(FakeEngine):
    """Its pictures cannot be compressed."""

    def _image(self, request: GenerationRequest, index: int) -> Pixels:
        random = np.random.default_rng(index)
        return random.integers(0, 255, (request.height, request.width, 3), np.uint8)


def test_a_client_that_does_not_take_its_answer_is_given_up() -> None:
    with serve(NoisyEngine(), write_timeout=0.4) as live:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", live.port))
        body = b'{"steps": 1, "width": 1024, "height": 1024, "batch_size": 4}'
        try:
            connection.sendall(
                b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            live.wait_until(
                lambda: live.context.metrics.connections_closed.labels("slow_client")._value.get() == 1.0
            )
        finally:
            connection.close()
        with live.client() as client:
            assert client.get("/readyz").status_code == 200


def test_blank_lines_between_requests_are_harmless(short: LiveServer) -> None:
    with opened(short, used=True) as connection:
        connection.sendall(b"\r\n\r\n" + GET + b"\r\n" + GET + GET)
        found = b""
        while found.count(b"200 OK") < 3:
            found += connection.recv(4000)


def test_requests_sent_ahead_are_answered_in_order() -> None:
    gate = threading.Semaphore(0)
    with serve(FakeEngine(gate=gate), header_timeout=0.3, body_timeout=0.3) as live:
        connection = post_raw(live.port, {**BODY, "steps": 2})
        live.wait_until(lambda: live.context.backend.running)
        connection.sendall(GET)
        time.sleep(0.6)  # longer than any patience: an answer that is owed is not the client's fault
        gate.release(2)
        found = b""
        while found.count(b"200 OK") < 2:
            found += connection.recv(65536)
        connection.close()


def test_beyond_the_limit_the_longest_silent_connection_gives_way() -> None:
    with serve(FakeEngine(), max_connections=20) as live:
        silent = [opened(live, used=False) for _ in range(20)]
        with live.client() as client:
            assert client.get("/readyz").status_code == 200
            assert silent[0].recv(1) == b""
            silent[19].sendall(GET)
            assert b"200 OK" in silent[19].recv(4000)
        for connection in silent:
            connection.close()

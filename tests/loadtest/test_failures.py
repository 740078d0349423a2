"""Every way a request can go wrong: counted and named, never a traceback, never a hang past the timeout."""

import asyncio
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from typer.testing import Result

from loadtest.client import Client, parse_retry_after
from loadtest.exchange import Target
from loadtest.failures import name_failure
from loadtest.payloads import Payload
from loadtest.result import RunResult

Cli = Callable[..., Result]
Raw = Callable[..., str]
Answer = Callable[..., bytes]


def outcome(run_cli: Cli, tmp_path: Path, url: str, *more: str, expected: int = 3) -> RunResult:
    """Six requests, two at a time."""
    path = tmp_path / "result.json"
    result = run_cli("run", url, "-n", "6", "-c", "2", "-t", "20", "--quiet", "--no-calibrate",
                     "--json", str(path), *more)  # fmt: skip
    assert result.exit_code == expected, result.output
    assert "Traceback" not in result.output
    run = RunResult.read(path)
    assert run.requests == 6
    assert sum(failure.count for failure in run.failures) == run.failed
    for failure in run.failures:
        assert f"[{failure.count}]\t{failure.kind}" in result.stdout
    return run


def kinds(run: RunResult) -> dict[str, int]:
    return {failure.kind: failure.count for failure in run.failures}


def test_nobody_listens(run_cli: Cli, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        run = outcome(run_cli, tmp_path, f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert kinds(run) == {"connection refused": 6}
    assert run.succeeded == 0
    assert run.latency.count == 0


def test_the_name_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    async def once() -> tuple[str, str]:
        async with Client(Target("http://nowhere.example/", timeout=5)) as client:
            exchange = await client.send(0, Payload(b"{}"))
            return exchange.failure, exchange.message

    assert asyncio.run(once()) == ("name not resolved", "Name or service not known")


def test_tls_to_a_server_without_tls(run_cli: Cli, tmp_path: Path, raw_server: Raw, answer: Answer) -> None:
    # The bytes of a TLS hello never end like a request: this server waits for more.
    url = raw_server(lambda connection, _: connection.sendall(answer()))
    assert kinds(outcome(run_cli, tmp_path, url.replace("http://", "https://"), "-t", "1")) == {
        "timeout while connecting": 6
    }


def test_plain_bytes_where_tls_was_expected(run_cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            for _ in range(6):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        run = outcome(run_cli, tmp_path, f"https://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(10)
    assert kinds(run) == {"TLS error": 6}
    assert run.failures[0].example.lower() == "wrong version number"


def test_a_certificate_that_nobody_trusts(
    run_cli: Cli, tmp_path: Path, raw_server: Raw, answer: Answer, data: Path
) -> None:
    url = raw_server(lambda connection, _: connection.sendall(answer()), tls=True)
    run = outcome(run_cli, tmp_path, url)
    assert kinds(run) == {"TLS error": 6}
    assert "self" in run.failures[0].example
    assert outcome(run_cli, tmp_path, url, "--cacert", str(data / "tls.pem"), expected=0).succeeded == 6
    assert outcome(run_cli, tmp_path, url, "--insecure", expected=0).succeeded == 6
    bad = run_cli("run", url, "--cacert", str(data / "tls.key"), "--quiet")
    assert bad.exit_code == 2
    assert "--cacert" in bad.output


def test_a_server_that_never_answers(run_cli: Cli, tmp_path: Path, raw_server: Raw) -> None:
    url = raw_server(lambda connection, _: connection.recv(1) and None)
    begin = time.monotonic()
    run = outcome(run_cli, tmp_path, url, "-t", "1")
    assert kinds(run) == {"timeout waiting for an answer": 6}
    # Three rounds of one second each: the bound is generous, a hang would last for ever.
    assert time.monotonic() - begin < 60


def test_a_server_that_never_accepts(run_cli: Cli, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        try:
            for _ in range(8):  # fill the queue of connections that nobody accepts
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                fillers.append(filler)
            run = outcome(run_cli, tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}", "-t", "1")
        finally:
            for filler in fillers:
                filler.close()
    assert kinds(run) == {"timeout while connecting": 6}


def test_a_body_without_end(run_cli: Cli, tmp_path: Path, raw_server: Raw) -> None:
    def drip(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        for _step in range(200):
            connection.sendall(b"x")
            time.sleep(0.05)

    assert kinds(outcome(run_cli, tmp_path, raw_server(drip), "-t", "1")) == {"timeout in the body": 6}


def test_a_reset_in_the_middle_of_a_body(run_cli: Cli, tmp_path: Path, raw_server: Raw) -> None:
    def reset(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{"images": ["')
        time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    assert kinds(outcome(run_cli, tmp_path, raw_server(reset))) == {"connection reset in the body": 6}


def test_an_end_in_the_middle_of_a_body(run_cli: Cli, tmp_path: Path, raw_server: Raw) -> None:
    def cut(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{"images": ["')
        connection.shutdown(socket.SHUT_RDWR)

    assert kinds(outcome(run_cli, tmp_path, raw_server(cut))) == {"connection closed in the body": 6}


def test_an_end_before_the_answer(run_cli: Cli, tmp_path: Path, raw_server: Raw) -> None:
    url = raw_server(lambda connection, _: connection.shutdown(socket.SHUT_RDWR))
    assert kinds(outcome(run_cli, tmp_path, url)) == {"connection closed before an answer": 6}


def test_a_server_that_does_not_speak_http(run_cli: Cli, tmp_path: Path, raw_server: Raw) -> None:
    url = raw_server(lambda connection, _: connection.sendall(b"220 smtp ready\r\n\r\n"))
    assert kinds(outcome(run_cli, tmp_path, url)) == {"malformed HTTP": 6}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"images": ["abc"', "bad JSON"),
        (b"<html>hello</html>", "bad JSON"),
        (b"", "bad JSON"),
        (b"\xff\xfe", "bad JSON"),
        (b"[]", "no image"),
        (b'{"images": []}', "no image"),
        (b'{"detail": "x"}', "no image"),
    ],
)
def test_an_answer_that_is_no_image(
    run_cli: Cli, tmp_path: Path, raw_server: Raw, answer: Answer, body: bytes, kind: str
) -> None:
    url = raw_server(lambda connection, _: connection.sendall(answer(body)))
    assert kinds(outcome(run_cli, tmp_path, url)) == {kind: 6}
    assert outcome(run_cli, tmp_path, url, "--check", "none", expected=0).succeeded == 6


def test_statuses_are_failures_with_their_text(
    run_cli: Cli, tmp_path: Path, raw_server: Raw, answer: Answer
) -> None:
    answers = iter([
        answer(b'{"detail": "<b>too big</b>"}', "422 Unprocessable Content"),
        answer(b"", "307 Temporary Redirect", Location="http://127.0.0.1:1/"),
        *[answer()] * 4,
    ])  # fmt: skip
    url = raw_server(lambda connection, _: connection.sendall(next(answers)))
    run = outcome(run_cli, tmp_path, url, "-c", "1", expected=0)
    assert kinds(run) == {"HTTP 422": 1, "HTTP 307": 1}
    assert run.statuses == {200: 4, 307: 1, 422: 1}
    examples = {failure.kind: failure.example for failure in run.failures}
    assert "too big" in examples["HTTP 422"]
    assert "not followed" in examples["HTTP 307"]


def test_retry_after_is_honoured_on_request(
    run_cli: Cli, tmp_path: Path, raw_server: Raw, answer: Answer
) -> None:
    seen: list[bytes] = []

    def refuse_every_other(connection: socket.socket, request: bytes) -> None:
        seen.append(request)
        refused = answer(b'{"detail": "queue full"}', "503 Service Unavailable", Retry_After="0")
        connection.sendall(refused if len(seen) % 2 else answer())

    url = raw_server(refuse_every_other)
    run = outcome(run_cli, tmp_path, url, "-c", "1", "--honour-retry-after", expected=0)
    assert (run.succeeded, run.retries, len(seen)) == (6, 6, 12)
    assert run.statuses == {200: 6}
    seen.clear()
    run = outcome(run_cli, tmp_path, url, "-c", "1", expected=0)
    assert (run.succeeded, run.retries, len(seen)) == (3, 0, 6)
    assert kinds(run) == {"HTTP 503": 3}


def test_retry_after_ends_with_the_timeout(
    run_cli: Cli, tmp_path: Path, raw_server: Raw, answer: Answer
) -> None:
    refused = answer(b"later", "503 Service Unavailable", Retry_After="3600")
    begin = time.monotonic()
    run = outcome(
        run_cli,
        tmp_path,
        raw_server(lambda connection, _: connection.sendall(refused)),
        "--honour-retry-after",
        "-t",
        "1",
    )
    assert kinds(run) == {"HTTP 503": 6}
    assert run.retries == 0
    assert time.monotonic() - begin < 60


def test_notations_of_retry_after() -> None:
    assert parse_retry_after("7") == 7
    assert parse_retry_after(None) is None
    assert parse_retry_after("soon") is None
    later = parse_retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True))
    assert later is not None
    assert 90 < later <= 100
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_a_mixture_is_told_apart(run_cli: Cli, tmp_path: Path, raw_server: Raw, answer: Answer) -> None:
    count = iter(range(100))

    def mixed(connection: socket.socket, _: bytes) -> None:
        match next(count) % 3:
            case 0:
                connection.sendall(answer())
            case 1:
                connection.sendall(answer(b"{}"))
            case _:
                connection.sendall(answer(b"x", "500 Internal Server Error"))

    run = outcome(run_cli, tmp_path, raw_server(mixed), "-c", "1", expected=0)
    assert kinds(run) == {"no image": 2, "HTTP 500": 2}
    assert run.succeeded == 2
    assert json.loads((tmp_path / "result.json").read_bytes())["failures"][0]["count"] == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(24, "Too many open files"), "too many open files here"),
        (OSError(113, "No route to host"), "unreachable"),
        (ExceptionGroup("all", [ConnectionRefusedError(111, "Connection refused")]), "connection refused"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "TLS error"),
        (httpx.ProxyError("407"), "proxy error"),
        (httpx.LocalProtocolError("bad header"), "malformed HTTP"),
        (KeyError("x"), "client error KeyError"),
    ],
)
def test_causes_are_found_at_any_depth(error: BaseException, kind: str) -> None:
    outer = httpx.ConnectError("All connection attempts failed") if isinstance(error, OSError) else error
    if outer is not error:
        outer.__cause__ = OSError("All connection attempts failed")
        outer.__cause__.__cause__ = error
    assert name_failure(outer, "connecting")[0] == kind

"""What upstreams do wrong is the front's affair: it tries again, or says in a sentence why it cannot."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from service.backends import upstream
from service.backends.frames import frame
from service.backends.wire import MEDIA_TYPE, Told, pack
from service.core.errors import OutOfMemory
from tests.fakes import FakeEngine
from tests.front import kills
from tests.front.conftest import fleet
from tests.front.test_front import BODY, colour
from tests.live import LiveServer, serve_here

OK = f"HTTP/1.1 200 OK\r\nContent-Type: {MEDIA_TYPE}\r\nConnection: close\r\n\r\n".encode()


@contextmanager
def answering(respond: Callable[[int], bytes | None]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers request number n with ``respond(n)`` and closes; None: it says nothing for a while."""
    requests: list[bytes] = []
    loop = asyncio.new_event_loop()
    started = threading.Event()
    port = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [
                int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
            ]
            requests.append(head + await reader.readexactly(length[0]))
            answer = respond(len(requests))
            if answer is None:
                writer.write(OK + frame(pack(Told("waiting"))))
                await writer.drain()
                await asyncio.sleep(5)
            else:
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def run() -> None:
        nonlocal port
        asyncio.set_event_loop(loop)
        listening = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
        port = listening.sockets[0].getsockname()[1]
        started.set()
        loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        listening.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{port}", requests
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def front(address: str, **settings: Any) -> Iterator[LiveServer]:
    values = {"upstream_tries": 3, "request_timeout": 20.0, **settings}
    with serve_here(None, upstream={"default": address}, **values) as live:
        yield live


def draw(live: LiveServer) -> httpx.Response:
    with live.client() as client:
        return client.post("/sdapi/v1/txt2img", json=BODY)


def plain(status: str, text: str) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
    )


GARBAGE = {
    "not a frame": OK + b"\xff\xff\xff\xff" + b"hello",
    "no MessagePack": OK + frame(b"{}"),
    "an event that nobody knows": OK + frame(pack(Told("dance"))),
    "a result that is none": OK + frame(pack(Told("result", result=b"\x01"))),
    "a picture that lies about its size": OK
    + frame(
        pack(
            Told(
                "result",
                result=pack(
                    [{"images": [{"shape": [64, 64, 3], "data": b"few"}], "request": {"prompt": ""}}]
                ),
            )
        )
    ),
    "a stream that ends": OK + frame(pack(Told("waiting"))),
    "nothing": b"",
    "a page": plain("200 OK", "<html>"),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_tried_again_and_then_said(what: str) -> None:
    with answering(lambda number: GARBAGE[what]) as (address, requests), front(address) as live:
        answer = draw(live)
        assert answer.status_code == 502
        assert answer.headers["X-Error-Code"] == "upstream"
        assert answer.json()["detail"]
        assert len(requests) == (1 if what == "a page" else 3)
        assert live.call(lambda: live.context.backend.running) is False


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"])
def test_what_proxies_say_is_tried_again(status: str) -> None:
    with (
        answering(lambda number: plain(status, "upstream connect error")) as (address, requests),
        front(address) as live,
    ):
        answer = draw(live)
        assert answer.status_code == 502
        assert status[:3] in answer.json()["detail"]
        assert len(requests) == 3
        with live.client() as client:
            counted = client.get("/metrics").text
        assert f'sd_upstream_retries_total{{cause="{status[:3]}",upstream="default"}} 3.0' in counted


def test_an_upstream_of_another_version_is_named() -> None:
    detail = (
        '{"detail": "The job is of version 2 of the contract, this service speaks 3: run the same release."}'
    )
    refusal = (
        f"HTTP/1.1 422 Unprocessable\r\nX-Error-Code: bad_request\r\nContent-Length: {len(detail)}\r\n\r\n{detail}"
    ).encode()
    with answering(lambda number: refusal) as (address, requests), front(address) as live:
        answer = draw(live)
        assert answer.status_code == 422
        assert "run the same release" in answer.json()["detail"]
        assert len(requests) == 1


def test_an_older_upstream_is_named() -> None:
    with answering(lambda number: plain("404 Not Found", "no")) as (address, _), front(address) as live:
        assert "older release" in draw(live).json()["detail"]


def test_one_that_stalls_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "SILENCE", 0.2)
    with answering(lambda number: None) as (address, requests), front(address) as live:
        answer = draw(live)
        assert answer.status_code == 502
        assert "said nothing" in answer.json()["detail"]
        assert len(requests) == 3


def test_an_event_that_is_too_large_is_not_read() -> None:
    huge = OK + (300 * 1024**2).to_bytes(4, "big") + b"x" * 1000
    with answering(lambda number: huge) as (address, _), front(address) as live:
        assert "at most" in draw(live).json()["detail"]


def test_the_deadline_holds_while_an_upstream_says_nothing() -> None:
    with answering(lambda number: None) as (address, _), front(address, request_timeout=0.5) as live:
        assert draw(live).status_code == 504
        live.wait_idle()


def test_a_pod_that_cannot_be_reached_at_first_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with fleet([FakeEngine()]) as made, made.front.client() as client:
        ports, made.pods[:] = list(made.pods), []
        threading.Timer(0.5, lambda: made.pods.extend(ports)).start()
        assert colour(client.post("/sdapi/v1/txt2img", json=BODY)) == (5, 0, 0)


def test_a_pod_that_drains_hands_the_job_to_another() -> None:
    with fleet([FakeEngine(), FakeEngine()]) as made, made.front.client() as client:
        made.pods[0].call(made.pods[0].context.lifecycle.drain)
        for seed in range(4):
            assert colour(client.post("/sdapi/v1/txt2img", json={**BODY, "seed": seed})) == (seed, 0, 0)


def test_an_error_of_the_job_is_not_tried_again() -> None:
    engine = FakeEngine(fail_with=lambda request: OutOfMemory("too big"))
    with fleet([engine]) as made, made.front.client() as client:
        answer = client.post("/sdapi/v1/txt2img", json=BODY)
        assert (answer.status_code, answer.json()["detail"]) == (507, "too big")
        assert len(made.proxy.requests) == 1


def test_pods_that_are_killed_cost_time_and_no_picture() -> None:
    account = kills.run(6)
    assert (account.kills, account.failed, account.wrong_picture) == (6, 0, 0), account
    assert account.right > 6

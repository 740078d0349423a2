"""The door: whatever happens to a request for work, it is counted once, as what the client saw."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from service.core.errors import ModelLoadError
from tests.api.conftest import SMALL, picture
from tests.fakes import FakeEngine
from tests.live import LiveServer, post_raw, serve_here

TXT2IMG = "/sdapi/v1/txt2img"


def counted(live: LiveServer) -> Counter[str]:
    """Requests so far, by kind and outcome."""
    with live.client() as client:
        lines = client.get("/metrics").text.splitlines()
    found: Counter[str] = Counter()
    for line in lines:
        if line.startswith("sd_requests_total{"):
            labels, value = line.removeprefix("sd_requests_total{").split("} ")
            parts = dict(part.split("=") for part in labels.replace('"', "").split(","))
            found[f"{parts['endpoint']} {parts['outcome']}"] += int(float(value))
    return +found


@contextmanager
def counting(live: LiveServer, **expected: int) -> Iterator[None]:
    """What happens within is counted as ``expected`` ("txt2img_ok": 1), and as nothing else."""
    before = counted(live)
    yield
    live.wait_until(lambda: len(live.context.tasks) == 0)
    wanted = {name.replace("_", " ", 1): number for name, number in expected.items()}
    assert dict(counted(live) - before) == wanted


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with serve_here(FakeEngine(), queue_size=1, max_body_mb=1.0, body_timeout=1.0) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (TXT2IMG, {"steps": "many"}, "txt2img"),
        (TXT2IMG, {**SMALL, "steps": 0}, "txt2img"),
        (TXT2IMG, {**SMALL, "sampler_name": "nothing"}, "txt2img"),
        (TXT2IMG, {**SMALL, "script_name": "nothing"}, "txt2img"),
        (TXT2IMG, {**SMALL, "override_settings": {"sd_model_checkpoint": "nothing"}}, "txt2img"),
        ("/sdapi/v1/img2img", {**SMALL, "init_images": ["nothing"]}, "img2img"),
        ("/sdapi/v1/img2img", SMALL, "img2img"),
        ("/sdapi/v1/extra-single-image", {"image": picture(), "upscaler_1": "nothing"}, "extras"),
        ("/sdapi/v1/interrogate", {"image": picture(), "model": "deepbooru"}, "interrogate"),
        ("/v1/generate", {**SMALL, "width": 63}, "generate"),
        ("/v1/upscale", {"images": []}, "extras"),
        ("/v1/images/generations", {"prompt": ""}, "generate"),
        ("/v1/jobs", {}, "job"),
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_what_is_refused_is_counted_once(
    live: LiveServer, path: str, body: dict[str, Any], kind: str, accept: str
) -> None:
    with counting(live, **{f"{kind}_bad_request": 1}), live.client() as client:
        answer = client.post(path, json=body, headers={"Accept": accept})
        assert answer.status_code in (400, 404, 422), answer.text


def test_a_body_that_is_too_large_or_too_slow_or_never_whole(live: LiveServer) -> None:
    with counting(live, txt2img_bad_request=2), live.client() as client:
        assert client.post(TXT2IMG, content=b"x" * 1_100_000).status_code == 413
        head = f"POST {TXT2IMG} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode()
        with socket.create_connection(("127.0.0.1", live.port), timeout=20) as slow:
            slow.sendall(head)
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
    with counting(live, txt2img_cancelled=1):
        leaving = socket.create_connection(("127.0.0.1", live.port))
        leaving.sendall(head)
        live.wait_until(lambda: len(live.context.tasks) == 1)
        leaving.close()


def test_an_id_that_is_under_way_is_refused_before_the_stream() -> None:
    gate = threading.Semaphore(0)
    with serve_here(FakeEngine(gate=gate)) as live, counting(live, txt2img_ok=1, generate_bad_request=1):
        first = post_raw(live.port, {**SMALL, "force_task_id": "mine"})
        live.wait_until(lambda: live.context.backend.running)
        with live.client() as client:
            streamed = client.post(
                "/v1/generate",
                json={**SMALL, "force_task_id": "mine"},
                headers={"Accept": "text/event-stream"},
            )
        assert streamed.status_code == 422
        assert "force_task_id" in streamed.json()["detail"]
        gate.release(10)
        assert first.recv(100).startswith(b"HTTP/1.1 200")
        first.close()


def test_a_full_queue_and_a_drain_are_counted() -> None:
    gate = threading.Semaphore(0)
    with (
        serve_here(FakeEngine(gate=gate), queue_size=0) as live,
        counting(live, txt2img_ok=1, generate_queue_full=1, txt2img_queue_full=1, txt2img_draining=1),
        live.client() as client,
    ):
        first = post_raw(live.port, SMALL)
        live.wait_until(lambda: live.context.backend.running)
        streamed = client.post("/v1/generate", json=SMALL, headers={"Accept": "text/event-stream"})
        assert streamed.status_code == 503
        assert client.post(TXT2IMG, json=SMALL).headers["X-Error-Code"] == "queue_full"
        live.call(live.context.lifecycle.drain)
        assert client.post(TXT2IMG, json=SMALL).headers["X-Error-Code"] == "draining"
        gate.release(10)
        assert first.recv(100).startswith(b"HTTP/1.1 200")
        first.close()


def test_a_model_that_is_not_there_yet_is_counted() -> None:
    loading = threading.Event()
    with serve_here(FakeEngine(load_gate=loading), wait_ready=False) as live:
        with counting(live, txt2img_not_ready=1), live.client() as client:
            answer = client.post(TXT2IMG, json=SMALL)
            assert (answer.status_code, answer.headers["X-Error-Code"]) == (503, "not_ready")
        loading.set()


def test_the_deadline_holds_while_pictures_are_read(live: LiveServer) -> None:
    """All lanes for reading are taken, so a picture of a client waits for one until its time is over."""
    busy = threading.Event()
    with (
        serve_here(FakeEngine(), request_timeout=0.3) as slow,
        counting(slow, img2img_deadline=1),
        slow.client() as client,
    ):
        for _ in range(4):
            slow.context.lanes._reading.submit(busy.wait, 20)
        answer = client.post("/sdapi/v1/img2img", json={**SMALL, "init_images": [picture()]})
        assert answer.status_code == 504
        busy.set()


def test_a_client_that_leaves_while_its_picture_is_read_frees_the_door() -> None:
    busy = threading.Event()
    with serve_here(FakeEngine()) as live, counting(live, img2img_cancelled=1):
        for _ in range(4):
            live.context.lanes._reading.submit(busy.wait, 20)
        with live.client() as client, pytest.raises(httpx.ReadTimeout):
            client.post("/sdapi/v1/img2img", json={**SMALL, "init_images": [picture()]}, timeout=0.3)
        live.wait_until(lambda: len(live.context.tasks) == 0)
        busy.set()


def test_options_count_only_where_they_were_work(live: LiveServer) -> None:
    with counting(live), live.client() as client:
        assert client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 99}).status_code == 422
        assert client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 1}).status_code == 200
        assert client.post("/sdapi/v1/png-info", json={"image": picture()}).status_code == 200
    with counting(live, other_ok=1), live.client() as client:
        assert client.post("/sdapi/v1/refresh-checkpoints").status_code == 200


def test_a_load_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.backends.local.RETRY_DELAYS", (0.05,))
    engine = FakeEngine(load_error=ModelLoadError("The volume is not there."))
    with serve_here(engine, wait_ready=False) as live, live.client() as client:
        live.wait_until(lambda: "volume" in live.context.backend.readiness().reason)
        assert client.get("/readyz").status_code == 503
        engine.load_error = None
        live.wait_until(lambda: live.context.lifecycle.accepts_work)
        assert client.post(TXT2IMG, json=SMALL).status_code == 200


def test_a_device_that_hangs_does_not_hold_the_drain_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.context.LAST_CHANCE", 0.1)
    stuck = threading.Event()

    class Hanging(FakeEngine):
        def generate(self, *arguments: Any) -> Any:
            stuck.wait(60)
            return super().generate(*arguments)

    with serve_here(Hanging()) as live:
        waiting = post_raw(live.port, SMALL)
        live.wait_until(lambda: live.context.backend.running)
        asyncio.run_coroutine_threadsafe(live.context.drain(0.1), live.loop).result(20)
        assert live.call(lambda: live.context.backend.running), "it hangs still"
        stuck.set()
        waiting.close()


def test_the_checkpoint_in_use_is_exported_after_each_picture(live: LiveServer) -> None:
    def used() -> str:
        with live.client() as client:
            lines = client.get("/metrics").text.splitlines()
        return next(line for line in lines if line.startswith("sd_model_info{"))

    with live.client() as client:
        client.post(TXT2IMG, json={**SMALL, "override_settings": {"sd_model_checkpoint": "other"}})
        assert 'model="dir_other"' in used()
        client.post(TXT2IMG, json={**SMALL, "override_settings": {"sd_model_checkpoint": "fake"}})
        assert 'model="fake"' in used()

"""The server in front of impatient clients: queue, deadline, disconnects, drain, slow and silent connections."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from service.core.errors import DeviceLost, ModelLoadError, OutOfMemory
from service.core.generation import GenerationRequest
from service.core.tasks import Phase
from tests.fakes import FakeEngine
from tests.live import LiveServer, post_raw, serve

BODY = {"prompt": "a cat", "steps": 3, "width": 64, "height": 64}


@pytest.fixture
def gated() -> Iterator[tuple[LiveServer, FakeEngine, threading.Semaphore]]:
    """A server whose engine does one step for each release of the gate."""
    gate = threading.Semaphore(0)
    engine = FakeEngine(gate=gate)
    with serve(engine, queue_size=2) as live:
        yield live, engine, gate


def test_a_client_that_goes_away_frees_the_device_at_the_next_step(
    gated: tuple[LiveServer, FakeEngine, threading.Semaphore],
) -> None:
    live, engine, gate = gated
    connection = post_raw(live.port, {**BODY, "steps": 100})
    live.wait_until(lambda: live.context.backend.running)
    gate.release(3)
    live.wait_until(lambda: any(task.progress and task.progress.step == 3 for task in live.context.tasks))
    connection.close()
    live.wait_until(
        lambda: (
            any(task.token.cause == "disconnect" for task in live.context.tasks)
            or not len(live.context.tasks)
        )
    )
    gate.release(100)
    live.wait_idle()
    assert engine.steps_done[0] <= 3 + 2, "running work stops within two steps"
    metrics = httpx.get(f"{live.url}/metrics").text
    assert 'sd_cancellations_total{cause="disconnect"} 1.0' in metrics
    assert 'sd_requests_total{endpoint="txt2img",outcome="cancelled"} 1.0' in metrics
    with live.client() as client:
        assert client.post("/sdapi/v1/txt2img", json={**BODY, "seed": 5}).status_code == 200


def test_a_queued_client_that_goes_away_is_dropped_at_once(
    gated: tuple[LiveServer, FakeEngine, threading.Semaphore],
) -> None:
    live, engine, gate = gated
    first = post_raw(live.port, {**BODY, "seed": 1})
    live.wait_until(lambda: live.context.backend.running)
    second = post_raw(live.port, {**BODY, "seed": 2})
    live.wait_until(lambda: live.context.backend.waiting == 1)
    second.close()
    live.wait_until(lambda: live.context.backend.waiting == 0)
    gate.release(3)
    assert b"200 OK" in first.recv(100)
    first.close()
    live.wait_idle()
    assert [request.seed for request in engine.served] == [1]


def admitted(live: LiveServer) -> int:
    """How many requests have been read and stand in line, or run."""
    return sum(task.phase is not Phase.ARRIVED for task in live.context.tasks)


def test_beyond_the_queue_it_answers_503_with_retry_after(
    gated: tuple[LiveServer, FakeEngine, threading.Semaphore],
) -> None:
    live, engine, gate = gated
    connections = []
    for number in range(3):
        connections.append(post_raw(live.port, {**BODY, "seed": number}))
        live.wait_until(lambda: admitted(live) == len(connections))
    with live.client() as client:
        answer = client.post("/sdapi/v1/txt2img", json=BODY)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["X-Error-Code"] == "queue_full"
        assert set(answer.json()) == {"error", "detail", "body", "errors"}
        streamed = client.post("/v1/generate", json=BODY, headers={"Accept": "text/event-stream"})
        assert streamed.status_code == 503, "refused before the stream begins"
        gate.release(9)
        for connection in connections:
            assert b"200 OK" in connection.recv(100)
            connection.close()
        live.wait_idle()
    assert [request.seed for request in engine.served] == [0, 1, 2]
    assert engine.most_on_device == 1


def test_the_deadline_counts_from_arrival_and_frees_the_device() -> None:
    engine = FakeEngine(gate=threading.Semaphore(0))
    with serve(engine, request_timeout=0.4) as live, live.client() as client:
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(client.post, "/sdapi/v1/txt2img", json=BODY) for _ in range(2)]
            for answer in answers:  # the second one never reached the device
                assert answer.result().status_code == 504
                assert "SD_REQUEST_TIMEOUT" in answer.result().json()["detail"]
        live.wait_idle()
        assert 'outcome="deadline"} 2.0' in client.get("/metrics").text
        assert client.get("/readyz").status_code == 200


def test_probes_while_the_model_loads_and_after() -> None:
    may_load = threading.Event()
    with serve(FakeEngine(load_gate=may_load), wait_ready=False) as live, live.client() as client:
        live.wait_until(lambda: live.context.lifecycle.state.value == "loading")
        assert client.get("/livez").status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["state"] == "loading"
        refused = client.post("/sdapi/v1/txt2img", json=BODY)
        assert refused.status_code == 503
        assert refused.headers["X-Error-Code"] == "not_ready"
        assert "Retry-After" in refused.headers
        may_load.set()
        live.wait_until(lambda: live.context.lifecycle.accepts_work)
        assert client.get("/readyz").json()["state"] == "ready"
        first = client.post("/sdapi/v1/txt2img", json=BODY)
        assert first.headers["X-Cold-Start"] == "1"
        assert "X-Cold-Start" not in client.post("/sdapi/v1/txt2img", json=BODY).headers


def test_a_failed_load_stays_up_and_says_why() -> None:
    engine = FakeEngine(load_error=ModelLoadError("The file is truncated: fetch it again."))
    with serve(engine, wait_ready=False) as live, live.client() as client:
        live.wait_until(lambda: live.context.lifecycle.state.value == "failed")
        assert client.get("/livez").status_code == 200
        for path in ("/livez", "/readyz"):
            assert client.get(path).json() == {
                "state": "failed",
                "reason": "The file is truncated: fetch it again.",
            }
        assert client.get("/readyz").status_code == 503
        answer = client.post("/sdapi/v1/txt2img", json=BODY)
        assert answer.status_code == 503
        assert "truncated" in answer.json()["detail"]


def test_out_of_memory_is_507_and_the_next_request_works() -> None:
    def fail(request: GenerationRequest) -> Exception | None:
        return OutOfMemory("1024×1024 needs 7.1 GiB, there are 5.5.") if request.width > 512 else None

    with serve(FakeEngine(fail_with=fail)) as live, live.client() as client:
        answer = client.post("/sdapi/v1/txt2img", json={**BODY, "width": 1024})
        assert answer.status_code == 507
        assert "7.1 GiB" in answer.json()["detail"]
        assert client.post("/sdapi/v1/txt2img", json=BODY).status_code == 200
        assert client.get("/livez").status_code == 200
        assert 'sd_errors_total{code="out_of_memory"} 1.0' in client.get("/metrics").text


def test_a_poisoned_gpu_fails_liveness() -> None:
    engine = FakeEngine(fail_with=lambda _: DeviceLost("an illegal memory access"))
    with serve(engine) as live, live.client() as client:
        assert client.post("/sdapi/v1/txt2img", json=BODY).status_code == 503
        assert client.get("/livez").status_code == 503
        assert client.get("/readyz").status_code == 503


def test_an_unforeseen_failure_is_a_500_that_leaks_nothing_and_poisons_nothing() -> None:
    def fail(request: GenerationRequest) -> Exception | None:
        return RuntimeError("secret /path") if request.seed == 1 else None

    with serve(FakeEngine(fail_with=fail), log_level="ERROR") as live, live.client() as client:
        answer = client.post("/sdapi/v1/txt2img", json={**BODY, "seed": 1})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert client.post("/sdapi/v1/txt2img", json={**BODY, "seed": 2}).status_code == 200


def test_draining_finishes_what_runs_and_waits_and_refuses_the_rest(
    gated: tuple[LiveServer, FakeEngine, threading.Semaphore],
) -> None:
    live, _, gate = gated
    running, queued = post_raw(live.port, {**BODY, "seed": 1}), post_raw(live.port, {**BODY, "seed": 2})
    live.wait_until(lambda: live.context.backend.waiting == 1)
    live.call(live.context.lifecycle.drain)
    with live.client() as client:
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
        late = client.post("/sdapi/v1/txt2img", json=BODY)
        assert late.status_code == 503
        assert late.headers["X-Error-Code"] == "draining"
        assert "Retry-After" in late.headers
    gate.release(6)
    for connection in (running, queued):
        assert b"200 OK" in connection.recv(100)
        connection.close()


# --- slow, silent and oversized ------------------------------------------------------------------------


def test_a_thousand_silent_connections_and_a_stalled_upload_leave_the_server_prompt() -> None:
    with serve(FakeEngine(), header_timeout=0.5, body_timeout=0.5) as live:
        silent = [socket.create_connection(("127.0.0.1", live.port), timeout=20) for _ in range(400)]
        stalled = socket.create_connection(("127.0.0.1", live.port), timeout=20)
        stalled.sendall(
            b'POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"pro\r\n'
        )
        with live.client() as client:
            assert client.get("/readyz").status_code == 200
            assert client.post("/sdapi/v1/txt2img", json=BODY).status_code == 200
        answer = stalled.recv(4000)
        assert b" 408 " in answer.split(b"\r\n")[0]
        assert b"SD_BODY_TIMEOUT" in answer + stalled.recv(4000)
        for connection in silent:  # closed by the server, not by us
            assert connection.recv(1) == b""
            connection.close()
        stalled.close()


def test_oversized_bodies_are_refused_declared_or_not() -> None:
    with serve(FakeEngine(), max_body_mb=0.01) as live, live.client() as client:
        large = b'{"prompt": "' + b"x" * 20_000 + b'"}'
        declared = client.post("/sdapi/v1/txt2img", content=large)
        assert declared.status_code == 413
        assert "SD_MAX_BODY_MB" in declared.json()["detail"]
        chunked = client.post("/sdapi/v1/txt2img", content=iter([large]))
        assert chunked.status_code == 413


@pytest.mark.parametrize(
    "content",
    [
        b"", b"nonsense", b"[]", b'"text"', b'{"steps": NaN}', b'{"cfg_scale": Infinity}', b'{"steps": "many"}',
        b'{"width": 1e400}', b"[" * 100_000, b'{"a":' * 50_000, b'{"prompt": {"a": 1}}', b"\xff\xfe", b'{"seed": 1e30}',
        b'{"width": 500000000000000000000000}', b'{"batch_size": -1}', b'{"steps": 0}', b'{"width": 10}',
        b'{"seed": -5}', b'{"n_iter": 33}', b'{"height": 4096}', b'{"steps": 151}', b'{"cfg_scale": -1}',
        b'{"prompt": "%s"}' % (b"x" * 30_000),
    ],
)  # fmt: skip
def test_bad_bodies_get_a_4xx_before_the_device_is_touched(content: bytes) -> None:
    server, engine = _shared_server()
    with server.client() as client:
        answer = client.post("/sdapi/v1/txt2img", content=content)
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.json()["detail"]
    assert not engine.served


_shared: list[Any] = []


def _shared_server() -> tuple[LiveServer, FakeEngine]:
    if not _shared:
        engine = FakeEngine()
        context = serve(engine)
        _shared.extend([context, context.__enter__(), engine])
    return _shared[1], _shared[2]


@pytest.fixture(scope="module", autouse=True)
def _close_shared() -> Iterator[None]:
    yield
    if _shared:
        _shared[0].__exit__(None, None, None)
        _shared.clear()


@pytest.mark.parametrize(
    "content_type", [None, "application/x-www-form-urlencoded", "text/plain", "application/json"]
)
def test_json_is_taken_under_any_content_type(content_type: str | None) -> None:
    with serve(FakeEngine()) as live, live.client() as client:
        headers = {"Content-Type": content_type} if content_type else {}
        answer = client.post("/sdapi/v1/txt2img", content=json.dumps(BODY).encode(), headers=headers)
        assert answer.status_code == 200


# --- streaming ----------------------------------------------------------------------------------------


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The (name, data) pairs of a stream."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_the_stream_is_queued_started_progress_result() -> None:
    with serve(FakeEngine()) as live, live.client() as client:
        answer = client.post(
            "/v1/generate",
            json={**BODY, "seed": 7, "preview_every": 2, "force_task_id": "t1"},
            headers={"Accept": "text/event-stream"},
        )
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = events_of(answer.text)
        names = [name for name, _ in events]
        assert names == ["queued", "started", "progress", "progress", "progress", "result"]
        assert {data["task_id"] for _, data in events} == {"t1"}
        progress = [data for name, data in events if name == "progress"]
        assert [data["step"] for data in progress] == [1, 2, 3]
        assert [bool(data["preview"]) for data in progress] == [False, True, False]
        assert progress[1]["preview"].startswith("data:image/")
        assert progress[-1]["progress"] == 1.0
        result = events[-1][1]
        plain = client.post("/v1/generate", json={**BODY, "seed": 7}).json()
        assert result["images"] == plain["images"]
        assert result["seeds"] == plain["seeds"] == [7]
        assert set(result) == set(plain)


def test_a_stream_that_fails_ends_with_one_error_event() -> None:
    def fail(_: GenerationRequest) -> Exception:
        return OutOfMemory("too large")

    with serve(FakeEngine(fail_with=fail)) as live, live.client() as client:
        answer = client.post("/v1/generate", json=BODY, headers={"Accept": "text/event-stream"})
        assert answer.status_code == 200
        name, data = events_of(answer.text)[-1]
        assert name == "error"
        assert (data["status"], data["code"], data["blame"]) == (507, "out_of_memory", "model")
        assert 'outcome="out_of_memory"} 1.0' in client.get("/metrics").text


def test_a_stream_sends_heartbeats_while_it_waits(
    gated: tuple[LiveServer, FakeEngine, threading.Semaphore], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, _, gate = gated
    monkeypatch.setattr("service.api.native.events.HEARTBEAT", 0.05)
    first = post_raw(live.port, BODY)
    live.wait_until(lambda: live.context.backend.running)
    with (
        live.client() as client,
        client.stream("POST", "/v1/generate", json=BODY, headers={"Accept": "text/event-stream"}) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == "event: queued"
        assert json.loads(next(lines).removeprefix("data: "))["position"] == 1
        assert next(line for line in lines if line.startswith(":")) == ": waiting"
        gate.release(6)
        assert any(line == "event: result" for line in lines)
    first.close()


def test_closing_the_stream_cancels(gated: tuple[LiveServer, FakeEngine, threading.Semaphore]) -> None:
    live, engine, gate = gated
    with live.client() as client:
        with client.stream(
            "POST", "/v1/generate", json={**BODY, "steps": 50}, headers={"Accept": "text/event-stream"}
        ):
            live.wait_until(lambda: live.context.backend.running)
            gate.release(1)
        live.wait_until(lambda: not len(live.context.tasks))
        gate.release(60)
        live.wait_idle()
    assert engine.steps_done[0] <= 3


@pytest.mark.parametrize("path", ["/v1/generate", "/sdapi/v1/txt2img"])
def test_the_log_of_a_client_that_went_away_says_so(
    path: str, gated: tuple[LiveServer, FakeEngine, threading.Semaphore]
) -> None:
    live, _, gate = gated
    with capture_logs() as lines:
        connection = post_raw(live.port, {**BODY, "steps": 50}, path, "text/event-stream")
        live.wait_until(lambda: live.context.backend.running)
        gate.release(1)
        connection.close()
        live.wait_until(lambda: not len(live.context.tasks))
        gate.release(60)
        live.wait_idle()
    (line,) = [line for line in lines if line.get("path") == path]
    assert line["outcome"] == "cancelled"
    assert line["reason"] == "The client went away."


# --- what every answer carries ------------------------------------------------------------------------


def test_headers_of_every_answer() -> None:
    with serve(FakeEngine()) as live, live.client() as client:
        trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
        answer = client.get("/livez", headers={"X-Request-Id": "my-id", "traceparent": trace})
        assert answer.headers["X-Request-Id"] == "my-id"
        assert answer.headers["X-Served-By"] == "test-pod"
        assert float(answer.headers["X-Process-Time"]) >= 0
        odd = client.get("/livez", headers={"X-Request-Id": "a b\tc" * 99})
        assert odd.headers["X-Request-Id"] != "a b\tc" * 99
        assert client.get("/nowhere").json() == {"detail": "Not Found"}


def test_random_traffic_does_not_grow_the_metrics() -> None:
    with serve(FakeEngine()) as live, live.client() as client:
        client.post("/sdapi/v1/txt2img", json=BODY)
        client.get("/nowhere")
        before = len(client.get("/metrics").text.splitlines())
        for number in range(50):
            client.request(f"M{number}", f"/path/{number}")
            client.post(
                "/sdapi/v1/txt2img",
                json={**BODY, "prompt": f"prompt {number}", "force_task_id": f"t{number}"},
            )
        after = len(client.get("/metrics").text.splitlines())
        assert after - before <= 4  # new (method, code) pairs from the fixed sets


def test_prompts_are_logged_only_when_asked(capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    from service import logs
    from service.settings import Settings

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        for wanted in (False, True):
            logs.configure(Settings.read(log_format="json"))
            with serve(FakeEngine(), log_prompts=wanted) as live, live.client() as client:
                client.post("/sdapi/v1/txt2img", json={**BODY, "prompt": "a private wish"})
            lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
            access = [line for line in lines if line.get("path") == "/sdapi/v1/txt2img"]
            assert len(access) == 1, "one line a request"
            assert access[0]["outcome"] == "ok"
            assert access[0]["request_id"]
            assert ("private wish" in json.dumps(lines)) is wanted
    finally:
        root.handlers[:], root.level = handlers, level
        time.sleep(0)

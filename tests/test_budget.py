"""Memory for what clients send and get: counted by kind, refused beyond the budget, given back at the end."""

import json
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import main_memory
from service.core.budget import Budget
from service.core.errors import MemoryFull, TooMuchMemory
from tests.api.conftest import SMALL, picture
from tests.fakes import FakeEngine
from tests.live import LiveServer, post_raw, serve


def held(live: LiveServer) -> dict[str, int]:
    found: dict[str, int] = live.call(
        lambda: {kind: live.context.budget.held(kind) for kind in ("bodies", "pixels", "answers")}
    )
    return found


def test_claims_share_one_total_and_give_it_back() -> None:
    refused: list[str] = []
    budget = Budget(100, refused.append)
    with budget.claim() as first:
        first.take("bodies", 60)
        with budget.claim() as second, pytest.raises(MemoryFull):
            second.take("pixels", 50)
        first.give_back("bodies", 1000)
        assert budget.held("bodies") == 0
        first.take("answers", 100)
        with pytest.raises(TooMuchMemory):  # waiting is no cure
            first.take("answers", 1)
    assert [budget.held(kind) for kind in ("bodies", "pixels", "answers")] == [0, 0, 0]
    assert refused == ["pixels", "answers"]
    first.take("bodies", 50)  # a thread that comes too late
    assert budget.held("bodies") == 0


def test_claims_of_many_threads_add_up() -> None:
    budget = Budget(1 << 40)

    def work() -> None:
        for _ in range(300):
            with budget.claim() as claim:
                claim.take("pixels", 7)
                claim.take("bodies", 3)
                claim.give_back("pixels", 5)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [budget.held(kind) for kind in ("bodies", "pixels", "answers")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1073741824\n"}, 1 << 30),
        ("0::/a/b\n", {"a/memory.max": "536870912", "a/b/memory.max": "max"}, 1 << 29),
        ("0::/a\n", {"a/memory.max": "1073741824", "a/memory.high": "805306368"}, 805306368),
        ("4:memory:/pods/x\n", {"memory/pods/x/memory.limit_in_bytes": "268435456\n"}, 1 << 28),
        ("4:memory:/pods/x\n", {"memory/memory.limit_in_bytes": "268435456\n"}, 1 << 28),
        ("0::/\n", {}, None),
        ("0::/\n", {"memory.max": "garbage"}, None),
    ],
)
def test_the_limit_is_that_of_the_control_group(
    membership: str, files: dict[str, str], expected: int | None, tmp_path: Path
) -> None:
    shown = {f"sys/fs/cgroup/{name}": text for name, text in files.items()} | {"proc/self/cgroup": membership}
    for name, text in shown.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert main_memory.limit(tmp_path) == (expected or main_memory.machine())


def test_the_budget_follows_the_limit() -> None:
    assert main_memory.for_requests(4 << 30, 2 << 30) == 1 << 30
    assert main_memory.for_requests(1 << 30, 1 << 30) == main_memory.LEAST
    assert main_memory.for_requests(1 << 40, 0) == main_memory.MOST


def test_unfinished_uploads_take_no_more_than_the_budget() -> None:
    with serve(FakeEngine(), memory_budget_mb=3) as live:
        head = b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n"
        connections = [socket.create_connection(("127.0.0.1", live.port), timeout=30) for _ in range(6)]
        for connection in connections:
            connection.sendall(head + b" " * 1_000_000)
        answers = []
        live.wait_until(lambda: live.context.metrics.budget_refused.labels("bodies")._value.get() >= 3)
        assert sum(held(live).values()) <= 3_000_000
        for connection in connections:
            connection.sendall(b" " * 1_000_000)
            answers.append(connection.recv(4000).split(b"\r\n")[0])
            connection.close()
        assert any(b" 503 " in answer for answer in answers)
        live.wait_until(lambda: not any(live.context.budget.held(kind) for kind in ("bodies", "pixels")))
        with live.client() as client:
            assert client.post("/sdapi/v1/txt2img", json=SMALL).status_code == 200
            text = client.get("/metrics").text
        assert 'sd_requests_total{endpoint="txt2img",outcome="memory_full"}' in text
        assert "sd_budget_limit_bytes 3e+06" in text


def test_pictures_of_a_request_are_counted_together_before_one_is_decoded() -> None:
    large = picture(1000, 1000)
    with serve(FakeEngine(), max_request_pixels=3_000_000) as live, live.client() as client:
        body = {**SMALL, "init_images": [large] * 4}
        refused = client.post("/sdapi/v1/img2img", json=body)
        assert refused.status_code == 400
        assert "SD_MAX_REQUEST_PIXELS" in refused.json()["detail"]
        assert "init_images[3]" in refused.json()["detail"]
        masked = client.post("/sdapi/v1/img2img", json={**SMALL, "init_images": [large] * 3, "mask": large})
        assert masked.status_code == 400
        assert "mask" in masked.json()["detail"]
        batch = {"upscaler_1": "None", "imageList": [{"data": large, "name": "x"}] * 4}
        assert client.post("/sdapi/v1/extra-batch-images", json=batch).status_code == 400
        made = {"upscaler_1": "Nearest", "upscaling_resize": 1.9, "image": large}
        assert "SD_MAX_REQUEST_PIXELS" in client.post("/sdapi/v1/extra-single-image", json=made).text
        assert client.post("/sdapi/v1/img2img", json={**body, "init_images": [large] * 3}).status_code == 200
        assert held(live) == {"bodies": 0, "pixels": 0, "answers": 0}


def test_pixels_and_answers_beyond_the_budget_are_refused_before_there_are_any() -> None:
    engine = FakeEngine()
    with serve(engine, memory_budget_mb=10) as live, live.client() as client:
        pixels = client.post("/sdapi/v1/img2img", json={**SMALL, "init_images": [picture(1000, 1000)]})
        assert pixels.status_code == 413
        assert "pixels" in pixels.json()["detail"]
        answer = client.post(
            "/sdapi/v1/txt2img", json={**SMALL, "width": 1024, "height": 1024, "batch_size": 2}
        )
        assert answer.status_code == 413
        assert "answers" in answer.json()["detail"]
        assert not engine.served
        assert client.post("/sdapi/v1/txt2img", json=SMALL).status_code == 200


class NoisyEngine(FakeEngine):
    """Its pictures cannot be compressed."""

    def _image(self, request: Any, index: int) -> Any:
        return np.random.default_rng(index).integers(0, 255, (request.height, request.width, 3), np.uint8)


def test_an_answer_counts_until_its_client_has_it() -> None:
    with serve(NoisyEngine(), write_timeout=60) as live:
        body = {**SMALL, "steps": 1, "width": 1024, "height": 1024, "batch_size": 4}
        connection = post_raw(live.port, body)
        live.wait_until(lambda: any(one.phase.value == "encoding" for one in live.context.tasks))
        assert held(live)["answers"] > 10_000_000
        found = connection.recv(65536)
        assert held(live)["answers"] > 10_000_000
        length = int(found.split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(found) < length:
            found += connection.recv(1 << 20)
        live.wait_until(lambda: not live.context.budget.held("answers"))
        connection.close()
        with live.client() as client:
            assert 'outcome="ok"} 1.0' in client.get("/metrics").text


def test_an_answer_that_its_client_did_not_take_is_no_success() -> None:
    with serve(NoisyEngine()) as live:
        connection = post_raw(
            live.port, {**SMALL, "steps": 1, "width": 1024, "height": 1024, "batch_size": 4}
        )
        live.wait_until(lambda: any(one.phase.value == "encoding" for one in live.context.tasks))
        connection.recv(1000)
        connection.close()
        live.wait_until(lambda: not len(live.context.tasks))
        with live.client() as client:
            text = client.get("/metrics").text
        assert 'sd_requests_total{endpoint="txt2img",outcome="cancelled"} 1.0' in text
        assert 'sd_cancellations_total{cause="disconnect"} 1.0' in text


@pytest.mark.parametrize(
    "body",
    [
        {"comments": {str(number): number for number in range(100_000)}},
        {"script_args": [0] * 400_000},
        {"styles": ["x"] * 200_000},
        {"prompt": '"' * 600_000},
        {"alwayson_scripts": {"x" * 100: {"args": ["y"] * 200_000}}},
        b" " * 600_000,
        b'{"width": ' + b"9" * 600_000 + b"}",
        b'{"prompt": ' + b" " * 600_000 + b'"x"}',
    ],
)
def test_much_json_beside_pictures_is_refused(body: dict[str, Any] | bytes) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with serve(FakeEngine()) as live, live.client() as client:
        answer = client.post("/sdapi/v1/txt2img", content=content)
        assert answer.status_code == 413
        assert "SD_MAX_JSON_KB" in answer.json()["detail"]
        assert held(live)["bodies"] == 0


@pytest.mark.parametrize("field", ["prompt", "infotext", "sampler_name", "hr_prompt", "script_name"])
def test_long_texts_are_refused_by_their_field(field: str) -> None:
    with serve(FakeEngine()) as live, live.client() as client:
        answer = client.post("/sdapi/v1/txt2img", json={field: "#x " * 1_000_000})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", field]


def test_pictures_of_many_megabytes_are_no_json() -> None:
    with serve(FakeEngine()) as live, live.client() as client:
        noise = np.random.default_rng(1).integers(0, 255, (1500, 1500, 3), np.uint8)
        from service.imaging.formats import encode, encode_base64

        body = {**SMALL, "init_images": [encode_base64(encode(noise, "png"))]}
        assert client.post("/sdapi/v1/img2img", json=body).status_code == 200

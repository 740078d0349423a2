"""The service around a GPU: probes while it draws, clients that leave, memory that runs out, a context that is lost."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.gpu.conftest import DEVICE, STANDS_IN
from tests.live import LiveServer, post_raw, serve_here

ROOT = Path(__file__).parents[2]
LONG = {"prompt": "pretty dog", "seed": 1, "steps": 100, "width": 256, "height": 256}
SHORT = {**LONG, "steps": 4}


@pytest.fixture(scope="module")
def server() -> object:
    with serve_here(device=DEVICE.type, warmup_steps=1, warmup_size=64) as live:
        yield live


def ask(server: LiveServer, body: dict[str, object]) -> httpx.Response:
    with server.client() as client:
        return client.post("/sdapi/v1/txt2img", json=body, timeout=300)


def test_readyz_answers_while_a_picture_is_made(server: LiveServer) -> None:
    drawing = threading.Thread(target=ask, args=(server, LONG))
    with server.client() as client:
        drawing.start()
        server.wait_until(lambda: server.context.backend.running)
        answers = [client.get("/readyz").status_code for _ in range(20)]
        server.context.backend.running  # noqa: B018 - it is still drawing, or was a moment ago
        drawing.join()
    assert set(answers) == {200}


def test_a_client_that_leaves_frees_the_device_at_the_next_step(server: LiveServer) -> None:
    expected = ask(server, SHORT).json()["images"]
    connection = post_raw(server.port, {**LONG, "steps": 150})
    server.wait_until(lambda: server.context.backend.running)
    connection.close()
    began = time.monotonic()
    server.wait_idle()
    assert time.monotonic() - began < 60, "all 150 steps were made"
    assert ask(server, SHORT).json()["images"] == expected


@pytest.mark.cuda
def test_out_of_memory_is_507_and_the_next_picture_is_right() -> None:
    import torch

    with serve_here(device="cuda", warmup_steps=1, warmup_size=64, max_side=8192, max_pixels=2**26) as server:
        before = ask(server, SHORT).json()["images"]
        free, _ = torch.cuda.mem_get_info()
        taken = torch.empty(max(0, free - 600 * 2**20), dtype=torch.uint8, device="cuda")
        answer = ask(server, {**SHORT, "steps": 1, "width": 4096, "height": 4096})
        assert answer.status_code == 507, answer.text[:500]
        assert answer.headers["X-Error-Code"]
        del taken
        torch.cuda.empty_cache()
        assert ask(server, SHORT).json()["images"] == before


_POISON = """
import json, sys, threading, time
import httpx, torch
from tests.live import serve_here

with serve_here(device="cuda", warmup_steps=1, warmup_size=64) as server:
    body = {"prompt": "x", "steps": 2, "width": 64, "height": 64}
    with server.client() as client:
        before = client.get("/livez").status_code
        # An assertion on the device spoils the context for the whole process.
        index = torch.tensor([10**6], device="cuda")
        try:
            torch.zeros(4, device="cuda")[index].sum().item()
        except RuntimeError:
            pass
        answer = client.post("/sdapi/v1/txt2img", json=body, timeout=120).status_code
        print(json.dumps([before, answer, client.get("/livez").status_code, client.get("/readyz").status_code]))
        sys.stdout.flush()
import os
os._exit(0)
"""


@pytest.mark.cuda
def test_a_lost_context_fails_liveness() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _POISON], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert lines, done.stderr[-2000:]
    before, answer, live, ready = json.loads(lines[-1])
    assert before == 200
    assert answer >= 500
    assert (live, ready) == (503, 503)


def test_the_bench_runs_here(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    device = ["--device", "cpu"] if STANDS_IN else []
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", *device, "--tiny", "--rounds", "1", "--only", "pictures,loading,cancel",
         "--output", out],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed == json.loads(out.read_text())
    assert printed["pictures"]["64x1_seconds"] > 0
    assert printed["about"]["torch"]

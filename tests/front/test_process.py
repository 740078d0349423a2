"""A front as a process: what it does not load, and how it ends."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.fakes import FakeEngine
from tests.front.test_front import BODY, colour, in_background
from tests.live import free_port, serve_here


@contextmanager
def front(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    command = [sys.executable, "-m", "service", "front", "--port", str(port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline
            try:
                if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        yield process, url
    finally:
        process.kill()
        process.wait(10)


def test_it_loads_no_torch_and_little_memory_even_after_work() -> None:
    with serve_here(FakeEngine()) as pod, front("--upstream", pod.url) as (process, url):
        assert colour(httpx.post(f"{url}/sdapi/v1/txt2img", json=BODY, trust_env=False)) == (5, 0, 0)
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert not [
            name for name in ("torch", "scipy", "tokenizers", "redis", "ray/") if f"/{name}" in mapped
        ]
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert resident < 200_000, "KB"


def test_what_it_imports_is_neither_torch_nor_a_client_of_something_it_was_not_told() -> None:
    code = (
        "import sys; from service.app import create_app; from service.settings import Settings;"
        "create_app(Settings.read(upstream='http://127.0.0.1:9'));"
        "print([n for n in ('torch','diffusers','transformers','redis','ray','gradio','wandb') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_sigterm_lets_open_streams_finish() -> None:
    gate = threading.Semaphore(0)
    with serve_here(FakeEngine(gate=gate)) as pod, front("--upstream", pod.url) as (process, url):
        plain, answers = in_background(
            lambda: httpx.post(f"{url}/sdapi/v1/txt2img", json=BODY, timeout=60, trust_env=False)
        )
        pod.wait_until(lambda: pod.context.backend.running)
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        while httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
            assert time.monotonic() < deadline
        refused = httpx.post(f"{url}/sdapi/v1/txt2img", json=BODY, trust_env=False)
        assert refused.headers["X-Error-Code"] == "draining"
        gate.release(50)
        plain.join(30)
        assert colour(answers[0]) == (5, 0, 0)
        assert process.wait(30) == 0


def test_a_front_without_upstreams_says_what_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "front"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/bin"},
    )
    assert done.returncode == 2
    assert "--upstream" in done.stderr

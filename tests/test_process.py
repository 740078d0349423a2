"""The real process with the shipped model: started, probed, signalled and killed as a platform would."""

import base64
import io
import json
import os
import signal
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

from tests.live import free_port

ROOT = Path(__file__).parents[1]
BODY = {"prompt": "pretty dog", "seed": 11, "steps": 4, "width": 128, "height": 128}


@contextmanager
def process(**environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``python -m service serve`` on a free port; killed at the end if it still runs."""
    port = free_port()
    env = {
        **os.environ, "SD_LOG_FORMAT": "json", "SD_WARMUP_STEPS": "1", "SD_WARMUP_SIZE": "64", "HF_HUB_OFFLINE": "1",
        **environment,
    }  # fmt: skip
    started = subprocess.Popen(
        [sys.executable, "-m", "service", "serve", "--port", str(port)],
        cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    # Read the log as it comes: a full pipe would stop the server.
    lines: list[str] = []
    assert started.stderr is not None
    reader = threading.Thread(target=lambda: lines.extend(started.stderr or ()), daemon=True)
    reader.start()
    try:
        yield started, f"http://127.0.0.1:{port}"
    finally:
        if started.poll() is None:
            started.kill()
        started.wait(20)
        reader.join(5)
        started.stderr.close()


def wait_for(url: str, path: str, accept: Any = lambda answer: answer.status_code == 200) -> httpx.Response:
    """The first answer that ``accept`` takes, within two minutes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(url + path, timeout=10)
            if accept(answer):
                return answer
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"{path} did not get there")


def picture(answer: httpx.Response) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0])))


def test_sigterm_in_the_middle_of_an_image_answers_it_whole_and_exits_0() -> None:
    with process() as (running, url):
        wait_for(url, "/readyz")
        answers: list[httpx.Response] = []
        body = {**BODY, "steps": 40}
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/sdapi/v1/txt2img", json=body, timeout=120))
        )
        asking.start()
        wait_for(url, "/readyz", lambda answer: answer.json()["state"] == "busy")
        running.send_signal(signal.SIGTERM)
        late = wait_for(url, "/readyz", lambda answer: answer.status_code == 503)
        assert late.json()["state"] == "draining"
        asking.join(120)
        assert answers[0].status_code == 200
        assert picture(answers[0]).size == (128, 128)
        assert running.wait(60) == 0


def test_a_second_sigterm_cancels_and_exits_0() -> None:
    with process() as (running, url):
        wait_for(url, "/readyz")
        answers: list[httpx.Response] = []
        body = {**BODY, "steps": 150, "width": 512, "height": 512, "n_iter": 8}
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/sdapi/v1/txt2img", json=body, timeout=120))
        )
        asking.start()
        wait_for(url, "/readyz", lambda answer: answer.json()["state"] == "busy")
        running.send_signal(signal.SIGTERM)
        wait_for(url, "/readyz", lambda answer: answer.json()["state"] == "draining")
        running.send_signal(signal.SIGTERM)
        asking.join(120)
        assert answers[0].status_code == 499
        assert running.wait(60) == 0


def _wait_for_handler(pid: int) -> None:
    """Return when the process has a handler for SIGTERM (bit 14 of the mask that /proc tells)."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)
    raise AssertionError("no handler")


@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0, 2.0, 4.0])
def test_sigterm_at_any_moment_of_a_start_ends_it_with_0(delay: float) -> None:
    with process() as (running, _):
        _wait_for_handler(running.pid)
        time.sleep(delay)
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root here")
def test_as_pid_1_sigterm_is_not_lost() -> None:
    """Of PID 1 the kernel keeps every signal that it has no handler for: there must be one before the imports."""
    command = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        sys.executable,
        "-m",
        "service",
        "serve",
        "--port",
    ]
    outside = subprocess.Popen([*command, str(free_port())], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
        while not children.read_text():
            assert outside.poll() is None
            time.sleep(0.001)
        inside = int(children.read_text())
        _wait_for_handler(inside)
        os.kill(inside, signal.SIGTERM)
        assert outside.wait(20) == 0
    finally:
        if outside.poll() is None:
            outside.kill()


STUCK = """
import sys, time
from service import server
from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeEngine

class Stuck(FakeEngine):
    def load(self, on_news):
        if sys.argv[2] == "load":
            time.sleep(600)
        super().load(on_news)

    def generate(self, request, token, sink):
        time.sleep(600)

settings = Settings.read(port=int(sys.argv[1]))
server.run(create_app(settings, Stuck), settings)
"""


@pytest.mark.parametrize("where", ["load", "generate"])
def test_a_second_sigterm_ends_it_whatever_the_engine_does(where: str) -> None:
    port = free_port()
    running = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(port), where], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{url}/sdapi/v1/txt2img", json=BODY, timeout=120))
    )
    try:
        if where == "load":
            wait_for(url, "/livez", lambda answer: answer.json()["state"] == "loading")
            running.send_signal(signal.SIGTERM)  # nothing to finish: the first one is enough
        else:
            wait_for(url, "/readyz")
            asking.start()
            wait_for(url, "/readyz", lambda answer: answer.json()["state"] == "busy")
            running.send_signal(signal.SIGTERM)
            wait_for(url, "/readyz", lambda answer: answer.json()["state"] == "draining")
            running.send_signal(signal.SIGTERM)
            asking.join(20)
            assert answers[0].status_code == 499
        assert running.wait(20) == 0
    finally:
        if running.poll() is None:
            running.kill()


def test_draining_lets_a_slow_client_have_its_answer() -> None:
    with process(SD_DRAIN_TIMEOUT="60") as (running, url):
        wait_for(url, "/readyz")
        port = int(url.rsplit(":", 1)[1])
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60)
            connection.connect(("127.0.0.1", port))
            body = json.dumps({**BODY, "steps": 1, "batch_size": 4, "width": 512, "height": 512}).encode()
            head = b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(head % len(body) + body)
            found = connection.recv(1000)
            running.send_signal(signal.SIGTERM)
            time.sleep(3)
            while chunk := connection.recv(65536):
                found += chunk
        answer = json.loads(found.partition(b"\r\n\r\n")[2])
        assert len(answer["images"]) >= 4
        assert running.wait(60) == 0


def test_a_taken_port_ends_with_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [sys.executable, "-m", "service", "serve", "--port", str(taken.getsockname()[1])],
            cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert "Cannot listen on 127.0.0.1" in done.stderr
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_when_idle_exits_0_and_kill_9_leaves_nothing_behind() -> None:
    with process() as (running, url):
        wait_for(url, "/readyz")
        first = httpx.post(f"{url}/sdapi/v1/txt2img", json=BODY, timeout=120)
        running.kill()
        running.wait(20)
    with process() as (running, url):
        wait_for(url, "/readyz")
        second = httpx.post(f"{url}/sdapi/v1/txt2img", json=BODY, timeout=120)
        assert first.json()["images"] == second.json()["images"], "the same seed in another process"
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: folder / "missing.safetensors", "no such file"),
        (lambda folder: _written(folder / "model.ckpt", b"\x80\x04pickle"), "pickle"),
        (
            lambda folder: _written(folder / "cut.safetensors", (1000).to_bytes(8, "little") + b'{"a"'),
            "fetch it again",
        ),
        (lambda folder: folder, "model_index.json"),
    ],
)
def test_a_checkpoint_that_cannot_be_served_is_told_on_every_probe(
    make: Any, expected: str, tmp_path: Path
) -> None:
    with process(SD_MODEL=str(make(tmp_path))) as (running, url):
        ready = wait_for(url, "/readyz", lambda answer: answer.json()["state"] == "failed")
        assert ready.status_code == 503
        assert expected in ready.json()["reason"]
        assert httpx.get(f"{url}/livez").status_code == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_generate_writes_the_picture_without_http(tmp_path: Path) -> None:
    target = tmp_path / "dog.png"
    done = subprocess.run(
        [sys.executable, "-m", "service", "generate", "pretty dog", "-o", str(target), "--steps", "2",
         "--width", "128", "--height", "64", "--seed", "3"],
        cwd=ROOT, env={**os.environ, "SD_WARMUP_STEPS": "1", "SD_WARMUP_SIZE": "64"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(target) as image:
        assert image.size == (128, 64)
        assert "Seed: 3" in image.info["parameters"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["generate", "x", "--steps", "999"], "steps"), (["generate", "x", "-o", "a.bmp"], "png")],
)
def test_bad_arguments_get_a_sentence(arguments: list[str], expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SD_PORT", "tcp://10.0.0.1:80", "enableServiceLinks"),
        ("SD_QUEUE_SIZE", "many", "SD_QUEUE_SIZE"),
        ("SD_QUEUESIZE", "3", "SD_QUEUESIZE"),
        ("SD_API_AUTH", "nobody", "user:password"),
    ],
)
def test_bad_settings_get_a_sentence(variable: str, value: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "serve"], cwd=ROOT, env={**os.environ, variable: value},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_settings_are_quick_to_import() -> None:
    code = "import sys, service.cli; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import json; {code}"], cwd=ROOT, capture_output=True, text=True
    )
    modules = set(json.loads(done.stdout))
    assert not modules & {"torch", "diffusers", "transformers", "fastapi", "uvicorn"}


def test_the_application_itself_imports_no_torch() -> None:
    code = "import sys, service.app; print('torch' in sys.modules, 'diffusers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]

"""The real process with the shipped model: started, probed, signalled and killed as a platform would."""

import base64
import io
import json
import os
import signal
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

"""A stand to look at the dashboards on: the service, a Prometheus that scrapes it, and a short load.

All of it is real and on 127.0.0.1: ``python -m service serve`` as anybody starts it, Debian's ``prometheus``.
"""

import asyncio
import os
import shutil
import socket
import subprocess  # starts the programs that this module is about
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

HERE: Final = Path(__file__).parent
START_LIMIT: Final = 180.0
"""Seconds within which a program must answer."""


class StandError(RuntimeError):
    """A program is missing, ended, or does not answer; the message says which and shows its last words."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def find_prometheus() -> str:
    """The path of ``prometheus``; raises :class:`StandError` with the way to get it."""
    found = shutil.which("prometheus")
    if found is None:
        raise StandError(
            "There is no `prometheus` here. On Debian: apt-get install --no-install-recommends prometheus"
        )
    return found


@contextmanager
def service(folder: Path, port: int = 0, **settings: str | float) -> Iterator[str]:
    """The service with the shipped model and ``settings``, ready; yields its base URL, then stops it.

    It listens on ``port`` of 127.0.0.1, or on a free one.
    """
    port = port or free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SD_")}
    environment |= {f"SD_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "service", "serve", "--port", str(port)]
    with _running(command, folder / "service.log", f"http://127.0.0.1:{port}/readyz", environment):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def front(folder: Path, upstream: str) -> Iterator[str]:
    """A front before the service at ``upstream``, ready; yields its base URL, then stops it."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SD_")}
    command = [sys.executable, "-m", "service", "front", "--upstream", upstream, "--port", str(port)]
    with _running(command, folder / "front.log", f"http://127.0.0.1:{port}/readyz", environment):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def prometheus(config: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """A Prometheus with ``config``, ready; yields its base URL and stops it at the end."""
    port = free_port()
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    command = [
        find_prometheus(),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with _running(command, folder / "prometheus.log", f"http://127.0.0.1:{port}/-/ready", dict(os.environ)):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: list[str], log: Path, ready: str, environment: dict[str, str]) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)  # noqa: S603
    try:
        _wait(process, command, log, ready)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], command: list[str], log: Path, ready: str) -> None:
    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit:
        if process.poll() is not None:
            break
        try:
            answer = httpx.get(ready, timeout=2)
            if answer.status_code == 200:
                return
            if '"failed"' in answer.text:  # the service says that its model will not load: no use to wait
                break
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    words = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise StandError(f"`{' '.join(command)}` does not answer {ready}. Its last words:\n{words}")


def local_config(target: str, scrape_seconds: int) -> dict[str, Any]:
    """``local.yml`` with another target (host:port) and interval, its rule files found from anywhere."""
    config: dict[str, Any] = yaml.safe_load((HERE / "local.yml").read_text(encoding="utf-8"))
    config["global"] = {
        "scrape_interval": f"{scrape_seconds}s",
        "scrape_timeout": f"{scrape_seconds}s",
        "evaluation_interval": f"{scrape_seconds}s",
    }
    config["rule_files"] = [str(HERE / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    return config


async def load(url: str, seconds: float, *, side: int = 256, steps: int = 4) -> None:
    """Ask ``url`` for images for about ``seconds``, as a mixed crowd does.

    Two clients draw one image after the other (so that one waits), a third polls and now and then asks for
    what does not exist, interrupts, or goes away.
    """
    end = time.monotonic() + seconds
    limits = httpx.Timeout(300)
    async with httpx.AsyncClient(base_url=url, timeout=limits) as client:
        await asyncio.gather(
            draw(client, end, "pretty dog", side, steps),
            draw(client, end, "red rocket", side, steps + 2),
            _disturb(client, end, side),
        )


async def draw(client: httpx.AsyncClient, end: float, prompt: str, side: int, steps: int) -> None:
    """Ask for one image after the other until ``end`` (of ``time.monotonic``), at least once."""
    seed = 0
    while seed == 0 or time.monotonic() < end:
        seed += 1
        size = side if seed % 3 else side // 2
        body = {"prompt": prompt, "seed": seed, "steps": steps, "width": size, "height": size}
        await client.post("/sdapi/v1/txt2img", json=body)
        await asyncio.sleep(0.2)


async def _disturb(client: httpx.AsyncClient, end: float, side: int) -> None:
    turn = 0
    while turn < 4 or time.monotonic() < end:
        turn += 1
        await client.get("/sdapi/v1/progress")
        body = {"prompt": "blue bird", "steps": 60, "width": side, "height": side}
        if turn % 4 == 1:
            await client.post("/sdapi/v1/txt2img", json={**body, "sampler_name": "no such sampler"})
        elif turn % 4 == 2:
            with suppress(httpx.TimeoutException):  # goes away: the service cancels what it was making
                await client.post("/sdapi/v1/txt2img", json=body, timeout=2)
        elif turn % 4 == 3:
            drawing = asyncio.create_task(client.post("/sdapi/v1/txt2img", json=body))
            await asyncio.sleep(2)
            await client.post("/sdapi/v1/interrupt")
            await drawing
        else:
            await asyncio.sleep(2)

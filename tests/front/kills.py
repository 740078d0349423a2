"""Pods that are killed at random moments under load: what did the clients see?

``python -m tests.front.kills --kills 100`` runs it long and prints one line of JSON; a test runs it short.
"""

import argparse
import asyncio
import base64
import io
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from PIL import Image

from tests.front.queue_proxy import QueueProxy
from tests.live import free_port, serve_here

SIDE = 64


@dataclass
class Account:
    """What came of it: every answer is one of these."""

    kills: int = 0
    right: int = 0
    wrong_picture: int = 0
    failed: int = 0
    retries: float = 0.0
    """As the front's own metric counts them."""


class Pods:
    """Processes that come back when they were killed."""

    def __init__(self, count: int, step_time: float) -> None:
        self._step_time = step_time
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        port = free_port()
        command = [sys.executable, "-m", "tests.front.pod", str(port), str(self._step_time)]
        self._running[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ready(self) -> list[int]:
        """Ports of those that answer."""
        found = []
        for port in self._running:
            try:
                if (
                    httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=1, trust_env=False).status_code
                    == 200
                ):
                    found.append(port)
            except httpx.TransportError:
                continue
        return found

    def ports(self) -> list[int]:
        """Where pods listen, or will soon."""
        return list(self._running)

    def kill_one(self) -> None:
        """``kill -9``, and another one in its place."""
        port = random.choice(list(self._running))
        victim = self._running.pop(port)
        victim.send_signal(signal.SIGKILL)
        victim.wait(10)
        self._start()

    def end(self) -> None:
        """Stop all."""
        for process in self._running.values():
            process.kill()
            process.wait(10)


def run(kills: int, pods: int = 2, clients: int = 4, steps: int = 8, step_time: float = 0.02) -> Account:
    """Clients ask without a pause while ``kills`` pods die, one after the other."""
    account = Account()
    made = Pods(pods, step_time)
    try:
        while len(made.ready()) < pods:
            time.sleep(0.05)
        known_ready = {"ports": made.ready()}
        with (
            QueueProxy(lambda: known_ready["ports"]) as proxy,
            serve_here(
                None,
                upstream={"default": proxy.url},
                upstream_concurrency=pods,
                queue_size=100,
                upstream_tries=50,
            ) as front,
        ):

            async def everything() -> None:
                stop = asyncio.Event()
                asking = [
                    asyncio.create_task(_ask(front.url, number, steps, account, stop))
                    for number in range(clients)
                ]
                for _ in range(kills):
                    await asyncio.sleep(random.uniform(0.05, 0.6))
                    await asyncio.to_thread(made.kill_one)
                    account.kills += 1
                    # As an activator does: it knows who is ready, and learns late of who died.
                    known_ready["ports"] = await asyncio.to_thread(made.ready)
                    while not known_ready["ports"]:
                        known_ready["ports"] = await asyncio.to_thread(made.ready)
                refreshing = asyncio.create_task(_refresh(made, known_ready))
                stop.set()
                await asyncio.gather(*asking)
                refreshing.cancel()

            asyncio.run(everything())
            metrics = httpx.get(f"{front.url}/metrics", trust_env=False).text
            account.retries = sum(
                float(line.rsplit(" ", 1)[1])
                for line in metrics.splitlines()
                if line.startswith("sd_upstream_retries_total{")
            )
    finally:
        made.end()
    return account


async def _refresh(pods: Pods, known: dict[str, Any]) -> None:
    while True:
        known["ports"] = await asyncio.to_thread(pods.ready) or known["ports"]
        await asyncio.sleep(0.1)


async def _ask(url: str, number: int, steps: int, account: Account, stop: asyncio.Event) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        seed = number * 100_000
        while not stop.is_set():
            seed += 1
            body = {"prompt": "x", "steps": steps, "width": SIDE, "height": SIDE, "seed": seed}
            answer = await client.post("/sdapi/v1/txt2img", json=body)
            if answer.status_code != 200:
                account.failed += 1
                print(answer.status_code, answer.text[:300], file=sys.stderr)
                continue
            image = Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0])))
            expected = tuple(seed >> shift & 255 for shift in (0, 8, 16))
            right = image.size == (SIDE, SIDE) and image.getpixel((1, 1)) == expected
            account.right += right
            account.wrong_picture += not right


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    print(json.dumps(asdict(run(parser.parse_args().kills))))

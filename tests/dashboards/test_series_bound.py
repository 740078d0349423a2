"""The number of series does not grow with what clients send."""

import asyncio
import json
import random
import string
from typing import Any

from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeEngine

REQUESTS = 10_000
MOST = 700
"""Series of one process; with 23 buckets a histogram and every outcome counted from the start it is about 500."""

METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "PROPFIND"]
PATHS = [
    "/sdapi/v1/txt2img",
    "/sdapi/v1/options",
    "/sdapi/v1/progress",
    "/internal/ping",
    "/readyz",
    "/metrics",
    "/",
]


def word(chance: random.Random) -> str:
    """A word that no client sent before."""
    return "rnd" + "".join(chance.choices(string.ascii_letters, k=12))


def random_request(chance: random.Random) -> tuple[dict[str, Any], bytes]:
    """An ASGI scope and a body: one in ten asks for an image, the others for anything by any method."""
    method, path, body = chance.choice(METHODS), chance.choice(PATHS), b""
    if chance.random() < 0.1:
        method, path = "POST", "/sdapi/v1/txt2img"
        asked: dict[str, Any] = {"prompt": word(chance), "steps": 1, "width": 64, "height": 64}
        asked |= chance.choice(
            [{}, {}, {"sampler_name": word(chance)}, {word(chance): 1}, {"steps": word(chance)}]
        )
        body = json.dumps(asked).encode()
    elif chance.random() < 0.5:
        path = f"/{word(chance)}/{word(chance)}"
    elif chance.random() < 0.1:
        method = word(chance).upper()
    headers = {
        "host": f"{word(chance)}.example",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cookie": f"sd={word(chance)}",
        "user-agent": word(chance),
        "x-request-id": word(chance),
    }
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": f"{word(chance)}={word(chance)}".encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", chance.randrange(1024, 65536)),
        "server": ("127.0.0.1", 7860),
        "state": {},
    }
    return scope, body


async def send(app: FastAPI, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
    """One exchange with the application: the status and the body of its answer."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    answer: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}  # never: the client stays until it is answered

    async def collect(message: Any) -> None:
        answer.append(message)

    await app(scope, receive, collect)
    return answer[0]["status"], b"".join(message.get("body", b"") for message in answer[1:])


def series(text: str) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Name and labels of every sample in an exposition."""
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def bombard() -> tuple[dict[int, int], str, str]:
    """Statuses by how often they were answered, and the expositions half-way and at the end."""
    chance = random.Random(20)
    app = create_app(Settings.read(pod_name="bound"), FakeEngine)
    statuses: dict[int, int] = {}
    expositions = []
    async with app.router.lifespan_context(app):
        context = app.state.context
        while not context.lifecycle.accepts_work:
            await asyncio.sleep(0.01)
        for _ in range(2):
            for _ in range(REQUESTS // 2):
                status, _ = await send(app, *random_request(chance))
                statuses[status] = statuses.get(status, 0) + 1
            expositions.append(context.metrics.render().decode())
    return statuses, expositions[0], expositions[1]


def test_ten_thousand_random_requests_leave_the_series_bounded() -> None:
    statuses, half, whole = asyncio.run(bombard())
    assert sum(statuses.values()) == REQUESTS
    assert {200, 404, 405, 422} <= set(statuses), statuses
    assert statuses[200] > REQUESTS // 40
    assert len(series(whole)) < MOST
    assert "rnd" not in whole.lower()
    assert series(whole) == series(half), "still growing in the second half"

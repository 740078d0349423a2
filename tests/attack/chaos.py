"""Clients that do anything at any time, and a book of what each of them saw: the service's metrics must say the same.

Who asks for an image may read the answer, leave at any moment, be interrupted, come when the queue is full, want a
stream. Every request is counted once, with the outcome that its client saw; only of those who left before they saw
one it is open which.
"""

import json
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from tests.attack.watch import by_label, metrics
from tests.attack.wire import Address, Answer, Client, Dropped, request

_PATHS: Final = {"/sdapi/v1/txt2img": "txt2img", "/v1/generate": "generate", "/sdapi/v1/img2img": "img2img"}
_OUTCOMES: Final = {
    200: "ok", 400: "bad_request", 422: "bad_request", 413: "bad_request", 404: "bad_request", 499: "cancelled",
    504: "deadline", 507: "out_of_memory",
}  # fmt: skip
LEFT: Final = "left"


@dataclass
class Book:
    """What the clients saw: outcomes by endpoint, and what was never answered."""

    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, path: str, outcome: str) -> None:
        """A client saw ``outcome`` (or :data:`LEFT`)."""
        with self.lock:
            self.seen[_PATHS[path], outcome] += 1

    def lose(self, what: str) -> None:
        """A client that stayed got no answer."""
        with self.lock:
            self.lost.append(what)


def outcome_of(answer: Answer) -> str:
    """The name that the metrics have for what this client saw."""
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        name, _, data = answer.body.rstrip().rsplit(b"\n\n", 1)[-1].partition(b"\n")
        if b"result" in name:
            return "ok"
        told = json.loads(data.removeprefix(b"data: "))
        return _named(told["status"], told["code"])
    return _named(answer.status, answer.code)


def _named(status: int, code: str) -> str:
    return code if status == 503 else _OUTCOMES.get(status, f"status {status}")


def run(address: Address, schedules: int, seed: int, clients: int = 4) -> list[str]:
    """Run so many schedules, of up to ``clients`` at once each; the findings, if any."""
    draw = random.Random(seed)
    before, book = metrics(address), Book()
    for number in range(schedules):
        threads = [
            threading.Thread(target=_client, args=(address, book, f"{seed}-{number}-{each}", draw.random()))
            for each in range(draw.randint(1, clients))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    _wait_idle(address)
    return book.lost + balance(before, metrics(address), book)


def balance(before: dict[str, float], after: dict[str, float], book: Book) -> list[str]:
    """Where the metrics and the clients differ."""
    found = []
    for endpoint in sorted({endpoint for endpoint, _ in book.seen}):
        counted = by_label(after, "sd_requests_total", "outcome", endpoint=endpoint)
        counted.subtract(by_label(before, "sd_requests_total", "outcome", endpoint=endpoint))
        seen = Counter({outcome: n for (each, outcome), n in book.seen.items() if each == endpoint})
        left = seen.pop(LEFT, 0)
        extra = {outcome: counted[outcome] - seen[outcome] for outcome in counted | seen}
        if any(number < 0 for number in extra.values()) or sum(extra.values()) != left:
            found.append(
                f"{endpoint}: clients saw {dict(seen)} and {left} left, but counted are {dict(+counted)}"
            )
    held = {name: value for name, value in after.items() if name.startswith("sd_budget_bytes") and value}
    if held or after.get("sd_in_flight") or after.get("sd_queue_depth"):
        found.append(f"something is still held: {held}, {after.get('sd_in_flight')} on the device")
    return found


def _wait_idle(address: Address) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        now = metrics(address)
        held = sum(value for name, value in now.items() if name.startswith("sd_budget_bytes"))
        if not (now.get("sd_in_flight") or now.get("sd_queue_depth") or held):
            return
        time.sleep(0.05)


def _client(address: Address, book: Book, name: str, seed: float) -> None:
    draw = random.Random(f"{name}{seed}")
    time.sleep(draw.random() * 0.05)
    path = draw.choice(list(_PATHS))
    body: dict[str, Any] = {
        "prompt": "a cat",
        "steps": draw.randint(1, 6),
        "width": 64,
        "height": 64,
        "seed": 1,
    }
    if path.endswith("img2img"):
        body["init_images"] = [_PICTURE] if draw.random() < 0.9 else ["no picture"]
    if draw.random() < 0.1:
        body["steps"] = 0
    interrupted = draw.random() < 0.3
    if interrupted:
        body["force_task_id"] = name
    headers = {"Accept": "text/event-stream"} if path == "/v1/generate" and draw.random() < 0.6 else {}
    sent = request("POST", path, json.dumps(body).encode(), headers)
    if interrupted:
        threading.Timer(draw.random() * 0.2, _interrupt, (address, name)).start()
    if draw.random() < 0.35:
        _leave(address, sent, draw)
        book.note(path, LEFT)
        return
    client = Client(address)
    try:
        book.note(path, outcome_of(client.send(sent)))
    except (Dropped, OSError, ValueError) as error:
        book.lose(f"no answer to {path}: {type(error).__name__} {error}")
    finally:
        client.close()


_PICTURE: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR42mP8z8BQz0AEYBxVOHIVAG7zCfkOUj3uAAAAAElFTkSuQmCC"
)


def _leave(address: Address, sent: bytes, draw: random.Random) -> None:
    """Send all of the request and go away at some moment: at once, after a while, or with the answer half read."""
    connection = address.connect(30)
    with suppress(OSError):
        connection.sendall(sent)
        connection.settimeout(draw.choice((0.001, 0.01, 0.05, 0.2)))
        connection.recv(draw.choice((1, 100, 5000)))
    connection.close()


def _interrupt(address: Address, task_id: str) -> None:
    client = Client(address)
    with suppress(Dropped, OSError):
        client.send(
            request("POST", f"/sdapi/v1/{random.choice(('interrupt', 'skip'))}?id_task={task_id}", b"")
        )
    client.close()

"""Two fronts that share a Redis: any of them answers for the other, and neither needs it to make a picture."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.fakes import FakeEngine
from tests.front.conftest import Fleet, fleet
from tests.front.test_front import BODY, colour, in_background
from tests.live import LiveServer, serve_here
from tests.state.conftest import RedisServer, redis

__all__ = ["redis"]


@dataclass
class Two:
    """Two fronts before one pod."""

    fleet: Fleet
    other: LiveServer
    gate: threading.Semaphore
    redis: RedisServer


@contextmanager
def two_fronts(redis: RedisServer) -> Iterator[Two]:
    gate = threading.Semaphore(0)
    with (
        fleet([FakeEngine(gate=gate)], state_url=redis.url) as made,
        serve_here(
            None, upstream={"default": made.proxy.url}, state_url=redis.url, pod_name="other"
        ) as other,
    ):
        yield Two(made, other, gate, redis)


@pytest.fixture
def two(redis: RedisServer) -> Iterator[Two]:
    with two_fronts(redis) as made:
        yield made


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not get there"
        time.sleep(0.02)


def test_any_front_tells_progress_and_interrupts(two: Two) -> None:
    with two.fleet.front.client() as client, two.other.client() as other:
        client.post("/sdapi/v1/options", json={"show_progress_every_n_steps": 1})
        thread, answers = in_background(
            lambda: client.post("/sdapi/v1/txt2img", json={**BODY, "steps": 50, "force_task_id": "mine"})
        )
        two.gate.release(3)
        until(lambda: other.get("/sdapi/v1/progress").json()["state"]["sampling_step"] == 3)
        until(
            lambda: (
                other.get("/sdapi/v1/progress", params={"id_task": "mine"}).json()["current_image"]
                is not None
            )
        )
        twice = other.post("/sdapi/v1/txt2img", json={**BODY, "force_task_id": "mine"})
        assert twice.status_code == 422, "an id is taken at every front"
        other.post("/sdapi/v1/interrupt", params={"id_task": "mine"})
        thread.join(20)
        assert colour(answers[0]) == (5, 0, 0)
        until(lambda: other.post("/internal/progress", json={"id_task": "mine"}).json()["completed"])


def test_a_session_has_its_options_at_every_front(two: Two) -> None:
    cookie = {"sd": "s" * 32}
    with two.fleet.front.client(cookies=cookie) as client, two.other.client(cookies=cookie) as other:
        client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 3})
        until(lambda: other.get("/sdapi/v1/options").json()["CLIP_stop_at_last_layers"] == 3)
    with two.other.client() as stranger:
        assert stranger.get("/sdapi/v1/options").json()["CLIP_stop_at_last_layers"] == 1


def test_what_one_front_learnt_the_next_one_knows(redis: RedisServer) -> None:
    with two_fronts(redis) as two, two.fleet.front.client() as client:
        two.gate.release(100)
        colour(client.post("/sdapi/v1/txt2img", json=BODY))
        until(lambda: len(client.get("/sdapi/v1/sd-models").json()) == 2)
        time.sleep(0.5)  # the store writes within some tenths of a second
        with (
            serve_here(None, upstream={"default": two.fleet.proxy.url}, state_url=redis.url) as third,
            third.client() as asking,
        ):
            assert len(asking.get("/sdapi/v1/sd-models").json()) == 2


def test_pictures_are_made_while_redis_is_away_and_it_comes_back(two: Two) -> None:
    with two.fleet.front.client() as client:
        thread, answers = in_background(lambda: client.post("/sdapi/v1/txt2img", json=BODY))
        two.gate.release(2)
        two.fleet.front.wait_until(
            lambda: any(t.progress and t.progress.step == 2 for t in two.fleet.front.context.tasks)
        )
        two.redis.stop()
        two.gate.release(50)
        thread.join(20)
        assert colour(answers[0]) == (5, 0, 0), "one that ran goes on"
        with two.fleet.front.client() as stranger:
            assert colour(stranger.post("/sdapi/v1/txt2img", json={**BODY, "seed": 6})) == (6, 0, 0)
        # The client has a session, and what that set is not known now: better no picture than another one.
        assert client.post("/sdapi/v1/txt2img", json=BODY).status_code == 503
        refused = client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2})
        assert refused.status_code == 503
        assert refused.headers["X-Error-Code"] == "state_unavailable"
        two.redis.start()
        until(
            lambda: client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2}).status_code == 200
        )

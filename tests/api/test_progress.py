"""Progress, previews, interrupt and skip, while images are made and while others wait."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.conftest import SMALL, opened
from tests.fakes import CHECKPOINT, FakeEngine
from tests.live import LiveServer, on_a_pod, serve

IDLE_STATE = {
    "skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": 0,
    "job_timestamp": "0", "job_no": 0, "sampling_step": 0, "sampling_steps": 0,
}  # fmt: skip


class Background(threading.Thread):
    """A request under way, by a client of its own."""

    def __init__(
        self, live: LiveServer, path: str = "/sdapi/v1/txt2img", cookie: str = "", **fields: Any
    ) -> None:
        super().__init__(daemon=True)
        self._live, self._path, self._fields = live, path, fields
        self._headers = {"Cookie": f"sd={cookie}"} if cookie else {}
        self.answer: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        with self._live.client() as client:
            self.answer = client.post(self._path, json={**SMALL, **self._fields}, headers=self._headers)

    def result(self) -> httpx.Response:
        self.join(30)
        assert self.answer is not None
        return self.answer


class Gated:
    """A server whose engine does one step for each release of the gate."""

    def __init__(self, live: LiveServer, engine: FakeEngine, gate: threading.Semaphore) -> None:
        self.live, self.engine, self.gate = live, engine, gate

    def running(self, **fields: Any) -> Background:
        """A request that has the device."""
        made = Background(self.live, **fields)
        self.live.wait_until(lambda: self.live.context.tasks.running() is not None)
        return made

    def waiting(self, **fields: Any) -> Background:
        """A request that waits."""
        before = self.live.call(lambda: self.live.context.backend.waiting)
        made = Background(self.live, **fields)
        self.live.wait_until(lambda: self.live.context.backend.waiting == before + 1)
        return made

    def steps(self, count: int) -> None:
        """Let the running request do ``count`` more steps."""
        task = self.live.call(lambda: self.live.context.tasks.running())
        before = task.progress.step if task.progress else 0
        self.gate.release(count)
        self.live.wait_until(lambda: task.progress is not None and task.progress.step == before + count)


@pytest.fixture
def gated() -> Iterator[Gated]:
    gate = threading.Semaphore(0)
    engine = FakeEngine(gate=gate)
    with serve(engine, queue_size=60) as live:
        yield Gated(live, engine, gate)
        gate.release(100_000)
        live.wait_idle()


def progress(live: LiveServer, cookie: str = "", **query: Any) -> dict[str, Any]:
    with live.client() as client:
        headers = {"Cookie": f"sd={cookie}"} if cookie else {}
        answer = client.get("/sdapi/v1/progress", params=query, headers=headers)
        assert answer.status_code == 200
        content = answer.json()
        assert isinstance(content, dict)
        return content


def test_idle(gated: Gated) -> None:
    assert progress(gated.live) == {
        "progress": 0.0, "eta_relative": 0.0, "state": IDLE_STATE, "current_image": None, "textinfo": None,
        "current_task": None,
    }  # fmt: skip


def test_from_the_first_step_to_the_last(gated: Gated) -> None:
    made = gated.running(steps=4, force_task_id="mine")
    begun = progress(gated.live)
    assert (begun["progress"], begun["state"]["job_count"], begun["state"]["job"]) == (
        0.01,
        -1,
        "scripts_txt2img",
    )
    gated.steps(2)
    half = progress(gated.live)
    assert half["progress"] == pytest.approx(0.51)
    assert half["eta_relative"] > 0
    assert half["current_task"] == "mine"
    assert half["state"]["job_count"] == 1
    assert (half["state"]["sampling_step"], half["state"]["sampling_steps"]) == (2, 4)
    assert len(half["state"]["job_timestamp"]) == 14
    gated.gate.release(2)
    assert made.result().status_code == 200
    gated.live.wait_idle()
    over = progress(gated.live)
    assert over["progress"] == 0
    assert over["state"] == {**IDLE_STATE, "sampling_steps": 4}
    assert progress(gated.live, id_task="mine")["progress"] == 0


def test_batches_are_named(gated: Gated) -> None:
    gated.running(n_iter=4)
    gated.steps(1)
    assert progress(gated.live)["state"]["job"] == "Batch 1 out of 4"


def test_a_preview_comes_every_so_many_steps_if_wanted(gated: Gated) -> None:
    override = {"show_progress_every_n_steps": 2}
    gated.running(steps=10, override_settings=override, force_task_id="mine")
    gated.steps(1)
    assert progress(gated.live)["current_image"] is None
    gated.steps(1)
    image = progress(gated.live)["current_image"]
    assert opened(image).format == "PNG"
    assert progress(gated.live, skip_current_image=True)["current_image"] is None
    with gated.live.client() as client:
        body = {"id_task": "mine", "id_live_preview": -1}
        seen = client.post("/internal/progress", json=body).json()
        assert seen["live_preview"] == f"data:image/png;base64,{image}"
        assert seen["id_live_preview"] == 1
        again = client.post("/internal/progress", json={**body, "id_live_preview": 1}).json()
        assert (again["live_preview"], again["id_live_preview"]) == (None, 1)
        assert (
            client.post("/internal/progress", json={**body, "live_preview": False}).json()["live_preview"]
            is None
        )
        client.post("/sdapi/v1/options", json={"live_previews_image_format": "jpeg"})
    assert opened(progress(gated.live)["current_image"]).format == "JPEG"


def test_no_previews_are_made_where_they_are_off(gated: Gated) -> None:
    made = gated.running(
        steps=3, override_settings={"live_previews_enable": False, "show_progress_every_n_steps": 1}
    )
    gated.gate.release(3)
    made.result()
    assert gated.engine.served[0].preview_every == 0


def test_progress_by_task(gated: Gated) -> None:
    gated.running(force_task_id="first", steps=5)
    gated.waiting(force_task_id="second")
    gated.waiting(force_task_id="third")
    gated.steps(1)
    assert progress(gated.live)["current_task"] == "first"
    waiting = progress(gated.live, id_task="third")
    assert (waiting["progress"], waiting["textinfo"]) == (0.0, "In queue: 2/2")
    assert progress(gated.live, id_task="nobody")["textinfo"] == "Waiting..."
    with gated.live.client() as client:
        assert client.get("/internal/pending-tasks").json() == {"size": 2, "tasks": ["second", "third"]}

        def internal(name: str) -> dict[str, Any]:
            content = client.post("/internal/progress", json={"id_task": name}).json()
            assert isinstance(content, dict)
            return content

        first = internal("first")
        assert (first["active"], first["queued"], first["completed"]) == (True, False, False)
        assert first["progress"] == pytest.approx(0.21)
        second = internal("second")
        assert (second["active"], second["queued"], second["textinfo"]) == (False, True, "In queue: 1/2")
        assert internal("nobody")["textinfo"] == "Waiting..."
        gated.gate.release(100)
        gated.live.wait_idle()
        ended = internal("second")
        assert (ended["active"], ended["queued"], ended["completed"]) == (False, False, True)


def test_everything_answers_while_fifty_wait(gated: Gated) -> None:
    gated.running()
    others = [Background(gated.live, seed=number) for number in range(50)]
    gated.live.wait_until(lambda: gated.live.context.backend.waiting == 50)
    with gated.live.client() as client:
        gets = [
            "progress", "options", "samplers", "sd-models", "memory", "loras", "embeddings", "cmd-flags", "scripts",
            "upscalers", "prompt-styles", "script-info",
        ]  # fmt: skip
        for path in gets:
            assert client.get(f"/sdapi/v1/{path}").status_code == 200
        assert client.get("/internal/pending-tasks").json()["size"] == 50
        assert client.post("/sdapi/v1/options", json={"jpeg_quality": 77}).status_code == 200
        assert client.post("/sdapi/v1/skip").status_code == 200
        assert client.post("/sdapi/v1/interrupt", params={"id_task": "nobody"}).json() == {}
        assert client.get("/readyz").status_code == 200
    assert gated.live.call(lambda: gated.live.context.backend.waiting) == 50, "not one had to end for that"
    gated.gate.release(1000)
    assert {other.result().status_code for other in others} == {200}


def test_a_session_follows_its_own_task_and_sees_no_other_sessions_picture(gated: Gated) -> None:
    one, two = "one" * 10, "two" * 10
    gated.running(cookie=one, force_task_id="first", override_settings={"show_progress_every_n_steps": 1})
    gated.steps(1)
    gated.waiting(cookie=two, force_task_id="second")
    own = progress(gated.live, one)
    assert own["current_task"] == "first"
    assert own["current_image"]
    waiting = progress(gated.live, two)
    assert (waiting["current_task"], waiting["progress"], waiting["textinfo"]) == (
        "second",
        0.0,
        "In queue: 1/1",
    )
    assert waiting["state"]["job_count"] == -1
    for cookie in ("", "somebody-who-has-nothing-here"):
        seen = progress(gated.live, cookie)
        assert seen["progress"] > 0, "the server is busy"
        assert (seen["current_image"], seen["current_task"]) == (None, None)


# --- interrupt and skip -----------------------------------------------------------------------------------


def interrupt(live: LiveServer, cookie: str = "", path: str = "/sdapi/v1/interrupt", **options: Any) -> None:
    with live.client() as client:
        answer = client.post(path, headers={"Cookie": f"sd={cookie}"} if cookie else {}, **options)
        assert (answer.status_code, answer.json()) == (200, {})


def test_the_running_request_answers_with_what_it_has(gated: Gated) -> None:
    made = gated.running(steps=50)
    gated.steps(3)
    interrupt(gated.live)
    state = progress(gated.live)["state"]
    gated.gate.release(1)
    answer = made.result()
    assert answer.status_code == 200
    assert len(answer.json()["images"]) == 1
    assert gated.engine.steps_done[0] <= 5
    assert state["interrupted"] is True or state["job_count"] == 0
    gated.live.wait_idle()
    gated.gate.release(100)
    assert Background(gated.live, seed=2).result().status_code == 200, "the next one knows nothing of it"


@pytest.mark.parametrize("how", ["query", "body"])
def test_a_waiting_request_is_dropped_by_its_id_and_answers_200_without_images(
    gated: Gated, how: str
) -> None:
    gated.running(force_task_id="first")
    dropped = gated.waiting(force_task_id="second", seed=5, batch_size=2)
    gated.waiting(force_task_id="third")
    named = {"id_task": "second"}
    if how == "query":
        interrupt(gated.live, params=named)
    else:
        interrupt(gated.live, json=named)
    answer = dropped.result()
    assert answer.status_code == 200
    content = answer.json()
    assert content["images"] == []
    info = json.loads(content["info"])
    assert (info["infotexts"], info["all_seeds"], info["seed"]) == ([], [], 5)
    assert info["sd_model_name"] == CHECKPOINT.name
    assert gated.live.call(lambda: gated.live.context.backend.waiting) == 1


@pytest.mark.parametrize(
    "content", [b"", b'""', b"[]", b"null", b"nonsense", b'{"id_task": 5}', b'{"id_task": ""}']
)
def test_any_body_will_do(gated: Gated, content: bytes) -> None:
    made = gated.running(steps=50)
    gated.steps(1)
    interrupt(gated.live, content=content)
    gated.gate.release(1)
    assert made.result().status_code == 200


def test_sessions_interrupt_their_own(gated: Gated) -> None:
    one, two = "one" * 10, "two" * 10
    gated.running(cookie=one, force_task_id="first")
    waiting = gated.waiting(cookie=two, force_task_id="second")
    gated.waiting(cookie=one, force_task_id="third")
    find = gated.live.context.tasks.find
    interrupt(gated.live, cookie="somebody-who-has-nothing-here")
    assert not any(task.token.cancelled for task in gated.live.context.tasks)
    interrupt(gated.live, cookie=two)
    assert waiting.result().json()["images"] == []

    def cancelled() -> list[bool]:
        return [task.token.cancelled for task in map(find, ("first", "third")) if task is not None]

    assert cancelled() == [False, False]
    interrupt(gated.live, cookie=one)
    assert cancelled() == [True, False], "the running one comes first"


def test_a_session_may_interrupt_a_request_that_has_none(gated: Gated) -> None:
    # The client's first request carried no cookie yet.
    made = gated.running(steps=50)
    gated.steps(1)
    interrupt(gated.live, cookie="a-session-that-came-later-than-that")
    gated.gate.release(1)
    assert made.result().status_code == 200
    assert gated.engine.steps_done[0] <= 3


def test_skip_is_told_to_the_running_task_alone(gated: Gated) -> None:
    gated.running(force_task_id="first")
    gated.waiting(force_task_id="second")
    with gated.live.client() as client:
        answer = client.post("/sdapi/v1/skip")
        assert (answer.status_code, answer.json()) == (200, None)
        client.post("/sdapi/v1/skip", params={"id_task": "second"})
    skips = {task.id: task.token.skips for task in gated.live.context.tasks}
    assert skips == {"first": 1, "second": 0}


@on_a_pod
def test_work_that_makes_no_image_runs_unseen(gated: Gated) -> None:
    gated.running(force_task_id="first")
    loading = Background(gated.live, "/sdapi/v1/reload-checkpoint")
    gated.live.wait_until(lambda: gated.live.context.backend.waiting == 1)
    assert progress(gated.live)["current_task"] == "first"
    gated.gate.release(10)
    assert loading.result().json() == {}

"""A1111's conversation through a front: talk is answered by the front, pictures come from pods, stops reach them."""

import base64
import io
import threading
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.fakes import CHECKPOINT, OTHER, FakeEngine
from tests.front.conftest import Fleet, fleet

BODY: dict[str, Any] = {"prompt": "a cat", "steps": 5, "width": 64, "height": 64, "seed": 5}
TALK = (
    "/sdapi/v1/options", "/sdapi/v1/sd-models", "/sdapi/v1/loras", "/sdapi/v1/upscalers", "/sdapi/v1/progress",
    "/sdapi/v1/memory", "/sdapi/v1/samplers", "/sdapi/v1/cmd-flags", "/internal/ping", "/internal/pending-tasks",
    "/docs", "/readyz", "/livez", "/metrics",
)  # fmt: skip


def colour(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]))).getpixel((3, 3))


def plain(colour: tuple[int, int, int]) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def in_background(call: Any) -> tuple[threading.Thread, list[httpx.Response]]:
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    return thread, answers


def jobs_at(fleet: Fleet) -> list[str]:
    return [line for line in fleet.proxy.requests if "/v1/jobs" in line]


def test_pictures_come_from_pods_and_talk_wakes_none(two_pods: Fleet) -> None:
    with two_pods.front.client() as client:
        for path in TALK:
            assert client.get(path).status_code == 200, path
        assert client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2}).status_code == 200
        assert client.post("/sdapi/v1/refresh-checkpoints").status_code == 200
        assert client.post("/sdapi/v1/txt2img", json={**BODY, "steps": 0}).status_code == 422
        assert client.post("/sdapi/v1/interrupt").status_code == 200
        assert two_pods.proxy.requests == [], "no GPU is woken by talk"
        answer = client.post("/sdapi/v1/txt2img", json=BODY)
        assert colour(answer) == (5, 0, 0)
        assert two_pods.proxy.requests == ["POST /v1/jobs HTTP/1.1"]
        assert two_pods.served[0].clip_skip == 2, "the session's options travel in the job"


def test_the_catalogue_is_learnt_from_the_first_generation(two_pods: Fleet) -> None:
    with two_pods.front.client() as client:
        assert [one["title"] for one in client.get("/sdapi/v1/sd-models").json()] == ["default"]
        # Nothing is known yet: the pod will say whether it has that.
        unknown = client.post(
            "/sdapi/v1/txt2img", json={**BODY, "override_settings": {"sd_model_checkpoint": "nothing"}}
        )
        assert unknown.status_code == 400
        assert "nothing" in unknown.json()["detail"]
        colour(client.post("/sdapi/v1/txt2img", json=BODY))
        titles = [one["title"] for one in client.get("/sdapi/v1/sd-models").json()]
        assert titles == [CHECKPOINT.title, OTHER.title]
        sent = len(two_pods.proxy.requests)
        assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "other"}).status_code == 200
        assert len(two_pods.proxy.requests) == sent, "switching loads nothing"
        colour(client.post("/sdapi/v1/txt2img", json=BODY))
        assert two_pods.served[-1].checkpoint == OTHER.title
        refused = client.post(
            "/sdapi/v1/txt2img", json={**BODY, "override_settings": {"sd_model_checkpoint": "nothing"}}
        )
        assert refused.status_code == 400
        assert len(two_pods.proxy.requests) == sent + 1


def test_progress_and_interrupt_reach_a_busy_pod(gated: tuple[Fleet, threading.Semaphore]) -> None:
    made, gate = gated
    with made.front.client() as client, made.front.client() as other:
        thread, answers = in_background(
            lambda: client.post("/sdapi/v1/txt2img", json={**BODY, "steps": 50, "force_task_id": "mine"})
        )
        gate.release(3)
        made.front.wait_until(
            lambda: any(task.progress and task.progress.step == 3 for task in made.front.context.tasks)
        )
        answer = other.get("/sdapi/v1/progress").json()
        assert answer["state"]["sampling_step"] == 3
        assert 0 < answer["progress"] < 1
        assert other.post("/internal/progress", json={"id_task": "mine"}).json()["active"]
        assert other.post("/sdapi/v1/interrupt").status_code == 200
        thread.join(10)
        assert colour(answers[0]) == (5, 0, 0)
        assert len(jobs_at(made)) == 1, "nothing but the job went through the proxy"
        assert made.engines[0].steps_done == [3]


def test_skip_reaches_the_pod(gated: tuple[Fleet, threading.Semaphore]) -> None:
    made, gate = gated
    with made.front.client() as client, made.front.client() as other:
        thread, answers = in_background(lambda: client.post("/sdapi/v1/txt2img", json=BODY))
        gate.release(1)
        made.front.wait_until(
            lambda: any(task.progress and task.progress.step == 1 for task in made.front.context.tasks)
        )
        other.post("/sdapi/v1/skip")
        made.pods[0].wait_until(lambda: any(task.token.skips for task in made.pods[0].context.tasks))
        gate.release(10)
        thread.join(10)
        colour(answers[0])


def test_a_waiting_job_is_dropped_at_once(gated: tuple[Fleet, threading.Semaphore]) -> None:
    made, gate = gated
    with made.front.client() as client, made.front.client() as second, made.front.client() as other:
        first, first_answers = in_background(lambda: client.post("/sdapi/v1/txt2img", json=BODY))
        made.front.wait_until(lambda: made.front.context.backend.running)
        waiting, answers = in_background(
            lambda: second.post("/sdapi/v1/txt2img", json={**BODY, "force_task_id": "waits"})
        )
        made.front.wait_until(lambda: made.front.context.backend.waiting == 1)
        shown = other.get("/sdapi/v1/progress", params={"id_task": "waits"}).json()
        assert shown["textinfo"] == "In queue: 1/1"
        other.post("/sdapi/v1/interrupt", params={"id_task": "waits"})
        waiting.join(10)
        assert answers[0].status_code == 200
        assert answers[0].json()["images"] == []
        gate.release(10)
        first.join(10)
        colour(first_answers[0])
        assert len(jobs_at(made)) == 1


def test_a_client_that_leaves_frees_the_pod(gated: tuple[Fleet, threading.Semaphore]) -> None:
    made, gate = gated
    gate.release(1)
    with made.front.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/sdapi/v1/txt2img", json={**BODY, "steps": 100}, timeout=0.5)
    made.front.wait_idle()
    made.pods[0].wait_idle()
    gate.release(100)
    with made.front.client() as client:
        colour(client.post("/sdapi/v1/txt2img", json=BODY))


def test_an_unreachable_pod_is_interrupted_by_closing_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Semaphore(0)
    monkeypatch.setattr("service.api.native.jobs.pod_address", lambda settings: "http://127.0.0.1:9")
    with fleet([FakeEngine(gate=gate)]) as made, made.front.client() as client, made.front.client() as other:
        other.post("/sdapi/v1/options", json={"show_progress_every_n_steps": 1})
        thread, answers = in_background(lambda: client.post("/sdapi/v1/txt2img", json={**BODY, "steps": 50}))
        gate.release(2)
        made.front.wait_until(
            lambda: any(task.progress and task.progress.step == 2 for task in made.front.context.tasks)
        )
        other.post("/sdapi/v1/interrupt")
        thread.join(20)
        assert colour(answers[0]) == (127, 127, 127), "the last preview"
        assert "preview" in answers[0].json()["info"]
        made.pods[0].wait_idle()


def test_a_script_and_img2img_and_extras_travel(two_pods: Fleet) -> None:
    picture, white = plain((200, 10, 10)), plain((255, 255, 255))
    with two_pods.front.client() as client:
        made = client.post("/sdapi/v1/img2img", json={**BODY, "init_images": [picture], "mask": white})
        assert colour(made) is not None
        init = two_pods.served[-1].init
        assert init.images[0].shape == (64, 64, 3)
        assert init.mask is not None
        matrix = client.post(
            "/sdapi/v1/txt2img",
            json={**BODY, "prompt": "a|b", "script_name": "prompt matrix", "script_args": []},
        )
        assert len(matrix.json()["images"]) == 3, "a grid and two pictures"
        tiles = client.post(
            "/sdapi/v1/img2img",
            json={
                **BODY,
                "init_images": [picture],
                "script_name": "sd upscale",
                "script_args": ["", 16, "Lanczos", 2],
            },
        )
        assert Image.open(io.BytesIO(base64.b64decode(tiles.json()["images"][0]))).size == (128, 128)
        extras = client.post(
            "/sdapi/v1/extra-single-image",
            json={"image": picture, "upscaler_1": "Fake 4x", "upscaling_resize": 2},
        )
        assert Image.open(io.BytesIO(base64.b64decode(extras.json()["image"]))).size == (128, 128)
        assert (
            client.post("/sdapi/v1/interrogate", json={"image": picture, "model": "clip"}).status_code == 422
        )


def test_upstreams_are_chosen_by_checkpoint() -> None:
    class One(FakeEngine):
        def checkpoints(self) -> Any:
            return [CHECKPOINT]

    class Two(FakeEngine):
        def checkpoints(self) -> Any:
            return [OTHER]

    with (
        fleet([One()]) as first,
        fleet([Two()]) as second,
        fleet([], upstream={"one": first.proxy.url, "two": second.proxy.url}) as made,
        made.front.client() as client,
    ):

        def draw(checkpoint: str | None) -> httpx.Response:
            override = {"sd_model_checkpoint": checkpoint} if checkpoint else {}
            return client.post("/sdapi/v1/txt2img", json={**BODY, "override_settings": override})

        assert [one["title"] for one in client.get("/sdapi/v1/sd-models").json()] == ["one", "two"]
        colour(draw("two"))
        colour(draw(None))
        assert [len(first.served), len(second.served)] == [1, 1]
        assert len(client.get("/sdapi/v1/sd-models").json()) == 2
        colour(draw(OTHER.title))
        assert len(second.served) == 2
        both = client.post(
            "/sdapi/v1/txt2img",
            json={
                **BODY,
                "refiner_checkpoint": OTHER.title,
                "refiner_switch_at": 0.5,
                "override_settings": {"sd_model_checkpoint": CHECKPOINT.title},
            },
        )
        assert both.status_code == 422
        assert "one has fake" in both.json()["detail"]


def test_a_queue_that_is_full_is_refused_by_the_front() -> None:
    gate = threading.Semaphore(0)
    with fleet([FakeEngine(gate=gate)], queue_size=0) as made, made.front.client() as client:
        thread, answers = in_background(lambda: client.post("/sdapi/v1/txt2img", json=BODY))
        made.front.wait_until(lambda: made.front.context.backend.running)
        refused = httpx.post(f"{made.front.url}/sdapi/v1/txt2img", json=BODY, trust_env=False)
        assert refused.status_code == 503
        assert refused.headers["X-Error-Code"] == "queue_full"
        gate.release(10)
        thread.join(10)
        colour(answers[0])


def test_answers_name_the_pod_that_drew(two_pods: Fleet) -> None:
    asked = {"prompt": "x", "steps": 1, "width": 64, "height": 64}
    answer = httpx.post(f"{two_pods.front.url}/sdapi/v1/txt2img", json=asked)
    assert answer.headers["x-served-by"] in ("pod-0", "pod-1")
    native = httpx.post(f"{two_pods.front.url}/v1/generate", json=asked)
    assert native.json()["served_by"] in ("pod-0", "pod-1")
    assert httpx.get(f"{two_pods.front.url}/sdapi/v1/progress").headers["x-served-by"] == "front"

"""The shipped model, over HTTP: an image's own text makes the same bytes again; previews and interrupts on the way."""

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.conftest import opened
from tests.live import LiveServer, serve

SMALL: dict[str, Any] = {"width": 128, "height": 128, "steps": 3, "seed": 7}


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with serve(warmup_steps=1, warmup_size=64, cpu_threads=1) as server:
        yield server


@pytest.mark.parametrize(
    "sent",
    [
        {"prompt": "a (red:1.2) fox, [sitting:running:0.5]", "negative_prompt": "blue", "sampler_name": "Euler a",
         "eta": 0.5},
        {"prompt": "sun", "sampler_name": "DPM++ 2M SDE", "scheduler": "karras", "cfg_scale": 3.5, "subseed": 3,
         "subseed_strength": 0.2, "override_settings": {"CLIP_stop_at_last_layers": 2}},
        {"prompt": "a tree", "enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Lanczos", "denoising_strength": 0.6,
         "steps": 2, "width": 64, "height": 64},
    ],
    ids=["ancestral", "variation", "second pass"],
)  # fmt: skip
def test_png_to_png_info_to_infotext_to_the_same_bytes(live: LiveServer, sent: dict[str, Any]) -> None:
    with live.client() as client:
        first = client.post("/sdapi/v1/txt2img", json={**SMALL, **sent})
        assert first.status_code == 200, first.text
        image = first.json()["images"][0]
        text = client.post("/sdapi/v1/png-info", json={"image": image}).json()["info"]
        again = client.post("/sdapi/v1/txt2img", json={"infotext": text})
        assert again.status_code == 200, again.text
        assert base64.b64decode(again.json()["images"][0]) == base64.b64decode(image)
        other = client.post("/sdapi/v1/txt2img", json={"infotext": text, "seed": 8})
        assert opened(other.json()["images"][0]).tobytes() != opened(image).tobytes()


def test_one_image_of_a_batch_can_be_made_alone(live: LiveServer) -> None:
    with live.client() as client:
        batch = client.post("/sdapi/v1/txt2img", json={**SMALL, "prompt": "a cat", "n_iter": 2}).json()
        text = json.loads(batch["info"])["infotexts"][1]
        alone = client.post("/sdapi/v1/txt2img", json={"infotext": text}).json()
        assert alone["images"][0] == batch["images"][1]


def test_a_preview_and_an_interrupt_while_it_is_made(live: LiveServer) -> None:
    answers: list[dict[str, Any]] = []
    body = {**SMALL, "prompt": "a dog", "steps": 150, "override_settings": {"show_progress_every_n_steps": 1}}

    def make() -> None:
        with live.client() as client:
            answers.append(client.post("/sdapi/v1/txt2img", json=body).json())

    making = threading.Thread(target=make)
    making.start()
    live.wait_until(lambda: any(task.preview_id for task in live.context.tasks), 60)
    with live.client() as client:
        seen = client.get("/sdapi/v1/progress").json()
        assert 0 < seen["progress"] < 1
        preview = opened(seen["current_image"])
        assert preview.size[0] == preview.size[1]
        assert len(preview.getcolors(100_000) or []) > 1
        client.post("/sdapi/v1/interrupt")
        making.join(60)
        assert opened(answers[0]["images"][0]).size == (128, 128), "half-done, decoded, and sent"
        plain = [client.post("/sdapi/v1/txt2img", json={**SMALL, "prompt": "a dog"}).json() for _ in range(2)]
        assert plain[0]["images"] == plain[1]["images"]


def test_lists_and_switching_name_what_is_there(live: LiveServer) -> None:
    with live.client() as client:
        models = client.get("/sdapi/v1/sd-models").json()
        options = client.get("/sdapi/v1/options").json()
        assert options["sd_model_checkpoint"] == models[0]["title"]
        for key in ("title", "model_name", "hash", "sha256"):
            assert (
                client.post("/sdapi/v1/options", json={"sd_model_checkpoint": models[0][key]}).status_code
                == 200
            )
        assert client.post("/sdapi/v1/unload-checkpoint").json() == {}
        assert (
            client.post("/sdapi/v1/txt2img", json={**SMALL, "prompt": "a dog", "steps": 1}).status_code == 200
        )
        for path in ("sd-vae", "loras", "embeddings", "upscalers", "memory", "realesrgan-models"):
            assert client.get(f"/sdapi/v1/{path}").status_code == 200
        for path in ("refresh-checkpoints", "reload-checkpoint"):
            assert client.post(f"/sdapi/v1/{path}").status_code == 200

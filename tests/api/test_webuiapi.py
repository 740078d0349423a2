"""The Python client webuiapi, as it comes from PyPI, against a live server."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import webuiapi
from PIL import Image

from tests.fakes import CHECKPOINT, OTHER, FakeEngine
from tests.live import LiveServer, on_a_pod, serve

SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 2}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[LiveServer, FakeEngine]]:
    engine = FakeEngine(step_time=0.001)
    with serve(engine) as live:
        yield live, engine


@pytest.fixture
def client(served: tuple[LiveServer, FakeEngine]) -> Iterator[Any]:
    made = webuiapi.WebUIApi(port=served[0].port)
    yield made
    made.session.close()


def test_txt2img(client: Any, served: tuple[LiveServer, FakeEngine]) -> None:
    result = client.txt2img(
        prompt="cute squirrel",
        negative_prompt="ugly, out of frame",
        seed=1003,
        styles=["anime"],
        cfg_scale=7,
        **SMALL,
    )
    assert result.image.size == (64, 64)
    assert result.info["seed"] == 1003
    assert result.info["sampler_name"] == "Euler a"
    assert result.parameters["prompt"] == "cute squirrel"
    assert served[1].served[-1].eta is None, "its eta of 1.0 is the sampler's own"
    again = client.txt2img(
        prompt="x", enable_hr=True, hr_scale=2, hr_upscaler=webuiapi.HiResUpscaler.Latent, **SMALL
    )
    assert again.info["extra_generation_params"]["Hires upscaler"] == "Latent"


def test_img2img_and_inpainting(client: Any) -> None:
    image = client.txt2img(prompt="a", seed=5, **SMALL).image
    changed = client.img2img(
        images=[image], prompt="b", seed=5555, cfg_scale=6.5, denoising_strength=0.6, **SMALL
    )
    assert changed.image.size == (64, 64)
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (32, 0, 64, 64))
    painted = client.img2img(
        images=[image],
        mask_image=mask,
        inpainting_fill=1,
        mask_blur=0,
        inpaint_full_res=False,
        prompt="c",
        seed=9,
        **SMALL,
    )
    before, after = np.asarray(image), np.asarray(painted.image)
    assert (before[:, :32] == after[:, :32]).all(), "what is not masked stays, exactly"
    assert (before[:, 32:] != after[:, 32:]).any()


def test_extras_and_png_info(client: Any) -> None:
    image = client.txt2img(prompt="a fox", seed=5, **SMALL).image
    large = client.extra_single_image(image=image, upscaler_1=webuiapi.Upscaler.Lanczos, upscaling_resize=1.5)
    assert large.image.size == (96, 96)
    both = client.extra_batch_images(
        images=[image, image], upscaler_1=webuiapi.Upscaler.Nearest, upscaling_resize=2
    )
    assert [made.size for made in both.images] == [(128, 128)] * 2
    assert client.png_info(image).info.startswith("a fox\nSteps: 2, Sampler: Euler a")
    with pytest.raises(RuntimeError, match="captioning"):
        client.interrogate(image=image)


def test_every_list(client: Any) -> None:
    assert "Euler a" in [item["name"] for item in client.get_samplers()]
    assert "karras" in [item["name"] for item in client.get_schedulers()]
    assert client.get_upscalers()[0]["name"] == "None"
    assert len(client.get_latent_upscale_modes()) == 6
    assert client.get_loras()[0]["alias"] == "more-detail"
    assert client.get_sd_vae()[0]["model_name"] == "other.vae.safetensors"
    assert client.get_hypernetworks() == client.get_face_restorers() == client.get_prompt_styles() == []
    assert set(client.get_embeddings()) == {"loaded", "skipped"}
    assert "ram" in client.get_memory()
    assert client.get_cmd_flags()["api"] is True
    assert client.get_realesrgan_models()[0]["scale"] == 4
    assert set(client.get_scripts()) == {"txt2img", "img2img"}
    assert (client.has_controlnet, client.has_adetailer, client.has_animatediff) == (False, False, False)
    client.refresh_checkpoints()


@on_a_pod
def test_options_and_switching_models(client: Any, served: tuple[LiveServer, FakeEngine]) -> None:
    assert client.util_get_model_names() == sorted([CHECKPOINT.title, OTHER.title])
    assert client.util_get_current_model() == CHECKPOINT.title
    client.util_set_model("other")
    assert client.util_get_current_model() == OTHER.title
    assert served[1].loaded[-1] == OTHER.title
    assert client.txt2img(prompt="a", **SMALL).info["sd_model_name"] == OTHER.name
    client.set_options({"CLIP_stop_at_last_layers": 2})
    assert client.get_options()["CLIP_stop_at_last_layers"] == 2
    assert client.txt2img(prompt="a", **SMALL).info["clip_skip"] == 2
    somebody_else = webuiapi.WebUIApi(port=served[0].port)
    assert somebody_else.util_get_current_model() == CHECKPOINT.title, (
        "it keeps cookies, so the switch was its own"
    )
    assert somebody_else.txt2img(prompt="a", **SMALL).info["clip_skip"] == 1
    somebody_else.session.close()


def test_progress_interrupt_and_waiting_until_ready() -> None:
    gate = threading.Semaphore(0)
    with serve(FakeEngine(gate=gate)) as live:
        client = webuiapi.WebUIApi(port=live.port)
        assert client.get_progress()["state"]["job_count"] == 0
        client.util_wait_for_ready()
        results: list[Any] = []
        other = webuiapi.WebUIApi(port=live.port)

        def make() -> None:
            results.append(client.txt2img(prompt="a", **{**SMALL, "steps": 50}))

        making = threading.Thread(target=make)
        making.start()
        live.wait_until(lambda: live.context.tasks.running() is not None)
        gate.release(5)
        live.wait_until(lambda: any(task.progress and task.progress.step == 5 for task in live.context.tasks))
        busy = other.get_progress()
        assert busy["progress"] == pytest.approx(0.11)
        assert busy["state"]["sampling_step"] == 5
        assert client.skip() is None
        assert client.interrupt() == {}
        making.join(20)
        assert len(results[0].images) == 1
        client.util_wait_for_ready()
        client.session.close()
        other.session.close()


def test_with_auth() -> None:
    with serve(FakeEngine(), api_auth="user:pass") as live:
        refused = webuiapi.WebUIApi(port=live.port)
        with pytest.raises(RuntimeError, match="Not authenticated"):
            refused.txt2img(prompt="a", **SMALL)
        client = webuiapi.WebUIApi(port=live.port, username="user", password="pass")
        assert client.txt2img(prompt="a", **SMALL).image.size == (64, 64)
        client.session.close()
        refused.session.close()

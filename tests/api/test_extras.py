"""extra-single-image, extra-batch-images, png-info."""

import html
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.core.jobs import Enlargement
from service.imaging import infotext
from tests.api.conftest import Api, opened, picture

SINGLE, BATCH = "/sdapi/v1/extra-single-image", "/sdapi/v1/extra-batch-images"


def single(api: Api, **fields: Any) -> tuple[Image.Image, str]:
    answer = api.post(SINGLE, json={"image": picture(64, 48), **fields})
    assert answer.status_code == 200, answer.text
    content = answer.json()
    return opened(content["image"]), html.unescape(content["html_info"])


@pytest.mark.parametrize(
    ("sent", "size", "said"),
    [
        ({}, (64, 48), ""),
        ({"upscaler_1": "Lanczos"}, (128, 96), "Postprocess upscale by: 2, Postprocess upscaler: Lanczos"),
        ({"upscaler_1": "Lanczos", "upscaling_resize": "1.5"}, (96, 72), "Postprocess upscale by: 1.5"),
        ({"upscaler_1": "Nearest", "upscaling_resize": 0.5}, (32, 24), "Postprocess upscale by: 0.5"),
        ({"upscaler_1": "Fake 4x", "upscaling_resize": 4}, (256, 192), "Postprocess upscaler: Fake 4x"),
        ({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 100}, (100, 100),
         "Postprocess upscale to: 100x100, Postprocess crop to: 100x100, Postprocess upscaler: Lanczos"),
        ({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 100,
          "upscaling_crop": False}, (128, 96), "Postprocess upscale to: 100x100, Postprocess upscaler: Lanczos"),
        ({"upscaler_1": "Lanczos", "resize_mode": "0", "upscaling_resize_w": 99.9}, (128, 96), ""),
        ({"upscaler_1": "Lanczos", "upscaler_2": "Nearest", "extras_upscaler_2_visibility": 0.5}, (128, 96),
         "Postprocess upscaler 2: Nearest"),
    ],
)  # fmt: skip
def test_sizes_and_what_is_said_of_them(
    api: Api, sent: dict[str, Any], size: tuple[int, int], said: str
) -> None:
    image, info = single(api, **sent)
    assert image.size == size
    assert said in info
    if said:
        assert said in image.info["postprocessing"]


def test_none_gives_the_pixels_back(api: Api) -> None:
    image, _ = single(api)
    assert image.tobytes() == opened(picture(64, 48)).tobytes()
    assert "postprocessing" not in image.info


def test_the_second_upscaler_is_mixed_in_by_its_share(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def upscale(image: Any, to: Enlargement, token: object) -> Any:
        return np.full((to.height, to.width, 3), 100 if to.upscaler == "Lanczos" else 200, np.uint8)

    monkeypatch.setattr(api.engine, "upscale", upscale)
    image, _ = single(api, upscaler_1="Lanczos", upscaler_2="Nearest", extras_upscaler_2_visibility=0.25)
    assert image.getpixel((5, 5)) == (125, 125, 125)


def test_transparency_and_texts_survive(api: Api) -> None:
    made = api.txt2img(prompt="kept")
    answer = api.post(SINGLE, json={"image": made.json()["images"][0], "upscaler_1": "Lanczos"})
    enlarged = answer.json()["image"]
    found = api.post("/sdapi/v1/png-info", json={"image": enlarged}).json()
    assert found["parameters"]["Prompt"] == "kept"
    assert found["items"] == {"postprocessing": "Postprocess upscale by: 2, Postprocess upscaler: Lanczos"}
    clear, _ = single(api, image=picture(40, 30, "RGBA"), upscaler_1="Lanczos")
    assert (clear.mode, clear.size) == ("RGBA", (80, 56))


def test_a_batch_keeps_its_order(api: Api) -> None:
    sizes = [(16, 16), (32, 16), (16, 32)]
    images = [{"data": picture(*size), "name": f"{number}.png"} for number, size in enumerate(sizes)]
    answer = api.post(BATCH, json={"imageList": images, "upscaler_1": "Nearest"})
    assert answer.status_code == 200, answer.text
    assert [opened(text).size for text in answer.json()["images"]] == [(32, 32), (64, 32), (32, 64)]
    assert "Nearest" in answer.json()["html_info"]


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({"upscaler_1": "ESRGAN_4x"}, 400, "There is no upscaler 'ESRGAN_4x'"),
        ({"upscaler_2": "x"}, 400, "There is no upscaler 'x'"),
        ({"upscaling_resize": 0}, 422, "greater than 0"),
        ({"upscaling_resize": -1}, 422, "greater than 0"),
        ({"resize_mode": 2}, 422, "less than or equal to 1"),
        ({"upscaling_resize_w": 0}, 422, "greater than or equal to 1"),
        ({"gfpgan_visibility": 1.5}, 422, "less than or equal to 1"),
        ({"gfpgan_visibility": 0.5}, 422, "no face restorer"),
        ({"codeformer_visibility": 1}, 422, "no face restorer"),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 1000}, 400, "SD_MAX_IMAGE_PIXELS"),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 1e308}, 400, "SD_MAX_IMAGE_PIXELS"),
        (
            {"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 10**9},
            400,
            "SD_MAX_IMAGE_PIXELS",
        ),
        ({"image": None}, 422, "string"),
    ],
)
def test_what_is_refused(api: Api, sent: dict[str, Any], status: int, words: str) -> None:
    answer = api.post(SINGLE, json={"image": picture(), **sent})
    assert answer.status_code == status, answer.text
    assert words in answer.text


def test_png_info_of_an_image_without_any(api: Api) -> None:
    content = api.post("/sdapi/v1/png-info", json={"image": picture()}).json()
    assert (content["info"], content["items"]) == ("", {})
    assert content["parameters"] == {**infotext.DEFAULTS, "Prompt": "", "Negative prompt": ""}
    assert content["parameters"]["Masked area padding"] == 32
    assert content["parameters"]["Refiner switch by sampling steps"] is False
    assert "Emphasis" not in content["parameters"]


def test_png_info_names_the_emphasis_of_a_weighted_prompt(api: Api) -> None:
    image = api.txt2img(prompt="a (cat:1.3)").json()["images"][0]
    content = api.post("/sdapi/v1/png-info", json={"image": image}).json()
    assert content["parameters"]["Emphasis"] == "Original"
    assert content["parameters"]["Steps"].isdigit(), "what the text says stays text"


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:image/jpeg;base64,"])
def test_png_info_reads_every_shape_of_base64(api: Api, prefix: str) -> None:
    image = api.txt2img(prompt="x, y").json()["images"][0]
    content = api.post("/sdapi/v1/png-info", json={"image": prefix + image}).json()
    assert content["parameters"]["Prompt"] == "x, y"
    assert (content["parameters"]["Size-1"], content["parameters"]["Size-2"]) == ("64", "64")

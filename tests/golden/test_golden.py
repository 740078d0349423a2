"""Pictures of the real stable-diffusion-webui 1.10.1, drawn again: the same request, the same pixels.

``cases.json`` holds requests to its API, ``images`` what it answered (see NOTICE.md); ``checkpoint.py`` makes the
weights. A picture is the same if no value is more than 1 of 255 off and the mean is not off by a tenth: rounding where
A1111 truncates would be off by a half.
"""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.golden import checkpoint
from tests.live import LiveServer, serve
from tests.threads import one_thread as one_thread

HERE: Final = Path(__file__).parent
CASES: Final[list[dict[str, Any]]] = json.loads((HERE / "cases.json").read_text())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("golden")
    checkpoint.write(folder)
    golden = folder / "checkpoints/golden.safetensors"
    with serve(model=str(golden), models_dir=folder, dtype="float32", device="cpu") as live:
        yield live


def image_of(text: str) -> str:
    """``@name`` stands for a file of ``images``."""
    return (
        base64.b64encode((HERE / "images" / text[1:]).read_bytes()).decode() if text.startswith("@") else text
    )


def pixels_of(data: bytes) -> "np.ndarray[Any, np.dtype[np.int16]]":
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16)


def assert_same(
    made: "np.ndarray[Any, np.dtype[np.int16]]", wanted: "np.ndarray[Any, np.dtype[np.int16]]"
) -> None:
    difference = np.abs(made - wanted)
    assert difference.max() <= 1
    assert difference.mean() <= 0.1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_picture_is_that_of_a1111(server: LiveServer, case: dict[str, Any]) -> None:
    body = dict(case["body"])
    if "init_images" in body:
        body["init_images"] = [image_of(text) for text in body["init_images"]]
    if "mask" in body:
        body["mask"] = image_of(body["mask"])
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        answer = client.post(case["path"], json=body)
    assert answer.status_code == 200, answer.text
    made = [pixels_of(base64.b64decode(text)) for text in answer.json()["images"]]
    wanted = [pixels_of((HERE / "images" / name).read_bytes()) for name in case["images"]]
    assert [each.shape for each in made] == [each.shape for each in wanted]
    for one, other in zip(made, wanted, strict=True):
        assert_same(one, other)


TOLD: Final = [
    (case["id"], name)
    for case in CASES
    if case["path"].endswith("txt2img")
    and "script_name" not in case["body"]
    and case["id"] not in ("eta-s-churn-heun", "options-uni-pc-order-2-quad")
    for name in case["images"]
]
"""Pictures of txt2img, but for two: A1111 tells neither sigmas that come as fields nor the options of UniPC."""


@pytest.mark.parametrize("name", [name for _, name in TOLD], ids=[f"{id}-{name}" for id, name in TOLD])
def test_a_picture_of_a1111_is_drawn_again_from_what_its_file_says(server: LiveServer, name: str) -> None:
    data = (HERE / "images" / name).read_bytes()
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        read = client.post("/sdapi/v1/png-info", json={"image": base64.b64encode(data).decode()})
        assert read.status_code == 200, read.text
        answer = client.post("/sdapi/v1/txt2img", json={"infotext": read.json()["info"]})
    assert answer.status_code == 200, answer.text
    [made] = [pixels_of(base64.b64decode(text)) for text in answer.json()["images"]]
    assert_same(made, pixels_of(data))

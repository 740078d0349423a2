"""OpenAI's images API: the unmodified client of PyPI, and what Open WebUI and SillyTavern send."""

import io
import json
from collections.abc import Iterator

import httpx2
import openai
import pytest
from PIL import Image

from tests.api.conftest import Api, opened
from tests.fakes import CHECKPOINT, OTHER


def file(image: Image.Image, name: str) -> tuple[str, bytes, str]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return name, buffer.getvalue(), "image/png"


@pytest.fixture
def client(api: Api) -> Iterator[openai.OpenAI]:
    with (
        httpx2.Client(trust_env=False, timeout=30) as http,
        openai.OpenAI(base_url=f"{api.live.url}/v1", api_key="none", http_client=http, max_retries=0) as made,
    ):
        yield made


def test_the_client_makes_images(client: openai.OpenAI, api: Api) -> None:
    made = client.images.generate(
        prompt="a cat",
        n=2,
        size="256x128",
        quality="low",
        user="u",
        extra_body={"seed": 7, "negative_prompt": "dog"},
    )
    assert made.data is not None
    assert [opened(one.b64_json or "").size for one in made.data] == [(256, 128)] * 2
    assert opened(made.data[1].b64_json or "").getpixel((0, 0)) == (8, 0, 0), "seeds count on"
    asked = api.engine.served[-1]
    assert (asked.prompt, asked.negative_prompt, asked.steps, asked.seed) == ("a cat", "dog", 10, 7)
    assert asked.batch_count == 2
    assert "a cat" in opened(made.data[0].b64_json or "").info["parameters"]


def test_the_client_lists_models_and_uses_one(client: openai.OpenAI, api: Api) -> None:
    assert [one.id for one in client.models.list()] == [CHECKPOINT.name, OTHER.name]
    assert client.models.retrieve(OTHER.name).id == OTHER.name
    client.images.generate(prompt="x", model=OTHER.name, size="64x64")
    assert api.engine.served[-1].checkpoint == OTHER.title
    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        client.images.generate(prompt="x", model="nothing", size="64x64")


@pytest.mark.parametrize(
    "body",
    [
        # Open WebUI, engine openai
        {"model": "dall-e-2", "prompt": "a cat", "n": 1, "size": "64x64", "response_format": "b64_json"},
        {"model": "gpt-image-1", "prompt": "a cat", "n": 1, "size": "64x64"},
        # SillyTavern
        {
            "prompt": "a cat", "model": "dall-e-3", "size": "64x64", "n": 1, "quality": "standard", "style": "vivid",
            "response_format": "b64_json",
        },
        {"prompt": "a cat", "model": "gpt-image-1", "size": "64x64", "n": 1, "quality": "high", "moderation": "low"},
    ],
)  # fmt: skip
def test_what_open_webui_and_sillytavern_send(api: Api, body: dict[str, object]) -> None:
    answer = api.post("/v1/images/generations", json=body, headers={"Authorization": "Bearer none"})
    assert answer.status_code == 200, answer.text
    assert opened(answer.json()["data"][0]["b64_json"]).size == (64, 64)
    assert isinstance(answer.json()["created"], int)


def test_partial_images_come_in_a_stream(client: openai.OpenAI, api: Api) -> None:
    stream = client.images.generate(
        prompt="a cat", size="64x64", stream=True, partial_images=2, extra_body={"steps": 6, "seed": 3}
    )
    events = list(stream)
    assert [event.type for event in events] == [
        "image_generation.partial_image", "image_generation.partial_image", "image_generation.completed",
    ]  # fmt: skip
    assert {opened(event.b64_json).size for event in events} == {(64, 64)}
    assert opened(events[-1].b64_json).getpixel((0, 0)) == (3, 0, 0)


def test_an_edit_remakes_what_the_mask_leaves_open(client: openai.OpenAI, api: Api) -> None:
    picture = Image.new("RGB", (128, 64), (10, 20, 30))
    mask = Image.new("RGBA", (128, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (64, 0, 128, 64))
    made = client.images.edit(
        image=file(picture, "a.png"), mask=file(mask, "mask.png"), prompt="a hat", extra_body={"seed": 200}
    )
    assert made.data is not None
    result = opened(made.data[0].b64_json or "")
    assert result.size == (128, 64), "auto is the picture's own size"
    assert result.getpixel((5, 5)) == (10, 20, 30), "kept"
    assert result.getpixel((120, 30)) == (200, 0, 0), "remade"
    init = api.engine.served[-1].init
    assert init is not None
    assert init.inpainting_fill == 1


def test_an_edit_without_a_mask_starts_from_the_whole_picture(client: openai.OpenAI, api: Api) -> None:
    client.images.edit(image=[file(Image.new("RGB", (64, 64)), "a.png")], prompt="x", size="128x64", n=2)
    asked = api.engine.served[-1]
    assert (asked.width, asked.height, asked.batch_count) == (128, 64, 2)
    assert asked.init is not None
    assert asked.init.mask is None


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"prompt": ""}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "x", "size": "large"}, "size"),
        ({"prompt": "x", "size": "63x64"}, "width"),
        ({"prompt": "x", "size": "99999x99999"}, "width"),
        ({"prompt": "x", "n": 11}, "n"),
        ({"prompt": "x", "response_format": "url"}, "b64_json"),
        ({"prompt": "x", "quality": "best"}, "quality"),
        ({"prompt": "x", "seed": -1}, "seed"),
    ],
)
def test_errors_have_openais_shape(api: Api, body: dict[str, object], told: str) -> None:
    answer = api.post("/v1/images/generations", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert told in error["message"]
    assert error["type"] == "invalid_request_error"
    assert answer.headers["X-Error-Code"] == "bad_request"
    assert not api.engine.served


def test_errors_below_the_routes_have_it_too(api: Api) -> None:
    answer = api.post("/v1/images/generations", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "error" in answer.json()
    no_form = api.post("/v1/images/edits", json={"prompt": "x"})
    assert no_form.status_code == 400
    assert "form" in no_form.json()["error"]["message"]
    broken = api.post("/v1/images/edits", files={"image": ("a.png", b"no picture")}, data={"prompt": "x"})
    assert broken.status_code == 400
    assert broken.json()["error"]["code"] == "bad_image"


def test_refusals_are_counted(api: Api) -> None:
    def count() -> float:
        lines = api.get("/metrics").text.splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith('sd_requests_total{endpoint="generate",outcome="bad_request"}')
        )

    before = count()
    api.post("/v1/images/generations", json={"prompt": "x", "size": "large"})
    api.get("/imagine", params={"prompt": "x", "img_size": 63})
    assert count() == before + 2


def test_imagine_answers_a_png(api: Api) -> None:
    answer = api.get("/imagine", params={"prompt": "a cat", "img_size": 64, "seed": 9})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/png"
    image = Image.open(io.BytesIO(answer.content))
    assert (image.size, image.getpixel((0, 0))) == ((64, 64), (9, 0, 0))
    assert "Seed: 9" in image.info["parameters"]
    assert api.engine.served[-1].steps == 20


@pytest.mark.parametrize(
    "query", [{}, {"prompt": ""}, {"prompt": "x", "img_size": 63}, {"prompt": "x", "img_size": "x"}]
)
def test_imagine_refuses_with_a_sentence(api: Api, query: dict[str, object]) -> None:
    answer = api.get("/imagine", params=query)
    assert answer.status_code == 422
    assert json.dumps(answer.json()["detail"])

"""The page in a real Chromium with the real model: what a person does, and what they then see."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.live import LiveServer, serve
from tests.ui.conftest import Seen, Visit


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    """The service with its page and the model that ships."""
    with serve(ui=True) as server:
        yield server


@pytest.fixture
def seen(live: LiveServer, visit: Visit) -> Seen:
    """The page, open."""
    return visit(live.url)


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_a_picture_is_made_and_seen_and_saved_with_its_parameters(seen: Seen, live: LiveServer) -> None:
    seen.find("#txt2img-prompt textarea").fill("a pretty dog on a blue background")
    seen.draw(seed=7, steps=8, width=256, height=256)
    seen.done()
    assert seen.pictures().evaluate("image => [image.naturalWidth, image.naturalHeight]") == [256, 256]
    expect(seen.find("#txt2img-gallery .sd-infotext")).to_contain_text("Seed: 7")
    expect(seen.find("#txt2img-live .sd-details")).to_contain_text("drawn by test-pod")
    body = {
        "prompt": "a pretty dog on a blue background",
        "seed": 7,
        "steps": 8,
        "width": 256,
        "height": 256,
        "sampler_name": "DPM++ 2M",
    }
    said = httpx.post(f"{live.url}/sdapi/v1/txt2img", json=body, timeout=60).json()
    content = seen.file()
    assert content == base64.b64decode(said["images"][0])
    assert "Seed: 7" in opened(content).text["parameters"]  # type: ignore[attr-defined]


def test_png_info_brings_the_parameters_back_to_the_same_bytes(seen: Seen, tmp_path: Path) -> None:
    seen.find("#txt2img-prompt textarea").fill("a red car, on a green background")
    seen.find("#txt2img-negative textarea").fill("dog")
    seen.draw(seed=1234, steps=6, width=256, height=320)
    seen.done()
    first = seen.file()
    (tmp_path / "saved.png").write_bytes(first)
    seen.page.reload()
    seen.open()
    seen.tab("pnginfo")
    seen.choose("pnginfo", tmp_path / "saved.png")
    expect(seen.find("#pnginfo-text textarea")).to_have_value(opened(first).text["parameters"])  # type: ignore[attr-defined]
    seen.find("#pnginfo-to-txt2img").click()
    expect(seen.find("#tab-txt2img")).to_be_visible()
    expect(seen.find("#txt2img-seed input")).to_have_value("1234")
    expect(seen.find("#txt2img-negative textarea")).to_have_value("dog")
    seen.find("#txt2img-generate").click()
    seen.done()
    assert seen.file() == first


def test_an_interrupt_half_way_leaves_the_half_done_picture(seen: Seen, live: LiveServer) -> None:
    seen.find("#txt2img-prompt textarea").fill("a pretty dog")
    seen.draw(seed=3, steps=150, width=768, height=768)
    expect(seen.find("#txt2img-live .sd-preview")).to_be_visible()
    seen.find("#txt2img-interrupt").click()
    expect(seen.live()).to_have_text("Interrupted: this is as far as it got")
    expect(seen.pictures()).to_have_count(1)
    half = opened(seen.file())
    assert half.size == (768, 768)
    assert np.asarray(half.convert("L")).std() > 10  # neither grey nor black
    live.wait_idle()
    expect(seen.find("#txt2img-interrupt")).to_be_disabled()


def test_skip_goes_on_with_the_next_batch(seen: Seen) -> None:
    seen.find("#txt2img-prompt textarea").fill("a cat")
    seen.draw(seed=3, steps=100, count=2)
    expect(seen.find("#txt2img-live .sd-preview")).to_be_visible()
    seen.find("#txt2img-skip").click()
    seen.done(count=2)


def test_only_what_is_painted_is_drawn_anew(seen: Seen, tmp_path: Path) -> None:
    source = Image.linear_gradient("L").resize((256, 256)).convert("RGB")
    source.save(tmp_path / "source.png")
    seen.tab("inpaint")
    seen.find("#inpaint-prompt textarea").fill("a pretty dog on a red background")
    seen.draw("inpaint")
    expect(seen.find("#inpaint-live")).to_contain_text("Choose a picture first.")
    seen.choose("inpaint", tmp_path / "source.png")
    seen.draw("inpaint")
    expect(seen.find("#inpaint-live")).to_contain_text("Paint on the picture first")
    seen.find("#inpaint-fit").click()
    expect(seen.find("#inpaint-width input[type=number]")).to_have_value("256")
    canvas = seen.find("#inpaint-picture canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    x, y, width, height = box["x"], box["y"], box["width"], box["height"]
    seen.page.mouse.move(x + width * 0.25, y + height * 0.25)
    seen.page.mouse.down()
    seen.page.mouse.move(x + width * 0.35, y + height * 0.35, steps=5)
    seen.page.mouse.up()
    seen.draw("inpaint", seed=5, steps=10, blur=0, denoising=1)
    seen.done("inpaint")
    made = np.asarray(opened(seen.file("inpaint")).convert("RGB"), np.int16)
    changed = (np.abs(made - np.asarray(source, np.int16)).max(axis=2) > 8).nonzero()
    assert changed[0].size > 300
    # The brush is 20 pixels wide here: nothing changes outside the stroke from (64, 64) to (90, 90).
    assert min(changed[0].min(), changed[1].min()) >= 64 - 14
    assert max(changed[0].max(), changed[1].max()) <= 90 + 14


def test_the_mask_can_be_painted_with_the_keyboard(seen: Seen, tmp_path: Path) -> None:
    Image.new("RGB", (128, 128), "teal").save(tmp_path / "source.png")
    seen.tab("inpaint")
    seen.choose("inpaint", tmp_path / "source.png")
    canvas = seen.find("#inpaint-picture canvas")
    canvas.focus()
    painted = """canvas => canvas.getContext('2d').getImageData(0, 0, 128, 128).data.filter(value => value).length"""
    assert canvas.evaluate(painted) == 0
    for key in ("ArrowUp", "Space", "Shift+ArrowLeft"):
        canvas.press(key)
    most = canvas.evaluate(painted)
    assert most > 0
    canvas.press("Backspace")
    assert 0 < canvas.evaluate(painted) < most


def test_img2img_goes_on_from_a_picture_of_the_gallery(seen: Seen) -> None:
    seen.find("#txt2img-prompt textarea").fill("a pretty cat")
    seen.draw(seed=11, steps=6, width=256, height=256)
    seen.done()
    seen.find("#txt2img-gallery [data-send=img2img]").click()
    expect(seen.find("#img2img-picture .sd-stage img")).to_be_visible()
    expect(seen.find("#img2img-prompt textarea")).to_have_value("a pretty cat")
    seen.draw("img2img", steps=6, denoising=0.3)
    seen.done("img2img")
    assert opened(seen.file("img2img")).size == (256, 256)
    seen.tab("history")
    expect(seen.find("#history-gallery .sd-open img")).to_have_count(2)


def test_a_picture_is_enlarged(seen: Seen, tmp_path: Path) -> None:
    # Noise, as it does not compress: pictures are larger than texts may be.
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "small.png")
    seen.tab("extras")
    seen.choose("extras", tmp_path / "small.png")
    seen.draw("extras", factor=3)
    seen.done("extras")
    assert opened(seen.file("extras")).size == (960, 720)


def test_hires_and_seeds(seen: Seen) -> None:
    seen.find("#txt2img-prompt textarea").fill("a cat")
    seen.find("#txt2img-hires button").first.click()
    seen.find("#txt2img-enable-hr input").check()
    seen.draw(steps=4, width=128, height=128)
    seen.done()
    assert opened(seen.file()).size == (256, 256)
    seen.find("#txt2img-reuse").click()
    expect(seen.find("#txt2img-seed input")).not_to_have_value("-1")
    seed = seen.find("#txt2img-seed input").input_value()
    expect(seen.find("#txt2img-gallery .sd-seed")).to_have_text(f"Seed {seed}")
    seen.find("#txt2img-dice").click()
    expect(seen.find("#txt2img-seed input")).to_have_value("-1")


def test_a_mistake_is_told_as_a_sentence(seen: Seen) -> None:
    seen.find("#txt2img-prompt textarea").fill("<lora:nowhere:1> a cat")
    seen.draw(steps=2, width=2048, height=2048, batch=8)
    expect(seen.find("#txt2img-live [role=alert]")).to_contain_text("A value is not possible.")
    expect(seen.find("#txt2img-live [role=alert]")).to_contain_text("SD_MAX_PIXELS")
    seen.tab("fleet")
    expect(seen.find("#fleet-board")).to_contain_text("bad_request")

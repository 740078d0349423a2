"""Images from clients that mean no good, over HTTP: a clear 4xx or the right picture, and a server that lives on."""

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.api.conftest import Api, opened, picture
from tests.fakes import FakeEngine
from tests.live import serve


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> str:
    """A PNG that says it is very large and compresses to next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 + 3 * min(width, 20_000)) * 50, 9)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()


def text_bomb() -> str:
    """A small PNG whose compressed text becomes very long."""
    data = base64.b64decode(picture(8, 8))
    long = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * 60_000_000, 9))
    return base64.b64encode(data[:33] + long + data[33:]).decode()


def animated() -> str:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return base64.b64encode(buffer.getvalue()).decode()


def turned() -> str:
    """A JPEG of 40 × 20 whose Exif says that it stands upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(40, 20, format="JPEG", exif=exif.tobytes())


def sixteen_bit() -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def cut() -> str:
    return base64.b64encode(base64.b64decode(picture(256, 256))[:-200]).decode()


SVG = base64.b64encode(
    b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
).decode()

REFUSED: dict[str, str] = {
    "100 megapixels": bomb(10_000, 10_000),
    "2 gigapixels": bomb(46_000, 46_000),
    "one very long row": bomb(2_000_000_000, 1),
    "cut off": cut(),
    "SVG": SVG,
    "SVG as data URI": "data:image/svg+xml;base64," + SVG,
    "text": base64.b64encode(b"hello" * 100).decode(),
    "a header only": base64.b64encode(b"\x89PNG\r\n\x1a\n").decode(),
    "PostScript": base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").decode(),
    "no base64": "!!!!",
    "nothing": "",
    "an address": "file:///etc/passwd",
    "a link-local address": "http://169.254.169.254/",
}


def sent(text: str) -> list[tuple[str, dict[str, Any]]]:
    small = {"width": 64, "height": 64, "steps": 1}
    return [
        ("/sdapi/v1/png-info", {"image": text}),
        ("/sdapi/v1/extra-single-image", {"image": text, "upscaler_1": "Lanczos"}),
        ("/sdapi/v1/img2img", {"init_images": [text], **small}),
        ("/sdapi/v1/img2img", {"init_images": [picture()], "mask": text or "x", **small}),
    ]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_within_limits_is_refused_with_a_sentence(api: Api, name: str) -> None:
    for path, body in sent(REFUSED[name]):
        answer = api.post(path, json=body)
        assert answer.status_code == 400, (path, answer.text[:300])
        assert answer.json()["detail"].endswith((".", "…"))
        assert answer.headers["X-Error-Code"] == "bad_image"
    assert api.txt2img().status_code == 200


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (animated(), (16, 16)),
        (turned(), (20, 40)),
        (sixteen_bit(), (64, 64)),
        (picture(30, 20, "CMYK", format="JPEG"), (30, 20)),
        (picture(30, 20, "RGBA"), (30, 20)),
        (picture(30, 20, "LA"), (30, 20)),
        (picture(30, 20, "1"), (30, 20)),
        (picture(30, 20, "P"), (30, 20)),
        (picture(30, 20, format="BMP"), (30, 20)),
        (picture(30, 20, format="WEBP"), (30, 20)),
        ("data:image/png;base64," + picture(30, 20), (30, 20)),
    ],
    ids=["animated", "turned", "16 bit", "CMYK", "RGBA", "LA", "1 bit", "palette", "BMP", "WebP", "data URI"],
)
def test_what_is_merely_unusual_is_read_right(api: Api, text: str, size: tuple[int, int]) -> None:
    assert api.post("/sdapi/v1/png-info", json={"image": text}).status_code == 200
    answer = api.post("/sdapi/v1/extra-single-image", json={"image": text, "upscaler_1": "None"})
    assert answer.status_code == 200, answer.text
    assert opened(answer.json()["image"]).size == size
    made = api.post("/sdapi/v1/img2img", json={"init_images": [text], "width": 64, "height": 64, "steps": 1})
    assert made.status_code == 200, made.text
    first = api.engine.served[-1].init
    assert first is not None
    assert first.images[0].shape == (64, 64, 3)


def test_the_first_frame_and_the_right_way_up(api: Api) -> None:
    answer = api.post("/sdapi/v1/extra-single-image", json={"image": animated(), "upscaler_1": "None"})
    assert opened(answer.json()["image"]).convert("RGB").getpixel((8, 8)) == (255, 0, 0)
    upright = np.asarray(
        opened(api.post("/sdapi/v1/extra-single-image", json={"image": turned()}).json()["image"])
    )
    # The gradient ran from the top down; turned, it runs from right to left.
    assert int(upright[:, -1].mean()) < int(upright[:, 0].mean())


def test_a_text_that_unpacks_to_very_much_costs_little(api: Api) -> None:
    answer = api.post("/sdapi/v1/png-info", json={"image": text_bomb()})
    assert answer.status_code in (200, 400)
    assert len(answer.content) < 1_000_000


def test_bodies_beyond_the_limit_are_refused_before_they_are_kept() -> None:
    with serve(FakeEngine(), max_body_mb=2) as live, live.client() as client:
        large = b'{"image": "' + b"A" * 200_000_000 + b'"}'
        for path in ("/sdapi/v1/png-info", "/sdapi/v1/img2img", "/sdapi/v1/options"):
            answer = client.post(path, content=large)
            assert answer.status_code == 413
            assert "SD_MAX_BODY_MB" in answer.json()["detail"]
        assert client.get("/readyz").status_code == 200

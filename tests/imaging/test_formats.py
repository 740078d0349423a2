"""The files that leave: the right format, the infotext in its place, and what is refused."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.core.errors import BadRequest
from service.core.generation import GenerationRequest, GenerationResult
from service.core.pixels import Pixels
from service.imaging.decode import open_image, to_pixels, to_rgb
from service.imaging.formats import FORMATS, Encoding, encode, encode_base64, parse_format
from service.imaging.infotext import compose
from service.imaging.metadata import decode_user_comment, read_metadata
from service.imaging.png import encode_png
from service.imaging.respond import encode_all

LIMIT = 20_000_000


def gradient(width: int = 48, height: int = 32) -> Pixels:
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    planes = np.broadcast_arrays(x[None, :], y[:, None], np.float64(90))
    return np.stack(planes, axis=-1).astype(np.uint8)


def result(count: int = 2) -> GenerationResult:
    request = GenerationRequest(prompt="dög, 日本", negative_prompt="cat", seed=3, batch_count=count)
    images = tuple(gradient() + np.uint8(index) for index in range(count))
    seeds = tuple(range(3, 3 + count))
    return GenerationResult(images, request, seeds, seeds, model_name="m", model_hash="h")


@pytest.mark.parametrize("format", FORMATS)
def test_format_pixels_and_infotext(format: str) -> None:
    image = open_image(encode(gradient(), format, "a 日本 dog\nSteps: 1", quality=95), LIMIT)
    assert image.format == {"jpg": "JPEG"}.get(format, format.upper())
    assert np.abs(to_rgb(image).astype(int) - gradient()).mean() < 4
    assert read_metadata(image).infotext == "a 日本 dog\nSteps: 1"


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
        lambda t: t[-1] != "\0"
    )
)
def test_infotext_survives_in_jpeg_and_webp(text: str) -> None:
    infotext = text + "\nSteps: 1, Sampler: Euler, Seed: 2"
    for format in ("jpeg", "webp"):
        assert read_metadata(open_image(encode(gradient(8, 8), format, infotext), LIMIT)).infotext == infotext


def test_user_comments_as_other_programs_write_them() -> None:
    text = "日本\nSteps: 1, Seed: 2"
    assert decode_user_comment(b"UNICODE\0" + text.encode("utf-16-be")) == text
    assert decode_user_comment(b"UNICODE\0" + text.encode("utf-16-le")) == text
    assert decode_user_comment(b"ASCII\0\0\0plain") == "plain"
    assert decode_user_comment(bytes(8) + b"plain\0") == "plain"
    assert decode_user_comment("no prefix, ä".encode()) == "no prefix, ä"
    assert decode_user_comment(b"") == ""


def test_an_infotext_too_long_for_jpeg() -> None:
    ascii_only = read_metadata(open_image(encode(gradient(), "jpg", "a" * 60_000), LIMIT))
    assert ascii_only.infotext == "a" * 60_000
    assert read_metadata(open_image(encode(gradient(), "jpg", "é" * 60_000), LIMIT)).infotext == ""
    assert read_metadata(open_image(encode(gradient(), "webp", "é" * 60_000), LIMIT)).infotext == "é" * 60_000


def test_lossless_and_quality() -> None:
    lossless = encode(gradient(), "webp", lossless=True)
    assert np.array_equal(to_rgb(open_image(lossless, LIMIT)), gradient())
    assert len(encode(gradient(), "jpg", quality=10)) < len(encode(gradient(), "jpg", quality=95))


def test_transparency() -> None:
    rgba = np.dstack([gradient(), np.full((32, 48), 100, np.uint8)])
    assert to_pixels(open_image(encode(rgba, "png"), LIMIT)).shape == (32, 48, 4)
    assert to_pixels(open_image(encode(rgba, "webp"), LIMIT)).shape == (32, 48, 4)
    assert to_pixels(open_image(encode(rgba, "jpg"), LIMIT)).shape == (32, 48, 3)


def test_without_infotext_no_metadata() -> None:
    for format in FORMATS:
        metadata = read_metadata(open_image(encode(gradient(), format), LIMIT))
        assert metadata.infotext == ""
        assert metadata.items == {}


def test_other_texts_are_told_apart() -> None:
    data = encode_png(gradient(), {"parameters": "info", "postprocessing": "Postprocess upscale by: 2"})
    metadata = read_metadata(open_image(data, LIMIT))
    assert metadata.infotext == "info"
    assert metadata.items == {"postprocessing": "Postprocess upscale by: 2"}
    buffer = io.BytesIO()
    Image.fromarray(gradient()).save(buffer, "GIF", comment=b"from a gif")
    assert read_metadata(open_image(buffer.getvalue(), LIMIT)).infotext == "from a gif"


def test_what_is_refused() -> None:
    with pytest.raises(BadRequest, match="png, jpg, jpeg, webp"):
        encode(gradient(), "tiff")
    with pytest.raises(BadRequest, match="png, jpg, jpeg, webp"):
        parse_format("x" * 1000)
    for quality in (0, 101):
        with pytest.raises(BadRequest, match="1 to 100"):
            encode(gradient(), "jpg", quality=quality)
    wide = np.zeros((1, 16_384, 3), np.uint8)
    with pytest.raises(BadRequest, match="use png"):
        encode(wide, "webp")
    assert parse_format(" PNG ") == "png"
    assert to_rgb(open_image(encode(wide, "jpg"), LIMIT)).shape == wide.shape


def test_base64_is_bare() -> None:
    assert encode_base64(b"\xfb\xff") == "+/8="


@pytest.mark.parametrize("format", FORMATS)
def test_encode_all(format: str) -> None:
    made = result()
    images, infotexts = encode_all(made, Encoding(parse_format(format), lossless=True))
    assert infotexts == [compose(made, index) for index in range(2)]
    for text, pixels, infotext in zip(images, made.images, infotexts, strict=True):
        image = open_image(base64.b64decode(text, validate=True), LIMIT)
        assert read_metadata(image).infotext == infotext
        if format in ("png", "webp"):
            assert np.array_equal(to_rgb(image), pixels)
    bare, infotexts = encode_all(made, Encoding(parse_format(format), embed_infotext=False))
    assert read_metadata(open_image(base64.b64decode(bare[0]), LIMIT)).infotext == ""
    assert infotexts[0].startswith("dög")

"""PNG: lossless at any size, text readable by Pillow, with fpng and without."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from service.core.pixels import Pixels
from service.imaging import png
from service.imaging.png import SIGNATURE, encode_png

SIDES = st.integers(1, 70)


@st.composite
def pictures(draw: st.DrawFn, channels: tuple[int, ...] = (1, 2, 3, 4)) -> Pixels:
    shape = (draw(SIDES), draw(SIDES), draw(st.sampled_from(channels)))
    if draw(st.booleans()):
        seed = draw(st.integers(0, 2**32 - 1))
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return draw(hnp.arrays(np.uint8, shape))


def read(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def chunk_names(data: bytes) -> list[str]:
    names, position = [], len(SIGNATURE)
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        body = data[position + 4 : position + 8 + length]
        assert data[position + 8 + length : position + 12 + length] == struct.pack(">I", zlib.crc32(body))
        names.append(body[:4].decode())
        position += 12 + length
    return names


@given(pixels=pictures())
def test_every_pixel_comes_back(pixels: Pixels) -> None:
    assert np.array_equal(read(encode_png(pixels)).reshape(pixels.shape), pixels)


@given(pixels=pictures(channels=(3, 4)))
@settings(max_examples=30)
def test_pillow_takes_over_without_fpng(pixels: Pixels) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "fpng", None)
        data = encode_png(pixels, {"parameters": "x"})
    assert np.array_equal(read(data), pixels)
    assert chunk_names(data)[1] == "tEXt"


def test_pillow_takes_over_when_fpng_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        @staticmethod
        def from_ndarray(_: Pixels) -> bytes:
            return b""

    monkeypatch.setattr(png, "fpng", Refusing)
    pixels = np.full((5, 3, 3), 7, np.uint8)
    assert np.array_equal(read(encode_png(pixels)), pixels)


def test_fpng_writes_rgb_where_it_is_installed() -> None:
    pytest.importorskip("fpng")
    assert "fdEC" in chunk_names(encode_png(np.zeros((4, 4, 3), np.uint8)))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 2049, 3), (2049, 1, 3), (1, 1, 4), (511, 513, 3)])
def test_extreme_shapes(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(read(encode_png(pixels)), pixels)


def test_views_are_written_as_they_look() -> None:
    base = np.random.default_rng(2).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    for view in (base[::-1, ::2, :3], base.transpose(1, 0, 2), base[3:9, 4:11]):
        assert np.array_equal(read(encode_png(view)), view)


@given(text=st.text(max_size=300))
def test_text_comes_back(text: str) -> None:
    with Image.open(io.BytesIO(encode_png(np.zeros((2, 2, 3), np.uint8), {"parameters": text}))) as image:
        assert image.info["parameters"] == text


def test_chunks_stand_before_the_pixels_in_order() -> None:
    data = encode_png(np.zeros((2, 2, 3), np.uint8), {"parameters": "plain", "note": "日本"})
    names = [name for name in chunk_names(data) if name != "fdEC"]
    assert names == ["IHDR", "tEXt", "iTXt", "IDAT", "IEND"]


def test_lone_surrogates_do_not_lose_the_image() -> None:
    data = encode_png(np.zeros((2, 2, 3), np.uint8), {"parameters": "a\ud800b"})
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["parameters"] == "a?b"


@pytest.mark.parametrize("keyword", ["", "k" * 80, "a\0b", "日本"])
def test_keywords_that_png_forbids(keyword: str) -> None:
    with pytest.raises(ValueError, match="keyword"):
        encode_png(np.zeros((2, 2, 3), np.uint8), {keyword: "x"})


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2, 3), np.float32), np.zeros((2, 2, 5), np.uint8), np.zeros((0, 2, 3), np.uint8)]
)
def test_arrays_that_are_no_pictures(pixels: Pixels) -> None:
    with pytest.raises(ValueError, match="pixels must"):
        encode_png(pixels)

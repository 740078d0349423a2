"""Images from clients, friendly and hostile: the right picture, or BadImage with a sentence."""

import base64
import io
import json
import struct
import subprocess
import sys
import textwrap
import urllib.parse
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from service.core.errors import BadImage
from service.core.pixels import Pixels
from service.imaging.decode import (
    READABLE,
    decode_base64,
    decode_image,
    is_url,
    open_image,
    to_mask,
    to_pixels,
    to_rgb,
)

# The module ignores what Pillow remarks on clients' files; pytest's own filters come after it.
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\..*")

LIMIT = 1_000_000
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(width: int = 40, height: int = 24) -> Image.Image:
    """Left half red, right half blue, a green corner at the top left."""
    image = Image.new("RGB", (width, height), BLUE)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 2 - 1, height - 1), fill=RED)
    draw.rectangle((0, 0, width // 4 - 1, height // 4 - 1), fill=GREEN)
    return image


def rgb_of(data: bytes, background: str = "#ffffff") -> Pixels:
    return to_rgb(open_image(data, LIMIT), background)


def close(pixels: Pixels, x: int, y: int, colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool(np.abs(pixels[y, x].astype(int) - np.array(colour)).max() <= tolerance)


# --- base64 ----------------------------------------------------------------------------------------------


@given(data=st.binary(min_size=1, max_size=200), cut=st.integers(1, 90))
def test_base64_in_every_shape(data: bytes, cut: int) -> None:
    plain = base64.b64encode(data).decode()
    shapes = [
        plain,
        plain.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        "\r\n".join(textwrap.wrap(plain, cut)),
        f"  {plain}\n",
        f"data:image/png;base64,{plain}",
        f"DATA:image/jpeg;charset=utf-8;BASE64,{plain}",
        f"data:;base64,{urllib.parse.quote(plain, safe='')}",
    ]
    for text in shapes:
        assert decode_base64(text) == data


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("data:image/png;base64,", "is empty"),
        ("not base64!", "not valid base64"),
        ("AAAAA", "not valid base64"),
        ("日本", "not valid base64"),
        ("data:image/png,rawbytes", "without base64"),
        ("data:" + "x" * 1000, "without base64"),
        ("data:image/svg+xml;utf8,<svg></svg>", "SVG"),
        ("data:image/svg+xml;base64,PHN2Zz4=", "SVG"),
        ("http://169.254.169.254/latest/meta-data", "address"),
        ("https://example.com/dog.png", "address"),
        ("file:///etc/passwd", "address"),
    ],
)
def test_text_that_is_no_image(text: str, says: str) -> None:
    with pytest.raises(BadImage, match=says) as caught:
        decode_image(text, LIMIT, "init_images[0]")
    assert caught.value.detail.startswith("init_images[0] ")


def test_addresses_are_told_from_data() -> None:
    assert is_url(" HTTPS://example.com/x")
    assert not is_url("data:image/png;base64,AAAA")
    assert not is_url("iVBORw0KGgo")


# --- formats and modes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_each_readable_format(format: str, options: dict[str, object]) -> None:
    assert format in READABLE
    pixels = rgb_of(saved(picture(), format, **options))
    assert pixels.shape == (24, 40, 3)
    assert close(pixels, 15, 20, RED)
    assert close(pixels, 35, 3, BLUE)
    assert close(pixels, 2, 2, GREEN)


@pytest.mark.parametrize("format", ["ICO", "TGA", "PPM", "JPEG2000", "PCX", "AVIF"])
def test_formats_that_are_not_read(format: str) -> None:
    with pytest.raises(BadImage, match="PNG, JPEG, WebP"):
        open_image(saved(picture(), format), LIMIT)


@pytest.mark.parametrize(
    "data", [b'<?xml version="1.0"?><svg/>', b"\n <svg xmlns='http://www.w3.org/2000/svg'></svg>"]
)
def test_svg_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(BadImage, match="SVG drawing"):
        open_image(data, LIMIT)


def test_cmyk_jpeg() -> None:
    pixels = rgb_of(saved(picture().convert("CMYK"), "JPEG", quality=95))
    assert close(pixels, 15, 20, RED, 30)
    assert close(pixels, 35, 3, BLUE, 30)


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(1, 64).repeat(4, axis=0)
    for format in ("PNG", "TIFF"):
        pixels = rgb_of(saved(Image.fromarray(values), format))
        assert np.abs(pixels[0, :, 0].astype(int) - values[0] // 257).max() <= 1
        assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


def sixteen_bit_png(colour_type: int, samples: tuple[int, ...]) -> bytes:
    """A PNG of 3×2 pixels of 16 bits a channel, each with ``samples``; Pillow does not write such files."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(f">{len(samples)}H", *samples) * 3
    header = struct.pack(">IIBBBBB", 3, 2, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row * 2)), chunk(b"IEND", b""))
    )


def test_sixteen_bit_colour_and_alpha() -> None:
    assert rgb_of(sixteen_bit_png(2, (0xFFFF, 0x8000, 0)))[1, 2].tolist() == [255, 128, 0]
    assert rgb_of(sixteen_bit_png(6, (0xFFFF, 0, 0, 0xFFFF)))[0, 0].tolist() == [255, 0, 0]
    assert rgb_of(sixteen_bit_png(6, (0xFFFF, 0, 0, 0)))[0, 0].tolist() == [255, 255, 255]
    assert rgb_of(sixteen_bit_png(4, (0, 0)))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("top", "mode"), [(1.0, "F"), (255.0, "F"), (65535.0, "F"), (3.0e6, "F"), (255, "I"), (70_000, "I")]
)
def test_numbers_of_32_bits(top: float, mode: str) -> None:
    values = np.array([[0, top / 2, top]], np.float32 if mode == "F" else np.int32)
    grey = to_rgb(Image.fromarray(values))[0, :, 0]
    assert grey[0] == 0
    assert abs(int(grey[1]) - 127) <= 1
    assert grey[2] == 255


def test_floats_that_are_no_numbers() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    assert to_rgb(Image.fromarray(values))[0, :, 0].tolist() == [0, 0, 0, 255]


def test_transparency_lies_on_the_background() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128)]
    data = saved(Image.fromarray(rgba))
    assert rgb_of(data)[0].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]
    assert rgb_of(data, "#00ff00")[0, 1].tolist() == [0, 255, 0]
    assert to_pixels(open_image(data, LIMIT)).tolist() == rgba.tolist()
    with pytest.raises(BadImage, match="#rrggbb"):
        rgb_of(data, "no colour")


def test_transparency_in_grey_and_palette_images() -> None:
    grey = np.array([[[0, 255], [0, 0]]], np.uint8)
    assert rgb_of(saved(Image.fromarray(grey)))[0].tolist() == [[0, 0, 0], [255, 255, 255]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert rgb_of(saved(palette))[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert rgb_of(saved(palette, transparency=b"\xff\x00"))[0].tolist() == [[255, 0, 0], [255, 255, 255]]
    assert rgb_of(saved(palette, "GIF", transparency=0))[0].tolist() == [[255, 255, 255], [0, 0, 255]]
    keyed = saved(Image.new("RGB", (1, 1), RED), transparency=RED)
    assert rgb_of(keyed)[0, 0].tolist() == [255, 255, 255]


def test_bilevel_images() -> None:
    assert rgb_of(saved(Image.new("1", (9, 3), 1)))[2, 8].tolist() == [255, 255, 255]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert close(rgb_of(data), 8, 8, RED, 2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
def test_exif_orientation(orientation: int, format: str) -> None:
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = picture() if turned is None else picture().transpose(turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = rgb_of(saved(stored, format, exif=exif.tobytes(), quality=95))
    assert pixels.shape == (24, 40, 3)
    assert close(pixels, 3, 2, GREEN, 60)
    assert close(pixels, 15, 20, RED, 30)
    assert close(pixels, 35, 3, BLUE, 30)


def test_damaged_exif_does_not_lose_the_picture() -> None:
    data = saved(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage", quality=95)
    assert rgb_of(data).shape == (24, 40, 3)


# --- masks -----------------------------------------------------------------------------------------------


def test_a_mask_is_its_brightness() -> None:
    grey = Image.fromarray(np.array([[0, 128, 129, 255]], np.uint8))
    # Only where it is an alpha channel it is rounded; the latent's mask is later.
    for mode in ("L", "RGB", "RGBA"):
        assert to_mask(grey.convert(mode)).tolist() == [[0, 128, 129, 255]]
        assert to_mask(grey.convert(mode), rounded=False).tolist() == [[0, 128, 129, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_with_transparency_is_its_alpha(mode: str) -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(255, 255, 255, 0), (0, 0, 0, 200), (0, 0, 0, 255)]
    mask = open_image(saved(Image.fromarray(rgba).convert(mode)), LIMIT, "mask")
    assert to_mask(mask).tolist() == [[0, 255, 255]]
    assert to_mask(mask, rounded=False).tolist() == [[0, 200, 255]]


def test_sixteen_bit_masks() -> None:
    mask = Image.fromarray(np.array([[0, 65535, 20000]], np.uint16))
    assert to_mask(open_image(saved(mask), LIMIT)).tolist() == [[0, 255, 78]]


# --- hostile files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", READABLE)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files(format: str, part: float) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), format)
    with pytest.raises(BadImage, match=r"cut off|no image"):
        open_image(whole[: int(len(whole) * part)], LIMIT)


@given(seed=st.integers(0, 2**32 - 1), format=st.sampled_from(READABLE))
@settings(max_examples=300, deadline=None)
def test_damaged_files_decode_or_are_refused(seed: int, format: str) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(saved(picture(), format))
    for position in rng.integers(0, len(data), rng.integers(1, 9)):
        data[position] = rng.integers(0, 256)
    try:
        image = open_image(bytes(data), LIMIT)
        pixels, mask = to_rgb(image), to_mask(image)
    except BadImage:
        return
    assert pixels.shape == (image.height, image.width, 3)
    assert mask.shape == (image.height, image.width)


@given(data=st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    with pytest.raises(BadImage):
        open_image(data, LIMIT)


BOMBS = """
import io, json, struct, sys, zlib
from PIL import Image
from service.core.errors import BadImage
from service.imaging.decode import open_image
peak = lambda: int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))

def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

def png(width, height, rows):
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

def saved(format):
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).convert("RGB").save(buffer, format)
    return bytearray(buffer.getvalue())

def webp(width, height):
    small = saved("WEBP")[12:]
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\\x02\\0\\0\\0"
    body += struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    frame = bytes(6) + b"\\x0f\\0\\0\\x0f\\0\\0" + b"\\x64\\0\\0\\0" + bytes(small)
    body += b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body

gif = saved("GIF"); gif[6:10] = struct.pack("<HH", 65535, 65535)
bmp = saved("BMP"); bmp[18:26] = struct.pack("<ii", 30000, 30000)
jpeg = saved("JPEG"); at = jpeg.index(b"\\xff\\xc0"); jpeg[at + 5 : at + 9] = struct.pack(">HH", 65000, 65000)
files = {
    "png 100 megapixels": png(10_000, 10_000, 10_000), "png 2 gigapixels": png(50_000, 50_000, 4),
    "webp": webp(16_383, 16_383), "gif": bytes(gif), "bmp": bytes(bmp), "jpeg": bytes(jpeg),
}
said, before = {}, peak()
for name, data in files.items():
    try:
        open_image(data, 32_000_000)
        said[name] = "decoded"
    except BadImage as error:
        said[name] = error.detail
print(json.dumps([said, peak() - before]))
"""


def test_bombs_are_refused_before_they_take_memory() -> None:
    run = subprocess.run([sys.executable, "-c", BOMBS], capture_output=True, text=True, check=True)
    said, grown_kib = json.loads(run.stdout.splitlines()[-1])
    assert run.stderr == ""
    for name, sentence in said.items():
        assert "too large" in sentence, (name, sentence)
    assert "10000×10000" in said["png 100 megapixels"]
    assert "SD_MAX_IMAGE_PIXELS" in said["png 100 megapixels"]
    assert grown_kib < 50_000


def test_compressed_text_bombs_are_refused() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    data = saved(picture())
    bomb = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(20_000_000)))
    with pytest.raises(BadImage, match="cannot be decoded"):
        open_image(data[:33] + bomb + data[33:], LIMIT)


def test_the_limit_is_inclusive() -> None:
    data = saved(picture(40, 25))
    assert open_image(data, 1000).size == (40, 25)
    with pytest.raises(BadImage, match="at most 999 pixels"):
        open_image(data, 999)

"""Images that clients send: base64 in every shape they come in, into arrays, within limits.

The size is read from the header and checked before any pixel is decoded; whatever is wrong with the bytes
ends in :class:`BadImage` with a sentence. ``name`` in the signatures is the field that the sentence blames.
"""

import binascii
import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
import pybase64
from PIL import Image, ImageColor, ImageOps, PngImagePlugin, UnidentifiedImageError

from service.core.errors import BadImage
from service.core.pixels import Mask, Pixels
from service.imaging.structure import check_structure, is_sound_tiff

READABLE: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats that are read; its many other decoders never see a client's bytes."""
READABLE_TEXT: Final = "PNG, JPEG, WebP, GIF, BMP or TIFF"

_URL: Final = re.compile(r"\s*([a-z][a-z0-9+.-]{1,20})://", re.IGNORECASE)
_DATA_HEADER: Final = 256  # characters within which the comma of a data: URI must come
_WHITESPACE: Final = b" \t\r\n\f\v"
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_MASK_THRESHOLD: Final = 128

# What Pillow remarks on a client's file is no news to the operator. Its warning of large images gives way to
# the limit that the operator sets; its error, at twice that size, stays.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
PngImagePlugin.MAX_TEXT_MEMORY = 8 * 1024**2  # of all texts of a file together; Pillow's own 64 MB are a bomb


def is_url(text: str) -> bool:
    """True for "http://…" and its like: an address instead of an image. A ``data:`` URI is none."""
    return _URL.match(text) is not None


def decode_base64(text: str, name: str = "image") -> bytes:
    """The bytes of ``text``: base64, standard or URL-safe, padded or not, in lines or not, or a ``data:``
    URI.

    Raises :class:`BadImage` for anything else; an address is never fetched here.
    """
    if is_url(text):
        raise BadImage(f"{name} is an address, which is not fetched here: send the image's bytes as base64.")
    text = text.lstrip()
    if text[:5].lower() == "data:":
        comma = text.find(",", 0, _DATA_HEADER)
        header = text[:comma].lower()
        if header.startswith("data:image/svg"):
            raise _svg(name)
        if comma < 0 or "base64" not in header.split(";")[1:]:
            raise BadImage(f"{name} is a data: URI without base64: write data:image/png;base64,… instead.")
        text = text[comma + 1 :]
    try:
        data = _plain_base64(text)
        if data is None:
            data = _loose_base64(text)
    except (UnicodeEncodeError, binascii.Error):
        raise BadImage(f"{name} is not valid base64: send the bytes of an image file so encoded.") from None
    if not data:
        raise BadImage(f"{name} is empty: send the bytes of an image file as base64.")
    return data


def _plain_base64(text: str) -> bytes | None:
    """The bytes of standard base64 in one line, which most clients send, without a copy; None for any other."""
    if len(text) % 4 or "%" in text[:64]:
        return None
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _loose_base64(text: str) -> bytes:
    """The same for URL-safe, unpadded or broken lines; at most two copies of ``text`` at a time."""
    raw = unquote_to_bytes(text) if "%" in text else text.encode("ascii")
    raw = raw.translate(_TO_STANDARD, _WHITESPACE)
    if raw.endswith(b"="):
        raw = raw.rstrip(b"=")
    if len(raw) % 4:
        raw += b"=" * (-len(raw) % 4)
    return pybase64.b64decode(raw, validate=True)


def open_header(data: bytes, max_pixels: int, name: str = "image") -> Image.Image:
    """A file of which only the header was read: its size is known and small enough, its pixels are to be
    :func:`load`\\ ed.

    ``max_pixels``: largest width × height. Raises :class:`BadImage` if it is larger, or of another format than
    :data:`READABLE`.
    """
    check_structure(data, name)
    with _damage_told(max_pixels, name, data):
        image = Image.open(io.BytesIO(data), formats=READABLE)
        _check_size(image.size, max_pixels, name)
        return image


def load(image: Image.Image, max_pixels: int, name: str = "image") -> Image.Image:
    """Decode what :func:`open_header` gave: the first frame, turned as its Exif orientation says, in the file's
    own mode.

    ``info`` of the result keeps the file's texts. Raises :class:`BadImage` if the file is cut off or damaged.
    """
    with _damage_told(max_pixels, name):
        image.load()
        _check_size(image.size, max_pixels, name)
    _drop_unsound_exif(image)
    with contextlib.suppress(Exception):  # damaged Exif data says nothing about the pixels, which are fine
        ImageOps.exif_transpose(image, in_place=True)
    return image


def open_image(data: bytes, max_pixels: int, name: str = "image") -> Image.Image:
    """:func:`open_header` and :func:`load` in one go."""
    return load(open_header(data, max_pixels, name), max_pixels, name)


@contextlib.contextmanager
def _damage_told(max_pixels: int, name: str, data: bytes = b"") -> Iterator[None]:
    """Make one sentence of whatever a decoder raises."""
    try:
        yield
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data, name) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
        raise BadImage(f"{name} is far too large: {_limit(max_pixels)}.") from None
    except Exception as error:  # decoders raise nearly everything on damaged files
        raise BadImage(
            f"{name} cannot be decoded ({_reason(error)}): the file is damaged or was cut off on its way."
        ) from None


def decode_image(text: str, max_pixels: int, name: str = "image") -> Image.Image:
    """:func:`decode_base64` and :func:`open_image` in one go."""
    return open_image(decode_base64(text, name), max_pixels, name)


def to_rgb(image: Image.Image, background: str = "#ffffff", name: str = "image") -> Pixels:
    """``image`` of any mode as RGB, laid on ``background`` (a CSS colour) where it is transparent."""
    opaque = _eight_bit(image, name)
    if opaque.mode != "RGBA":
        return np.array(opaque)
    try:
        colour = ImageColor.getrgb(background)[:3]
    except ValueError:
        raise BadImage(f"Background colour {background[:40]!r} is no colour: write it as #rrggbb.") from None
    ground = Image.new("RGB", opaque.size, colour)
    ground.paste(opaque, mask=opaque.getchannel("A"))
    return np.array(ground)


def to_pixels(image: Image.Image, name: str = "image") -> Pixels:
    """``image`` of any mode as uint8 of shape (height, width, 3), or 4 where it has transparency."""
    return np.array(_eight_bit(image, name))


def to_mask(image: Image.Image, rounded: bool = True, name: str = "mask") -> Mask:
    """The mask that ``image`` means: its alpha channel, unless that is all opaque; else its brightness.

    White (255) is repainted. ``rounded`` makes an alpha channel 255 above a value of 128 and 0 up to it.
    """
    converted = _eight_bit(image, name)
    mask: Mask | None = None
    if converted.mode == "RGBA":
        alpha = np.array(converted.getchannel("A"))
        mask = alpha if alpha.min() < 255 else None
    if mask is None:
        return np.array(converted.convert("L"))
    return np.where(mask > _MASK_THRESHOLD, np.uint8(255), np.uint8(0)) if rounded else mask


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise BadImage(f"{name} has {width}×{height} pixels, which is too large: {_limit(max_pixels)}.")
    if width * height == 0:
        raise BadImage(f"{name} has no pixels ({width}×{height}).")


def _drop_unsound_exif(image: Image.Image) -> None:
    """Forget Exif data that would cost more to read than it is worth, and its obsolete form in PNG's
    texts.
    """
    image.info.pop("Raw profile type exif", None)
    exif = image.info.get("exif")
    if exif is not None and not (isinstance(exif, bytes) and is_sound_tiff(exif.removeprefix(b"Exif\0\0"))):
        del image.info["exif"]


def _limit(max_pixels: int) -> str:
    return f"send one of at most {max_pixels:,} pixels, or have SD_MAX_IMAGE_PIXELS raised"


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """``image`` as RGB or, where anything of it may be transparent, as RGBA."""
    try:
        if image.mode.startswith(("I", "F")):
            return Image.fromarray(_scaled(np.asarray(image))).convert("RGB")
        mode = "RGBA" if image.has_transparency_data else "RGB"
        return image if image.mode == mode and "transparency" not in image.info else image.convert(mode)
    except (ValueError, OSError, MemoryError) as error:
        raise BadImage(
            f"{name} has a colour mode ({image.mode}) that is not read here ({_reason(error)}): "
            "save it as RGB."
        ) from None


def _scaled(values: npt.NDArray[Any]) -> Pixels:
    """One channel of 16 or more bits, or of floats, with its range brought to 0..255."""
    if values.dtype == np.uint16:  # in place of a float copy four times as large
        return np.asarray(values >> 8, dtype=np.uint8)
    numbers = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    peak = float(numbers.max())
    unit = 1.0 if values.dtype.kind == "f" else 255.0
    top = next((bound for bound in (unit, 255.0, 65535.0) if peak <= bound), peak)
    return np.asarray(np.clip(numbers * (255.0 / top), 0, 255), dtype=np.uint8)


def _svg(name: str) -> BadImage:
    return BadImage(f"{name} is an SVG drawing, which is not read here: render it and send {READABLE_TEXT}.")


def _unidentified(data: bytes, name: str) -> BadImage:
    head = data[:1024].lstrip().lower()
    if b"<svg" in head or head.startswith(b"<?xml"):
        return _svg(name)
    return BadImage(f"{name} is no image that is read here: send {READABLE_TEXT} as base64.")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:120] or type(error).__name__

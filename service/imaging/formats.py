"""The file formats that images leave in: PNG, JPEG and WebP, with the infotext where readers look for it.

PNG carries it as text chunk ``parameters``, JPEG and WebP as Exif ``UserComment``, as A1111 does.
"""

import io
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import pybase64
from PIL import Image

from service.core.errors import BadRequest
from service.core.pixels import Pixels
from service.imaging.png import encode_png

Format: TypeAlias = Literal["png", "jpg", "jpeg", "webp"]

FORMATS: Final[tuple[Format, ...]] = ("png", "jpg", "jpeg", "webp")
MEDIA_TYPES: Final[dict[Format, str]] = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}
PARAMETERS: Final = "parameters"
"""Keyword of the text chunk that holds the infotext."""

EXIF_IFD: Final = 0x8769
USER_COMMENT: Final = 0x9286
_UNICODE: Final = b"UNICODE\0"
_ASCII: Final = b"ASCII\0\0\0"
_JPEG_EXIF_BYTES: Final = 65_000  # a JPEG segment holds 65,533, and TIFF's own structure takes a little
_LARGEST_SIDE: Final[dict[Format, int]] = {"jpg": 65_535, "jpeg": 65_535, "webp": 16_383}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How images are written. ``quality`` 1..100 is for JPEG and lossy WebP; ``lossless`` for WebP alone."""

    format: Format = "png"
    quality: int = 80
    lossless: bool = False
    embed_infotext: bool = True

    @property
    def media_type(self) -> str:
        """The MIME type of the files."""
        return MEDIA_TYPES[self.format]


def parse_format(name: str) -> Format:
    """The format that ``name`` (any case) means; raises :class:`BadRequest` with the names that exist."""
    lowered = name.strip().lower()
    if lowered not in FORMATS:
        raise BadRequest(f"There is no image format {name[:40]!r} here: choose one of {', '.join(FORMATS)}.")
    return lowered


def encode(
    pixels: Pixels,
    format: str = "png",
    infotext: str | None = None,
    quality: int = 80,
    lossless: bool = False,
) -> bytes:
    """Write ``pixels`` (uint8, height × width × 3 or 4) as a file of ``format`` that carries ``infotext``.

    JPEG has no transparency, so there the alpha channel is dropped. An infotext that is too long for a
    JPEG's 64 KiB of Exif is left out rather than the image. Raises :class:`BadRequest` for an unknown
    format, a quality outside 1..100 and an image that the format cannot hold.
    """
    kind = parse_format(format)
    if kind == "png":
        return encode_png(pixels, {PARAMETERS: infotext} if infotext else None)
    if not 1 <= quality <= 100:
        raise BadRequest(f"Image quality {quality} is out of range: it goes from 1 to 100.")
    if max(pixels.shape[:2]) > _LARGEST_SIDE[kind]:
        raise BadRequest(
            f"An image of {pixels.shape[1]}×{pixels.shape[0]} pixels is too large for {kind}, "
            f"which ends at {_LARGEST_SIDE[kind]}: use png."
        )
    buffer = io.BytesIO()
    if kind == "webp":
        exif = _exif(infotext, None)
        Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, lossless=lossless, exif=exif)
    else:
        exif = _exif(infotext, _JPEG_EXIF_BYTES)
        Image.fromarray(pixels[:, :, :3]).save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()


def encode_base64(data: bytes) -> str:
    """Standard base64 without line breaks and without a ``data:`` prefix, as A1111 answers."""
    return pybase64.b64encode_as_string(data)


def _exif(infotext: str | None, limit: int | None) -> bytes:
    """An Exif block with ``infotext`` as UserComment; b"" without one, or if it needs more than ``limit``."""
    if not infotext:
        return b""
    # Exif leaves the byte order of UserComment open; A1111 and its readers take UTF-16 big-endian.
    comment = _UNICODE + infotext.encode("utf-16-be", "replace")
    if limit is not None and len(comment) > limit and infotext.isascii():
        comment = _ASCII + infotext.encode("ascii")
    if limit is not None and len(comment) > limit:
        return b""
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
    return exif.tobytes()

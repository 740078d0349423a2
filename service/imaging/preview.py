"""Small pictures of an image in the making, for clients that watch."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from service.core.pixels import Pixels
from service.imaging.formats import MEDIA_TYPES, encode, encode_base64
from service.imaging.resize import BILINEAR, stretch

PreviewFormat: TypeAlias = Literal["jpeg", "png", "webp"]

LARGEST_SIDE: Final = 512


@dataclass(frozen=True, slots=True)
class Preview:
    """A preview ready to send: ``base64`` without prefix, and its size in pixels."""

    base64: str
    media_type: str
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        """As a ``data:`` URI, which browsers show directly."""
        return f"data:{self.media_type};base64,{self.base64}"


def make_preview(
    pixels: Pixels, format: PreviewFormat = "jpeg", largest_side: int = LARGEST_SIDE, quality: int = 75
) -> Preview:
    """Encode ``pixels`` (uint8, height × width × 3), shrunk so that no side exceeds ``largest_side``.

    Smaller pixels, such as one for each cell of a latent, are sent as they are: enlarging is the client's.
    """
    height, width = pixels.shape[:2]
    if (longest := max(width, height)) > largest_side:
        width = max(1, round(width * largest_side / longest))
        height = max(1, round(height * largest_side / longest))
        pixels = stretch(pixels, width, height, BILINEAR)
    data = encode(pixels, format, quality=quality)
    return Preview(encode_base64(data), MEDIA_TYPES[format], width, height)

"""PNG files that carry text: written by fpng where it can, by Pillow where it cannot, always lossless.

fpng (an order of magnitude faster than zlib at its quickest level) knows nothing of text chunks, so they
are built here as the PNG specification (ISO/IEC 15948, 11.3.4) has them and put behind the header, before
the pixels.
"""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from PIL import Image

from service.core.pixels import Pixels

try:
    import fpng
except ImportError:  # no wheel for this platform: Pillow writes the same pixels, more slowly
    fpng = None

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEADER_END: Final = len(SIGNATURE) + 25  # IHDR is always first and always 4 + 4 + 13 + 4 bytes long
_FPNG_CHANNELS: Final = (3, 4)
_MODES: Final = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def encode_png(pixels: Pixels, text: Mapping[str, str] | None = None) -> bytes:
    """Write ``pixels`` as a PNG with one text chunk per entry of ``text``, in order.

    ``pixels``: uint8 of shape (height, width, 3) or (height, width, 4); grey, with or without alpha, works
    too. A value that Latin-1 can hold becomes ``tEXt``, as Pillow and A1111 write it, any other ``iTXt`` in
    UTF-8. Raises ValueError for another shape or type, and for a keyword that PNG does not allow.

    fpng keeps the interpreter's lock meanwhile: some 5 ms for 1024×1024.
    """
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8, not {pixels.dtype}")
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    if pixels.ndim != 3 or pixels.shape[2] not in _MODES or 0 in pixels.shape:
        raise ValueError(f"pixels must have the shape (height, width, 3), not {pixels.shape}")
    data = _encoder(pixels)(np.ascontiguousarray(pixels))
    chunks = b"".join(_text_chunk(keyword, value) for keyword, value in (text or {}).items())
    return data[:_HEADER_END] + chunks + data[_HEADER_END:] if chunks else data


def _encoder(pixels: Pixels) -> Callable[[Pixels], bytes]:
    return _with_fpng if fpng is not None and pixels.shape[2] in _FPNG_CHANNELS else _with_pillow


def _with_fpng(pixels: Pixels) -> bytes:
    data: bytes = fpng.from_ndarray(pixels)
    # An empty answer is how fpng refuses a size; no image may be lost over it.
    return data if data.startswith(SIGNATURE) else _with_pillow(pixels)


def _with_pillow(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    single = pixels.shape[2] == 1
    image = Image.fromarray(pixels[:, :, 0] if single else pixels)
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _text_chunk(keyword: str, value: str) -> bytes:
    if not is_keyword(keyword):
        raise ValueError(f"a PNG keyword has 1 to 79 Latin-1 characters, unlike {keyword!r}")
    key = keyword.encode("latin-1")
    try:
        return _chunk(b"tEXt", key + b"\0" + value.encode("latin-1"))
    except UnicodeEncodeError:
        # Keyword, separator, uncompressed, method 0, no language, no translated keyword, text.
        # Lone surrogates cannot be written as UTF-8; they become question marks.
        return _chunk(b"iTXt", key + b"\0\0\0\0\0" + value.encode("utf-8", "replace"))


def is_keyword(text: str) -> bool:
    """Whether PNG allows ``text`` as the name of a text chunk: 1 to 79 characters of Latin-1."""
    return 1 <= len(text) <= 79 and all("\0" < character <= "\xff" for character in text)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

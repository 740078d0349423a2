"""What a generation answers with: its images as base64 and the infotext of each."""

from collections.abc import Mapping
from typing import Any, Final

from service.core.generation import GenerationResult
from service.imaging.formats import Encoding, encode, encode_base64
from service.imaging.infotext import DEFAULT_OPTIONS, InfotextOptions, compose

PNG: Final = Encoding()


def encode_all(
    result: GenerationResult,
    encoding: Encoding = PNG,
    options: InfotextOptions = DEFAULT_OPTIONS,
    extra: Mapping[str, Any] | None = None,
) -> tuple[list[str], list[str]]:
    """Base64 of each image of ``result`` (no ``data:`` prefix), and their infotexts, both in order.

    ``extra``: see :func:`service.imaging.infotext.compose`. Takes no lock but the interpreter's; meant for a
    worker thread outside the slot. Raises :class:`BadRequest` for an encoding that cannot hold the images.
    """
    infotexts = [compose(result, index, options, extra) for index in range(len(result.images))]
    files = (
        encode(
            pixels,
            encoding.format,
            text if encoding.embed_infotext else None,
            encoding.quality,
            encoding.lossless,
        )
        for pixels, text in zip(result.images, infotexts, strict=True)
    )
    return [encode_base64(data) for data in files], infotexts

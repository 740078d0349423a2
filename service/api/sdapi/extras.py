"""Enlarging images that exist already: A1111's extras, from its fields to files."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image
from pydantic import Field

from service.api.lanes import while_wanted
from service.api.sdapi.fields import Float, Int, Lenient, Str
from service.api.sdapi.prepared import encoding_of
from service.api.sdapi.saving import save
from service.api.url_images import inline
from service.catalogue.upscalers import enlarged_size
from service.context import Context
from service.core.errors import BadImage, BadRequest
from service.core.jobs import Upscale
from service.core.pixels import Pixels
from service.core.tasks import Phase, Task
from service.imaging import decode, formats
from service.imaging.formats import Encoding
from service.imaging.metadata import Metadata, read_metadata
from service.imaging.png import encode_png
from service.imaging.reader import PictureReader
from service.settings import Settings

NONE: Final = "None"

_MADE_BYTES: Final = 20
"""Bytes a pixel of an enlarged image: as floats while two upscalers are mixed, as bytes, and as a file in base64."""


class ExtrasBody(Lenient):
    """What both routes share."""

    resize_mode: Int = Field(
        0, ge=0, le=1, description="0: by upscaling_resize; 1: to upscaling_resize_w × _h."
    )
    show_extras_results: bool = True
    gfpgan_visibility: Float = Field(0, ge=0, le=1)
    codeformer_visibility: Float = Field(0, ge=0, le=1)
    codeformer_weight: Float = Field(0, ge=0, le=1)
    upscaling_resize: Float = Field(2, gt=0, description="Factor.")
    upscaling_resize_w: Int = Field(512, ge=1)
    upscaling_resize_h: Int = Field(512, ge=1)
    upscaling_crop: bool = Field(True, description="Cut what stands over, so that the size is exact.")
    upscaler_1: Str = Field(NONE, description="A name of /sdapi/v1/upscalers.")
    upscaler_2: Str = NONE
    extras_upscaler_2_visibility: Float = Field(
        0, ge=0, le=1, description="Share of upscaler_2 in the result."
    )
    upscale_first: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """An image as it came: uint8 (height, width, 3 or 4), and the texts of its file."""

    pixels: Pixels
    texts: Metadata


@dataclass(frozen=True, slots=True)
class Enlarged:
    """Files as base64, what was done in the words of A1111's infotext, and how they are written."""

    images: list[str]
    did: str
    encoding: Encoding


async def enlarge(
    body: ExtrasBody, texts: list[str], names: list[str], context: Context, task: Task
) -> Enlarged:
    """The finished images (base64 in ``texts``, told as ``names`` in errors), and what was done."""
    settings, catalogue = context.settings, context.backend.catalogue
    for upscaler in (body.upscaler_1, body.upscaler_2):
        catalogue.check_upscaler(upscaler)
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if getattr(body, name) > 0:
            raise BadRequest(f"{name} is above 0, but there is no face restorer here: set it to 0.")
    options = await context.preferences.of(task.session)
    encoding = encoding_of(options)
    context.backend.raise_if_refusing()
    given = [
        await while_wanted(task, inline(text, settings, name))
        for text, name in zip(texts, names, strict=True)
    ]
    reader = PictureReader(settings.max_image_pixels, settings.max_request_pixels, task.claim)
    sources = await context.lanes.read(task, _read, given, names, reader)
    sizes = _sizes(sources, body, settings)
    factors = tuple(_factor(source, body) for source in sources)
    await context.board.claim(task)
    task.claim.take("answers", sum(width * height for width, height in sizes) * _MADE_BYTES)
    if body.upscaler_1 == NONE:
        made = [source.pixels for source in sources]
    else:
        second = body.upscaler_2 if body.upscaler_2 != NONE else None
        colours = tuple(np.ascontiguousarray(source.pixels[:, :, :3]) for source in sources)
        job = Upscale(colours, sizes, body.upscaler_1, second, body.extras_upscaler_2_visibility, factors)
        larger = (await context.backend.run(job, task)).images
        made = await context.lanes.run(
            task, lambda: [_fitted(one, source, body) for one, source in zip(larger, sources, strict=True)]
        )
    task.phase = Phase.ENCODING
    did = _did(body)
    images = await context.lanes.run(task, _written, made, sources, did, encoding)
    if settings.output_dir is not None and options.flag("samples_save"):
        seeds, suffix = [0] * len(images), options.choice("samples_format")
        await context.lanes.run(task, save, settings.output_dir, "extras", images, seeds, suffix)
    return Enlarged(images, did, encoding)


def _read(texts: list[str], names: list[str], reader: PictureReader) -> list[Source]:
    images = reader.read(texts, names)
    sources = [
        Source(decode.to_pixels(image, name), read_metadata(image))
        for image, name in zip(images, names, strict=True)
    ]
    reader.done()
    return sources


def _sizes(sources: list[Source], body: ExtrasBody, settings: Settings) -> tuple[tuple[int, int], ...]:
    """Width and height of each image to be made; all together are bounded, as what a request sends is."""
    sizes = tuple(_size(source, body, settings) for source in sources)
    pixels = sum(width * height for width, height in sizes)
    if pixels > settings.max_request_pixels:
        raise BadImage(
            f"The images to be made have {pixels:,} pixels together, but at most {settings.max_request_pixels:,} are "
            "made in one request (SD_MAX_REQUEST_PIXELS): send fewer, or lower upscaling_resize."
        )
    return sizes


def _factor(source: Source, body: ExtrasBody) -> float:
    """How many times as large an image becomes. In mode 1 the asked size is covered in the image's own shape."""
    if body.resize_mode != 1:
        return float(body.upscaling_resize)
    height, width = source.pixels.shape[:2]
    return float(max(body.upscaling_resize_w / width, body.upscaling_resize_h / height))


def _size(source: Source, body: ExtrasBody, settings: Settings) -> tuple[int, int]:
    """Width and height to enlarge to: multiples of 8, as A1111's upscalers make them."""
    height, width = source.pixels.shape[:2]
    factor = _factor(source, body)
    if width * height * factor * factor > settings.max_image_pixels:
        raise BadImage(
            f"{width}×{height} pixels enlarged {factor:g} times are more than the {settings.max_image_pixels} that are "
            "made (SD_MAX_IMAGE_PIXELS): lower upscaling_resize."
        )
    return enlarged_size(width, height, factor)


def _fitted(made: Pixels, source: Source, body: ExtrasBody) -> Pixels:
    """An enlarged image with the transparency of its source, cut to the size that was asked for.

    Where multiples of 8 fall short of that size A1111 leaves black edges; here the picture is drawn out.
    """
    height, width = made.shape[:2]
    cuts = body.resize_mode == 1 and body.upscaling_crop
    if cuts and (width < body.upscaling_resize_w or height < body.upscaling_resize_h):
        factor = _factor(source, body)
        height, width = (max(1, round(side * factor)) for side in source.pixels.shape[:2])
        made = np.asarray(Image.fromarray(made).resize((width, height), Image.Resampling.LANCZOS))
    if source.pixels.shape[2] == 4:
        alpha = Image.fromarray(source.pixels[:, :, 3]).resize((width, height), Image.Resampling.LANCZOS)
        made = np.dstack([made, np.asarray(alpha)])
    if cuts:
        left, top = width // 2 - body.upscaling_resize_w // 2, height // 2 - body.upscaling_resize_h // 2
        made = made[top : top + body.upscaling_resize_h, left : left + body.upscaling_resize_w]
    return np.ascontiguousarray(made)


def _did(body: ExtrasBody) -> str:
    """What was done, in the words of A1111's infotext."""
    if body.upscaler_1 == NONE:
        return ""
    said: dict[str, Any] = {}
    if body.resize_mode == 1:
        said["Postprocess upscale to"] = size = f"{body.upscaling_resize_w}x{body.upscaling_resize_h}"
        if body.upscaling_crop:
            said["Postprocess crop to"] = size
    else:
        said["Postprocess upscale by"] = body.upscaling_resize
    said["Postprocess upscaler"] = body.upscaler_1
    if body.upscaler_2 != NONE and body.extras_upscaler_2_visibility > 0:
        said["Postprocess upscaler 2"] = body.upscaler_2
    return ", ".join(f"{key}: {value}" for key, value in said.items())


def _written(made: list[Pixels], sources: list[Source], did: str, encoding: Encoding) -> list[str]:
    """The files as base64; what they said before is kept, and what was done is added."""
    files = []
    for pixels, source in zip(made, sources, strict=True):
        texts = source.texts
        if encoding.format == "png":
            entries = {**texts.items, formats.PARAMETERS: texts.infotext, "postprocessing": did}
            data = encode_png(pixels, {key: value for key, value in entries.items() if value})
        else:
            data = formats.encode(
                pixels, encoding.format, texts.infotext or None, encoding.quality, encoding.lossless
            )
        files.append(formats.encode_base64(data))
    return files

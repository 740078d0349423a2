"""POST /sdapi/v1/extra-single-image and extra-batch-images: enlarging images that exist already."""

import asyncio
import html
import time
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from PIL import Image
from pydantic import Field
from starlette.responses import Response

from service.api.admission import exchange
from service.api.problems import json_response
from service.api.sdapi.fields import Float, Int, Lenient, Str
from service.api.sdapi.options import Options
from service.api.sdapi.respond import encoding_of
from service.api.sdapi.saving import save
from service.api.sdapi.settle import check_upscaler, session_of
from service.api.url_images import inline
from service.backends.engine import Engine
from service.context import Context, get_context
from service.core.cancel import CancelToken
from service.core.errors import BadImage, BadRequest
from service.core.pixels import Pixels
from service.core.tasks import Phase, Task
from service.imaging import decode, formats
from service.imaging.metadata import Metadata, read_metadata
from service.imaging.png import encode_png
from service.settings import Settings

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])

ContextDep = Annotated[Context, Depends(get_context)]

NONE = "None"


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


class ExtraSingleBody(ExtrasBody):
    """POST /sdapi/v1/extra-single-image."""

    image: Str = ""


class FileData(Lenient):
    """An image of a batch."""

    data: Str = Field(description="Base64.")
    name: Str


class ExtraBatchBody(ExtrasBody):
    """POST /sdapi/v1/extra-batch-images."""

    images: list[FileData] = Field(alias="imageList")


class ExtraSingleAnswer(Lenient):
    """The image, and HTML that says what was done."""

    html_info: str
    image: str


class ExtraBatchAnswer(Lenient):
    """The images, in order, and HTML that says what was done."""

    html_info: str
    images: list[str]


@dataclass(frozen=True, slots=True)
class Source:
    """An image as it came: uint8 (height, width, 3 or 4), and the texts of its file."""

    pixels: Pixels
    texts: Metadata


@router.post("/extra-single-image", response_model=ExtraSingleAnswer, summary="Enlarge an image")
async def extra_single_image(body: ExtraSingleBody, request: Request, context: ContextDep) -> Response:
    """Enlarge one image. With upscaler "None" it comes back as it was."""
    images, info = await _run(body, [body.image], ["image"], request, context)
    return json_response({"html_info": info, "image": images[0]}, headers={"Content-Encoding": "identity"})


@router.post("/extra-batch-images", response_model=ExtraBatchAnswer, summary="Enlarge several images")
async def extra_batch_images(body: ExtraBatchBody, request: Request, context: ContextDep) -> Response:
    """Enlarge images, in order."""
    most = context.settings.max_images
    if not 1 <= len(body.images) <= most:
        raise BadRequest(
            f"imageList has {len(body.images)} images, but must have 1 to {most} (SD_MAX_IMAGES)."
        )
    names = [f"imageList[{number}].data" for number in range(len(body.images))]
    images, info = await _run(body, [item.data for item in body.images], names, request, context)
    return json_response({"html_info": info, "images": images}, headers={"Content-Encoding": "identity"})


async def _run(
    body: ExtrasBody, texts: list[str], names: list[str], request: Request, context: Context
) -> tuple[list[str], str]:
    """The finished images as base64, and the HTML."""
    engine, settings = context.backend.engine, context.settings
    for upscaler in (body.upscaler_1, body.upscaler_2):
        check_upscaler(engine, upscaler)
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if getattr(body, name) > 0:
            raise BadRequest(f"{name} is above 0, but there is no face restorer here: set it to 0.")
    options = context.options_of(session_of(request))
    encoding_of(options)
    loop = asyncio.get_running_loop()
    sources = []
    for text, name in zip(texts, names, strict=True):
        given = await inline(text, settings, name)
        sources.append(await loop.run_in_executor(context.encoders, _read, given, settings, name))
    sizes = [_size(source, body, settings) for source in sources]

    def work(engine: Engine, task: Task) -> list[Pixels]:
        began = time.perf_counter()
        made = [
            _enlarge(source.pixels, *size, body, engine, task.token)
            for source, size in zip(sources, sizes, strict=True)
        ]
        task.timings.add("upscale", time.perf_counter() - began)
        return made

    async with exchange(context, request, "extras") as task:
        if body.upscaler_1 == NONE:
            context.lifecycle.raise_unless_accepting()
            made = [source.pixels for source in sources]
        else:
            made = await context.backend.on_device(task, lambda engine: work(engine, task))
        task.phase = Phase.ENCODING
        did = _did(body)
        images = await loop.run_in_executor(context.encoders, _written, made, sources, did, options)
        if settings.output_dir is not None and options.flag("samples_save"):
            suffix = options.choice("samples_format")
            await loop.run_in_executor(
                context.encoders, save, settings.output_dir, "extras", images, [0] * len(images), suffix
            )
    return images, f"<div class='infotext'><p>{html.escape(did)}</p></div>"


def _read(text: str, settings: Settings, name: str) -> Source:
    image = decode.decode_image(text, settings.max_image_pixels, name)
    return Source(decode.to_pixels(image, name), read_metadata(image))


def _size(source: Source, body: ExtrasBody, settings: Settings) -> tuple[int, int]:
    """Width and height to enlarge to. In mode 1 the asked size is covered in the image's own shape."""
    height, width = source.pixels.shape[:2]
    if body.resize_mode == 1:
        factor = max(body.upscaling_resize_w / width, body.upscaling_resize_h / height)
    else:
        factor = body.upscaling_resize
    if width * height * factor * factor > settings.max_image_pixels:
        raise BadImage(
            f"{width}×{height} pixels enlarged {factor:g} times are more than the {settings.max_image_pixels} that are "
            "made (SD_MAX_IMAGE_PIXELS): lower upscaling_resize."
        )
    if body.resize_mode == 1:
        return max(1, round(width * factor)), max(1, round(height * factor))
    return max(1, int(width * factor)), max(1, int(height * factor))


def _enlarge(
    pixels: Pixels, width: int, height: int, body: ExtrasBody, engine: Engine, token: CancelToken
) -> Pixels:
    colours = np.ascontiguousarray(pixels[:, :, :3])
    made = engine.upscale(colours, body.upscaler_1, width, height, token)
    share = body.extras_upscaler_2_visibility
    if body.upscaler_2 != NONE and share > 0:
        second = engine.upscale(colours, body.upscaler_2, width, height, token)
        mixed = made.astype(np.float32) * (1 - share) + second.astype(np.float32) * share
        made = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    if pixels.shape[2] == 4:
        alpha = Image.fromarray(pixels[:, :, 3]).resize((width, height), Image.Resampling.LANCZOS)
        made = np.dstack([made, np.asarray(alpha)])
    if body.resize_mode == 1 and body.upscaling_crop:
        left, top = (width - body.upscaling_resize_w) // 2, (height - body.upscaling_resize_h) // 2
        left, top = max(0, left), max(0, top)
        made = made[top : top + body.upscaling_resize_h, left : left + body.upscaling_resize_w]
    return np.ascontiguousarray(made)


def _did(body: ExtrasBody) -> str:
    """What was done, in the words of A1111's infotext."""
    if body.upscaler_1 == NONE:
        return ""
    said: dict[str, Any] = {}
    if body.resize_mode == 1:
        said["Postprocess upscale to"] = f"{body.upscaling_resize_w}x{body.upscaling_resize_h}"
    else:
        said["Postprocess upscale by"] = f"{body.upscaling_resize:g}"
    said["Postprocess upscaler"] = body.upscaler_1
    if body.upscaler_2 != NONE and body.extras_upscaler_2_visibility > 0:
        said["Postprocess upscaler 2"] = body.upscaler_2
    return ", ".join(f"{key}: {value}" for key, value in said.items())


def _written(made: list[Pixels], sources: list[Source], did: str, options: Options) -> list[str]:
    """The files as base64; what they said before is kept, and what was done is added."""
    encoding = encoding_of(options)
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

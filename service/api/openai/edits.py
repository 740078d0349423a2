"""From the form of an edit to a generation that starts from its picture and remakes what the mask leaves open."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from fastapi import Request
from PIL import Image
from starlette.datastructures import UploadFile

from service.api.limits import check
from service.api.openai.bodies import ImagesBody
from service.context import Context
from service.core.errors import BadRequest
from service.core.generation import GenerationRequest, InitImage
from service.core.pixels import Mask
from service.core.tasks import Task
from service.imaging import decode, inpaint, resize
from service.imaging.formats import encode_base64
from service.imaging.reader import PictureReader

STRENGTH: Final = 0.8
"""How much of a picture is made anew, of 1: its outlines stay."""

_MOST_PARTS: Final = 32


@dataclass(frozen=True, slots=True)
class EditForm:
    """The fields, and the files as base64."""

    body: ImagesBody
    images: tuple[str, ...]
    mask: str | None


async def read_form(request: Request) -> EditForm:
    """The parts of a ``multipart/form-data`` body. Raises :class:`BadRequest`."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise BadRequest("An edit is a form (multipart/form-data) with image, prompt and perhaps mask.")
    fields: dict[str, str] = {}
    images: list[str] = []
    mask = None
    async with request.form(max_files=_MOST_PARTS, max_fields=_MOST_PARTS) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                data = encode_base64(await value.read())
                if name in ("image", "image[]"):
                    images.append(data)
                elif name == "mask":
                    mask = data
            else:
                fields[name] = value
    if not images:
        raise BadRequest("An edit needs a picture: send one as image.")
    return EditForm(ImagesBody.model_validate(fields), tuple(images), mask)


def prepare(form: EditForm, context: Context, task: Task) -> tuple[GenerationRequest, inpaint.Plan]:
    """The generation, and how its images are put back. The first picture counts; what the mask (or else the picture
    itself) shows transparent is remade, all of it where nothing is. Raises :class:`BadRequest`.
    """
    settings = context.settings
    asked = form.body.request(context.backend.catalogue)
    texts = [form.images[0], *([form.mask] if form.mask else [])]
    reader = PictureReader(settings.max_image_pixels, settings.max_request_pixels, task.claim)
    read = reader.read(texts, ["image", "mask"][: len(texts)])
    if form.body.size in (None, "auto"):
        width, height = _size_of(read[0], settings.max_side)
        asked = replace(asked, width=width, height=height)
    check(asked, settings)
    mask = _open_parts(read[-1])
    if form.mask and mask is None:
        raise BadRequest("The mask has no transparent part: make transparent what is to be remade.")
    plan = inpaint.plan(
        [decode.to_rgb(read[0])],
        mask,
        asked.width,
        asked.height,
        resize.CROP,
        inpaint.Inpainting(fill=1, full_res=False),
    )
    reader.done()
    init = InitImage(images=plan.images, mask=plan.mask, denoising_strength=STRENGTH)
    return replace(asked, init=init), plan


def _open_parts(image: Image.Image) -> Mask | None:
    """255 where ``image`` is transparent; None where nothing is."""
    if "A" not in image.getbands():
        return None
    alpha = np.asarray(image.getchannel("A"))
    return np.where(alpha < 128, 255, 0).astype(np.uint8) if (alpha < 128).any() else None


def _size_of(image: Image.Image, most: int) -> tuple[int, int]:
    """The size of ``image`` in steps of 8, at most ``most`` and at least 64 a side."""
    factor = min(1.0, most / max(image.size))
    width, height = (max(64, int(side * factor) // 8 * 8) for side in image.size)
    return width, height

"""POST /sdapi/v1/png-info and /interrogate: what an image says of itself, and what can be seen on it."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from service.api.admission import Work, get_task
from service.api.problems import json_response
from service.api.sdapi.fields import Lenient, Picture, Str
from service.api.url_images import inline
from service.context import Context, get_context
from service.core.errors import BadRequest, NotFound
from service.core.jobs import Caption
from service.core.pixels import Pixels
from service.core.tasks import Task
from service.imaging import decode, infotext
from service.imaging.metadata import Metadata, read_metadata

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])

WORK: Work = {("POST", "/sdapi/v1/png-info"): "other", ("POST", "/sdapi/v1/interrogate"): "interrogate"}

ContextDep = Annotated[Context, Depends(get_context)]
TaskDep = Annotated[Task, Depends(get_task)]

CAPTIONERS = ("clip", "deepdanbooru", "deepbooru")
"""What A1111 can be asked for."""


class PngInfoBody(Lenient):
    """An image with an infotext."""

    image: Picture = Field(description="Base64, with or without a data: prefix.")


class PngInfoAnswer(Lenient):
    """``info`` is the infotext, "" if there is none; ``items`` the other texts; ``parameters`` the infotext parsed."""

    info: str
    items: dict[str, Any]
    parameters: dict[str, Any]


class InterrogateBody(Lenient):
    """An image to describe."""

    image: Picture = ""
    model: Str = "clip"


class InterrogateAnswer(Lenient):
    """A description."""

    caption: str


@router.post("/png-info", response_model=PngInfoAnswer, summary="Read an image's infotext")
async def png_info(body: PngInfoBody, context: ContextDep, task: TaskDep) -> Response:
    """The texts of a PNG, JPEG or WebP; an image without an infotext is no error."""
    given = await inline(body.image, context.settings)

    def read() -> Metadata:
        return read_metadata(decode.decode_image(given, context.settings.max_image_pixels))

    found = await context.lanes.run(task, read)
    return json_response(
        {"info": found.infotext, "items": found.items, "parameters": infotext.parse(found.infotext)}
    )


@router.post("/interrogate", response_model=InterrogateAnswer, summary="Describe an image")
async def interrogate(body: InterrogateBody, context: ContextDep, task: TaskDep) -> Response:
    """A caption by the model in ``SD_CAPTIONER``; 422 where there is none, 404 for a model that A1111 does not know."""
    if body.model not in CAPTIONERS:
        raise NotFound("Model not found")
    if body.model != "clip":
        raise BadRequest(
            f"Captions by tags (model {body.model!r}) are not offered here: ask for model 'clip'."
        )
    given = await inline(body.image, context.settings)

    def read() -> Pixels:
        return decode.to_rgb(decode.decode_image(given, context.settings.max_image_pixels))

    pixels = await context.lanes.run(task, read)
    caption = await context.backend.run(Caption(pixels), task)
    return json_response({"caption": caption})

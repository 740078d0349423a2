"""POST /sdapi/v1/png-info and /interrogate: what an image says of itself, and what can be seen on it."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends
from PIL import Image
from pydantic import Field
from starlette.responses import Response

from service.api.admission import Work, get_task
from service.api.json_route import JsonRoute
from service.api.lanes import while_wanted
from service.api.problems import json_response, picture_response
from service.api.sdapi.fields import Lenient, Picture, Str
from service.api.url_images import inline
from service.api.values import LONGEST_TEXT
from service.context import Context, get_context
from service.core.errors import BadRequest, NotFound
from service.core.jobs import Caption
from service.core.tasks import Task
from service.imaging import decode, infotext
from service.imaging.metadata import read_metadata
from service.imaging.reader import PictureReader
from service.prompt.attention import Span, parse_attention
from service.settings import Settings

router = APIRouter(route_class=JsonRoute, prefix="/sdapi/v1", tags=["A1111"])

WORK: Work = {("POST", "/sdapi/v1/png-info"): "other", ("POST", "/sdapi/v1/interrogate"): "interrogate"}

ContextDep = Annotated[Context, Depends(get_context)]
TaskDep = Annotated[Task, Depends(get_task)]

CAPTIONERS = ("clip", "deepdanbooru", "deepbooru")
"""What A1111 can be asked for."""

_SMALL = 100_000
"""Bytes up to which an answer is worth compressing on the event loop."""


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


def _weighs(prompt: str) -> bool:
    """Whether any part of ``prompt`` has a weight: only then does A1111 name the emphasis that goes unsaid."""
    return any(isinstance(piece, Span) and piece.weight != 1 for piece in parse_attention(prompt))


def _picture(text: str, settings: Settings, task: Task) -> Image.Image:
    reader = PictureReader(settings.max_image_pixels, settings.max_request_pixels, task.claim)
    return reader.read([text], ["image"])[0]


@router.post("/png-info", response_model=PngInfoAnswer, summary="Read an image's infotext")
async def png_info(body: PngInfoBody, context: ContextDep, task: TaskDep) -> Response:
    """The texts of a PNG, JPEG or WebP; an image without an infotext is no error."""
    given = await while_wanted(task, inline(body.image, context.settings))

    def read() -> bytes:
        found = read_metadata(_picture(given, context.settings, task))
        said = infotext.parse(found.infotext[:LONGEST_TEXT])
        parameters: dict[str, str | int | bool] = {**infotext.DEFAULTS, **said}
        if _weighs(said["Prompt"]) or _weighs(said["Negative prompt"]):
            parameters.setdefault("Emphasis", "Original")
        return orjson.dumps({"info": found.infotext, "items": found.items, "parameters": parameters})

    answer = await context.lanes.read(task, read)
    return picture_response(answer) if len(answer) > _SMALL else json_response(answer)


@router.post("/interrogate", response_model=InterrogateAnswer, summary="Describe an image")
async def interrogate(body: InterrogateBody, context: ContextDep, task: TaskDep) -> Response:
    """A caption by the model in ``SD_CAPTIONER``; 422 where there is none, 404 for a model that A1111 does not know."""
    if body.model not in CAPTIONERS:
        raise NotFound("Model not found")
    if body.model != "clip":
        raise BadRequest(
            f"Captions by tags (model {body.model!r}) are not offered here: ask for model 'clip'."
        )
    given = await while_wanted(task, inline(body.image, context.settings))
    pixels = await context.lanes.read(task, lambda: decode.to_rgb(_picture(given, context.settings, task)))
    await context.board.claim(task)
    caption = await context.backend.run(Caption(pixels), task)
    return json_response({"caption": caption})

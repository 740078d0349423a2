"""POST /sdapi/v1/extra-single-image and extra-batch-images."""

import html
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from service.api.admission import Work, get_task
from service.api.json_route import JsonRoute
from service.api.problems import picture_response
from service.api.sdapi.extras import ExtrasBody, enlarge
from service.api.sdapi.fields import Lenient, Picture, Str
from service.context import Context, get_context
from service.core.errors import BadRequest
from service.core.tasks import Task

router = APIRouter(route_class=JsonRoute, prefix="/sdapi/v1", tags=["A1111"])

WORK: Work = {
    ("POST", f"/sdapi/v1/{name}"): "extras" for name in ("extra-single-image", "extra-batch-images")
}

ContextDep = Annotated[Context, Depends(get_context)]
TaskDep = Annotated[Task, Depends(get_task)]


class ExtraSingleBody(ExtrasBody):
    """POST /sdapi/v1/extra-single-image."""

    image: Picture = ""


class FileData(Lenient):
    """An image of a batch."""

    data: Picture = Field(description="Base64.")
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


@router.post("/extra-single-image", response_model=ExtraSingleAnswer, summary="Enlarge an image")
async def extra_single_image(body: ExtraSingleBody, context: ContextDep, task: TaskDep) -> Response:
    """Enlarge one image. With upscaler "None" it comes back as it was."""
    made = await enlarge(body, [body.image], ["image"], context, task)
    return picture_response({"html_info": _html(made.did), "image": made.images[0]})


@router.post("/extra-batch-images", response_model=ExtraBatchAnswer, summary="Enlarge several images")
async def extra_batch_images(body: ExtraBatchBody, context: ContextDep, task: TaskDep) -> Response:
    """Enlarge images, in order."""
    most = context.settings.max_images
    if not 1 <= len(body.images) <= most:
        raise BadRequest(
            f"imageList has {len(body.images)} images, but must have 1 to {most} (SD_MAX_IMAGES)."
        )
    names = [f"imageList[{number}].data" for number in range(len(body.images))]
    made = await enlarge(body, [item.data for item in body.images], names, context, task)
    return picture_response({"html_info": _html(made.did), "images": made.images})


def _html(did: str) -> str:
    return f"<p>{html.escape(did)}</p>"

"""POST /sdapi/v1/txt2img and img2img: from a prompt, or from images (and a mask), to images."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends
from starlette.responses import Response

from service.api.admission import Work, get_task
from service.api.json_route import JsonRoute
from service.api.problems import picture_response
from service.api.sdapi import respond
from service.api.sdapi.prepared import Prepared, prepare
from service.api.sdapi.schemas import GenerationBody, ImagesResponse, Img2ImgBody, Txt2ImgBody
from service.api.url_images import inline, without_urls
from service.context import Context, get_context
from service.core.errors import Cancelled
from service.core.generation import GenerationResult
from service.core.tasks import Phase, Task
from service.settings import Settings

router = APIRouter(route_class=JsonRoute, prefix="/sdapi/v1", tags=["A1111"])

WORK: Work = {("POST", "/sdapi/v1/txt2img"): "txt2img", ("POST", "/sdapi/v1/img2img"): "img2img"}

ContextDep = Annotated[Context, Depends(get_context)]
TaskDep = Annotated[Task, Depends(get_task)]


@router.post("/txt2img", response_model=ImagesResponse, summary="Make images from a prompt")
async def txt2img(body: Txt2ImgBody, context: ContextDep, task: TaskDep) -> Response:
    """Make ``batch_size × n_iter`` images. Seeds are fixed and limits checked before the device is touched."""
    return await _answer(body, context, task)


@router.post("/img2img", response_model=ImagesResponse, summary="Make images from images and a prompt")
async def img2img(body: Img2ImgBody, context: ContextDep, task: TaskDep) -> Response:
    """Make images that start from ``init_images``; with ``mask`` only its white part is made anew."""
    return await _answer(body, context, task)


async def _answer(body: GenerationBody, context: Context, task: Task) -> Response:
    prepared = await ready(body, context, task)
    results = await make(prepared, context, task)
    answer = await respond.answer(prepared, results, context, task)
    del answer["infotexts"]  # they stand in info
    if prepared.kept is not None:
        await context.preferences.set(task.session, prepared.kept)
    headers = {"X-Task-Id": task.id, "Server-Timing": _timing(task)}
    headers |= {"X-Cold-Start": "1"} if task.cold_start else {}
    return picture_response(await context.lanes.run(task, orjson.dumps, answer), headers)


def _timing(task: Task) -> str:
    """The stages of ``task`` in milliseconds, for browsers' tools and for whoever measures (W3C Server Timing)."""
    return ", ".join(f"{stage};dur={1000 * spent:.1f}" for stage, spent in task.timings.stages.items())


async def ready(body: GenerationBody, context: Context, task: Task) -> Prepared:
    """``body`` prepared for the client of ``task``, which gets its id and knows from now on what is asked."""
    context.backend.raise_if_refusing()  # before anything is fetched, decoded or planned
    catalogue, layers = context.backend.catalogue, await context.preferences.layers(task.session)
    if isinstance(body, Img2ImgBody):
        body = await _with_pictures(body, context.settings)
    prepared = await context.lanes.read(
        task, prepare, body, layers, context.settings, catalogue, context.styles, task.claim
    )
    task.claim.take("answers", respond.weight(prepared))  # now, not when it is made and would be lost
    task.request = prepared.generation
    await context.board.claim(task, prepared.generation.task_id)
    return prepared


async def make(prepared: Prepared, context: Context, task: Task) -> tuple[GenerationResult, ...]:
    """Run the job; one that was interrupted before its first step has a result without images."""
    try:
        results = await context.backend.run(prepared.job, task)
    except Cancelled as error:
        if error.cause != "interrupt":
            raise
        results = ()
    task.phase = Phase.ENCODING
    return results or (prepared.nothing(context.backend.catalogue),)


async def _with_pictures(body: Img2ImgBody, settings: Settings) -> Img2ImgBody:
    """``body`` with the pictures themselves where it has their addresses."""
    update: dict[str, Any] = {}
    if body.init_images:
        update["init_images"] = await without_urls(body.init_images, settings, "init_images")
    for name in ("mask", "latent_mask"):
        if text := getattr(body, name):
            update[name] = await inline(text, settings, name)
    return body.model_copy(update=update)

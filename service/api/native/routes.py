"""POST /v1/generate and /v1/upscale: the native endpoints. Progress and result come back on the same response.

That is what makes progress work behind ``containerConcurrency: 1``, where a poll would wait for the very
generation it asks about. With ``Accept: text/event-stream`` they answer server-sent events (see ``events``),
otherwise the same result as one JSON object.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.sse import EventSourceResponse
from starlette.responses import Response

from service.api.admission import Work, get_task
from service.api.dialect import Dialect
from service.api.json_route import JsonRoute
from service.api.native import events, jobs
from service.api.native.bodies import GenerateBody, UpscaleBody
from service.api.native.stream import stream
from service.api.problems import AS_IT_IS, picture_response
from service.api.sdapi import respond
from service.api.sdapi.extras import enlarge
from service.api.sdapi.prepared import Prepared
from service.api.sdapi.routes.generation import make, ready
from service.context import Context, get_context
from service.core.errors import BadRequest
from service.core.generation import GenerationRequest
from service.core.jobs import with_requests
from service.core.tasks import Task

router = APIRouter(route_class=JsonRoute, prefix="/v1", tags=["native"])

WORK: Work = {("POST", "/v1/generate"): "generate", ("POST", "/v1/upscale"): "extras"}

DIALECT = Dialect((router, jobs.router), {**WORK, **jobs.WORK})

ContextDep = Annotated[Context, Depends(get_context)]
TaskDep = Annotated[Task, Depends(get_task)]

_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'event: queued\ndata: {"version":1,"task_id":"t1","position":2}\n\n',
            }
        },
        "description": "One JSON object, or with `Accept: text/event-stream` the events queued, started, "
        "progress, and at last result or error.",
    }
}


@router.post(
    "/generate",
    response_model=events.ResultEvent,
    responses=_STREAM,
    summary="Make images, with progress on the same response",
)
async def generate(body: GenerateBody, request: Request, context: ContextDep, task: TaskDep) -> Response:
    """Make images; refuses with plain HTTP errors whatever can be refused before the stream begins."""
    prepared = _with_previews(await ready(body.as_a1111(), context, task), body.preview_every)
    return await _answer(
        lambda: _generated(prepared, body.preview_every, context, task), request, context, task
    )


@router.post(
    "/upscale",
    response_model=events.UpscaledEvent,
    responses=_STREAM,
    summary="Enlarge images, with progress on the same response",
)
async def upscale(body: UpscaleBody, request: Request, context: ContextDep, task: TaskDep) -> Response:
    """Enlarge images, in order; the fields are those of A1111's extras."""
    context.backend.raise_if_refusing()
    if len(body.images) > (most := context.settings.max_images):
        raise BadRequest(
            f"images has {len(body.images)} images, but must have 1 to {most} (SD_MAX_IMAGES): send fewer."
        )
    return await _answer(lambda: _upscaled(body, context, task), request, context, task)


async def _answer(
    work: Callable[[], Awaitable[dict[str, Any]]], request: Request, context: Context, task: Task
) -> Response:
    if "text/event-stream" in request.headers.get("accept", ""):
        return EventSourceResponse(
            stream(work, context, task),
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **AS_IT_IS},
        )
    return picture_response(await work(), {"X-Task-Id": task.id})


def _with_previews(prepared: Prepared, every: int) -> Prepared:
    def told(request: GenerationRequest) -> GenerationRequest:
        return replace(request, preview_every=every)

    script = prepared.script
    if script is not None:
        script = replace(script, job=with_requests(script.job, told))
    return replace(prepared, generation=told(prepared.generation), script=script)


async def _generated(prepared: Prepared, preview_every: int, context: Context, task: Task) -> dict[str, Any]:
    """Generate, encode outside the slot, and shape the result event."""
    results = await make(prepared, context, task)
    answer = await respond.answer(prepared, results, context, task)
    answer["parameters"]["preview_every"] = preview_every
    return {
        "version": events.VERSION,
        "task_id": task.id,
        **answer,
        "media_type": prepared.encoding.media_type,
        "seeds": [seed for result in results for seed in result.seeds],
        "timings": task.timings.stages,
        "cold_start": task.cold_start,
        "served_by": task.served_by or context.settings.pod_name,
    }


async def _upscaled(body: UpscaleBody, context: Context, task: Task) -> dict[str, Any]:
    names = [f"images[{number}]" for number in range(len(body.images))]
    made = await enlarge(body, body.images, names, context, task)
    return {
        "version": events.VERSION,
        "task_id": task.id,
        "images": made.images,
        "media_type": made.encoding.media_type,
        "info": made.did,
        "timings": task.timings.stages,
        "served_by": task.served_by or context.settings.pod_name,
    }

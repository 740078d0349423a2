"""POST /v1/generate: the native endpoint. Progress and result come back on the same response.

That is what makes progress work behind ``containerConcurrency: 1``, where a poll would wait for the very
generation it asks about. With ``Accept: text/event-stream`` it answers server-sent events (see ``events``),
otherwise the same result as one JSON object.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

import orjson
import structlog
from fastapi import APIRouter, Depends, Request
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import Field
from starlette.responses import Response

from service.api import problems
from service.api.admission import exchange
from service.api.native import events
from service.api.sdapi import respond, translate
from service.api.sdapi.fields import Int
from service.api.sdapi.options import Options
from service.api.sdapi.schemas import Txt2ImgBody
from service.api.sdapi.settle import check_names, settle
from service.context import Context, get_context
from service.core.errors import Cancelled, ServiceError
from service.core.events import Progress, Queued, Started, TaskEvent
from service.core.generation import GenerationRequest
from service.core.tasks import Phase, Task
from service.imaging.preview import make_preview

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1", tags=["native"])

ContextDep = Annotated[Context, Depends(get_context)]


class GenerateBody(Txt2ImgBody):
    """The fields of txt2img, and how often to send a preview."""

    preview_every: Int = Field(0, ge=0, le=1000, description="A preview with every N-th step; 0 for none.")


@router.post(
    "/generate",
    response_model=events.ResultEvent,
    responses={
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
    },
    summary="Make images, with progress on the same response",
)
async def generate(body: GenerateBody, request: Request, context: ContextDep) -> Response:
    """Make images; refuses with plain HTTP errors whatever can be refused before the stream begins."""
    settled = settle(body, request, context, "txt2img")
    body, options = settled.body, settled.options
    respond.encoding_of(options)
    made = translate.txt2img(body, options, context.settings, context.styles)
    generation = check_names(replace(made, preview_every=body.preview_every), context.backend.engine)
    if "text/event-stream" not in request.headers.get("accept", ""):
        async with exchange(context, request, "generate", generation) as task:
            result = await _make(task, body, options, context)
            return Response(
                orjson.dumps(result),
                media_type="application/json",
                headers={"X-Task-Id": task.id, "Content-Encoding": "identity"},
            )
    context.lifecycle.raise_unless_accepting()
    context.backend.slot.raise_if_full()
    return EventSourceResponse(
        _stream(generation, body, options, request, context),
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Content-Encoding": "identity"},
    )


async def _make(task: Task, body: GenerateBody, options: Options, context: Context) -> dict[str, Any]:
    """Generate, encode outside the slot, and shape the result event."""
    result = await context.backend.generate(task)
    task.phase = Phase.ENCODING

    def encode() -> dict[str, Any]:
        extra = respond.sampling(result.request)
        images, infotexts = respond.encode(result, options, extra)
        return {
            "images": images if body.send_images else [],
            "media_type": respond.encoding_of(options).media_type,
            "infotexts": infotexts,
            "parameters": body.model_dump(mode="json"),
            "info": orjson.dumps(respond.info(result, infotexts, options, extra)).decode(),
        }

    began = time.perf_counter()
    shaped = await asyncio.get_running_loop().run_in_executor(context.encoders, encode)
    task.timings.add("encoding", time.perf_counter() - began)
    return {
        "version": events.VERSION,
        "task_id": task.id,
        **shaped,
        "seeds": result.seeds,
        "timings": task.timings.stages,
        "cold_start": task.cold_start,
        "served_by": context.settings.pod_name,
    }


async def _stream(
    generation: GenerationRequest, body: GenerateBody, options: Options, request: Request, context: Context
) -> AsyncIterator[bytes]:
    """The bytes of the stream; ends after ``result`` or ``error``."""
    async with exchange(context, request, "generate", generation) as task:
        outbox: asyncio.Queue[TaskEvent | None] = asyncio.Queue()
        task.listen(outbox.put_nowait)
        making = asyncio.get_running_loop().create_task(_make(task, body, options, context))
        making.add_done_callback(lambda _: outbox.put_nowait(None))
        try:
            while True:
                try:
                    async with asyncio.timeout(events.HEARTBEAT):
                        event = await outbox.get()
                except TimeoutError:
                    yield format_sse_event(comment="waiting")
                    continue
                if event is None:
                    break
                yield await _event(task, event, context)
            error = making.exception()
            if error is None:
                yield _sse("result", making.result())
            else:
                task.failure = error
                yield _sse("error", _failed(task, error))
        finally:
            if not making.done():
                task.token.cancel("disconnect")
                making.cancel()


def _failed(task: Task, error: BaseException) -> dict[str, Any]:
    if not isinstance(error, ServiceError):
        log.error("unexpected error", exc_info=error)
        error = (
            problems.mistake(error) if isinstance(error, Exception) else Cancelled("The server is stopping.")
        )
    return events.ErrorEvent(
        task_id=task.id,
        status=error.status,
        code=error.code,
        blame=error.blame,
        detail=error.detail,
        retry_after=error.retry_after,
    ).model_dump()


async def _event(task: Task, event: TaskEvent, context: Context) -> bytes:
    match event:
        case Queued():
            return _sse("queued", events.QueuedEvent(task_id=task.id, position=event.position).model_dump())
        case Started():
            waited = time.monotonic() - task.arrived
            return _sse("started", events.StartedEvent(task_id=task.id, waited=round(waited, 4)).model_dump())
        case Progress():
            shown = None
            if event.preview is not None:
                loop = asyncio.get_running_loop()
                small = await loop.run_in_executor(context.encoders, make_preview, event.preview)
                shown = small.data_uri
            progress = events.ProgressEvent(
                task_id=task.id,
                step=event.step,
                steps=event.steps,
                image_index=event.image_index,
                progress=event.fraction,
                eta=event.eta,
                stage=event.stage,
                preview=shown,
            )
            return _sse("progress", progress.model_dump())


def _sse(name: str, content: dict[str, Any]) -> bytes:
    return format_sse_event(event=name, data_str=orjson.dumps(content).decode())

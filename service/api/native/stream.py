"""A task as a stream of server-sent events: what is told of it while it waits and runs, and how it ended."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from fastapi.sse import format_sse_event

from service.api import problems
from service.api.following import SILENCE, Following
from service.api.native import events
from service.context import Context
from service.core.errors import ServiceError
from service.core.events import Progress, Queued, Started, TaskEvent
from service.core.tasks import Task
from service.imaging.preview import make_preview


async def stream(
    work: Callable[[], Awaitable[dict[str, Any]]], context: Context, task: Task
) -> AsyncIterator[bytes]:
    """The bytes of the stream of ``task``, which ``work`` is done for; ends after ``result`` or ``error``."""
    with Following(task, work(), events.HEARTBEAT) as following:
        async for event in following:
            if event == SILENCE:
                yield format_sse_event(comment="waiting")
            else:
                yield await _event(task, event, context)
        error = following.failure()
        if error is None:
            content = await context.lanes.run(None, orjson.dumps, following.result())
            yield format_sse_event(event="result", data_str=content.decode())
        else:
            yield _sse("error", _failed(task, problems.foreseen(error)))


def _failed(task: Task, error: ServiceError) -> dict[str, Any]:
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
                shown = (await context.lanes.run(None, make_preview, event.preview)).data_uri
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

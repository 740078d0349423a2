"""/internal/*: what A1111's own page asks, and clients with it: a ping, progress by task, what waits.

A1111 offers these with its page only; here they are always there.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from service.api.json_route import JsonRoute
from service.api.problems import json_response, picture_response
from service.api.scope import session_of
from service.api.sdapi.fields import Int, Lenient, Str
from service.api.sdapi.routes.progress import fraction, place_of, preview_of, remaining
from service.context import Context, get_context
from service.core.tasks import Phase
from service.state.store import queued

router = APIRouter(route_class=JsonRoute, prefix="/internal", tags=["A1111"])

ContextDep = Annotated[Context, Depends(get_context)]


class ProgressBody(Lenient):
    """Which task, and which preview the client has already."""

    id_task: Str = Field("", description="force_task_id, or X-Task-Id of an answer.")
    id_live_preview: Int | None = -1
    live_preview: bool | None = True


class TaskProgress(BaseModel):
    """How far a task is."""

    active: bool = Field(description="It has the device.")
    queued: bool
    completed: bool = Field(description="It has ended, well or not.")
    progress: float | None = None
    eta: float | None = Field(None, description="Seconds left.")
    live_preview: str | None = Field(None, description="A data: URI, where there is a newer one.")
    id_live_preview: int | None = -1
    textinfo: str | None = None


class PendingTasks(BaseModel):
    """What waits for the device."""

    size: int
    tasks: list[str]


@router.get("/ping", response_model=dict[str, Any], summary="Anybody there?")
async def ping() -> Response:
    """Always {}."""
    return json_response({})


@router.get("/pending-tasks", response_model=PendingTasks, summary="What waits")
async def pending_tasks(request: Request, context: ContextDep) -> Response:
    """How many wait, and the ids of those that belong to this client: an id is the key to a task.

    A client without a session sees the tasks of all that have none, as in A1111.
    """
    waiting, session = queued(await context.board.under_way()), session_of(request.scope)
    return json_response(
        {"size": len(waiting), "tasks": [task.id for task in waiting if task.session == session]}
    )


@router.post("/progress", response_model=TaskProgress, summary="How far a task is")
async def progress(body: ProgressBody, request: Request, context: ContextDep) -> Response:
    """Progress by task id."""
    task = await context.board.find(body.id_task)
    known = -1 if body.id_live_preview is None else body.id_live_preview
    if task is None or task.phase in (Phase.QUEUED, Phase.DONE):
        waits = task is not None and task.phase is Phase.QUEUED
        return _answer(
            TaskProgress(
                active=False,
                queued=waits,
                completed=task is not None and not waits,
                id_live_preview=-1,
                textinfo=place_of(task, await context.board.under_way()) if task and waits else "Waiting...",
            )
        )
    shown = None
    if body.live_preview is not False and task.preview_id != known:
        shown = await preview_of(task, context, task.session)
    return _answer(
        TaskProgress(
            active=True,
            queued=False,
            completed=False,
            progress=fraction(task),
            eta=remaining(task),
            live_preview=f"data:{shown.media_type};base64,{shown.base64}" if shown else None,
            id_live_preview=task.preview_id if shown else known,
        )
    )


def _answer(answer: TaskProgress) -> Response:
    return (picture_response if answer.live_preview else json_response)(answer.model_dump())

"""How far it is, and stopping it: /progress, /interrupt and /skip. None of them waits for the device."""

import time
from typing import Annotated, Any, cast

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from service.api.board import Shown
from service.api.problems import json_response, picture_response
from service.api.scope import session_of
from service.context import Context, get_context
from service.core.tasks import Phase
from service.imaging.preview import PreviewFormat
from service.state.store import TaskRecord, own, queued, running

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])

ContextDep = Annotated[Context, Depends(get_context)]
TaskId = Annotated[str | None, Query(description="The task meant: force_task_id, or X-Task-Id of an answer.")]

_TITLES = {
    "txt2img": "scripts_txt2img",
    "generate": "scripts_txt2img",
    "img2img": "scripts_img2img",
    "job": "scripts_txt2img",
}


class State(BaseModel):
    """What A1111 tells of its job. ``job_count`` is 0 when nothing runs, -1 before the first step."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class ProgressAnswer(BaseModel):
    """A1111's answer, and ``current_task``, which A1111 leaves out."""

    progress: float = Field(ge=0, le=1)
    eta_relative: float
    state: State
    current_image: str | None = Field(None, description="The last preview, as base64 without prefix.")
    textinfo: str | None = None
    current_task: str | None = None


def makes_images(task: TaskRecord) -> bool:
    """True for work that clients follow; loading a checkpoint and its like run unseen, as in A1111."""
    return task.kind in (*_TITLES, "extras", "interrogate")


def fraction(task: TaskRecord) -> float:
    """0..1, as A1111 counts: it begins at 0.01."""
    return 0.0 if task.phase is Phase.QUEUED else min(1.0, 0.01 + task.fraction)


def remaining(task: TaskRecord) -> float:
    """Seconds left at the pace so far; 0 before it runs."""
    done = fraction(task)
    if task.started is None or done <= 0:
        return 0.0
    elapsed = time.time() - task.started
    return max(0.0, elapsed / done - elapsed)


def state_of(task: TaskRecord) -> State:
    """A1111's state object for ``task``."""
    job, batches = _TITLES.get(task.kind, task.kind), task.batch_count
    if task.job_count and batches > 1:
        job = f"Batch {min(batches, task.job_no * batches // task.job_count + 1)} out of {batches}"
    return State(
        skipped=task.skipped,
        interrupted=task.interrupted,
        stopping_generation=task.interrupted,
        job=job,
        job_count=task.job_count or (-1 if task.kind in _TITLES else 1),
        job_timestamp=time.strftime("%Y%m%d%H%M%S", time.localtime(task.arrived)),
        job_no=task.job_no,
        sampling_step=task.step,
        sampling_steps=task.steps,
    )


async def preview_of(task: TaskRecord, context: Context, session: str | None) -> Shown | None:
    """The last preview, as the session's options want it."""
    if not task.preview_id:
        return None
    options = await context.preferences.of(session)
    if not options.flag("live_previews_enable"):
        return None
    return await context.board.preview(
        task, cast(PreviewFormat, options.choice("live_previews_image_format"))
    )


def place_of(task: TaskRecord, tasks: tuple[TaskRecord, ...]) -> str:
    """ "In queue: 2/5", in A1111's words."""
    waiting = sorted(queued(tasks), key=lambda one: (one.position, one.arrived))
    place = next((number for number, one in enumerate(waiting, start=1) if one.id == task.id), 1)
    return f"In queue: {place}/{max(1, len(waiting))}"


@router.get("/progress", response_model=ProgressAnswer, summary="How far the running task is")
async def get_progress(
    request: Request, context: ContextDep, skip_current_image: bool = False, id_task: TaskId = None
) -> Response:
    """With ``id_task`` that task, else the session's own task, else the one on the device.

    A fixed idle answer where there is none. What another session's images look like stays with that session.
    """
    session, tasks = session_of(request.scope), await context.board.under_way()
    task = _shown(tasks, session) if id_task is None else await context.board.find(id_task)
    if task is None or task.phase is Phase.DONE:
        steps = context.tasks.last_steps
        textinfo = None if id_task is None or task is not None else "Waiting..."
        return _answer(
            ProgressAnswer(
                progress=0.0, eta_relative=0.0, state=State(sampling_steps=steps), textinfo=textinfo
            )
        )
    visible = id_task is not None or task.session in (None, session)
    shown = await preview_of(task, context, session) if visible and not skip_current_image else None
    return _answer(
        ProgressAnswer(
            progress=fraction(task),
            eta_relative=remaining(task),
            state=state_of(task),
            current_image=shown.base64 if shown else None,
            textinfo=place_of(task, tasks) if task.phase is Phase.QUEUED else None,
            current_task=task.id if visible else None,
        )
    )


def _shown(tasks: tuple[TaskRecord, ...], session: str | None) -> TaskRecord | None:
    task = own(tasks, session) or running(tasks)
    return task if task is not None and makes_images(task) else None


def _answer(answer: ProgressAnswer) -> Response:
    return (picture_response if answer.current_image else json_response)(answer.model_dump())


@router.post("/interrupt", response_model=dict[str, Any], summary="Stop a task")
async def interrupt(request: Request, context: ContextDep, id_task: TaskId = None) -> Response:
    """Stop after the current step; the interrupted request answers 200 with what it has.

    With ``id_task`` (in the query or a JSON body) that task, which is dropped at once if it still waits. Without: of a
    client with a session cookie its own running task, else its oldest waiting one, else the running task of a client
    without a session; of a client without a cookie whatever runs, as in A1111.
    """
    task = await _meant(request, context, id_task)
    if task is not None:
        await context.board.command(task, "interrupt")
    return json_response({})


@router.post("/skip", response_model=None, summary="Go on with the next batch")
async def skip(request: Request, context: ContextDep, id_task: TaskId = None) -> Response:
    """Leave the running batch half-done and go on with the next; which task is meant: see interrupt."""
    task = await _meant(request, context, id_task)
    if task is not None:
        await context.board.command(task, "skip")
    return json_response(None)


async def _meant(request: Request, context: Context, id_task: str | None) -> TaskRecord | None:
    id_task = id_task or _id_in(await request.body())
    if id_task:
        return await context.board.find(id_task)
    tasks, session = await context.board.under_way(), session_of(request.scope)
    on_device = running(tasks)
    if session is None:
        return on_device
    return own(tasks, session) or (on_device if on_device and on_device.session is None else None)


_LONGEST = 4096
"""Bytes up to which a body may be one that names a task."""


def _id_in(body: bytes) -> str | None:
    """``id_task`` of a JSON body; clients send none, ``""``, or anything at all."""
    try:
        content = orjson.loads(body) if 0 < len(body) <= _LONGEST else None
    except orjson.JSONDecodeError:
        return None
    found = content.get("id_task") if isinstance(content, dict) else None
    return found if isinstance(found, str) else None

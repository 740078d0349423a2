"""How far it is, and stopping it: /progress, /interrupt and /skip. None of them waits for the device."""

import time
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from service.api.problems import json_response, picture_response
from service.api.scope import session_of
from service.context import Context, get_context
from service.core.tasks import Phase, Task
from service.imaging.preview import PreviewFormat, make_preview

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


def makes_images(task: Task) -> bool:
    """True for work that clients follow; loading a checkpoint and its like run unseen, as in A1111."""
    return task.kind in (*_TITLES, "extras", "interrogate")


def fraction(task: Task) -> float:
    """0..1, as A1111 counts: it begins at 0.01."""
    if task.phase is Phase.QUEUED:
        return 0.0
    return min(1.0, 0.01 + (task.progress.fraction if task.progress is not None else 0.0))


def remaining(task: Task) -> float:
    """Seconds left at the pace so far; 0 before it runs."""
    done = fraction(task)
    if task.started is None or done <= 0:
        return 0.0
    elapsed = time.monotonic() - task.started
    return max(0.0, elapsed / done - elapsed)


def state_of(task: Task) -> State:
    """A1111's state object for ``task``."""
    step, count = task.progress, -1 if task.kind in _TITLES else 1
    job = _TITLES.get(task.kind, task.kind)
    batches = task.request.batch_count if task.request is not None else 1
    if step is not None:
        count = step.job_count
        if batches > 1:
            job = f"Batch {min(batches, step.job_no * batches // step.job_count + 1)} out of {batches}"
    return State(
        skipped=task.token.skips > 0,
        interrupted=task.token.cancelled,
        stopping_generation=task.token.cancelled,
        job=job,
        job_count=count,
        job_timestamp=time.strftime("%Y%m%d%H%M%S", time.localtime(task.arrived_wall)),
        job_no=step.job_no if step is not None else 0,
        sampling_step=step.step if step is not None else 0,
        sampling_steps=step.steps if step is not None else task.request.steps if task.request else 0,
    )


async def preview_of(task: Task, context: Context, session: str | None) -> tuple[str, str] | None:
    """The last preview as base64, and its media type; encoded once however many watch."""
    preview = task.progress.preview if task.progress is not None else None
    options = await context.preferences.of(session)
    if preview is None or not options.flag("live_previews_enable"):
        return None
    kind = options.choice("live_previews_image_format")
    media_type = f"image/{kind}"
    number = task.preview_id
    if task.shown is None or task.shown[:2] != (number, media_type):
        made = await context.lanes.run(None, make_preview, preview, _format(kind))
        task.shown = (number, made.media_type, made.base64)
    return task.shown[2], media_type


def _format(name: str) -> PreviewFormat:
    return "webp" if name == "webp" else "jpeg" if name == "jpeg" else "png"


def place_of(task: Task, context: Context) -> str:
    """ "In queue: 2/5", in A1111's words."""
    queued = context.tasks.queued()
    place = queued.index(task) + 1 if task in queued else 1
    return f"In queue: {place}/{max(1, len(queued))}"


@router.get("/progress", response_model=ProgressAnswer, summary="How far the running task is")
async def get_progress(
    request: Request, context: ContextDep, skip_current_image: bool = False, id_task: TaskId = None
) -> Response:
    """With ``id_task`` that task, else the session's own task, else the one on the device.

    A fixed idle answer where there is none. What another session's images look like stays with that session.
    """
    session = session_of(request.scope)
    task = context.tasks.find(id_task) if id_task is not None else _shown(context, session)
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
            current_image=shown[0] if shown else None,
            textinfo=place_of(task, context) if task.phase is Phase.QUEUED else None,
            current_task=task.id if visible else None,
        )
    )


def _own(context: Context, session: str | None) -> Task | None:
    """The task of ``session``: the running one, else the oldest that waits."""
    tasks = (context.tasks.running(), *context.tasks.queued())
    return next((task for task in tasks if task is not None and session and task.session == session), None)


def _shown(context: Context, session: str | None) -> Task | None:
    task = _own(context, session) or context.tasks.running()
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
        task.token.cancel("interrupt")
    return json_response({})


@router.post("/skip", response_model=None, summary="Go on with the next batch")
async def skip(request: Request, context: ContextDep, id_task: TaskId = None) -> Response:
    """Leave the running batch half-done and go on with the next; which task is meant: see interrupt."""
    task = await _meant(request, context, id_task)
    if task is not None and task.phase is Phase.RUNNING:
        task.token.skip()
    return json_response(None)


async def _meant(request: Request, context: Context, id_task: str | None) -> Task | None:
    tasks = context.tasks
    id_task = id_task or _id_in(await request.body())
    if id_task:
        return tasks.find(id_task)
    running, session = tasks.running(), session_of(request.scope)
    if session is None:
        return running
    if (own := _own(context, session)) is not None:
        return own
    return running if running is not None and running.session is None else None


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

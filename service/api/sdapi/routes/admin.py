"""What changes the server itself: refreshing lists, loading checkpoints, stopping. And what it leaves out."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import PlainTextResponse, Response

from service.api.admission import Work, get_task
from service.api.json_route import JsonRoute
from service.api.problems import json_response
from service.api.sdapi.routes.options import checkpoint_of
from service.api.sdapi.styles import StyleBook
from service.context import Context, get_context
from service.core.errors import NotFound, NotImplementedHere
from service.core.jobs import LoadCheckpoint, Refresh, Unload
from service.core.tasks import Task

router = APIRouter(route_class=JsonRoute, prefix="/sdapi/v1", tags=["A1111"])

ContextDep = Annotated[Context, Depends(get_context)]


TaskDep = Annotated[Task, Depends(get_task)]

WORK: Work = {
    ("POST", f"/sdapi/v1/{name}"): "other"
    for name in (
        "refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings", "unload-checkpoint",
        "reload-checkpoint",
    )
}  # fmt: skip


@router.post("/refresh-checkpoints", response_model=None, summary="Look at the models folder again")
@router.post("/refresh-vae", response_model=None, summary="Look at the models folder again")
@router.post("/refresh-loras", response_model=None, summary="Look at the models folder again")
@router.post("/refresh-embeddings", response_model=None, summary="Look at the models folder again")
async def refresh(context: ContextDep, task: TaskDep) -> Response:
    """Find what was put into the models folder since: checkpoints, VAEs, LoRAs, embeddings, upscalers and styles."""
    await context.backend.run(Refresh(), task)
    context.styles = await context.lanes.run(task, StyleBook.read, context.settings.models_dir)
    return json_response(None)


@router.post("/unload-checkpoint", response_model=dict[str, Any], summary="Free the checkpoints' memory")
async def unload_checkpoint(context: ContextDep, task: TaskDep) -> Response:
    """Free the memory of all checkpoints; the next request loads what it needs."""
    await context.backend.run(Unload(), task)
    return json_response({})


@router.post("/reload-checkpoint", response_model=dict[str, Any], summary="Load the checkpoint again")
async def reload_checkpoint(context: ContextDep, task: TaskDep) -> Response:
    """Load the checkpoint that a request of this client would use."""
    used = await checkpoint_of(context, task.session)
    await context.backend.run(LoadCheckpoint(used.title), task)
    return json_response({})


@router.post("/server-kill", response_model=None, summary="Stop the server")
@router.post("/server-stop", response_model=None, summary="Stop the server")
async def server_stop(context: ContextDep) -> Response:
    """Finish what runs and waits, then exit; needs SD_ENABLE_SERVER_STOP."""
    _require_stop(context)
    asyncio.get_running_loop().call_later(0.1, context.stop_server)  # when this answer is on its way
    return PlainTextResponse("Stopping.")


@router.post("/server-restart", response_model=None, summary="Restart the server: not offered")
async def server_restart(context: ContextDep) -> Response:
    """501: a process does not restart itself here. Needs SD_ENABLE_SERVER_STOP to say even that, as A1111."""
    _require_stop(context)
    raise NotImplementedHere(
        "This server does not restart itself: what runs it does that. Use server-stop where a platform or a "
        "supervisor starts it again."
    )


def _require_stop(context: Context) -> None:
    if not context.settings.enable_server_stop:
        raise NotFound(
            "Not Found: this server may not be stopped by its clients (SD_ENABLE_SERVER_STOP is off)."
        )


@router.post("/create/embedding", summary="Training: not offered")
@router.post("/create/hypernetwork", summary="Training: not offered")
@router.post("/train/embedding", summary="Training: not offered")
@router.post("/train/hypernetwork", summary="Training: not offered")
async def train() -> Response:
    """501: this server makes images; it trains nothing."""
    raise NotImplementedHere(
        "This server does not train: make embeddings and networks elsewhere and put the .safetensors files into the "
        "models folder."
    )

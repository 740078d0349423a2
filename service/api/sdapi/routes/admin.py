"""What changes the server itself: refreshing lists, loading checkpoints, stopping. And what it leaves out."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import PlainTextResponse, Response

from service.api.admission import exchange
from service.api.problems import json_response
from service.api.sdapi.routes.options import checkpoint_of
from service.api.sdapi.settle import session_of
from service.api.sdapi.styles import StyleBook
from service.backends.engine import Engine
from service.context import Context, get_context
from service.core.errors import NotFound, NotImplementedHere

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])

ContextDep = Annotated[Context, Depends(get_context)]


async def _on_device(context: Context, request: Request, work: Callable[[Engine], object]) -> None:
    async with exchange(context, request, "other") as task:
        await context.backend.on_device(task, work)


@router.post("/refresh-checkpoints", response_model=None, summary="Look at the models folder again")
@router.post("/refresh-vae", response_model=None, summary="Look at the models folder again")
@router.post("/refresh-loras", response_model=None, summary="Look at the models folder again")
@router.post("/refresh-embeddings", response_model=None, summary="Look at the models folder again")
async def refresh(request: Request, context: ContextDep) -> Response:
    """Find what was put into the models folder since: checkpoints, VAEs, LoRAs, embeddings, upscalers and styles."""
    await _on_device(context, request, lambda engine: engine.refresh())
    loop = asyncio.get_running_loop()
    context.styles = await loop.run_in_executor(context.encoders, StyleBook.read, context.settings.models_dir)
    return json_response(None)


@router.post("/unload-checkpoint", response_model=dict[str, Any], summary="Free the checkpoints' memory")
async def unload_checkpoint(request: Request, context: ContextDep) -> Response:
    """Free the memory of all checkpoints; the next request loads what it needs."""
    await _on_device(context, request, lambda engine: engine.unload())
    return json_response({})


@router.post("/reload-checkpoint", response_model=dict[str, Any], summary="Load the checkpoint again")
async def reload_checkpoint(request: Request, context: ContextDep) -> Response:
    """Load the checkpoint that a request of this client would use."""
    title = checkpoint_of(context, session_of(request))
    await _on_device(context, request, lambda engine: engine.load_checkpoint(title))
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

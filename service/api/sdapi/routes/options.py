"""GET and POST /sdapi/v1/options, cmd-flags: what holds for the next requests."""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Request
from starlette.responses import Response

from service.api.admission import Work, get_task
from service.api.json_route import JsonRoute
from service.api.problems import json_response
from service.api.scope import session_of
from service.api.sdapi.options import checked
from service.context import Context, get_context
from service.core.errors import UnknownName
from service.core.jobs import LoadCheckpoint
from service.core.records import CheckpointInfo
from service.core.tasks import Task
from service.imaging import resize
from service.settings import Settings

router = APIRouter(route_class=JsonRoute, prefix="/sdapi/v1", tags=["A1111"])

WORK: Work = {("POST", "/sdapi/v1/options"): "other"}

ContextDep = Annotated[Context, Depends(get_context)]

FLAGS: Final[Mapping[str, Any]] = json.loads(
    resources.files("service.api.sdapi").joinpath("cmd_flags.json").read_text()
)
"""A1111's command line flags and their defaults; null for paths, which are nobody's business."""

_AUTOMATIC: Final = ("", "Automatic", "None")


async def checkpoint_of(context: Context, session: str | None) -> CheckpointInfo:
    """The checkpoint that a request without a name gets.

    Looked up each time: a title gains its hash when the file is first read, and the file may be gone.
    """
    catalogue = context.backend.catalogue
    chosen = (await context.preferences.of(session)).text("sd_model_checkpoint")
    try:
        return catalogue.find(chosen) if chosen else catalogue.default
    except UnknownName:
        return catalogue.default


@router.get("/options", summary="All options", response_model=dict[str, Any])
async def get_options(request: Request, context: ContextDep) -> Response:
    """All options of this session. ``sd_model_checkpoint`` is always the title of the checkpoint in use."""
    session = session_of(request.scope)
    used = await checkpoint_of(context, session)
    options = await context.preferences.of(session)
    return json_response(
        {**options, "sd_model_checkpoint": used.title, "sd_checkpoint_hash": used.sha256 or ""}
    )


@router.post("/options", summary="Set options", response_model=None)
async def set_options(
    body: Annotated[dict[str, Any], Body()], context: ContextDep, task: Annotated[Task, Depends(get_task)]
) -> Response:
    """Set options: of the session whose cookie the client sent, else of the whole process, as in A1111.

    A checkpoint is loaded before this answers. Unknown options and those that A1111 protects are ignored, so that the
    whole object can be posted back.
    """
    session = task.session
    changes = checked(body)
    changes.pop("sd_checkpoint_hash", None)  # follows from the checkpoint
    named = changes.pop("sd_model_checkpoint", "").strip()
    catalogue = context.backend.catalogue
    if (vae := changes.get("sd_vae")) is not None and vae not in _AUTOMATIC:
        catalogue.check_vae(vae)
    if (upscaler := changes.get("upscaler_for_img2img", "")) not in _AUTOMATIC:
        resize.upscale_by_name(upscaler)  # only those without a network serve img2img
    if named:
        title = catalogue.find(named).title
        if title != (await checkpoint_of(context, session)).title:
            title = (await context.backend.run(LoadCheckpoint(title), task)).title
        changes["sd_model_checkpoint"] = title
    await context.preferences.set(session, changes)
    return json_response(None)


@router.get("/cmd-flags", summary="A1111's command line flags", response_model=dict[str, Any])
async def cmd_flags(context: ContextDep) -> Response:
    """What A1111's flags would be to act as this server does. Credentials and paths are never among them."""
    return json_response({**FLAGS, **_flags(context.settings)})


def _flags(settings: Settings) -> dict[str, Any]:
    return {
        "api": True,
        "nowebui": True,
        "listen": settings.host not in ("127.0.0.1", "localhost", "::1"),
        "port": str(settings.port),  # A1111 tells a text
        "subpath": settings.root_path or None,
        "cors_allow_origins": ",".join(settings.cors_allow_origins) or None,
        "api_server_stop": settings.enable_server_stop,
        "timeout_keep_alive": int(settings.keep_alive),
        "xformers": settings.attention == "xformers",
        "opt_sdp_attention": settings.attention == "sdpa",
        "opt_channelslast": settings.channels_last,
        "no_half": settings.dtype == "float32",
        "use_cpu": ["all"] if settings.device == "cpu" else [],
        "max_batch_count": settings.max_images,
    }

"""POST /sdapi/v1/txt2img."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from service.api.exchange import exchange
from service.api.sdapi import respond, translate
from service.api.sdapi.schemas import GenerationBody, ImagesResponse, Txt2ImgBody
from service.context import Context, get_context
from service.jobs import GenerationRequest
from service.options import Options, checked

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])

ContextDep = Annotated[Context, Depends(get_context)]


@router.post("/txt2img", response_model=ImagesResponse, summary="Make images from a prompt")
async def txt2img(body: Txt2ImgBody, request: Request, context: ContextDep) -> Response:
    """Make ``batch_size × n_iter`` images. Seeds are fixed and limits checked before the device is touched."""
    options = options_for(body)
    respond.encoding_of(options)
    return await make(
        "txt2img", translate.txt2img(body, options, context.settings), body, options, request, context
    )


def options_for(body: GenerationBody) -> Options:
    """The options that hold for this request."""
    return Options(checked(body.override_settings or {}))


async def make(
    kind: str,
    generation: GenerationRequest,
    body: GenerationBody,
    options: Options,
    request: Request,
    context: Context,
) -> Response:
    """Run ``generation`` and answer in A1111's shape; encoding happens when the device is already free."""
    async with exchange(context, request, kind, generation) as task:
        result = await context.backend.generate(task)

        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        content = await loop.run_in_executor(context.encoders, respond.body, body, result, options)
        task.timings.add("encoding", time.perf_counter() - began)
        headers: dict[str, Any] = {"X-Task-Id": task.id, "Content-Encoding": "identity"}
        if task.cold_start:
            headers["X-Cold-Start"] = "1"
        return Response(content, media_type="application/json", headers=headers)

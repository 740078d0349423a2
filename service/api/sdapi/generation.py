"""POST /sdapi/v1/txt2img."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from service.api.exchange import exchange
from service.api.sdapi import respond, translate
from service.api.sdapi.schemas import GenerationBody, ImagesResponse, Txt2ImgBody
from service.context import Context, get_context
from service.jobs import GenerationRequest, Pixels
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
    *,
    finish: Callable[[Pixels, int], Pixels] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response:
    """Run ``generation`` and answer in A1111's shape; encoding happens when the device is already free.

    ``finish`` turns each image into the one to send; ``extra`` are infotext entries of the dialect's own.
    """
    async with exchange(context, request, kind, generation) as task:
        result = await context.backend.generate(task)

        def encode() -> bytes:
            made = result
            if finish is not None:
                made = replace(made, images=tuple(finish(image, i) for i, image in enumerate(made.images)))
            return respond.body(body, made, options, extra)

        began = time.perf_counter()
        content = await asyncio.get_running_loop().run_in_executor(context.encoders, encode)
        task.timings.add("encoding", time.perf_counter() - began)
        headers: dict[str, Any] = {"X-Task-Id": task.id, "Content-Encoding": "identity"}
        if task.cold_start:
            headers["X-Cold-Start"] = "1"
        return Response(content, media_type="application/json", headers=headers)

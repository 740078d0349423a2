"""POST /sdapi/v1/txt2img."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from service.api.admission import exchange
from service.api.sdapi import respond, translate
from service.api.sdapi.schemas import GenerationBody, ImagesResponse, Txt2ImgBody
from service.api.sdapi.script_names import series
from service.api.sdapi.scripts.series import Composed, Series
from service.api.sdapi.settle import Body, Settled, check_names, keep_overrides, settle
from service.context import Context, get_context
from service.core.errors import Cancelled
from service.core.generation import GenerationRequest, GenerationResult
from service.core.pixels import Pixels
from service.core.tasks import Phase, Task

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])

ContextDep = Annotated[Context, Depends(get_context)]


@router.post("/txt2img", response_model=ImagesResponse, summary="Make images from a prompt")
async def txt2img(body: Txt2ImgBody, request: Request, context: ContextDep) -> Response:
    """Make ``batch_size × n_iter`` images. Seeds are fixed and limits checked before the device is touched."""
    settled = settle(body, request, context, "txt2img")
    generation = translate.txt2img(settled.body, settled.options, context.settings, context.styles)
    return await make("txt2img", generation, settled, request, context)


async def make(
    kind: str,
    generation: GenerationRequest,
    settled: Settled[Body],
    request: Request,
    context: Context,
    *,
    echo: GenerationBody | None = None,
    finish: Callable[[Pixels, int], Pixels] | None = None,
    extra: Mapping[str, Any] | None = None,
    remarks: tuple[str, ...] = (),
) -> Response:
    """Run ``generation`` and answer in A1111's shape; encoding happens when the device is already free.

    ``echo`` is the body to answer as ``parameters``, where that is not the settled one. ``finish`` turns each image
    into the one to send; ``extra`` are infotext entries of the route's own, ``remarks`` its sentences for the client.
    """
    options = settled.options
    respond.encoding_of(options)
    generation = check_names(generation, context.backend.engine)
    sending = respond.Sending(
        kind,
        extra,
        (*settled.remarks, *remarks),
        context.settings.output_dir,
        context.settings.max_image_pixels,
    )
    script = series(settled.body, generation, kind, context.backend.engine, context.settings)
    if script is not None:
        engine = context.backend.engine
        script = replace(script, requests=tuple(check_names(one, engine) for one in script.requests))
        sending = replace(sending, extra={**(sending.extra or {}), **script.extra})
    async with exchange(context, request, kind, generation) as task:
        try:
            results = await _results(generation, script, task, context)
        except Cancelled as error:
            if error.cause != "interrupt":
                raise
            results = [_nothing(generation, context)]
        task.phase = Phase.ENCODING

        def encode() -> bytes:
            composed = script.compose(results) if script is not None else Composed((), tuple(results))
            if finish is not None:
                composed = replace(
                    composed, results=tuple(_finished(made, finish) for made in composed.results)
                )
            return respond.body(echo or settled.body, composed, options, sending)

        began = time.perf_counter()
        content = await asyncio.get_running_loop().run_in_executor(context.encoders, encode)
        task.timings.add("encoding", time.perf_counter() - began)
        keep_overrides(settled.body, request, context)
        # "identity" keeps the compressing middleware off: base64 of PNG hardly shrinks, and it costs much.
        headers: dict[str, Any] = {"X-Task-Id": task.id, "Content-Encoding": "identity"}
        if task.cold_start:
            headers["X-Cold-Start"] = "1"
        return Response(content, media_type="application/json", headers=headers)


async def _results(
    generation: GenerationRequest, script: Series | None, task: Task, context: Context
) -> list[GenerationResult]:
    """The one generation, or those of the script, made in one turn on the device."""
    if script is None:
        return [await context.backend.generate(task)]
    prepare, fixed = script.prepare, script.requests
    return await context.backend.generate_series(
        task, lambda engine: fixed if prepare is None else prepare(engine, task.token)
    )


def _finished(result: GenerationResult, finish: Callable[[Pixels, int], Pixels]) -> GenerationResult:
    return replace(result, images=tuple(finish(image, index) for index, image in enumerate(result.images)))


def _nothing(generation: GenerationRequest, context: Context) -> GenerationResult:
    """What is answered to a request that was interrupted before its first step: 200 without images, as A1111."""
    engine = context.backend.engine
    model = engine.find(generation.checkpoint) if generation.checkpoint else engine.current()
    return GenerationResult(
        (), generation, (), (), model.name, model.short_hash or "", model.title, interrupted=True
    )

"""From a request for pictures to their files, for dialects with fields of their own.

A1111's dialect has more to say (options, styles, scripts: see ``sdapi.prepared``); what others need is here.
"""

import time
from dataclasses import dataclass

from service.api.limits import check
from service.context import Context
from service.core.errors import Cancelled
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import Generate
from service.core.tasks import Phase, Task
from service.imaging.formats import Encoding
from service.imaging.respond import encode_all

DEFAULT_STEPS = 20
DEFAULT_SAMPLER = "DPM++ 2M"


@dataclass(frozen=True, slots=True)
class Pictures:
    """Files as base64, and what each says of itself."""

    images: tuple[str, ...]
    infotexts: tuple[str, ...]


async def admit(request: GenerationRequest, context: Context, task: Task) -> GenerationRequest:
    """``request`` within the limits and with the catalogue's names, known under the id of ``task`` from now on.

    Raises what refuses it; after this only the making itself can fail.
    """
    context.backend.raise_if_refusing()
    check(request, context.settings)
    task.request = context.backend.catalogue.named(request)
    await context.board.claim(task)
    return task.request


async def draw(request: GenerationRequest, context: Context, task: Task) -> GenerationResult:
    """Run an admitted ``request``. An interrupt answers with what there is; before the first step that is an error."""
    result = (await context.backend.run(Generate(request), task))[0]
    task.phase = Phase.ENCODING
    if not result.images:
        raise Cancelled("The request was interrupted before there was anything to show.", cause="interrupt")
    return result


async def encoded(result: GenerationResult, encoding: Encoding, context: Context, task: Task) -> Pictures:
    """The files of ``result``, written beside the event loop."""
    began = time.perf_counter()
    images, infotexts = await context.lanes.run(task, encode_all, result, encoding)
    task.timings.add("encoding", time.perf_counter() - began)
    return Pictures(tuple(images), tuple(infotexts))

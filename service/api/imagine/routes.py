"""GET /imagine?prompt=…&img_size=512 answers one PNG with its infotext inside."""

import base64
import random
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from service.api import pictures
from service.api.admission import Work, get_task
from service.api.dialect import Dialect
from service.api.problems import AS_IT_IS
from service.context import Context, get_context
from service.core.generation import GenerationRequest
from service.core.tasks import Task
from service.imaging.formats import Encoding

router = APIRouter(tags=["imagine"])

WORK: Work = {("GET", "/imagine"): "generate"}

DIALECT = Dialect((router,), WORK)

ContextDep = Annotated[Context, Depends(get_context)]
TaskDep = Annotated[Task, Depends(get_task)]

_PNG: Final = Encoding()


@router.get(
    "/imagine",
    summary="Make one image",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The picture."}},
)
async def imagine(
    context: ContextDep,
    task: TaskDep,
    prompt: Annotated[str, Query(min_length=1, description="What to draw.")],
    img_size: Annotated[int, Query(description="Side in pixels; rounded down to what 8 divides.")] = 512,
    negative_prompt: Annotated[str, Query(description="What not to draw.")] = "",
    steps: Annotated[int, Query(description="Sampler steps.")] = pictures.DEFAULT_STEPS,
    seed: Annotated[int | None, Query(ge=0, lt=2**63, description="Leave it out for a random one.")] = None,
) -> Response:
    """Make one square image."""
    asked = GenerationRequest(
        prompt,
        negative_prompt,
        seed=random.randrange(2**32) if seed is None else seed,
        steps=steps,
        width=img_size,
        height=img_size,
        sampler=pictures.DEFAULT_SAMPLER,
    )
    result = await pictures.draw(await pictures.admit(asked, context, task), context, task)
    made = await pictures.encoded(result, _PNG, context, task)
    headers = {"X-Task-Id": task.id, "X-Seed": str(result.seeds[0]), "Cache-Control": "no-store", **AS_IT_IS}
    return Response(base64.b64decode(made.images[0]), media_type="image/png", headers=headers)

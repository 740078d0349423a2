"""POST /v1/images/generations and /v1/images/edits, GET /v1/models: OpenAI's images API."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.sse import EventSourceResponse, format_sse_event
from PIL import Image
from pydantic import ValidationError
from starlette.responses import Response

from service.api import pictures
from service.api.admission import Work, get_task
from service.api.dialect import Dialect
from service.api.following import Following
from service.api.json_route import JsonRoute
from service.api.openai.bodies import ImagesBody, checkpoint_of
from service.api.openai.edits import prepare, read_form
from service.api.openai.problems import openai_problem
from service.api.problems import AS_IT_IS, foreseen, json_response, picture_response
from service.context import Context, get_context
from service.core.events import Progress
from service.core.generation import GenerationRequest, GenerationResult
from service.core.pixels import Pixels
from service.core.tasks import Task
from service.imaging.formats import Encoding, encode, encode_base64

router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=JsonRoute)

WORK: Work = {("POST", "/v1/images/generations"): "generate", ("POST", "/v1/images/edits"): "generate"}

DIALECT = Dialect((router,), WORK, ("/v1/images", "/v1/models"), openai_problem)

ContextDep = Annotated[Context, Depends(get_context)]
TaskDep = Annotated[Task, Depends(get_task)]

Finish = Callable[[Pixels, int], Pixels]

_BORN = 1_700_000_000
"""When the models were made, for clients that want a number; nobody here knows."""


@router.get("/models", summary="Checkpoints")
async def models(context: ContextDep) -> Response:
    """The checkpoints that ``model`` may name, the default one first."""
    listed = [_model(info.name) for info in context.backend.catalogue.checkpoints]
    return json_response({"object": "list", "data": listed})


@router.get("/models/{name:path}", summary="One checkpoint")
async def model(name: str, context: ContextDep) -> Response:
    """404 for a name that no checkpoint has."""
    title = checkpoint_of(name, context.backend.catalogue)
    catalogue = context.backend.catalogue
    return json_response(_model((catalogue.find(title) if title else catalogue.default).name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _BORN, "owned_by": "knative-diffusion"}


@router.post("/images/generations", summary="Make images from a prompt")
async def generations(body: ImagesBody, context: ContextDep, task: TaskDep) -> Response:
    """Make ``n`` images; with ``stream`` and ``partial_images`` they are shown in the making."""
    encoding = body.encoding
    asked = await pictures.admit(body.request(context.backend.catalogue), context, task)
    return await _answer(_Asked(body, asked, encoding, "image_generation"), context, task)


@router.post(
    "/images/edits",
    summary="Make images from an image and a prompt",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["image", "prompt"],
                        "properties": {
                            "image": {"type": "string", "format": "binary"},
                            "mask": {"type": "string", "format": "binary"},
                            "prompt": {"type": "string"},
                            "n": {"type": "integer"},
                            "size": {"type": "string"},
                            "model": {"type": "string"},
                        },
                    }
                }
            },
        }
    },
)
async def edits(request: Request, context: ContextDep, task: TaskDep) -> Response:
    """Remake a picture, or what is transparent of its mask."""
    context.backend.raise_if_refusing()  # before anything is decoded
    try:
        form = await read_form(request)
    except ValidationError as error:
        raise RequestValidationError(
            [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        ) from None
    encoding = form.body.encoding
    asked, plan = await context.lanes.read(task, prepare, form, context, task)
    asked = await pictures.admit(asked, context, task)
    return await _answer(_Asked(form.body, asked, encoding, "image_edit", plan.finish), context, task)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a client wants: its fields, what they mean, and how the pictures come back."""

    body: ImagesBody
    request: GenerationRequest
    encoding: Encoding
    event: str
    """How the names of its events begin."""
    finish: Finish | None = None
    """What is done with each picture before it is encoded."""

    @property
    def about(self) -> dict[str, Any]:
        """What every answer repeats."""
        return {
            "size": f"{self.request.width}x{self.request.height}",
            "quality": self.body.quality or "auto",
            "output_format": self.body.output_format or "png",
            "background": "opaque",
        }


async def _answer(asked: _Asked, context: Context, task: Task) -> Response:
    if asked.body.stream:
        return EventSourceResponse(
            _stream(asked, context, task),
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **AS_IT_IS},
        )
    made = await _make(asked, context, task)
    data = [{"b64_json": image, "revised_prompt": asked.request.prompt} for image in made.images]
    return picture_response(
        {"created": int(time.time()), "data": data, **asked.about}, {"X-Task-Id": task.id}
    )


async def _make(asked: _Asked, context: Context, task: Task) -> pictures.Pictures:
    result = await pictures.draw(asked.request, context, task)
    if asked.finish is not None:
        result = await context.lanes.run(task, _finished, result, asked.finish)
    return await pictures.encoded(result, asked.encoding, context, task)


def _finished(result: GenerationResult, finish: Finish) -> GenerationResult:
    return replace(result, images=tuple(finish(image, index) for index, image in enumerate(result.images)))


async def _stream(asked: _Asked, context: Context, task: Task) -> AsyncIterator[bytes]:
    """Partial images as they come, each finished one, or an error; OpenAI's events."""
    partial = 0
    with Following(task, _make(asked, context, task)) as following:
        async for event in following:
            preview = event.preview if isinstance(event, Progress) else None
            if preview is None or partial >= (asked.body.partial_images or 0):
                continue
            image = await context.lanes.run(None, _enlarged, preview, asked)
            told = {"b64_json": image, "partial_image_index": partial, "created_at": int(time.time())}
            yield _event(f"{asked.event}.partial_image", {**told, **asked.about})
            partial += 1
        error = following.failure()
        if error is None:
            usage = {"total_tokens": 0, "input_tokens": 0, "output_tokens": 0}
            for image in following.result().images:
                told = {"b64_json": image, "created_at": int(time.time()), "usage": usage}
                yield _event(f"{asked.event}.completed", {**told, **asked.about})
        else:
            yield _event("error", orjson.loads(openai_problem(foreseen(error)).body))


def _enlarged(preview: Pixels, asked: _Asked) -> str:
    size = asked.request.width, asked.request.height
    image = np.asarray(Image.fromarray(preview).resize(size, Image.Resampling.BILINEAR))
    return encode_base64(encode(image, asked.encoding.format, None, asked.encoding.quality))


def _event(kind: str, content: dict[str, Any]) -> bytes:
    return format_sse_event(event=kind, data_str=orjson.dumps({"type": kind, **content}).decode())

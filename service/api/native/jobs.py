"""POST /v1/jobs: what a front asks of this pod, and /v1/jobs/control: interrupt and skip, past every proxy.

The body and the answer are of :mod:`service.backends.wire`; docs/streaming.md specifies them. Whoever sends a job is
believed no more than any other client: names, limits and sizes are checked here too.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response, StreamingResponse

from service.api import scope as scopes
from service.api.admission import Work, get_task
from service.api.following import SILENCE, Following
from service.api.limits import check
from service.api.native.events import HEARTBEAT
from service.api.problems import AS_IT_IS, foreseen, json_response
from service.backends.frames import frame
from service.backends.wire import MEDIA_TYPE, Control, Order, Told, pack, read_job, unpack
from service.catalogue import samplers
from service.catalogue.catalogue import Catalogue
from service.context import Context, get_context
from service.core.errors import BadRequest, Cancelled, NotFound, ServiceError
from service.core.events import Progress, Queued, Started, TaskEvent
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import Caption, Generate, Job, LoadCheckpoint, Refresh, Series, Upscale
from service.core.tasks import Task
from service.settings import Settings

router = APIRouter(prefix="/v1/jobs", tags=["fronts"], include_in_schema=False)

WORK: Work = {("POST", "/v1/jobs"): "job"}

ContextDep = Annotated[Context, Depends(get_context)]
TaskDep = Annotated[Task, Depends(get_task)]

ACTIONS: Final = ("interrupt", "skip")


@router.post("")
async def run(request: Request, context: ContextDep, task: TaskDep) -> Response:
    """Run a job; what can be refused before the stream begins is refused with a plain HTTP error."""
    context.backend.raise_if_refusing()
    body, catalogue = await request.body(), context.backend.catalogue
    order, job, digest = await context.lanes.run(task, _read, body, context, catalogue)
    scopes.log_fields(request.scope)["order"] = order.task_id
    if isinstance(job, Generate):
        task.request = job.request
    elif isinstance(job, Series) and job.requests:
        task.request = job.requests[0]
    left = max(0.1, min(order.seconds, context.settings.request_timeout))
    deadline = asyncio.get_running_loop().call_later(left, task.token.cancel, "deadline")
    told = catalogue if digest != order.catalogue else None
    return StreamingResponse(
        _stream(job, order, Told("started", digest=digest, catalogue=told), deadline, context, task),
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **AS_IT_IS},
    )


@router.post("/control")
async def control(request: Request, context: ContextDep) -> Response:
    """Interrupt or skip the task whose key the front was told."""
    asked = unpack(await request.body(), Control)
    task = context.tasks.keyed(asked.token)
    if task is None:
        raise NotFound("There is no task of that key under way here.")
    if asked.action not in ACTIONS:
        raise BadRequest(f"There is no action {asked.action[:40]!r}: use one of {', '.join(ACTIONS)}.")
    if asked.action == "interrupt":
        task.token.cancel("interrupt")
    else:
        task.token.skip()
    return json_response({})


def _read(body: bytes, context: Context, catalogue: Catalogue) -> tuple[Order, Job[Any], str]:
    """The order, its job with the names of ``catalogue``, and the digest of that. Raises :class:`BadRequest`."""
    order = unpack(body, Order)
    job = checked(read_job(order), context.settings, catalogue)
    return order, job, context.digest.of(catalogue)


def checked(job: Job[Any], settings: Settings, catalogue: Catalogue) -> Job[Any]:
    """``job`` if this service would have made it itself. Raises :class:`BadRequest`."""
    match job:
        case Generate():
            return Generate(_request(job.request, settings, catalogue))
        case Series():
            requests = tuple(_request(one, settings, catalogue) for one in job.requests)
            images = sum(one.image_count for one in requests)
            tiles = job.tiles
            if tiles is not None:
                catalogue.check_upscaler(tiles.upscaler)
                tiles = replace(tiles, request=_request(tiles.request, settings, catalogue, any_size=True))
                if tiles.request.init is None:
                    raise BadRequest("Tiles need a picture to be cut from.")
                if tiles.factor is not None:
                    _factor(tiles.factor, tiles.request.init.images[0], settings)
                images += tiles.tiling.count * tiles.request.batch_count
                _pixels(tiles.tiling.picture_width * tiles.tiling.picture_height, settings)
            if not 1 <= images <= settings.max_images:
                raise BadRequest(f"The job would make {images} images: 1 to {settings.max_images} are made.")
            return Series(requests, tiles)
        case Upscale():
            for name in (job.upscaler, *([job.second] if job.second is not None else [])):
                catalogue.check_upscaler(name)
            if len(job.images) != len(job.sizes) or not 1 <= len(job.images) <= settings.max_images:
                raise BadRequest("The job must have a size for each image, and 1 to SD_MAX_IMAGES images.")
            if len(job.factors) not in (0, len(job.images)):
                raise BadRequest("The job must have a factor for each image, or none.")
            for image, factor in zip(job.images, job.factors, strict=False):
                _factor(factor, image, settings)
            for width, height in job.sizes:
                if width < 1 or height < 1:
                    raise BadRequest(f"An image cannot be enlarged to {width}×{height}.")
                _pixels(width * height, settings)
            for image in job.images:
                _picture(image, settings)
            if not 0 <= job.share <= 1:
                raise BadRequest(f"share is {job.share}, but must be from 0 to 1.")
        case Caption():
            _picture(job.image, settings)
        case LoadCheckpoint():
            return LoadCheckpoint(catalogue.find(job.name).title)
    return job


def _request(
    request: GenerationRequest, settings: Settings, catalogue: Catalogue, *, any_size: bool = False
) -> GenerationRequest:
    _finite(request)
    check(request, settings)
    samplers.resolve(request.sampler, request.scheduler, strict=True)
    if not 0 <= request.seed < 2**63 or not 0 <= request.subseed < 2**63:
        raise BadRequest("Seeds must be from 0 to 2^63 - 1.")
    if request.init is not None:
        pictures = (
            *request.init.images,
            *(() if request.init.mask is None else (request.init.mask[:, :, None],)),
        )
        for picture in pictures:
            _picture(picture, settings, channels=(1, 3))
            if not any_size and picture.shape[:2] != (request.height, request.width):
                raise BadRequest("A picture to start from must be of the size of the request.")
        if not request.init.images or request.init.inpainting_fill not in range(4):
            raise BadRequest("A generation from pictures needs at least one, and a fill from 0 to 3.")
    return catalogue.named(request)


def _finite(value: Any) -> None:
    """No number may be NaN; a limit may be infinite."""
    if isinstance(value, float) and value != value:
        raise BadRequest("The job has a number that is none (NaN).")
    if is_dataclass(value):
        for one in fields(value):
            _finite(getattr(value, one.name))


def _factor(value: float, picture: Any, settings: Settings) -> None:
    """What an upscaler is asked for is bounded as what comes of it."""
    if not 0 < picture.size / picture.shape[-1] * value**2 <= settings.max_image_pixels:
        raise BadRequest(f"An image of this size cannot be enlarged {value} times: see SD_MAX_IMAGE_PIXELS.")


def _pixels(count: int, settings: Settings) -> None:
    if count > settings.max_image_pixels:
        raise BadRequest(
            f"{count} pixels are more than the {settings.max_image_pixels} of SD_MAX_IMAGE_PIXELS."
        )


def _picture(picture: Any, settings: Settings, channels: tuple[int, ...] = (3,)) -> None:
    if picture.ndim != 3 or picture.shape[2] not in channels or 0 in picture.shape:
        raise BadRequest(f"A picture has the shape {picture.shape}, but must be (height, width, 3).")
    _pixels(picture.shape[0] * picture.shape[1], settings)


async def _stream(
    job: Job[Any], order: Order, started: Told, deadline: asyncio.TimerHandle, context: Context, task: Task
) -> AsyncIterator[bytes]:
    try:
        with Following(task, _work(job, order, context, task), HEARTBEAT) as following:
            async for event in following:
                told = Told("waiting") if event == SILENCE else _told(event, started, context, task)
                yield frame(pack(told))
            error = following.failure()
            if error is None:
                last = Told(
                    "result",
                    result=await context.lanes.run(None, pack, following.result()),
                    seconds={str(stage): spent for stage, spent in task.timings.stages.items()},
                    cold_start=task.cold_start,
                    memory=context.backend.memory(),
                )
                yield frame(await context.lanes.run(None, pack, last))
            else:
                yield frame(pack(_failure(foreseen(error))))
    finally:
        deadline.cancel()


async def _work(job: Job[Any], order: Order, context: Context, task: Task) -> Any:
    if order.refresh:
        await context.backend.run(Refresh(), task)
    result = await context.backend.run(job, task)
    if isinstance(job, Generate | Series):
        return tuple(_without_pictures(made) for made in result)
    return result


def _without_pictures(made: GenerationResult) -> GenerationResult:
    """The front has the pictures of the request already."""
    init = made.request.init
    if init is None:
        return made
    return replace(made, request=replace(made.request, init=replace(init, images=(), mask=None)))


def _told(event: TaskEvent, started: Told, context: Context, task: Task) -> Told:
    match event:
        case Queued():
            return Told("queued", position=event.position)
        case Started():
            address = pod_address(context.settings)
            return replace(started, control=address, token=task.key, served_by=context.settings.pod_name)
        case Progress():
            return Told("progress", progress=pack(event))


def _failure(error: ServiceError) -> Told:
    return Told(
        "error",
        status=error.status,
        code=error.code,
        blame=error.blame,
        detail=error.detail,
        retry_after=error.retry_after,
        cause=error.cause if isinstance(error, Cancelled) else None,  # type: ignore[arg-type]
    )


def pod_address(settings: Settings) -> str:
    """Where this process itself can be reached, beside every proxy: SD_POD_ADDRESS, or its host name's address."""
    if settings.pod_address:
        return settings.pod_address.rstrip("/")
    if settings.host in ("127.0.0.1", "localhost", "::1"):
        return f"http://127.0.0.1:{settings.port}"
    try:
        return f"http://{socket.gethostbyname(socket.gethostname())}:{settings.port}"
    except OSError:
        return ""

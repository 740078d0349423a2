"""What a job means on an engine; blocking, in the engine's thread."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np

from service.backends.engine import Engine
from service.core.cancel import CancelToken
from service.core.errors import ServiceError
from service.core.events import Progress, ProgressSink
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import (
    Caption,
    Enlargement,
    Generate,
    Job,
    LoadCheckpoint,
    Refresh,
    Series,
    Tiles,
    Unload,
    Upscale,
    Upscaled,
)
from service.core.pixels import Pixels


def perform(engine: Engine, job: Job[Any], token: CancelToken, sink: ProgressSink) -> Any:
    """The result of ``job``. ``sink`` is told how far it is; ``token`` is looked at between parts of it."""
    match job:
        case Generate():
            return (engine.generate(job.request, token, sink),)
        case Series():
            requests = job.requests if job.tiles is None else _tiles(engine, job.tiles, token)
            return _series(engine, requests, token, sink)
        case Upscale():
            return _upscale(engine, job, token)
        case Caption():
            return engine.caption(job.image)
        case LoadCheckpoint():
            return engine.load_checkpoint(job.name)
        case Refresh():
            return engine.refresh()
        case Unload():
            return engine.unload()
        case _:
            raise ServiceError(f"There is no way to run a {type(job).__name__} here.")


def check(engine: Engine, job: Job[Any]) -> None:
    """Raise ``OutOfMemory`` where a job cannot fit on the device, before it waits for it; in any thread."""
    match job:
        case Generate():
            engine.check(job.request)
        case Series():
            for request in job.requests:
                engine.check(request)
        case _:
            pass


def _series(
    engine: Engine, requests: tuple[GenerationRequest, ...], token: CancelToken, sink: ProgressSink
) -> tuple[GenerationResult, ...]:
    results: list[GenerationResult] = []
    for number, request in enumerate(requests):
        results.append(engine.generate(request, token, _share(sink, number, len(requests))))
        if token.cancelled:
            break
    return tuple(results)


def _share(sink: ProgressSink, number: int, count: int) -> Callable[[Progress], None]:
    """``sink`` for generation ``number`` of ``count``: it is told of the whole."""

    def tell(progress: Progress) -> None:
        each = progress.job_count
        sink(replace(progress, job_no=number * each + progress.job_no, job_count=each * count))

    return tell


def _tiles(engine: Engine, tiles: Tiles, token: CancelToken) -> tuple[GenerationRequest, ...]:
    request, tiling, init = tiles.request, tiles.tiling, tiles.request.init
    assert init is not None
    to = Enlargement(tiles.upscaler, tiling.picture_width, tiling.picture_height, tiles.factor)
    larger = engine.upscale(init.images[0], to, token)
    cut, each = tiling.cut(larger), request.batch_size
    batches = [tuple(cut[start : start + each]) for start in range(0, len(cut), each)]
    return tuple(
        replace(
            request,
            init=replace(init, images=batch),
            batch_size=len(batch),
            batch_count=1,
            # As in A1111 each batch of tiles has the next seed.
            seed=request.seed + repeat + number,
        )
        for repeat in range(request.batch_count)
        for number, batch in enumerate(batches)
    )


def _upscale(engine: Engine, job: Upscale, token: CancelToken) -> Upscaled:
    began = time.perf_counter()
    made = []
    factors = job.factors or (None,) * len(job.images)
    for image, (width, height), factor in zip(job.images, job.sizes, factors, strict=True):
        to = Enlargement(job.upscaler, width, height, factor)
        one = engine.upscale(image, to, token)
        if job.second is not None and job.share > 0:
            one = _mix(one, engine.upscale(image, replace(to, upscaler=job.second), token), job.share)
        made.append(one)
    return Upscaled(tuple(made), time.perf_counter() - began)


def _mix(one: Pixels, other: Pixels, share: float) -> Pixels:
    mixed = one.astype(np.float32) * (1 - share) + other.astype(np.float32) * share
    return cast(Pixels, np.clip(np.rint(mixed), 0, 255).astype(np.uint8))

"""Jobs: all that can be asked of a device, as plain frozen data that can travel to another process.

``Job[R]`` is a job whose result is an ``R``. Names in a job (checkpoints, VAEs, upscalers) are those of the catalogue;
seeds are fixed before a job is made, so that a lost pod costs time and never a picture.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

from service.core.generation import GenerationRequest, GenerationResult
from service.core.pixels import Pixels
from service.core.records import CheckpointInfo
from service.core.tiling import Tiling

R_co = TypeVar("R_co", covariant=True)
J = TypeVar("J", bound="Job[Any]")


class Job(Generic[R_co]):
    """Something for a device to do."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Generate(Job[tuple[GenerationResult, ...]]):
    """One generation; its result is a tuple of one."""

    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Tiles:
    """A picture to be enlarged and made anew tile by tile: each tile starts ``request`` in img2img.

    ``request.init`` has the picture; ``request.batch_count`` rounds are made, each with its own seeds.
    """

    request: GenerationRequest
    upscaler: str
    tiling: Tiling
    factor: float | None = None
    """What the upscaler is asked for, where the size of ``tiling`` is that less a remainder."""


@dataclass(frozen=True, slots=True)
class Series(Job[tuple[GenerationResult, ...]]):
    """Generations one after the other in one turn on the device: ``requests``, or those that ``tiles`` make.

    An interrupt ends it after what there is so far.
    """

    requests: tuple[GenerationRequest, ...] = ()
    tiles: Tiles | None = None


@dataclass(frozen=True, slots=True)
class Enlargement:
    """What is made of one image: ``width`` × ``height`` with the upscaler of that name.

    ``factor`` is what the upscaler is asked for where the size is that less a remainder; None: what the size says.
    """

    upscaler: str
    width: int
    height: int
    factor: float | None = None


@dataclass(frozen=True, slots=True)
class Upscaled:
    """Enlarged images, and how long that took."""

    images: tuple[Pixels, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Upscale(Job[Upscaled]):
    """Enlarge ``images``, each to the (width, height) in ``sizes``; ``share`` (0..1) of ``second`` is mixed in.

    ``factors`` are what the upscalers are asked for where a size is that less a remainder.
    """

    images: tuple[Pixels, ...]
    sizes: tuple[tuple[int, int], ...]
    upscaler: str
    second: str | None = None
    share: float = 0.0
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Caption(Job[str]):
    """A line about what can be seen on ``image``."""

    image: Pixels


@dataclass(frozen=True, slots=True)
class LoadCheckpoint(Job[CheckpointInfo]):
    """Have that checkpoint in memory."""

    name: str


@dataclass(frozen=True, slots=True)
class Refresh(Job[None]):
    """Look at the models folder again."""


@dataclass(frozen=True, slots=True)
class Unload(Job[None]):
    """Give back the memory of all checkpoints."""


def requests_of(job: Job[Any]) -> tuple[GenerationRequest, ...]:
    """The requests that ``job`` is made of, its tiles' last; none for a job that generates nothing."""
    match job:
        case Generate():
            return (job.request,)
        case Series():
            return (*job.requests, job.tiles.request) if job.tiles else job.requests
    return ()


def with_requests(job: J, change: Callable[[GenerationRequest], GenerationRequest]) -> J:
    """``job`` with each of its requests changed."""
    made: Job[Any] = job
    match job:
        case Generate():
            made = Generate(change(job.request))
        case Series():
            tiles = job.tiles and replace(job.tiles, request=change(job.tiles.request))
            made = Series(tuple(map(change, job.requests)), tiles)
    return cast(J, made)

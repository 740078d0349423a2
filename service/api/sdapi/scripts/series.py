"""What a script makes of a request: a job of several generations, and how their images are put together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from service.api.limits import check
from service.core.errors import BadRequest
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import Series
from service.core.pixels import Pixels
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Grid:
    """Images put together; its infotext is that of the first image of result ``first``, with ``entries`` added."""

    pixels: Pixels
    first: int = 0
    entries: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Composed:
    """The images to send: ``grids`` first, then those of the results.

    As in A1111 the files of what was put together say nothing of how it was made: only ``infotexts`` do.
    """

    grids: tuple[Grid, ...]
    results: tuple[GenerationResult, ...]
    lone: bool = True
    """Whether the images of the results are sent; they are told of in any case."""
    joined: bool = False
    """Whether they were put together themselves."""
    beside: tuple[Sequence[Pixels], ...] = ()
    """For each image of the results those that follow it without an infotext; none at all: ()."""


def _as_they_are(results: Sequence[GenerationResult]) -> Composed:
    return Composed((), tuple(results))


@dataclass(frozen=True, slots=True)
class ScriptPlan:
    """The job of a script. ``compose`` runs with as many results as were made before an interrupt."""

    job: Series
    compose: Callable[[Sequence[GenerationResult]], Composed] = _as_they_are
    extra: dict[str, Any] = field(default_factory=dict)

    def checked(self, settings: Settings) -> "ScriptPlan":
        """Itself, if every generation is within the limits and all images together are. Raises :class:`BadRequest`."""
        for request in self.job.requests:
            check(request, settings)
        raise_if_too_many(sum(request.image_count for request in self.job.requests), settings)
        return self


def raise_if_too_many(images: int, settings: Settings) -> None:
    """Raise :class:`BadRequest` if a script would make more than ``SD_MAX_IMAGES``."""
    if images > settings.max_images:
        raise BadRequest(
            f"The script would make {images} images, but at most {settings.max_images} are made in one request "
            "(SD_MAX_IMAGES): give it fewer values."
        )


def with_prompts(request: GenerationRequest, prompt: str, negative_prompt: str) -> GenerationRequest:
    """``request`` with other prompts for all of its images."""
    return replace(request, prompt=prompt, negative_prompt=negative_prompt)

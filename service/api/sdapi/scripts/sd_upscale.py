"""SD upscale (img2img): enlarge the picture, make it anew tile by tile, and join the tiles where they overlap."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from service.api.sdapi.scripts.arguments import Arguments
from service.api.sdapi.scripts.series import Composed, ScriptPlan
from service.core.errors import BadRequest
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import Series, Tiles
from service.core.tiling import Tiling
from service.settings import Settings

NAME: Final = "sd upscale"


def plan(
    request: GenerationRequest, arguments: Arguments, upscalers: Sequence[str], settings: Settings
) -> ScriptPlan:
    """Arguments: (unused), overlap in pixels (64), upscaler by name or index ("None"), scale factor (2)."""
    if request.init is None:
        raise BadRequest(f"{NAME} works on img2img only: send init_images.")
    if request.init.mask is not None:
        raise BadRequest(f"{NAME} makes the whole picture anew: send no mask.")
    overlap = int(arguments.number(1, "tile overlap", 64, 0, 256))
    upscaler = arguments.choice(2, "upscaler", upscalers, "None")
    factor = arguments.number(3, "scale factor", 2.0, 1.0, 4.0)
    if overlap >= min(request.width, request.height):
        raise BadRequest(f"{NAME}: the overlap of {overlap} pixels must be smaller than width and height.")
    source = request.init.images[0]
    tiling = Tiling(
        int(source.shape[1] * factor), int(source.shape[0] * factor), request.width, request.height, overlap
    )
    count = tiling.count
    if count * request.batch_count > settings.max_images:
        raise BadRequest(
            f"{NAME} would make {count} tiles, but at most {settings.max_images} images are made in one request "
            "(SD_MAX_IMAGES): choose larger tiles (width, height) or a smaller factor."
        )

    def compose(results: Sequence[GenerationResult]) -> Composed:
        joined = []
        for start in range(0, len(results) - count + 1, count):
            tiles = results[start : start + count]
            if all(result.images for result in tiles):
                picture = tiling.join([result.images[0] for result in tiles])
                joined.append(replace(tiles[0], images=(picture,)))
        return Composed((), tuple(joined))

    extra = {"SD upscale overlap": overlap, "SD upscale upscaler": upscaler}
    job = Series(tiles=Tiles(request, upscaler, tiling))
    return ScriptPlan(job, compose=compose, extra=extra)

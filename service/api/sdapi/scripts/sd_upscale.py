"""SD upscale (img2img): enlarge the picture, make it anew tile by tile, and join the tiles where they overlap."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from service.api.sdapi.scripts.arguments import Arguments
from service.api.sdapi.scripts.series import Composed, ScriptPlan
from service.catalogue.upscalers import enlarged_size
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
    if upscaler == "None":
        width, height = source.shape[1], source.shape[0]
    else:
        width, height = enlarged_size(source.shape[1], source.shape[0], factor)
    tiling = Tiling(width, height, request.width, request.height, overlap)
    count = tiling.count
    if count * request.batch_count > settings.max_images:
        raise BadRequest(
            f"{NAME} would make {count} tiles, but at most {settings.max_images} images are made in one request "
            "(SD_MAX_IMAGES): choose larger tiles (width, height) or a smaller factor."
        )

    def compose(results: Sequence[GenerationResult]) -> Composed:
        joined, each = [], -(-count // request.batch_size)
        for start in range(0, len(results) - each + 1, each):
            batches = results[start : start + each]
            tiles = [tile for result in batches for tile in result.images]
            if len(tiles) == count:
                joined.append(replace(batches[0], images=(tiling.join(tiles),)))
        return Composed((), tuple(joined), joined=True)

    extra = {"SD upscale overlap": overlap, "SD upscale upscaler": upscaler}
    job = Series(tiles=Tiles(request, upscaler, tiling, factor))
    return ScriptPlan(job, compose=compose, extra=extra)

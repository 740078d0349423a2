"""SD upscale (img2img): enlarge the picture, make it anew tile by tile, and join the tiles where they overlap."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from service.api.sdapi.scripts.arguments import Arguments
from service.api.sdapi.scripts.series import Composed, Series
from service.backends.engine import Engine
from service.core.cancel import CancelToken
from service.core.errors import BadRequest
from service.core.generation import GenerationRequest, GenerationResult
from service.core.pixels import Pixels
from service.settings import Settings

NAME: Final = "sd upscale"


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tiles of ``width`` × ``height`` over a picture, with at least ``overlap`` pixels in common."""

    picture_width: int
    picture_height: int
    width: int
    height: int
    overlap: int

    def starts(self, picture: int, tile: int) -> list[int]:
        """Where tiles begin along one side: evenly spread, the last one ending with the picture."""
        if picture <= tile:
            return [0]
        count = -(-(picture - self.overlap) // (tile - self.overlap))
        return [round(index * (picture - tile) / (count - 1)) for index in range(count)]

    def corners(self) -> list[tuple[int, int]]:
        """(left, top) of each tile, row by row."""
        return [
            (left, top)
            for top in self.starts(self.picture_height, self.height)
            for left in self.starts(self.picture_width, self.width)
        ]

    def cut(self, picture: Pixels) -> list[Pixels]:
        """The tiles of ``picture``, each of the full size (edges repeat where the picture is smaller)."""
        tiles = []
        for left, top in self.corners():
            tile = picture[top : top + self.height, left : left + self.width]
            missing = ((0, self.height - tile.shape[0]), (0, self.width - tile.shape[1]), (0, 0))
            tiles.append(np.pad(tile, missing, mode="edge"))
        return tiles

    def join(self, tiles: Sequence[Pixels]) -> Pixels:
        """The picture again; where tiles overlap they fade into each other."""
        total = np.zeros((self.picture_height, self.picture_width, 3), np.float32)
        weights = np.zeros((self.picture_height, self.picture_width, 1), np.float32)
        ramp = self._ramp()
        for (left, top), tile in zip(self.corners(), tiles, strict=True):
            part = total[top : top + self.height, left : left + self.width]
            height, width = part.shape[:2]
            part += tile[:height, :width] * ramp[:height, :width]
            weights[top : top + self.height, left : left + self.width] += ramp[:height, :width]
        return np.asarray(np.rint(total / weights), dtype=np.uint8)

    def _ramp(self) -> npt.NDArray[np.float32]:
        """The weight of each pixel of a tile: small at its edges, 1 once it is an overlap away from them."""

        def along(length: int) -> npt.NDArray[np.float32]:
            distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1.0
            return np.minimum(distance / (self.overlap + 1), 1.0).astype(np.float32)

        return (along(self.height)[:, None] * along(self.width)[None, :])[:, :, None]


def plan(
    request: GenerationRequest, arguments: Arguments, upscalers: Sequence[str], settings: Settings
) -> Series:
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
    init, source = request.init, request.init.images[0]
    tiling = Tiling(
        int(source.shape[1] * factor), int(source.shape[0] * factor), request.width, request.height, overlap
    )
    count = len(tiling.corners())
    if count * request.batch_count > settings.max_images:
        raise BadRequest(
            f"{NAME} would make {count} tiles, but at most {settings.max_images} images are made in one request "
            "(SD_MAX_IMAGES): choose larger tiles (width, height) or a smaller factor."
        )

    def prepare(engine: Engine, token: CancelToken) -> list[GenerationRequest]:
        larger = engine.upscale(source, upscaler, tiling.picture_width, tiling.picture_height, token)
        return [
            replace(
                request,
                init=replace(init, images=(tile,)),
                batch_size=1,
                batch_count=1,
                seed=request.seed + repeat,
            )
            for repeat in range(request.batch_count)
            for tile in tiling.cut(larger)
        ]

    def compose(results: Sequence[GenerationResult]) -> Composed:
        joined = []
        for start in range(0, len(results) - count + 1, count):
            tiles = results[start : start + count]
            if all(result.images for result in tiles):
                picture = tiling.join([result.images[0] for result in tiles])
                joined.append(replace(tiles[0], images=(picture,)))
        return Composed((), tuple(joined))

    extra = {"SD upscale overlap": overlap, "SD upscale upscaler": upscaler}
    return Series(prepare=prepare, compose=compose, extra=extra)

"""How a picture is cut into overlapping tiles and joined again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.core.pixels import Pixels


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tiles of ``width`` × ``height`` over a picture, with at least ``overlap`` pixels in common."""

    picture_width: int
    picture_height: int
    width: int
    height: int
    overlap: int

    @property
    def count(self) -> int:
        """How many tiles there are."""
        across = self._along(self.picture_width, self.width)
        return across * self._along(self.picture_height, self.height)

    def _along(self, picture: int, tile: int) -> int:
        return 1 if picture <= tile else -(-(picture - self.overlap) // (tile - self.overlap))

    def starts(self, picture: int, tile: int) -> list[int]:
        """Where tiles begin along one side: evenly spread, the last one ending with the picture."""
        count = self._along(picture, tile)
        if count == 1:
            return [0]
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

"""How a picture is cut into overlapping tiles and joined again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
        return [int(index * ((picture - tile) / (count - 1))) for index in range(count - 1)] + [
            picture - tile
        ]

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
        """The picture again: tiles into rows, rows into the picture, each fading over the one before as in A1111."""
        lefts = self.starts(self.picture_width, self.width)
        tops = self.starts(self.picture_height, self.height)
        whole = np.zeros((self.picture_height, self.picture_width, 3), np.uint8)
        for number, top in enumerate(tops):
            row = np.zeros((self.height, self.picture_width, 3), np.uint8)
            for left, tile in zip(lefts, tiles[number * len(lefts) :], strict=False):
                self._lay(row.swapaxes(0, 1), tile.swapaxes(0, 1), left)
            self._lay(whole, row, top)
        return whole

    def _lay(self, whole: Pixels, part: Pixels, start: int) -> None:
        """Put ``part`` into ``whole`` from row ``start`` on; but for the first it fades in over the overlap."""
        part = part[: whole.shape[0] - start]
        under = whole[start : start + len(part)]
        if start > 0:
            ramp = (
                np.arange(self.overlap, dtype=np.float32) * np.float32(255) / np.float32(max(1, self.overlap))
            )
            share = ramp.astype(np.uint8).astype(np.uint32)[: len(part), None, None]
            # Mixed in whole numbers, rounded as Pillow does.
            mixed = part[: len(share)] * share + under[: len(share)] * (255 - share) + 128
            under[: len(share)] = ((mixed >> 8) + mixed) >> 8
            under[len(share) :] = part[len(share) :]
        else:
            under[:] = part

"""Several images in one: plain grids, and grids with captions along their edges (prompt matrix, x/y/z
plot).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from service.core.errors import BadRequest
from service.core.pixels import Pixels

ACTIVE: Final = "#000000"
INACTIVE: Final = "#999999"
BACKGROUND: Final = "#ffffff"
_SMALLEST_FONT: Final = 6
_LONGEST_CAPTION: Final = 1000  # characters; nobody reads more beside a picture

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Caption:
    """One text of a row or column; an inactive one is grey and struck through."""

    text: str
    active: bool = True


def rows_of(count: int, rows: int = -1, batch_size: int = 1, prevent_empty_spots: bool = False) -> int:
    """How many rows a grid of ``count`` images has by A1111's options ``n_rows`` and
    ``grid_prevent_empty_spots``.

    ``rows`` above 0 is the number itself, 0 means ``batch_size``, below 0 as square as it gets, on request
    only with such a number that no place stays empty.
    """
    if rows > 0:
        wanted = rows
    elif rows == 0:
        wanted = batch_size
    elif prevent_empty_spots:
        wanted = next(number for number in range(math.isqrt(count), 0, -1) if count % number == 0)
    else:
        wanted = round(math.sqrt(count))
    return max(1, min(wanted, count))


def make_grid(
    images: Sequence[Pixels],
    rows: int,
    *,
    margin: int = 0,
    background: str = BACKGROUND,
    max_pixels: int | None = None,
) -> Pixels:
    """``images`` in ``rows`` rows, filled row by row; each cell is as large as the largest image.

    ``margin``: pixels between cells. Raises :class:`BadRequest` if the grid would have more than
    ``max_pixels``.
    """
    if not images:
        raise ValueError("a grid needs an image")
    width, height = max(image.shape[1] for image in images), max(image.shape[0] for image in images)
    columns = math.ceil(len(images) / rows)
    size = (columns * (width + margin) - margin, rows * (height + margin) - margin)
    _check(size, max_pixels)
    grid = Image.new("RGB", size, background)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        grid.paste(Image.fromarray(image[:, :, :3]), (column * (width + margin), row * (height + margin)))
    return np.array(grid)


def annotate(
    grid: Pixels,
    columns: Sequence[Sequence[Caption]],
    rows: Sequence[Sequence[Caption]],
    *,
    margin: int = 0,
    background: str = BACKGROUND,
    max_pixels: int | None = None,
) -> Pixels:
    """``grid`` with captions above each of its columns and left of each of its rows.

    There is one sequence of captions per column and per row; they stand below each other, wrapped and
    shrunk until they fit. All cells have one size. Raises :class:`BadRequest` beyond ``max_pixels``.
    """
    height, width = grid.shape[:2]
    cell_width = (width + margin) // len(columns) - margin
    cell_height = (height + margin) // len(rows) - margin
    font_size = max(_SMALLEST_FONT, (cell_width + cell_height) // 25)
    left = cell_width * 3 // 4 if any(caption.text for captions in rows for caption in captions) else 0
    tops = [_Block(captions, cell_width, None, font_size) for captions in columns]
    sides = [_Block(captions, left, cell_height, font_size) for captions in rows]
    # As high as A1111's: the highest text and half a line above and below.
    top = max(block.height for block in tops)
    top += font_size // 2 * 2 if top else 0
    _check((width + left, height + top), max_pixels)
    sheet = Image.new("RGB", (width + left, height + top), background)
    sheet.paste(Image.fromarray(grid[:, :, :3]), (left, top))
    draw = ImageDraw.Draw(sheet)
    for index, block in enumerate(tops):
        block.draw(draw, left + index * (cell_width + margin) + cell_width // 2, top // 2)
    for index, block in enumerate(sides):
        block.draw(draw, left // 2, top + index * (cell_height + margin) + cell_height // 2)
    return np.array(sheet)


def matrix_captions(parts: Sequence[str]) -> tuple[list[list[Caption]], list[list[Caption]]]:
    """Captions (columns, rows) of a prompt matrix over ``parts``, the optional ones, without the first.

    Image ``i`` of the matrix has part ``k`` if bit ``k`` of ``i`` is set; the first half of the parts
    varies from column to column, the rest from row to row.
    """
    boundary = math.ceil(len(parts) / 2)

    def captions(texts: Sequence[str]) -> list[list[Caption]]:
        return [
            [Caption(text, bool(position >> bit & 1)) for bit, text in enumerate(texts)]
            for position in range(1 << len(texts))
        ]

    return captions(parts[:boundary]), captions(parts[boundary:])


class _Block:
    """Captions below each other, wrapped to a width and, if a height is given, shrunk to it."""

    def __init__(self, captions: Sequence[Caption], width: int, height: int | None, font_size: int) -> None:
        self._lines: list[tuple[str, bool]] = []
        self._gap = font_size // 2
        self._heights: list[int] = []
        while True:
            font = ImageFont.load_default(font_size)
            room = width - font_size // 2  # neighbours must not touch
            self._font: _Font = font
            self._lines = [
                (line, c.active) for c in captions if c.text for line in _wrapped(c.text, font, width)
            ]
            self._heights = [_height(line, font) for line, _ in self._lines]
            fits = all(font.getlength(line) <= room for line, _ in self._lines)
            if font_size <= _SMALLEST_FONT or (fits and (height is None or self.height <= height)):
                return
            font_size -= 1

    @property
    def height(self) -> int:
        """Pixels from the top of the first line to the bottom of the last."""
        return sum(self._heights) + self._gap * max(0, len(self._lines) - 1)

    def draw(self, draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
        """Write the lines centred about (``x``, ``y``)."""
        top = y - self.height // 2
        for (text, active), height in zip(self._lines, self._heights, strict=True):
            colour, middle = ACTIVE if active else INACTIVE, top + height // 2
            draw.text((x, middle), text, fill=colour, font=self._font, anchor="mm")
            if not active:
                reach = self._font.getlength(text) / 2
                draw.line((x - reach, middle, x + reach, middle), fill=colour, width=max(1, height // 8))
            top += height + self._gap


def _height(text: str, font: _Font) -> int:
    """Of a line's letters, in pixels."""
    _, top, _, bottom = font.getbbox(text)
    return round(bottom - top)


def _wrapped(text: str, font: _Font, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels, broken between words; a longer word stays whole."""
    lines: list[str] = []
    for word in text[:_LONGEST_CAPTION].split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _check(size: tuple[int, int], max_pixels: int | None) -> None:
    if max_pixels is not None and size[0] * size[1] > max_pixels:
        raise BadRequest(
            f"The grid would have {size[0]}×{size[1]} pixels; at most {max_pixels:,} are made here: "
            "ask for fewer or smaller images."
        )

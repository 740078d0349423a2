"""Which training picture a generated one shows: nearest neighbour after both are cropped and put on one colour.

The background is the median colour of the border. What differs from it is the subject; its box is cropped to a
square and scaled to 32x32. Every training picture is composited on that same colour and treated the same way, also
mirrored. The nearest in mean squared error of RGB wins. There is no notion of the prompt in it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from .data import COLOURS

_WORK = 96
_SMALL = 32


@dataclass(frozen=True)
class Match:
    """Nearest training pictures, best first, with their distances, and the background found (sRGB)."""

    rows: tuple[int, ...]
    distances: tuple[float, ...]
    background: tuple[int, int, int]


def background_of(picture: torch.Tensor) -> torch.Tensor:
    """Median colour (3,) of the outer 3 % of a picture (3, side, side)."""
    ring = max(1, round(picture.shape[-1] * 0.03))
    strips = (
        picture[:, :ring].flatten(1),
        picture[:, -ring:].flatten(1),
        picture[:, :, :ring].flatten(1),
        picture[:, :, -ring:].flatten(1),
    )
    return torch.cat(strips, dim=1).median(dim=1).values


def _boxes(pictures: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Square boxes (left, top, side in pixels) around what differs from the background; pictures (n, 3, s, s)."""
    side = pictures.shape[-1]
    differs = ((pictures - background[:, None, None]).abs().amax(dim=1) > 0.1).float()
    differs = (F.avg_pool2d(differs[:, None], 3, 1, 1)[:, 0] > 0.4).float()
    boxes = []
    for along in (1, 2):
        filled = differs.sum(dim=along) >= 1
        first = filled.float().argmax(dim=1)
        last = side - filled.flip(1).float().argmax(dim=1)
        empty = ~filled.any(dim=1)
        boxes.append((torch.where(empty, 0, first), torch.where(empty, side, last)))
    (left, right), (top, bottom) = boxes
    length = torch.maximum(right - left, bottom - top).float()
    return torch.stack(((left + right) / 2 - length / 2, (top + bottom) / 2 - length / 2, length), dim=1)


def _cut(pictures: torch.Tensor, boxes: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """The boxes of pictures, scaled to 32x32; outside of a picture is background."""
    side = pictures.shape[-1]
    steps = (torch.arange(_SMALL) + 0.5) / _SMALL
    x = (boxes[:, 0:1] + steps * boxes[:, 2:3]) / side * 2 - 1
    y = (boxes[:, 1:2] + steps * boxes[:, 2:3]) / side * 2 - 1
    count = len(pictures)
    grid = torch.stack(
        (x[:, None, :].expand(count, _SMALL, _SMALL), y[:, :, None].expand(count, _SMALL, _SMALL)), -1
    )
    shifted = F.avg_pool2d(pictures - background[:, None, None], 3, 1, 1)
    return F.grid_sample(shifted, grid, align_corners=False) + background[:, None, None]


class Matcher:
    """Finds the nearest of a set of training pictures, uint8 (subjects, 4, side, side) premultiplied RGBA."""

    def __init__(self, pictures: torch.Tensor) -> None:
        self._pictures = torch.cat(
            [F.adaptive_avg_pool2d(part.float() / 255, _WORK) for part in pictures.split(64)]
        )

    def match(self, image: npt.NDArray[np.uint8], best: int = 5) -> Match:
        """The nearest training pictures of an RGB image (height, width, 3)."""
        picture = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
        background = background_of(picture)
        small = F.adaptive_avg_pool2d(picture, _WORK)[None]
        query = _cut(small, _boxes(small, background), background)
        candidates = self._pictures[:, :3] + background[:, None, None] * (1 - self._pictures[:, 3:])
        known = _cut(candidates, _boxes(candidates, background), background)
        straight = (known - query).square().mean(dim=(1, 2, 3))
        mirrored = (known.flip(-1) - query).square().mean(dim=(1, 2, 3))
        distances, rows = torch.minimum(straight, mirrored).topk(min(best, len(known)), largest=False)
        red, green, blue = (round(float(value) * 255) for value in background)
        return Match(tuple(rows.tolist()), tuple(distances.tolist()), (red, green, blue))


def _lab(colour: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """CIE L*a*b* (D65) of an sRGB colour."""
    value = np.asarray(colour, np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    relative = matrix @ linear / np.array([0.9505, 1.0, 1.089])
    root = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def colour_name(colour: tuple[int, int, int]) -> str:
    """The named background colour that lies nearest in CIE L*a*b*."""
    return min(COLOURS, key=lambda name: float(np.linalg.norm(_lab(COLOURS[name]) - _lab(colour))))

"""Which training picture a generated one shows: its nearest neighbour in pixels, on the same background.

The background is the median colour of the border. Every training picture is composited on it, where the UNet learnt
to draw it; both are scaled to 32x32, and the smallest mean squared error of RGB wins. There is no notion of the prompt
in it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from .data import CENTRED, COLOURS, composite

_WORK = 128
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


class Matcher:
    """Finds the nearest of a set of training pictures, uint8 (subjects, 4, side, side) premultiplied RGBA."""

    def __init__(self, pictures: torch.Tensor) -> None:
        self._on_black, on_white = (
            torch.cat(
                [
                    F.adaptive_avg_pool2d(
                        composite(part, [CENTRED] * len(part), [ground] * len(part), _WORK), _SMALL
                    )
                    for part in pictures.split(64)
                ]
            )
            .add(1)
            .div(2)
            for ground in ((0, 0, 0), (255, 255, 255))
        )
        self._seen_through = on_white - self._on_black

    def match(self, image: npt.NDArray[np.uint8], best: int = 5) -> Match:
        """The nearest training pictures of an RGB image (height, width, 3)."""
        picture = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
        background = background_of(picture)
        known = self._on_black + background[:, None, None] * self._seen_through
        squares = (known - F.adaptive_avg_pool2d(picture, _SMALL)).square().mean(dim=(1, 2, 3))
        distances, rows = squares.topk(min(best, len(known)), largest=False)
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

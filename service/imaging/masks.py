"""Masks of inpainting: softened, inverted, measured; and what to put where a mask will be repainted.

A mask is uint8 of shape (height, width): 255 is repainted, 0 kept, what lies between is mixed.
"""

from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from service.core.errors import BadRequest
from service.core.pixels import Mask, Pixels

LARGEST_BLUR: Final = 512
_ROWS: Final = 256

_LAYERS: Final = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))
"""Radius in pixels, and how often that layer is laid on: A1111's numbers."""


class Box(NamedTuple):
    """A rectangle of whole pixels; ``right`` and ``bottom`` are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.bottom - self.top

    def of(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The part of ``pixels`` inside, as a view."""
        return pixels[self.top : self.bottom, self.left : self.right]

    def padded(self, padding: int, width: int, height: int) -> Self:
        """Larger by ``padding`` on every side, within an image of ``width`` × ``height``."""
        return type(self)(
            max(0, self.left - padding),
            max(0, self.top - padding),
            min(width, self.right + padding),
            min(height, self.bottom + padding),
        )

    def with_ratio(self, ratio_width: int, ratio_height: int, width: int, height: int) -> Self:
        """This box made longer on one side, to the ratio ``ratio_width`` : ``ratio_height``.

        It is centred, moved where the edge of the image (``width`` × ``height``) forces it to, and cut
        where the image is too small for the ratio.
        """
        ratio = ratio_width / ratio_height
        if self.width / self.height > ratio:
            top, bottom = _widened(self.top, self.bottom, int(self.width / ratio - self.height), height)
            return type(self)(self.left, top, self.right, bottom)
        left, right = _widened(self.left, self.right, int(self.height * ratio - self.width), width)
        return type(self)(left, self.top, right, self.bottom)


def _widened(start: int, end: int, more: int, limit: int) -> tuple[int, int]:
    """The span from ``start`` to ``end``, longer by ``more``, inside 0..``limit``."""
    length = min(end - start + max(0, more), limit)
    start = min(max(0, start - more // 2), limit - length)
    return start, start + length


def invert(mask: Mask) -> Mask:
    """Repaint what was kept and keep what was repainted."""
    return np.asarray(255 - mask, dtype=np.uint8)


def bounds(mask: Mask) -> Box | None:
    """The smallest box with all of ``mask`` that is not 0; None if it is blank."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def blur(mask: Mask, x: float, y: float) -> Mask:
    """Soften ``mask`` by a Gaussian of standard deviation ``x`` across and ``y`` down, in pixels (0: not at
    all).

    As in A1111 the kernel ends 2.5 deviations from its middle, and edges are mirrored about the outermost
    pixel; and as in OpenCV, which it asks, weights are multiples of 1/256. Raises :class:`BadRequest` outside 0..512.
    """
    for deviation in (x, y):
        if not 0 <= deviation <= LARGEST_BLUR:
            raise BadRequest(
                f"mask_blur {deviation} is out of range: it goes from 0 to {LARGEST_BLUR} pixels."
            )
    soft = mask
    if x > 0:
        soft = _convolved(soft, _gaussian(x))
    if y > 0:
        soft = _convolved(soft.T, _gaussian(y)).T
    return np.ascontiguousarray(soft)


def _gaussian(deviation: float) -> npt.NDArray[np.float64]:
    """Weights in 256ths: each takes over what was rounded off the one before, the middle one the rest."""
    reach = int(2.5 * deviation + 0.5)
    exact = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    exact *= 256 / exact.sum()
    weights, left = np.zeros(2 * reach + 1), 0.0
    for place in range(reach):
        wanted = exact[place] + left
        weights[place] = weights[-1 - place] = np.rint(wanted)
        left = wanted - weights[place]
    weights[reach] = 256 - weights.sum()
    return weights


def _convolved(rows: Mask, kernel: npt.NDArray[np.float64]) -> Mask:
    """Each row convolved with ``kernel``, by Fourier transform: wide kernels cost as little as narrow.

    Some rows at a time: transforms of a whole picture would take many times its memory.
    """
    reach, width = len(kernel) // 2, rows.shape[1]
    length = width + 2 * reach + len(kernel) - 1
    transformed = np.fft.rfft(kernel, length)
    found = np.empty(rows.shape, np.uint8)
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS].astype(np.float64)
        mirrored = np.pad(part, ((0, 0), (reach, reach)), mode="reflect" if width > 1 else "edge")
        product = np.fft.rfft(mirrored, length, axis=1) * transformed
        sums = np.rint(np.fft.irfft(product, length, axis=1)[:, 2 * reach : 2 * reach + width])
        found[start : start + _ROWS] = np.clip((sums + 128) // 256, 0, 255)
    return found


def fill(pixels: Pixels, mask: Mask) -> Pixels:
    """``pixels`` with what lies under ``mask`` replaced by its blurred surroundings; the rest stays as it is.

    A1111's way, by which the picture that is made is its: what is kept, blurred ever less, in layers over one another.
    """
    whole = Image.fromarray(pixels)
    kept = Image.new("RGBa", whole.size)
    kept.paste(whole.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(Image.fromarray(mask)))
    filled = Image.new("RGBA", whole.size)
    for radius, times in _LAYERS:
        blurred = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            filled.alpha_composite(blurred)
    return np.array(filled.convert("RGB"))

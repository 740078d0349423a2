"""Masks of inpainting: softened, inverted, measured; and what to put where a mask will be repainted.

A mask is uint8 of shape (height, width): 255 is repainted, 0 kept, what lies between is mixed.
"""

from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from service.core.errors import BadRequest
from service.core.pixels import Mask, Pixels

LARGEST_BLUR: Final = 512
_ROWS: Final = 256


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
        """The smallest box around this one of the ratio ``ratio_width`` : ``ratio_height``.

        It is centred, moved where the edge of the image (``width`` × ``height``) forces it to, and cut
        where the image is too small for the ratio.
        """
        left, right = _widened(self.left, self.right, -(-self.height * ratio_width // ratio_height), width)
        top, bottom = _widened(self.top, self.bottom, -(-self.width * ratio_height // ratio_width), height)
        return type(self)(left, top, right, bottom)


def _widened(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """The span from ``start`` to ``end`` stretched to ``length`` (never shrunk) inside 0..``limit``."""
    length = min(max(length, end - start), limit)
    start = min(max(0, start - (length - (end - start)) // 2), limit - length)
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
    pixel. Raises :class:`BadRequest` outside 0..512.
    """
    for deviation in (x, y):
        if not 0 <= deviation <= LARGEST_BLUR:
            raise BadRequest(
                f"mask_blur {deviation} is out of range: it goes from 0 to {LARGEST_BLUR} pixels."
            )
    soft = mask.astype(np.float32)
    if x > 0:
        soft = _convolved(soft, _gaussian(x))
    if y > 0:
        soft = _convolved(soft.T, _gaussian(y)).T
    return np.ascontiguousarray(np.clip(np.rint(soft), 0, 255).astype(np.uint8))


def _gaussian(deviation: float) -> npt.NDArray[np.float32]:
    reach = int(2.5 * deviation + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    return np.asarray(weights / weights.sum(), dtype=np.float32)


def _convolved(rows: npt.NDArray[np.float32], kernel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each row convolved with ``kernel``, by Fourier transform: wide kernels cost as little as narrow.

    Some rows at a time: transforms of a whole picture would take eight times its memory.
    """
    reach, width = len(kernel) // 2, rows.shape[1]
    length = width + 2 * reach + len(kernel) - 1
    transformed = np.fft.rfft(kernel, length)
    found = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        mirrored = np.pad(part, ((0, 0), (reach, reach)), mode="reflect" if width > 1 else "edge")
        product = np.fft.rfft(mirrored, length, axis=1) * transformed
        found[start : start + _ROWS] = np.fft.irfft(product, length, axis=1)[:, 2 * reach : 2 * reach + width]
    return found


def fill(pixels: Pixels, mask: Mask) -> Pixels:
    """``pixels`` with what lies under ``mask`` replaced by its blurred surroundings; the rest stays as it is.

    Push-pull interpolation (Gortler et al., "The Lumigraph", SIGGRAPH 1996): the colours that are kept are
    averaged down a pyramid, and the holes of each level take the colours of the coarser one. Linear in the
    size.
    """
    weight = 1 - mask.astype(np.float32)[:, :, np.newaxis] / 255
    if not weight.any():  # nothing surrounds the hole: its own average is the best guess
        return np.broadcast_to(np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8), pixels.shape).copy()
    filled = np.clip(np.rint(_surroundings(pixels * weight, weight)), 0, 255).astype(np.uint8)
    return np.where(mask[:, :, np.newaxis] == 0, pixels, filled)


def _surroundings(colour: npt.NDArray[Any], weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Colours without holes from ``colour``, multiplied by its ``weight`` (0..1, height × width × 1)."""
    height, width = weight.shape[:2]
    if height == width == 1:
        return np.asarray(colour / np.maximum(weight, 1e-6))
    half_colour, half_weight = _halved(colour), _halved(weight)
    # One pixel of four that is known is known enough for the coarser level.
    gain = np.minimum(1, 4 * half_weight) / np.maximum(half_weight, 1e-6)
    coarse = _surroundings(half_colour * gain, half_weight * gain)
    doubled = _doubled(_doubled(coarse).swapaxes(0, 1)).swapaxes(0, 1)[:height, :width]
    return np.asarray(colour + (1 - weight) * doubled)


def _halved(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    height, width = values.shape[:2]
    even = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    return np.asarray((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4)


def _doubled(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Twice as many rows, linearly interpolated."""
    around = np.pad(values, ((1, 1), (0, 0), (0, 0)), mode="edge")
    rows = np.empty((2 * values.shape[0], *values.shape[1:]), values.dtype)
    rows[::2] = 0.75 * values + 0.25 * around[:-2]
    rows[1::2] = 0.75 * values + 0.25 * around[2:]
    return rows

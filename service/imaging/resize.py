"""Resizing as img2img and extras need it: stretched, cropped or filled up to a size; Lanczos and Nearest.

Everything takes uint8 arrays of shape (height, width) or (height, width, channels) and returns the same
kind. Cost and memory follow the sizes of input and output, never a product in between, however narrow an
image is.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.catalogue.upscalers import enlarged_size
from service.core.errors import BadRequest, UnknownName
from service.core.pixels import Pixels

Array = TypeVar("Array", bound=npt.NDArray[Any])

Upscale: TypeAlias = Callable[[Pixels, float], Pixels]
"""Enlarges pixels by about a factor; what it returns is brought to the exact size by Lanczos."""

STRETCH: Final = 0
CROP: Final = 1
FILL: Final = 2
LATENT: Final = 3
MODES: Final = (STRETCH, CROP, FILL, LATENT)
"""A1111's resize modes. The last one resizes the latent, so here it leaves the image alone."""

LANCZOS: Final = Image.Resampling.LANCZOS
NEAREST: Final = Image.Resampling.NEAREST
BILINEAR: Final = Image.Resampling.BILINEAR
UPSCALERS: Final = {"Lanczos": LANCZOS, "Nearest": NEAREST}
"""The upscalers that need no model."""

_LARGEST_COVER: Final = 16
"""How many times as many pixels as will be seen are enlarged at most."""

_Box: TypeAlias = tuple[float, float, float, float]
_REDUCING_GAP: Final = (
    3.0  # beyond 6 to 1 average first: looks the same, and narrow giants need no giant tables
)


def stretch(
    pixels: Array, width: int, height: int, resample: Image.Resampling = LANCZOS, box: _Box | None = None
) -> Array:
    """``pixels`` (or its part ``box``: left, top, right, bottom) at ``width`` × ``height``, whatever the
    ratio.
    """
    if box is None and pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(pixels)
    resized = image.resize((width, height), resample, box=box, reducing_gap=_REDUCING_GAP)
    return np.array(resized)  # type: ignore[return-value]


def fit(
    pixels: Array,
    width: int,
    height: int,
    mode: int = STRETCH,
    resample: Image.Resampling = LANCZOS,
    upscale: Upscale | None = None,
) -> Array:
    """``pixels`` at ``width`` × ``height`` by one of A1111's resize modes.

    0 stretches. 1 keeps the ratio and cuts what stands over on both sides. 2 keeps the ratio and repeats
    the edges where the image does not reach. 3 returns the image as it is. ``upscale`` does the enlarging of
    coloured images, where there is any. Raises :class:`BadRequest` for another mode.
    """
    if mode not in MODES:
        raise BadRequest(
            f"resize_mode {mode} does not exist: 0 stretches, 1 crops, 2 fills, 3 resizes the latent."
        )
    if mode == LATENT or pixels.shape[:2] == (height, width):
        return pixels
    upscale = None if pixels.ndim == 2 else upscale
    if mode == STRETCH:
        return _sized(pixels, width, height, resample, upscale)
    inner_width, inner_height = inner_size(
        pixels.shape[1], pixels.shape[0], width, height, cover=mode == CROP
    )
    if inner_width * inner_height > _LARGEST_COVER * width * height:
        # A narrow giant: all of it enlarged would fill the memory. The part that will be seen comes out as well.
        return _sized(pixels, width, height, resample, upscale, _middle(pixels, width, height))
    inner = _sized(pixels, inner_width, inner_height, resample, upscale)
    canvas = np.zeros((height, width, *pixels.shape[2:]), np.uint8)
    left, top = width // 2 - inner_width // 2, height // 2 - inner_height // 2
    from_left, from_top = max(0, -left), max(0, -top)
    left, top = max(0, left), max(0, top)
    part = inner[from_top : from_top + height - top, from_left : from_left + width - left]
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    if mode == FILL:
        _extend(canvas, inner, left, top)
    return canvas  # type: ignore[return-value]


def _extend(canvas: npt.NDArray[Any], inner: npt.NDArray[Any], left: int, top: int) -> None:
    """Fill what is beside ``inner`` in ``canvas`` as A1111 does: its edges, drawn out by Pillow's bicubic filter
    (which reads the second row of pixels too). Of an odd remainder one row stays black."""
    height, width = inner.shape[:2]
    image = Image.fromarray(inner)
    if top > 0:
        canvas[:top] = np.array(image.resize((width, top), box=(0, 0, width, 0)))
        rest = canvas[top + height : height + 2 * top]
        rest[:] = np.array(image.resize((width, top), box=(0, height, width, height)))[: len(rest)]
    elif left > 0:
        canvas[:, :left] = np.array(image.resize((left, height), box=(0, 0, 0, height)))
        rest = canvas[:, left + width : width + 2 * left]
        rest[:] = np.array(image.resize((left, height), box=(width, 0, width, height)))[:, : rest.shape[1]]


def upscale_by_name(name: str) -> Upscale:
    """The upscaler without a model that ``name`` (any case) means; raises :class:`UnknownName`."""
    for known, resample in UPSCALERS.items():
        if known.lower() == name.strip().lower():
            return lambda pixels, factor: _scaled(pixels, factor, resample)
    raise UnknownName(f"There is no built-in upscaler {name[:60]!r}: choose one of {', '.join(UPSCALERS)}.")


def inner_size(
    from_width: int, from_height: int, width: int, height: int, *, cover: bool = False
) -> tuple[int, int]:
    """The largest (width, height) of the ratio of ``from_…`` that fits into ``width`` × ``height``, or with
    ``cover`` the smallest that covers it."""
    # Divided as A1111 does: where the ratios are equal but for a rounding, it matters which side is kept.
    wider = width / height > from_width / from_height
    keeps_width = wider if cover else width / height < from_width / from_height
    if keeps_width:
        return width, max(1, from_height * width // from_width)
    return max(1, from_width * height // from_height), height


def _middle(pixels: npt.NDArray[Any], width: int, height: int) -> _Box:
    """The largest centred part of ``pixels`` that has the ratio of ``width`` to ``height``."""
    have_height, have_width = pixels.shape[:2]
    part_width = min(have_width, have_height * width / height)
    part_height = min(have_height, have_width * height / width)
    left, top = (have_width - part_width) / 2, (have_height - part_height) / 2
    return left, top, min(left + part_width, have_width), min(top + part_height, have_height)


def _sized(
    pixels: Array,
    width: int,
    height: int,
    resample: Image.Resampling,
    upscale: Upscale | None,
    box: _Box | None = None,
) -> Array:
    if upscale is not None:
        left, top, right, bottom = box or (0.0, 0.0, pixels.shape[1], pixels.shape[0])
        factor = max(width / (right - left), height / (bottom - top))
        if factor > 1:
            # Only what will be seen is enlarged: the box in whole pixels; the last step cuts off the rest.
            x, y = int(left), int(top)
            part = pixels[y : int(np.ceil(bottom)), x : int(np.ceil(right))]
            large = upscale(np.ascontiguousarray(part), factor)
            sx, sy = large.shape[1] / part.shape[1], large.shape[0] / part.shape[0]
            inside = ((left - x) * sx, (top - y) * sy, (right - x) * sx, (bottom - y) * sy)
            return stretch(large, width, height, resample, inside)  # type: ignore[return-value]
    return stretch(pixels, width, height, resample, box)


def _scaled(pixels: Pixels, factor: float, resample: Image.Resampling) -> Pixels:
    height, width = pixels.shape[:2]
    made = stretch(pixels, max(1, int(width * factor)), max(1, int(height * factor)), resample)
    return stretch(made, *enlarged_size(width, height, factor))

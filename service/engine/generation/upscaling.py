"""Enlarging: latents by interpolation (A1111's "Latent" modes), images by the built-in filters."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from service.catalogue.upscalers import BUILT_IN, LATENT_MODES, enlarged_size
from service.core.errors import UnknownName
from service.core.pixels import Pixels
from service.imaging.resize import LANCZOS, UPSCALERS, upscale_by_name

_INTERPOLATION: Final[Mapping[str, dict[str, Any]]] = MappingProxyType(
    {
        "Latent": {"mode": "bilinear"},
        "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
        "Latent (bicubic)": {"mode": "bicubic"},
        "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
        "Latent (nearest)": {"mode": "nearest"},
        "Latent (nearest-exact)": {"mode": "nearest-exact"},
    }
)
assert tuple(_INTERPOLATION) == LATENT_MODES


def is_latent_mode(name: str) -> bool:
    """True for the names of ``/sdapi/v1/latent-upscale-modes``."""
    return name in _INTERPOLATION


def enlarge_latent(latent: Tensor, width: int, height: int, mode: str) -> Tensor:
    """``latent`` (n, c, h, w) at another size (in latent cells)."""
    return interpolate(latent, (height, width), **_INTERPOLATION[mode])


def factor_of(image: Pixels, width: int, height: int) -> float:
    """What an upscaler is asked for so that width × height is covered."""
    return max(width / image.shape[1], height / image.shape[0])


def enlarge_image(
    image: Pixels, width: int, height: int, upscaler: str, factor: float | None = None
) -> Pixels:
    """``image`` at width × height with a built-in filter; "None" means Lanczos, since a size has to be reached.

    As in A1111 that takes up to three steps: the filter makes ``factor`` of the picture, Lanczos brings that to
    multiples of 8, and those to the size.
    """
    if upscaler == "None":
        return brought_to(image, width, height)
    if upscaler not in UPSCALERS:
        raise UnknownName(
            f"There is no upscaler {upscaler!r}. Use one of: {', '.join((*LATENT_MODES, *BUILT_IN))}."
        )
    asked = factor_of(image, width, height) if factor is None else factor
    if asked <= 1 and factor is None:
        return brought_to(image, width, height)
    rows, columns = image.shape[:2]
    ending = enlarged_size(columns, rows, asked)
    if columns < ending[0] or rows < ending[1]:
        image = upscale_by_name(upscaler)(image, asked)
    return brought_to(brought_to(image, *ending), width, height)


def brought_to(image: Pixels, width: int, height: int) -> Pixels:
    """``image`` at width × height by Lanczos."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), LANCZOS))

"""Enlarging: latents by interpolation (A1111's "Latent" modes), images by the built-in filters."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from service.catalogue.upscalers import BUILT_IN, LATENT_MODES
from service.core.errors import UnknownName
from service.core.pixels import Pixels

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

_FILTERS: Final = {"Lanczos": Image.Resampling.LANCZOS, "Nearest": Image.Resampling.NEAREST}


def is_latent_mode(name: str) -> bool:
    """True for the names of ``/sdapi/v1/latent-upscale-modes``."""
    return name in _INTERPOLATION


def enlarge_latent(latent: Tensor, width: int, height: int, mode: str) -> Tensor:
    """``latent`` (n, c, h, w) at another size (in latent cells)."""
    return interpolate(latent, (height, width), **_INTERPOLATION[mode])


def enlarge_image(image: Pixels, width: int, height: int, upscaler: str) -> Pixels:
    """``image`` at width × height with a built-in filter; "None" means Lanczos, since a size has to be reached."""
    name = "Lanczos" if upscaler == "None" else upscaler
    if name not in _FILTERS:
        raise UnknownName(
            f"There is no upscaler {upscaler!r}. Use one of: {', '.join((*LATENT_MODES, *BUILT_IN))}."
        )
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), _FILTERS[name]))

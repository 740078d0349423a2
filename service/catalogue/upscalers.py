"""What enlarges: names of latent modes and built-in image filters, and sizes. Torch-free: lists need no model."""

from typing import Final

LATENT_MODES: Final = (
    "Latent",
    "Latent (antialiased)",
    "Latent (bicubic)",
    "Latent (bicubic antialiased)",
    "Latent (nearest)",
    "Latent (nearest-exact)",
)
"""In the order of A1111's ``/sdapi/v1/latent-upscale-modes``."""

BUILT_IN: Final = ("None", "Lanczos", "Nearest")
"""Image upscalers that need no file, in A1111's order."""


def enlarged_size(width: int, height: int, factor: float) -> tuple[int, int]:
    """Where A1111's image upscalers end that are to make ``factor`` of width × height: in multiples of 8.

    A picture smaller than that keeps what it has.
    """
    sides = int(width * factor), int(height * factor)
    return sides[0] // 8 * 8 or max(1, sides[0]), sides[1] // 8 * 8 or max(1, sides[1])

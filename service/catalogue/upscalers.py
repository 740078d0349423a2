"""Names of what enlarges: latent modes and built-in image filters. Torch-free, so that lists need no model."""

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

"""Emphasis: what the weights of a prompt do to the text encoder's output."""

from typing import Final

import torch

from service.core.errors import UnknownName
from service.prompt.attention import MAX_WEIGHT

ORIGINAL: Final = "Original"
NO_NORM: Final = "No norm"
IGNORE: Final = "Ignore"
NONE: Final = "None"
EMPHASIS_MODES: Final = (ORIGINAL, NO_NORM, IGNORE, NONE)
"""Original: weigh, then restore the mean. No norm: weigh only. Ignore: read the brackets, weigh nothing.
None: brackets are text."""


_CHANCE: Final = 1e-4
"""A mean below this share of the mean magnitude says nothing about the chunk."""


def emphasis_mode(name: str) -> str:
    """The mode called ``name``, in any case; raises :class:`UnknownName` listing the modes."""
    for mode in EMPHASIS_MODES:
        if mode.lower() == name.strip().lower():
            return mode
    raise UnknownName(f"There is no emphasis mode {name[:40]!r}: use one of {', '.join(EMPHASIS_MODES)}.")


def apply_emphasis(states: torch.Tensor, weights: torch.Tensor, mode: str) -> torch.Tensor:
    """Weigh ``states`` (…, 77, D) of a chunk by ``weights`` (…, 77); dtype and shape stay.

    "Original" rescales the whole chunk so that its mean stays what it was. Where the mean is as good as 0, which
    makes its change mere chance (as under a layer norm without bias), the chunk stays as weighted.
    """
    if mode in (IGNORE, NONE) or bool((weights == 1).all()):
        return states
    plain = states.float()
    weighted = plain * weights.to(states.device).float().unsqueeze(-1)
    if mode == ORIGINAL and bool(plain.mean().abs() > _CHANCE * plain.abs().mean()):
        ratio = plain.mean() / weighted.mean()
        if 1 / MAX_WEIGHT <= float(ratio) <= MAX_WEIGHT:  # a mean that changes its sign says as little
            weighted = weighted * ratio
    return weighted.to(states.dtype)

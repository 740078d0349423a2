"""Emphasis: what the weights of a prompt do to the text encoder's output."""

from typing import Final

import torch

from service.engine.prompt.attention import MAX_WEIGHT
from service.errors import UnknownName

ORIGINAL: Final = "Original"
NO_NORM: Final = "No norm"
IGNORE: Final = "Ignore"
NONE: Final = "None"
EMPHASIS_MODES: Final = (ORIGINAL, NO_NORM, IGNORE, NONE)
"""Original: weigh, then restore the mean. No norm: weigh only. Ignore: read the brackets, weigh nothing.
None: brackets are text."""


def emphasis_mode(name: str) -> str:
    """The mode called ``name``, in any case; raises :class:`UnknownName` listing the modes."""
    for mode in EMPHASIS_MODES:
        if mode.lower() == name.strip().lower():
            return mode
    raise UnknownName(f"There is no emphasis mode {name[:40]!r}: use one of {', '.join(EMPHASIS_MODES)}.")


def apply_emphasis(states: torch.Tensor, weights: torch.Tensor, mode: str) -> torch.Tensor:
    """Weigh ``states`` (77, D) of one chunk by ``weights`` (77,); dtype and shape stay.

    "Original" rescales the whole chunk so that its mean stays what it was. Where that would turn the signs or
    blow the chunk up, because its mean happens to be about 0, the chunk stays as weighted.
    """
    if mode in (IGNORE, NONE) or bool((weights == 1).all()):
        return states
    weighted = states.float() * weights.to(states.device).float().unsqueeze(-1)
    if mode == ORIGINAL:
        ratio = states.float().mean() / weighted.mean()
        if 1 / MAX_WEIGHT <= float(ratio) <= MAX_WEIGHT:  # false for NaN, too
            weighted = weighted * ratio
    return weighted.to(states.dtype)

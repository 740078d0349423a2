"""Cross-attention that is told where to look while it learns.

The text encoder's last positions hold a grid over the picture, a cell each. Left to itself a small UNet takes hours to
find that each place should read its own cell: until then it reads the mean of all, and draws blobs. So a loss on the
attention of some heads says it. Only training computes it; the weights work with any attention processor afterwards.
"""

from functools import cache
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from .text import GRID, LAYOUT

_SHARE_OF_HEADS = 0.75


@cache
def own_cells(places: int) -> torch.Tensor:
    """Which cells of the grid each of `places` (a square of them, row by row) overlaps: bool (places, cells)."""
    side = round(places**0.5)
    edges = torch.arange(side + 1, dtype=torch.float64) * GRID / side
    cells = torch.arange(GRID)
    along = (edges[:-1, None] < cells + 1 - 1e-6) & (edges[1:, None] > cells + 1e-6)
    both = along[:, None, :, None] & along[None, :, None, :]
    return both.reshape(places, LAYOUT)


class _Watched:
    """An attention processor that remembers how far its heads are from reading their own cells."""

    def __init__(self) -> None:
        self.astray: torch.Tensor | None = None

    def __call__(
        self,
        attention: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """The layer's output for hidden_states (batch, places, channels), as any processor computes it."""
        query, key, value = (
            attention.head_to_batch_dim(projected)
            for projected in (
                attention.to_q(hidden_states),
                attention.to_k(encoder_hidden_states),
                attention.to_v(encoder_hidden_states),
            )
        )
        weights = attention.get_attention_scores(query, key, attention_mask)
        heads = weights.unflatten(0, (-1, attention.heads))[:, : round(attention.heads * _SHARE_OF_HEADS)]
        own = (heads[..., -LAYOUT:] * own_cells(heads.shape[-2])).sum(dim=-1)
        self.astray = -own.clamp(min=1e-6).log().mean()
        joined = attention.batch_to_head_dim(weights @ value)
        for layer in attention.to_out:
            joined = layer(joined)
        return joined


class Pointer:
    """Watches the cross-attention of a UNet's middle and upward blocks, which know where in the picture they are."""

    def __init__(self, model: UNet2DConditionModel) -> None:
        self._watched: list[_Watched] = []
        processors = dict(model.attn_processors)
        for name in processors:
            if ".attn2." in name and not name.startswith("down_blocks"):
                processors[name] = watched = _Watched()
                self._watched.append(watched)
        model.set_attn_processor(processors)

    def astray(self) -> torch.Tensor:
        """Mean over layers of -log(attention that went to the own cell) in the last forward pass: 0 is best."""
        return torch.stack([watched.astray for watched in self._watched if watched.astray is not None]).mean()

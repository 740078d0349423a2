"""Token merging: self-attention at full size over fewer tokens, since neighbours are often alike.

Bolya & Hoffman 2023, "Token Merging for Fast Stable Diffusion" (arXiv:2303.17604): of each 2 × 2 tokens the first one
stays; of the others those that are most like one that stays are averaged into it before the attention, and take its
result after it. No token is chosen by chance, as A1111 has it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

_CELL: Final = 2


class Merging:
    """How the tokens of one block's input ``x`` (rows, height · width, channels) are merged, and spread again.

    ``ratio`` of all tokens are merged, as far as there are that many beside those that stay.
    """

    def __init__(self, x: Tensor, height: int, width: int, ratio: float) -> None:
        self._shape = x.shape
        stays = torch.zeros(height, width, dtype=torch.bool)
        stays[: height // _CELL * _CELL : _CELL, : width // _CELL * _CELL : _CELL] = True
        flat = stays.flatten().to(x.device)
        self._kept, self._others = flat.nonzero()[:, 0], (~flat).nonzero()[:, 0]
        unit = x / x.norm(dim=-1, keepdim=True)
        likeness, nearest = (unit[:, self._others] @ unit[:, self._kept].transpose(1, 2)).max(dim=-1)
        order = likeness.argsort(dim=-1, descending=True)
        count = min(int(x.shape[1] * ratio), order.shape[1])
        self._merged, self._alone = order[:, :count], order[:, count:]
        self._into = nearest.gather(1, self._merged)

    def merge(self, x: Tensor) -> Tensor:
        """Tokens (rows, fewer, channels): those left alone, then those that stay, averaged with what joined them."""
        others, kept = x[:, self._others], x[:, self._kept]
        joining = others.gather(1, _wide(self._merged, x))
        kept = kept.scatter_reduce(1, _wide(self._into, x), joining, reduce="mean")
        return torch.cat([others.gather(1, _wide(self._alone, x)), kept], dim=1)

    def spread(self, x: Tensor) -> Tensor:
        """The reverse: all tokens (rows, height · width, channels), merged ones as what they were merged into."""
        alone, kept = x[:, : self._alone.shape[1]], x[:, self._alone.shape[1] :]
        others = torch.empty(len(x), len(self._others), x.shape[2], device=x.device, dtype=x.dtype)
        others.scatter_(1, _wide(self._alone, x), alone)
        others.scatter_(1, _wide(self._merged, x), kept.gather(1, _wide(self._into, x)))
        whole = torch.empty(self._shape[0], self._shape[1], x.shape[2], device=x.device, dtype=x.dtype)
        whole[:, self._kept], whole[:, self._others] = kept, others
        return whole


def _wide(index: Tensor, x: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, x.shape[-1])


@contextmanager
def merged_tokens(unet: nn.Module, height: int, width: int, ratio: float) -> Iterator[None]:
    """While it is open, ``unet``'s blocks at the full size of the latent (height × width cells) merge tokens."""
    handles: list[Any] = []
    if ratio > 0:
        for block in unet.modules():
            if type(block).__name__ == "BasicTransformerBlock":
                handles += _hooked(block, height, width, ratio)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooked(block: Any, height: int, width: int, ratio: float) -> list[Any]:
    current: list[Merging] = []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """What comes into the block, before it is normed, says which tokens are alike."""
        x = inputs[0]
        current.clear()
        if math.ceil(math.sqrt(height * width // x.shape[1])) <= 1:
            current.append(Merging(x, height, width, ratio))

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (current[0].merge(inputs[0]), *inputs[1:]) if current else None

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return current[0].spread(output) if current else None

    return [
        block.norm1.register_forward_pre_hook(look),
        block.attn1.register_forward_pre_hook(before),
        block.attn1.register_forward_hook(after),
    ]

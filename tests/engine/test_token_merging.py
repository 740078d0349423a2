"""Token merging against its own words: what is alike is averaged before attention and shares the result after it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.engine.families.token_merging import Merging, merged_tokens


def tokens(height: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(2, height * width, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (2, 2)])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 0.9])
def test_as_many_are_merged_as_asked_for_but_those_that_stay(height: int, width: int, ratio: float) -> None:
    x = tokens(height, width)
    stay = (height // 2) * (width // 2)
    merging = Merging(x, height, width, ratio)
    merged = merging.merge(x)
    count = height * width
    assert merged.shape == (2, count - min(int(count * ratio), count - stay), 8)
    assert merging.spread(merged).shape == x.shape


def test_what_is_left_alone_comes_back_and_what_was_merged_shares() -> None:
    x = tokens(4, 4)
    # The neighbours of the first token are it again; nothing else is alike.
    x[:, [1, 4, 5]] = x[:, [0]]
    merging = Merging(x, 4, 4, 3 / 16)
    merged = merging.merge(x)
    assert merged.shape[1] == 13
    back = merging.spread(merged)
    torch.testing.assert_close(back, x)
    changed = merged.clone()
    changed[:, 9] += 1  # nine were left alone; the first of those that stay is the first token
    assert ((merging.spread(changed) - x).abs().sum(dim=(0, 2)) > 0).nonzero()[:, 0].tolist() == [0, 1, 4, 5]


class BasicTransformerBlock(nn.Module):
    """As much of diffusers' block as merging looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(8), nn.Linear(8, 8)
        self.seen: list[int] = []
        self.attn1.register_forward_pre_hook(lambda _, inputs: self.seen.append(inputs[0].shape[1]))

    def forward(self, x: Any) -> Any:
        return x + self.attn1(self.norm1(x))


def test_blocks_at_full_size_alone_merge_and_only_while_it_lasts() -> None:
    full, half = BasicTransformerBlock(), BasicTransformerBlock()
    unet = nn.ModuleList([full, half])
    with torch.no_grad(), merged_tokens(unet, 8, 8, 0.5):
        assert full(tokens(8, 8)).shape == (2, 64, 8)
        half(tokens(4, 4))
    with torch.no_grad():
        full(tokens(8, 8))
        with merged_tokens(unet, 8, 8, 0.0):
            full(tokens(8, 8))
    # The hook that looks comes before the one that merges.
    assert (full.seen, half.seen) == ([64, 64, 64], [16])

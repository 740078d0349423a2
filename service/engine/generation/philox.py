"""The normal numbers that PyTorch draws on an NVIDIA GPU, worked out on any machine: A1111's "RNG: NV".

Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keyed by the seed. Each element of
a draw has a counter of its own, (draw, 0, element, 0), and takes the first two of its four words through the
Box-Muller transform. It holds for draws of up to some hundred thousand elements, which a GPU serves in one sweep.
"""

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_ROUNDS: Final = 10
_FACTORS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS: Final = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW: Final = np.uint64(0xFFFFFFFF)
_WORD: Final = np.uint64(32)

_Words = npt.NDArray[np.uint64]


class Philox:
    """The stream of one seed (0 … 2⁶⁴ - 1)."""

    def __init__(self, seed: int) -> None:
        self._key = (np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32 & 0xFFFFFFFF))
        self._draws = 0

    def randn(self, shape: Sequence[int], /) -> Tensor:
        """The next draw, standard normal, float32, on the CPU."""
        count = prod(shape)
        zeros = np.zeros(count, np.uint64)
        counter = (zeros + np.uint64(self._draws), zeros, np.arange(count, dtype=np.uint64), zeros)
        self._draws += 1
        first, second, _, _ = self._encrypted(counter)
        return torch.from_numpy(_box_muller(first, second)).reshape(tuple(shape))

    def _encrypted(self, counter: tuple[_Words, _Words, _Words, _Words]) -> tuple[_Words, ...]:
        """Four words of 32 bits (in 64) for each counter."""
        key = list(self._key)
        for number in range(_ROUNDS):
            if number:
                key = [(word + step) & _LOW for word, step in zip(key, _KEY_STEPS, strict=True)]
            left, right = counter[0] * _FACTORS[0], counter[2] * _FACTORS[1]
            counter = (
                (right >> _WORD) ^ counter[1] ^ key[0],
                right & _LOW,
                (left >> _WORD) ^ counter[3] ^ key[1],
                left & _LOW,
            )
        return counter


def _box_muller(first: _Words, second: _Words) -> npt.NDArray[np.float32]:
    """Normal numbers from pairs of words, each word being the middle of its share of (0, 1)."""
    share = np.float32(2.0**-32)
    turn = np.float32(2.0**-32 * 2 * np.pi)
    radius = np.sqrt(-2 * np.log(first.astype(np.float32) * share + share / 2))
    return np.asarray(radius * np.sin(second.astype(np.float32) * turn + turn / 2), np.float32)

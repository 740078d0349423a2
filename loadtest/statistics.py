"""What a sample says and what it can't: percentiles, their intervals, and when to refuse them.

Percentiles are order statistics at hey's rank (the first value with at least ``percent`` % of the sample
before it), so that both tools can be read line by line. Values are seconds.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

PERCENTILES: Final = (10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
CONFIDENCE: Final = 0.90
"""Of the percentile intervals and of the rule that refuses a percentile."""

Floats = npt.NDArray[np.float64]


def percent_name(percent: float) -> str:
    """``95`` for 95.0, ``99.9`` for 99.9."""
    return f"{percent:g}"


def rank(percent: float, count: int) -> int:
    """0-based index of ``percent`` among ``count`` sorted values; ``count`` if none is that slow."""
    return math.ceil(round(percent * count, 6) / 100)


def needed(percent: float) -> int:
    """Smallest sample that bears ``percent``: 0 < percent < 100.

    A sample bears the percentile if its slowest value bounds it with :data:`CONFIDENCE`, that is, if all
    ``n`` values lie below the true percentile ``p`` with a probability ``p**n`` of at most 1 - CONFIDENCE
    (Wilks 1941; for percentiles under 50 the fastest value and ``(1-p)**n``). P90 needs 22 values, P95 45,
    P99 230, P99.9 2302.
    """
    share = max(percent, 100 - percent) / 100
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(share))


def bears(percent: float, count: int) -> bool:
    """Whether ``count`` values are enough to report ``percent``."""
    return count >= needed(percent)


def interval_ranks(percent: float, count: int) -> tuple[int | None, int | None]:
    """0-based ranks of the order statistics that enclose ``percent`` with :data:`CONFIDENCE`; None:
    unbounded.

    Distribution-free: the number of values below the true percentile is binomial (Conover, Practical
    Nonparametric Statistics, 3.2). It assumes independent requests; requests that queue behind each other are
    less than independent, so read the interval as the narrowest one that can be claimed.
    """
    from scipy.stats import binom  # a second to import, and only reports need it

    tail = (1 - CONFIDENCE) / 2
    low = int(binom.ppf(tail, count, percent / 100))
    high = int(binom.ppf(1 - tail, count, percent / 100)) + 1
    return (low - 1 if low >= 1 else None), (high - 1 if high <= count else None)


def circular_blocks(count: int, length: int, draws: int, seed: int) -> npt.NDArray[np.int64]:
    """Indices of ``draws`` resamples of ``count`` values in blocks of ``length``, wrapped at the end.

    Shape (draws, count). Requests that follow each other are alike (they wait in the same queue), so
    resampling them one by one would give intervals that are too narrow: the circular block bootstrap keeps
    neighbours together (Politis and Romano 1992).
    """
    random = np.random.default_rng(seed)
    blocks = -(-count // length)
    starts = random.integers(0, count, size=(draws, blocks))
    wrapped = (starts[:, :, None] + np.arange(length)[None, None, :]) % count
    return wrapped.reshape(draws, -1)[:, :count].astype(np.int64)


def block_length(count: int, concurrency: int) -> int:
    """Neighbours in a block: the cube root of the sample, at least those that ran side by side."""
    return max(1, min(count // 5, max(round(math.cbrt(count)), concurrency)))


def bootstrap_ratio(
    after: Sequence[float],
    before: Sequence[float],
    measure: Callable[[Floats], Floats],
    *,
    concurrency: int = 1,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """``measure(after) / measure(before)`` with its percentile bootstrap interval: (ratio, low, high).

    ``measure`` maps an array of shape (..., n) to (...). Values must be in the order of sending. At most
    2,000 resamples, fewer for long runs so that the work stays under 20 million draws a side.
    """
    sides: list[Floats] = []
    whole: list[float] = []
    for number, values in enumerate((after, before)):
        data = np.asarray(values, dtype=np.float64)
        draws = int(min(2000, max(200, 20_000_000 // max(1, data.size))))
        length = block_length(data.size, concurrency)
        resampled: list[Floats] = []
        for start in range(0, draws, 100):
            index = circular_blocks(data.size, length, min(100, draws - start), seed + 7919 * number + start)
            resampled.append(measure(data[index]))
        sides.append(np.concatenate(resampled))
        whole.append(float(measure(data)))
    size = min(side.size for side in sides)
    ratios = sides[0][:size] / np.maximum(sides[1][:size], 1e-12)
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return whole[0] / max(whole[1], 1e-12), float(low), float(high)


def percentile_of(percent: float) -> Callable[[Floats], Floats]:
    """A measure for :func:`bootstrap_ratio`: the value at our rank along the last axis."""

    def measure(values: Floats) -> Floats:
        position = min(rank(percent, values.shape[-1]), values.shape[-1] - 1)
        return np.asarray(np.partition(values, position, axis=-1)[..., position], dtype=np.float64)

    return measure


def mean(values: Floats) -> Floats:
    """A measure for :func:`bootstrap_ratio`: the arithmetic mean along the last axis."""
    return np.asarray(values.mean(axis=-1), dtype=np.float64)

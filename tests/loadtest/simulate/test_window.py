"""Windows: the expectations of knative/serving's bucketing_test.go, window_test.go and timewindow_test.go."""

import random

import pytest

from loadtest.simulate.window import (
    MaxWindow,
    TimedBuckets,
    TimeMaxWindow,
    WeightedBuckets,
    smoothing_coefficient,
)

NOW = 1_700_000_000.25


@pytest.mark.parametrize(("buckets", "want"), [(100, 0.2), (60, 0.2), (40, 0.20567), (6, 0.78456)])
def test_smoothing_coefficient(buckets: int, want: float) -> None:
    assert smoothing_coefficient(buckets) == pytest.approx(want, abs=1e-4)


def _contents(buckets: TimedBuckets, now: float) -> list[float]:
    """Valid buckets as of ``now``, newest first."""
    assert buckets._last is not None
    n = len(buckets.buckets)
    valid = n - (int(now // buckets.granularity) - buckets._last)
    return [buckets.buckets[(buckets._last - i) % n] for i in range(valid)]


@pytest.mark.parametrize(
    ("granularity", "stats", "want"),
    [
        (1.0, [(0, 1.0), (0.1, 10.0), (1, 1.0), (3, 1.0)], [1.0, 0.0, 1.0, 11.0]),
        (5.0, [(0, 1.0), (3, 11.0), (6, 1.0)], [1.0, 12.0]),
    ],
)
def test_values_of_a_bucket_add_up(
    granularity: float, stats: list[tuple[float, float]], want: list[float]
) -> None:
    start = 1_700_000_000.0  # whole in both granularities
    buckets = TimedBuckets(120, granularity)
    assert buckets.is_empty(start)
    for at, value in stats:
        buckets.record(start + at, value)
    assert not buckets.is_empty(start + 60)
    got = _contents(buckets, start + 60)
    assert got[: len(want)] == want
    assert not any(got[len(want) :])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [0, 3, 2, 1, 4]])
def test_many_writes_in_any_order(order: list[int]) -> None:
    buckets = TimedBuckets(60)
    for p, second in enumerate(order):
        for t in range(5):
            buckets.record(NOW + second, p + t)
    assert sum(_contents(buckets, NOW + 4)) == 100


def test_average() -> None:
    """The sequence of TestTimedFloat64BucketsWindowAverage, step by step."""
    b, now = TimedBuckets(5), float(int(NOW))
    b.record(now, 1)
    assert b.average(now) == 1  # divided by the age, not by the window
    for i in range(1, 5):
        b.record(now + i, i + 1)
    assert b.average(now + 4) == 15 / 5
    assert b.average(now + 3.6) == 15 / 5  # the reader lags behind
    assert b.average(now + 6) == (15 - 1 - 2) / (5 - 2)  # a short hole
    assert b.average(now + 10) == 0  # a long one
    b.record(now + 6, 91)
    assert b.average(now + 6) == (15 - 1 - 2 + 91) / 5
    now += 60
    b.record(now, 1984)
    assert b.average(now) == 1984
    b.record(now - 3, 4)
    assert b.average(now) == (4 + 1984) / 4
    now += 1
    b.record(now, 5)
    assert b.average(now) == pytest.approx((4 + 1984 + 5) / 5)
    b.record(now - 3, 10)
    assert b.average(now) == pytest.approx((4 + 10 + 1984 + 5) / 5)
    for too_early in (6, 5):
        b.record(now - too_early, 10)
        assert b.average(now) == pytest.approx((4 + 10 + 1984 + 5) / 5)
    b.record(now + 5, 10)  # exactly a window of silence
    assert b.average(now + 5) == 10


def test_falling_times() -> None:
    b = TimedBuckets(5)
    for i in range(8, -1, -1):
        b.record(NOW + i, 5)
    assert b.average(NOW + 5) == 5


def test_holes_become_zeros() -> None:
    b = TimedBuckets(5)
    for i in range(5):
        b.record(NOW + i, i + 1)
    assert sum(_contents(b, NOW + 4)) == 15
    b.record(NOW + 8, 2)
    assert sum(_contents(b, NOW + 8)) == 7


def test_window_that_is_no_multiple_of_its_granularity() -> None:
    b = TimedBuckets(5, 3.0)
    start = 1_700_000_001.0  # a multiple of 3
    assert len(b.buckets) == 2
    for i, value in enumerate([10, 2, 3, 4, 5, 6, 7]):
        b.record(start + i, value)
    assert sum(_contents(b, start + 6)) == 4 + 5 + 6 + 7


def test_weighted_average() -> None:
    b = WeightedBuckets(5)
    m = b.coefficient
    b.record(NOW, 2)
    want = 2 * m
    assert b.average(NOW) == want
    want *= 1 - m
    assert b.average(NOW + 1) == want
    b.record(NOW + 1, 2)
    want += 2 * m
    assert b.average(NOW + 1) == pytest.approx(want)
    for i in range(5):
        b.record(NOW + 2 + i, i + 2)
    assert b.average(NOW + 6) == pytest.approx(sum((6 - k) * m * (1 - m) ** k for k in range(5)))
    assert b.average(NOW + 16) == 0


def test_weighted_average_computed_by_hand() -> None:
    b = WeightedBuckets(5)
    for i in range(6):
        b.record(NOW + i, i + 1)
    assert round(b.average(NOW + 5), 3) == 5.812


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([1], [1]),
        ([1, 2], [1, 2]),
        ([2, 1], [2, 2]),
        ([1, 2, 1], [1, 2, 2]),
        ([5, 6, 5, 5, 5, 5, 5], [5, 6, 6, 6, 6, 6, 5]),
        ([5, 6, 5, 7, 5, 5, 1], [5, 6, 6, 7, 7, 7, 7]),
        ([5, 8, 5, 7, 5, 5], [5, 8, 8, 8, 8, 8]),
        ([5, 8, 5, 7, 5, 5, 1], [5, 8, 8, 8, 8, 8, 7]),
        ([5, 8, 5, 7, 5, 5, 1, 4, 4, 4], [5, 8, 8, 8, 8, 8, 7, 7, 5, 5]),
        ([5, 8, 5, 7, 5, 5, 1, 4, 4, 4, 4], [5, 8, 8, 8, 8, 8, 7, 7, 5, 5, 4]),
        ([5, 8, 5, 7, 5, 5, 1, 4, 4, 4, 4, 9], [5, 8, 8, 8, 8, 8, 7, 7, 5, 5, 4, 9]),
        (
            [5, 8, 5, 7, 5, 5, 1, 4, 4, 4, 4, 9, 3, 4, 2, 1, 0],
            [5, 8, 8, 8, 8, 8, 7, 7, 5, 5, 4, 9, 9, 9, 9, 9, 4],
        ),
    ],
)
def test_max_window(values: list[int], want: list[int]) -> None:
    window, got = MaxWindow(5), []
    for i, value in enumerate(values):
        window.record(i, value)
        got.append(window.current())
    assert got == want


@pytest.mark.parametrize(
    ("indices", "values", "want"),
    [
        ([0, 1, 2, 6], [6, 5, 2, 1], [6, 6, 6, 2]),
        ([1] * 7, [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]),
        ([1] * 7, [7, 6, 5, 4, 3, 2, 1], [7] * 7),
    ],
)
def test_max_window_with_gaps_and_repeats(indices: list[int], values: list[int], want: list[int]) -> None:
    window, got = MaxWindow(5), []
    for index, value in zip(indices, values, strict=True):
        window.record(index, value)
        got.append(window.current())
    assert got == want


@pytest.mark.parametrize(
    ("entries", "want"),
    [([(0, 5)], 5), ([(0, 6), (0.5, 5)], 6), ([(0, 5), (1, 8)], 8), ([(0, 5), (6, 4)], 4)],
)
def test_time_max_window(entries: list[tuple[float, int]], want: int) -> None:
    window = TimeMaxWindow(5, 1)
    for at, value in entries:
        window.record(NOW + at, value)
    assert window.current() == want


def test_max_window_equals_brute_force() -> None:
    rng = random.Random(7)
    window, seen, index = MaxWindow(9), [], 0
    for _ in range(2000):
        index += rng.choice([0, 0, 1, 1, 2, 5])
        seen.append((index, rng.randrange(20)))
        window.record(*seen[-1])
        assert window.current() == max(v for i, v in seen if index - i < 9)

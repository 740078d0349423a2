"""Percentiles, their refusal, their intervals, and the bounded log of latencies."""

import math
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.exchange import Exchange
from loadtest.latencies import GROWTH, Latencies
from loadtest.statistics import (
    PERCENTILES,
    bears,
    bootstrap_ratio,
    circular_blocks,
    interval_ranks,
    mean,
    needed,
    percentile_of,
    rank,
)
from loadtest.tally import RECORDS, Tally, Timeline


def heys_percentiles(values: list[float]) -> dict[int, float]:
    """hey 0.1.4's rule in words: walk the sorted values; the first whose share before it reaches p is Pp."""
    found: dict[int, float] = {}
    wanted = [10, 25, 50, 75, 90, 95, 99]
    for index, value in enumerate(sorted(values)):
        if wanted and index * 100 // len(values) >= wanted[0]:
            found[wanted.pop(0)] = value
    return found


@given(st.lists(st.floats(0.001, 1000), min_size=45, max_size=400))
def test_percentiles_are_those_of_hey(values: list[float]) -> None:
    log = Latencies()
    for value in values:
        log.add(value)
    for percent, value in heys_percentiles(values).items():
        if bears(percent, len(values)):
            assert log.percentile(percent) == value


@pytest.mark.parametrize(
    ("percent", "count"), [(50, 4), (75, 9), (90, 22), (95, 45), (99, 230), (99.9, 2302)]
)
def test_a_sample_too_small_is_refused(percent: float, count: int) -> None:
    assert needed(percent) == count
    log = Latencies()
    for number in range(count - 1):
        log.add(1.0 + number)
    assert log.percentile(percent) is None
    log.add(1e6)
    assert log.percentile(percent) is not None


def test_refusal_keeps_its_promise() -> None:
    """With as many values as needed the slowest exceeds the true percentile nine times in ten."""
    random_numbers = np.random.default_rng(5)
    for percent in (50.0, 90.0, 95.0):
        samples = random_numbers.random((20_000, needed(percent)))
        covered = (samples.max(axis=1) > percent / 100).mean()
        assert covered >= 0.9 - 0.01
        fewer = (samples[:, :-1].max(axis=1) > percent / 100).mean()
        assert fewer < 0.9 + 0.01


@pytest.mark.parametrize(("percent", "count"), [(50.0, 50), (90.0, 100), (95.0, 300)])
def test_intervals_cover_the_true_percentile(percent: float, count: int) -> None:
    low, high = interval_ranks(percent, count)
    assert low is not None
    assert high is not None
    samples = np.sort(np.random.default_rng(1).random((20_000, count)), axis=1)
    covered = ((samples[:, low] <= percent / 100) & (percent / 100 <= samples[:, high])).mean()
    assert covered >= 0.9 - 0.01


def test_no_upper_bound_is_claimed_from_a_small_sample() -> None:
    assert interval_ranks(95, 45)[1] is None


def test_the_histogram_is_as_close_as_it_says() -> None:
    chance = random.Random(3)
    exact, rough = Latencies(), Latencies(exact=0)
    for _ in range(30_000):
        value = chance.lognormvariate(1, 1.5)
        exact.add(value)
        rough.add(value)
    assert exact.exact
    assert not rough.exact
    for percent in PERCENTILES:
        true, read = exact.percentile(percent), rough.percentile(percent)
        assert true is not None
        assert read is not None
        assert abs(read / true - 1) <= (GROWTH - 1) / 2 + 1e-9
    assert rough.mean == pytest.approx(exact.mean)
    assert (rough.low, rough.high) == (exact.low, exact.high)


def test_counts_between_edges_lose_nothing() -> None:
    for log in (Latencies(), Latencies(exact=0)):
        for number in range(1, 101):
            log.add(number / 10)
        edges = [0.1, 5.0, 10.0]
        counts = log.counts_between(edges)
        assert sum(counts) == 100
        assert counts[0] == 1
        if log.exact:
            assert counts == [1, 49, 50]


def exchange(number: int, chance: random.Random) -> Exchange:
    start = number * 0.01
    return Exchange(
        number=number,
        intended=start,
        sent=start + chance.random() * 0.001,
        done=start + chance.lognormvariate(0, 1),
        status=200,
        failure="" if chance.random() > 0.01 else f"HTTP {chance.randrange(500, 600)}",
        message="a text of some length " * 5,
        pod=f"pod-{chance.randrange(50)}",
        cold=chance.random() < 0.001,
        request_id=f"{number:032x}",
        group="512×512",
    )


def test_memory_does_not_grow_with_the_run() -> None:
    """A tally of 120,000 requests is as large as one of 60,000, within the histogram's last few buckets."""
    chance = random.Random(2)
    tally = Tally()
    sizes = []
    for number in range(120_000):
        tally.add(exchange(number, chance))
        if number + 1 in (60_000, 120_000):
            sizes.append(len(pickle.dumps(tally)))
    assert tally.count == 120_000
    assert len(tally.records) == RECORDS
    assert sizes[1] < sizes[0] * 1.03
    assert sizes[1] < 6_000_000


def test_the_kept_requests_are_a_uniform_sample() -> None:
    chance = random.Random(4)
    tally = Tally()
    total = 5 * RECORDS
    for number in range(total):
        tally.add(exchange(number, chance))
    numbers = np.array([one.number for one in tally.sample()])
    assert len(set(numbers.tolist())) == RECORDS
    by_tenth, _ = np.histogram(numbers, bins=10, range=(0, total))
    assert by_tenth.min() > 0.85 * RECORDS / 10
    assert by_tenth.max() < 1.15 * RECORDS / 10


def test_names_of_a_hostile_server_are_bounded() -> None:
    chance = random.Random(6)
    tally = Tally()
    for number in range(12_000):
        one = exchange(number, chance)
        one.pod = f"pod-{number}"
        one.failure = f"kind {number}" if number % 2 else ""
        tally.add(one)
    assert len(tally.pods) <= 5001
    assert len(tally.failures) <= 5001
    assert sum(pod.answers for pod in tally.pods.values()) == 12_000


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 400), st.booleans()), min_size=1, max_size=60))
def test_the_timeline_keeps_every_request_and_second(requests: list[tuple[float, float, bool]]) -> None:
    line = Timeline()
    for begin, length, ok in requests:
        line.add(begin, begin + length, ok)
    assert line.started.sum() == len(requests)
    assert line.succeeded.sum() + line.failed.sum() == len(requests)
    assert line.busy.sum() == pytest.approx(sum(length for _, length, _ in requests), abs=1e-6)
    assert line.used <= len(line.busy)
    assert max(begin + length for begin, length, _ in requests) < line.width * len(line.busy)


def test_blocks_keep_neighbours_together() -> None:
    index = circular_blocks(20, 5, 50, seed=0)
    assert index.shape == (50, 20)
    steps = np.diff(index.reshape(50, 4, 5), axis=2) % 20
    assert (steps == 1).all()


def test_a_true_ratio_lies_in_its_interval_and_equality_is_seen() -> None:
    hits = 0
    for seed in range(40):
        random_numbers = np.random.default_rng(seed)
        before = random_numbers.lognormal(0, 0.5, 300)
        after = 1.5 * random_numbers.lognormal(0, 0.5, 300)
        ratio, low, high = bootstrap_ratio(after.tolist(), before.tolist(), mean, seed=seed)
        assert low < ratio < high
        hits += low <= 1.5 <= high
    assert hits >= 33  # 95 % of 40 is 38; fewer than 33 has a probability under 0.003
    same = before.tolist()
    ratio, low, high = bootstrap_ratio(same, same, percentile_of(90))
    assert ratio == 1
    assert low <= 1 <= high


def test_ranks_never_leave_the_sample_where_it_bears_the_percentile() -> None:
    for percent in PERCENTILES:
        for count in range(needed(percent), needed(percent) + 200):
            assert 0 <= rank(percent, count) < count


def test_an_empty_log_reports_nothing() -> None:
    log = Latencies()
    assert log.percentile(50) is None
    assert log.mean == 0
    assert math.isinf(log.low)
    with pytest.raises(IndexError):
        log.at(0)

"""Reports: the expectations of knative/serving's concurrency_reporter_test.go and sample_size_test.go."""

import pytest

from loadtest.simulate.stats import Collector, ConcurrencyReporter, RequestStats, Stat, sample_size

Ops = list[tuple[str, float]]


@pytest.mark.parametrize(
    ("ops", "want"),
    [
        pytest.param([("in", 0)], [(1, 1)], id="the first request is reported at once"),
        pytest.param(
            [("in", 0), ("out", 1), ("in", 1), ("out", 2), ("tick", 2)], [(1, 1), (0, 1)], id="in and out"
        ),
        pytest.param(
            [("in", 0), ("in", 0), ("tick", 1), ("tick", 2)],
            [(1, 1), (1, 1), (2, 0)],
            id="what was sent is taken off",
        ),
        pytest.param(
            [("in", 0), ("out", 1), ("tick", 1), ("tick", 2), ("in", 3)],
            [(1, 1), (0, 0), (0, 0), (1, 1)],
            id="a silent second forgets the revision",
        ),
        pytest.param([("in", 0), ("tick", 0)], [(1, 1), (0, 0)], id="a report of no time"),
        pytest.param(
            [("in", 0), ("in", 0), ("out", 1), ("out", 2), ("tick", 2)], [(1, 1), (0.5, 1)], id="interleaved"
        ),
        pytest.param([("in", 0), ("in", 0), ("in", 0), ("tick", 1)], [(1, 1), (2, 2)], id="three at once"),
    ],
)
def test_activator_reports(ops: Ops, want: list[tuple[float, float]]) -> None:
    sent: list[Stat] = []
    reporter = ConcurrencyReporter(lambda _, stat: sent.append(stat))
    for op, millis in ops:
        {"in": reporter.enter, "out": reporter.leave, "tick": reporter.tick}[op](millis / 1000)
    assert [(s.concurrency, s.requests) for s in sent] == [pytest.approx(w) for w in want]


def test_an_unknown_revision_reports_nothing() -> None:
    sent: list[Stat] = []
    ConcurrencyReporter(lambda _, stat: sent.append(stat)).tick(1.0)
    assert sent == []


def test_average_is_the_integral_over_the_second() -> None:
    stats = RequestStats(0.0)
    stats.enter(0.0)
    stats.enter(0.5)
    stats.leave(0.75)
    assert stats.report(1.0) == (1.25, 2)
    assert stats.report(2.0) == (1.0, 0)


@pytest.mark.parametrize(("pods", "want"), [(0, 0), (1, 1), (2, 2), (5, 4), (10, 7), (100, 14), (1000, 16)])
def test_sample_size(pods: int, want: int) -> None:
    assert sample_size(pods) == want


def test_without_scraping_silence_is_zero_and_with_it_no_data() -> None:
    scraped = Collector(stable_window=60, panic_window=6)
    unscraped = Collector(stable_window=60, panic_window=6, scraped=False)
    assert scraped.measured(100.0) is None
    assert unscraped.measured(100.0) == (0.0, 0.0)
    for collector in (scraped, unscraped):
        collector.record(100.0, Stat(5.0, 1.0))
        assert collector.measured(100.5) == (5.0, 5.0)
        assert collector.measured(160.0) == (0.0, 0.0)
    assert scraped.measured(161.0) is None


def test_the_metric_chooses_what_is_averaged() -> None:
    collector = Collector(stable_window=60, panic_window=6, metric="rps")
    collector.record(1.0, Stat(5.0, 3.0))
    assert collector.measured(1.0) == (3.0, 3.0)

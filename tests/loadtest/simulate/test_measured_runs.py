"""The simulator against runs of hey on a real cluster (Knative 1.23, one node, one activator; files in data/)."""

import json
import re
import statistics
from pathlib import Path

import pytest

from loadtest.simulate.results import Results, run
from loadtest.simulate.scenario import load

DATA = Path(__file__).parent / "data"
RUNS = ("seed-auto", "seed-disabled", "lean-disabled", "default70-disabled")
HEY_STARTED = 1.9  # seconds after the first sample of the pods; ±0.6, their sampling interval
LEEWAY = 3.0  # seconds


def _hey(name: str) -> dict[str, float]:
    text = (DATA / f"{name}.hey.txt").read_text(encoding="utf-8")
    figures = {
        key.lower(): float(value)
        for key, value in re.findall(r"(Total|Slowest|Fastest|Average):\s+([\d.]+) secs", text)
    }
    figures |= {f"p{p}": float(v) for p, v in re.findall(r"(\d+)% in ([\d.]+) secs", text) if p != "0"}
    return figures


def _pods(name: str) -> list[dict[str, float]]:
    lines = (DATA / f"{name}.pods.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module", params=RUNS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def results(name: str) -> Results:
    return run(load(Path(f"measured-{name}")))


def test_total_within_ten_percent(name: str, results: Results) -> None:
    assert results.total_seconds == pytest.approx(_hey(name)["total"], rel=0.10)
    assert results.outcomes == {"200": 50}


def test_latencies(name: str, results: Results) -> None:
    hey = _hey(name)
    assert results.fastest == pytest.approx(hey["fastest"], rel=0.01)
    assert results.average == pytest.approx(hey["average"], rel=0.10)
    assert results.slowest == pytest.approx(hey["slowest"], rel=0.10)
    for percent in (10, 25, 50, 75, 90, 95):
        assert results.percentile(percent) == pytest.approx(hey[f"p{percent}"], rel=0.10), percent


def _between(results: Results, column: int, at: float) -> tuple[int, int]:
    """Lowest and highest value of a column of ``pods`` within the leeway around ``at``."""
    values = [row[column] for row in results.pods if at - LEEWAY < row[0] <= at + LEEWAY]
    before = [row[column] for row in results.pods if row[0] <= max(at - LEEWAY, 0.0)]
    values += before[-1:]
    return int(min(values)), int(max(values))


@pytest.mark.parametrize(("key", "column"), [("pods", 1), ("ready", 2), ("terminating", 4)])
def test_pods_over_time_within_one_pod(name: str, results: Results, key: str, column: int) -> None:
    for sample in _pods(name):
        at = sample["t"] - HEY_STARTED
        if at < 0 or at > results.simulated_seconds:
            continue
        low, high = _between(results, column, at)
        assert low - 1 <= sample[key] <= high + 1, (sample, low, high)


def test_the_fallback_piles_four_clients_on_one_pod() -> None:
    """One pod served 40 of 50, another 10, three none; the idle ones stay until the lone client has finished."""
    results = run(load(Path("measured-seed-auto")))
    assert results.served_by_pod == [40, 10, 0, 0, 0]
    scaled_down = next(row[0] for row in results.pods if row[4] == 1)
    gone = next(row[0] for row in results.pods if row[0] > scaled_down and row[4] == 0)
    measured = [s["t"] - HEY_STARTED for s in _pods("seed-auto") if s["terminating"] == 1]
    assert scaled_down == pytest.approx(measured[0], abs=6)
    assert gone - scaled_down == pytest.approx(measured[-1] - measured[0], abs=2.5)


@pytest.mark.parametrize(
    ("name", "totals"),
    [
        ("seed-disabled", [135.36]),
        ("lean-disabled", [65.07]),
        ("default70-disabled", [63.91]),
        ("aggr", [62.8, 63.6, 64.7]),
        ("peri", [64.1, 63.7, 64.4]),
    ],
)
def test_whatever_the_phase_of_the_clocks_the_total_fits(name: str, totals: list[float]) -> None:
    """Where the tick falls against the reports is chance: the measured total is to be expected in any case."""
    scenario = load(Path(f"measured-{name}"))
    simulated = [run(scenario, seed=seed).total_seconds for seed in range(20)]
    for total in totals:
        assert all(s == pytest.approx(total, rel=0.10) for s in simulated)
        assert statistics.median(simulated) == pytest.approx(total, rel=0.03)


def test_the_fallback_loses_by_chance_and_never_wins() -> None:
    scenario = load(Path("measured-seed-auto"))
    totals = {round(run(scenario, seed=seed).total_seconds, -2) for seed in range(40)}
    assert totals == {300, 400, 500}  # two, three or four clients behind another on one pod

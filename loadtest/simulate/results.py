"""What a run says: latencies, cold starts, GPU-hours and money, as data and as a table."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.simulate.scenario import Scenario
from loadtest.simulate.simulation import Simulation
from loadtest.statistics import rank

PERCENTILES = (10, 25, 50, 75, 90, 95, 99)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """``hey``'s percentile of rising values: the first whose index is at least ``percent`` of the way.

    NaN for no values.
    """
    if not ordered:
        return math.nan
    return ordered[min(rank(percent, len(ordered)), len(ordered) - 1)]


@dataclass(frozen=True)
class Results:
    """One run. Seconds and hours as named; money in the scenario's currency; latencies of answered requests
    only.
    """

    scenario: str
    seed: int
    issued: int
    outcomes: dict[str, int]
    total_seconds: float
    requests_per_second: float
    fastest: float
    average: float
    slowest: float
    percentiles: dict[str, float]
    cold_requests: int
    pod_starts: int
    peak_pods: int
    peak_gpus: int
    gpu_hours: float
    busy_fraction: float
    zero_seconds: float
    simulated_seconds: float
    cost: float
    cost_per_1000: float
    currency: str
    served_by_pod: list[int]
    pods: list[tuple[float, int, int, int, int]]

    @property
    def answered(self) -> int:
        return self.outcomes.get("200", 0)

    def percentile(self, percent: int) -> float:
        return self.percentiles[f"p{percent}"]

    def to_json(self) -> dict[str, Any]:
        """Plain data; ``pods`` holds ``[seconds, pods, ready, pending, terminating]`` at each change. NaN
        is null.
        """
        data = asdict(self)
        data["percentiles"] = {k: _finite(v) for k, v in self.percentiles.items()}
        return {k: _finite(v) if isinstance(v, float) else v for k, v in data.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def collect(simulation: Simulation) -> Results:
    """The results of a simulation that has run."""
    scenario: Scenario = simulation.scenario
    tally, nodes = simulation.tally, simulation.fleet.nodes
    ordered = sorted(tally.latencies)
    answered = len(ordered)
    pod_hours = nodes.gpu_seconds / 3600
    hours = pod_hours if scenario.cost.billing == "pods" else nodes.node_gpu_seconds / 3600
    cost = hours * scenario.cost.per_gpu_hour
    served = [pod.served for pod in simulation.fleet.alive + simulation.fleet.leaving]
    return Results(
        scenario=scenario.name,
        seed=simulation.seed,
        issued=tally.issued,
        outcomes=dict(sorted(tally.outcomes.items())),
        total_seconds=tally.last_end,
        requests_per_second=answered / tally.last_end if tally.last_end else math.nan,
        fastest=ordered[0] if ordered else math.nan,
        average=sum(ordered) / answered if answered else math.nan,
        slowest=ordered[-1] if ordered else math.nan,
        percentiles={f"p{p}": percentile(ordered, p) for p in PERCENTILES},
        cold_requests=tally.cold,
        pod_starts=simulation.fleet.starts,
        peak_pods=max(pods for _, pods, *_ in simulation.series),
        peak_gpus=nodes.peak,
        gpu_hours=hours,
        busy_fraction=simulation.busy_seconds / nodes.gpu_seconds if nodes.gpu_seconds else 0.0,
        zero_seconds=nodes.zero_seconds,
        simulated_seconds=simulation.env.now,
        cost=cost,
        cost_per_1000=1000 * cost / answered if answered else math.nan,
        currency=scenario.cost.currency,
        served_by_pod=sorted(served + simulation.fleet.served, reverse=True),
        pods=simulation.series,
    )


def run(scenario: Scenario, *, seed: int | None = None) -> Results:
    """Simulates ``scenario``; equal scenario and seed give equal results."""
    simulation = Simulation(scenario, seed=seed)
    simulation.run()
    return collect(simulation)


def rows(results: Results) -> list[tuple[str, str]]:
    """The results as ``(what, value with unit)`` lines for people."""

    def seconds(value: float) -> str:
        return "–" if math.isnan(value) else f"{value:.2f} s"

    failed = {k: v for k, v in results.outcomes.items() if k != "200"}
    busiest = ", ".join(map(str, results.served_by_pod[:8])) + (
        ", …" if len(results.served_by_pod) > 8 else ""
    )
    return [
        ("requests", f"{results.issued}, answered {results.answered}"),
        ("not answered", ", ".join(f"{n} × {k}" for k, n in failed.items()) or "none"),
        ("total", seconds(results.total_seconds)),
        ("rate", f"{results.requests_per_second:.4g} images/s"),
        (
            "fastest / average / slowest",
            " / ".join(seconds(v) for v in (results.fastest, results.average, results.slowest)),
        ),
        ("P50 / P75", f"{seconds(results.percentile(50))} / {seconds(results.percentile(75))}"),
        ("P90 / P95 / P99", " / ".join(seconds(results.percentile(p)) for p in (90, 95, 99))),
        ("requests that found no ready pod", str(results.cold_requests)),
        ("pod starts", f"{results.pod_starts}; at most {results.peak_pods} pods on {results.peak_gpus} GPUs"),
        ("images by pod", busiest),
        (
            "GPU-hours billed",
            f"{results.gpu_hours:.3f}; pods busy {100 * results.busy_fraction:.0f} % of theirs",
        ),
        ("time at zero", f"{results.zero_seconds:.0f} s of {results.simulated_seconds:.0f} s"),
        (
            "cost",
            f"{results.cost:.2f} {results.currency}; per 1,000 images "
            f"{results.cost_per_1000:.2f} {results.currency}",
        ),
    ]

"""Why the run of Alibaba Cloud's guide took 252 s: draws causes at random and keeps those whose runs look like it.

``python -m loadtest.simulate.search`` is approximate Bayesian computation by rejection (Tavaré et al. 1997; Pritchard
et al. 1999): each hypothesis says how requests reach pods and which cold starts and service times are plausible; from
each, many runs are simulated, and a run counts if total and latencies fall within the tolerances. How often a
hypothesis is right says how well it explains the run; the runs that counted say with which numbers.
"""

import json
import statistics
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from loadtest.simulate.results import Results, run
from loadtest.simulate.scenario import Scenario, parse

GUIDE_RUN = {
    "total": 252.17,
    "fastest": 9.94,
    "average": 23.97,
    "p50": 20.08,
    "p90": 50.70,
    "p95": 61.50,
    "slowest": 62.42,
}
"""``hey -n 50 -c 5`` as Alibaba Cloud's guide to Stable Diffusion on ACK Knative reports it, in seconds."""

TOLERANCE = {"total": 0.10, "fastest": 0.20, "average": 0.20, "p50": 0.20, "p90": 0.20}
"""How far a run may be off and still count; P95 and slowest are two or three requests and only shown."""

Draw = dict[str, float]


@dataclass(frozen=True)
class Hypothesis:
    """A way for requests to reach pods, with the ranges of its unknowns (uniform priors, seconds)."""

    name: str
    cluster: dict[str, Any]
    autoscaling: dict[str, Any]
    spread: bool  # do generations differ in length?
    late: bool = False  # do some pods come much later, their node being added first?

    def draw(self, rng: np.random.Generator) -> Draw:
        """One set of unknowns: cold start and its spread over pods, shortest and typical generation, tail."""
        unknown = {
            "cold start": rng.uniform(15, 60),
            "cold start sd": rng.uniform(0, 8),
            "shortest image": rng.uniform(8.5, 10.5),
        }
        if self.spread:
            unknown["typical extra"] = rng.uniform(0.2, 14)
            unknown["tail"] = rng.uniform(0.1, 1.0)
        if self.late:
            unknown["GPUs at first"] = float(rng.integers(1, 5))
            unknown["node later by"] = rng.uniform(30, 240)
        return {k: round(float(v), 2) for k, v in unknown.items()}

    def scenario(self, unknown: Draw) -> Scenario:
        """The guide's command against this hypothesis with these unknowns."""
        low = unknown["shortest image"]
        time: dict[str, Any] | float = low
        if self.spread:
            time = {
                "kind": "lognormal",
                "low": low,
                "median": low + unknown["typical extra"],
                "sigma": unknown["tail"],
            }
        cluster = {"gpu-quota": 5, **self.cluster}
        if self.late:
            cluster["warm-nodes"] = int(unknown["GPUs at first"])
            cluster["node-provisioning"] = unknown["node later by"]
        start = {
            "kind": "normal",
            "mean": unknown["cold start"],
            "sd": unknown["cold start sd"],
            "low": unknown["cold start"] / 2,
        }
        return parse(
            {
                "name": self.name,
                "traffic": {"kind": "closed", "requests": 50, "concurrency": 5},
                "service": {"time": time, "client-timeout": "180s"},
                "pods": {"start": start},
                "cluster": cluster,
                "autoscaling": {"target-utilization-percentage": 100, "max-scale": 5, **self.autoscaling},
            }
        )


_CLUSTER_IP = {"addressing": "cluster-ip"}
_PAST = {"target-burst-capacity": 0}
HYPOTHESES = (
    Hypothesis("one activator, equal images", {}, {}, spread=False),
    Hypothesis("one activator, images differ", {}, {}, spread=True),
    Hypothesis("one activator, equal images, GPUs come late", {}, {}, spread=False, late=True),
    Hypothesis("two activators, equal images", {"activators": 2}, {}, spread=False),
    Hypothesis("two activators, images differ", {"activators": 2}, {}, spread=True),
    Hypothesis("ClusterIP fallback, equal images", _CLUSTER_IP, {}, spread=False),
    Hypothesis("ClusterIP fallback, images differ", _CLUSTER_IP, {}, spread=True),
    Hypothesis("ClusterIP, two activators, equal images", {**_CLUSTER_IP, "activators": 2}, {}, spread=False),
    Hypothesis("ClusterIP, two activators, images differ", {**_CLUSTER_IP, "activators": 2}, {}, spread=True),
    Hypothesis("past the activators in turn, equal images", {}, _PAST, spread=False),
    Hypothesis("past the activators in turn, images differ", {}, _PAST, spread=True),
)


def observed(results: Results) -> dict[str, float]:
    """The figures of a run that the guide's report has."""
    return {
        "total": results.total_seconds,
        "fastest": results.fastest,
        "average": results.average,
        "p50": results.percentile(50),
        "p90": results.percentile(90),
        "p95": results.percentile(95),
        "slowest": results.slowest,
    }


def misfit(results: Results) -> float:
    """The worst deviation from the guide's run in units of its tolerance; at most 1 for a run that counts."""
    if results.answered < results.issued:
        return float("inf")
    got = observed(results)
    return max(abs(got[k] / GUIDE_RUN[k] - 1) / TOLERANCE[k] for k in TOLERANCE)


@dataclass(frozen=True)
class Finding:
    """What became of one hypothesis: its draws, the unknowns that counted, and its best run."""

    hypothesis: Hypothesis
    draws: int
    counted: list[Draw]
    best: Results
    best_unknowns: Draw
    best_misfit: float

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Middle half of each unknown over the runs that counted."""
        if len(self.counted) < 4:
            return {}
        ranges = {}
        for key in self.counted[0]:
            quarters = statistics.quantiles([d[key] for d in self.counted], n=4)
            ranges[key] = (quarters[0], quarters[2])
        return ranges


def examine(hypothesis: Hypothesis, draws: int, seed: int) -> Finding:
    """Simulates ``draws`` runs of one hypothesis."""
    rng = np.random.default_rng(seed)
    counted: list[Draw] = []
    best: tuple[float, Results, Draw] | None = None
    for i in range(draws):
        unknown = hypothesis.draw(rng)
        results = run(hypothesis.scenario(unknown), seed=seed * 1_000_003 + i)
        off = misfit(results)
        if off <= 1:
            counted.append(unknown)
        if best is None or off < best[0]:
            best = (off, results, unknown)
    assert best is not None
    return Finding(hypothesis, draws, counted, best[1], best[2], best[0])


def _print(console: Console, findings: list[Finding]) -> None:
    table = Table(
        "hypothesis", "runs that fit", "best is off by", *GUIDE_RUN, "images by pod", title_justify="left"
    )
    table.add_row("[b]the guide's report[/b]", "", "", *(f"{v:.1f}" for v in GUIDE_RUN.values()), "?")
    for f in sorted(findings, key=lambda f: (-len(f.counted) / f.draws, f.best_misfit)):
        table.add_row(
            f.hypothesis.name,
            f"{len(f.counted)} of {f.draws}",
            f"{f.best_misfit:.2f} tolerances",
            *(f"{v:.1f}" for v in observed(f.best).values()),
            " ".join(map(str, f.best.served_by_pod)),
        )
    console.print(table)
    for f in findings:
        if f.counted:
            shown = ", ".join(f"{k} {a:.1f}–{b:.1f}" for k, (a, b) in f.ranges().items()) or "too few to say"
            console.print(f"{f.hypothesis.name}: middle half of what fits: {shown}")


def main(
    draws: Annotated[int, typer.Option(min=1, help="Runs for each hypothesis.")] = 2000,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON instead of tables.")] = False,
) -> None:
    """Search for what explains the guide's 252 s."""
    findings = [examine(h, draws, seed) for h in HYPOTHESES]
    if not as_json:
        _print(Console(), findings)
        return
    document = [
        {
            "hypothesis": f.hypothesis.name,
            "draws": f.draws,
            "fit": len(f.counted),
            "ranges": f.ranges(),
            "best": {"misfit": f.best_misfit, "unknowns": f.best_unknowns, **observed(f.best)},
        }
        for f in findings
    ]
    typer.echo(json.dumps(document, indent=1))


if __name__ == "__main__":
    typer.run(main)

"""Runs a scenario under many settings and draws what they cost against how long people wait."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.simulate.results import Results, run
from loadtest.simulate.scenario import ScenarioError, parse

MAX_POINTS = 500
Points = list[tuple[str, Results]]


def _axis(text: str) -> list[str]:
    """``a.b=1,2`` as ``["a.b=1", "a.b=2"]``."""
    key, found, values = text.partition("=")
    options = [v.strip() for v in values.split(",")]
    if not found or not key.strip() or not all(options):
        raise ScenarioError(
            f"--sweep {text!r}: write section.key=value,value, as in autoscaling.window=30,60"
        )
    return [f"{key.strip()}={value}" for value in options]


def sweep(
    data: dict[str, Any],
    axes: Sequence[str],
    *,
    source: str,
    seed: int | None,
    apply: Callable[[dict[str, Any], str], None],
) -> Points:
    """Results of every combination of the axes' values, cheapest first; all see the same random numbers.

    Raises :class:`ScenarioError` for a bad axis, a value that does not fit, or more than 500 combinations.
    """
    combinations = list(itertools.product(*(_axis(axis) for axis in axes)))
    if len(combinations) > MAX_POINTS:
        raise ScenarioError(
            f"--sweep asks for {len(combinations)} runs: leave out values to stay below {MAX_POINTS}"
        )
    scenarios = []
    for combination in combinations:  # all are checked before the first runs
        changed = copy.deepcopy(data)
        for assignment in combination:
            apply(changed, assignment)
        label = " ".join(a.rpartition(".")[2] for a in combination)
        scenarios.append((label, parse(changed, source=f"{source} with {label}")))
    points = [(label, run(scenario, seed=seed)) for label, scenario in scenarios]
    return sorted(points, key=lambda p: math.inf if math.isnan(p[1].cost_per_1000) else p[1].cost_per_1000)


def frontier(points: Points) -> Points:
    """The points that no other beats in both cost and P95, cheapest first."""
    best, kept = math.inf, []
    for label, r in sorted(points, key=lambda p: (p[1].cost_per_1000, p[1].percentile(95))):
        if r.percentile(95) < best:
            best = r.percentile(95)
            kept.append((label, r))
    return kept


def write_plot(points: Points, path: Path, *, title: str) -> None:
    """Draws cost per 1,000 images against P95, the frontier joined and labelled. Raises
    :class:`ScenarioError`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [p for p in points if math.isfinite(p[1].cost_per_1000)]
    if not drawn:
        raise ScenarioError("--plot: no run answered anything, so there is nothing to draw")
    best = frontier(drawn)
    figure, axes = pyplot.subplots(figsize=(9, 5 + 0.22 * len(best)), layout="constrained")
    axes.scatter(
        [r.percentile(95) for _, r in drawn], [r.cost_per_1000 for _, r in drawn], color="0.65", s=22
    )
    axes.plot(
        [r.percentile(95) for _, r in best], [r.cost_per_1000 for _, r in best], color="tab:blue", zorder=1
    )
    for i, (label, r) in enumerate(best, 1):  # numbers, because the labels would cover each other
        axes.scatter(
            r.percentile(95),
            r.cost_per_1000,
            color="white",
            edgecolor="tab:blue",
            s=170,
            label=f"{i}  {label}",
        )
        axes.annotate(
            str(i),
            (r.percentile(95), r.cost_per_1000),
            ha="center",
            va="center",
            fontsize=8,
            color="tab:blue",
        )
    axes.set_xlabel("P95 latency, seconds")
    axes.set_ylabel(f"cost per 1,000 images, {drawn[0][1].currency}")
    axes.set_title(title)
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    figure.legend(
        loc="outside lower left",
        title="nothing is better in both",
        alignment="left",
        fontsize=8,
        markerscale=0.5,
        frameon=False,
    )
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as e:
        raise ScenarioError(f"--plot {path} cannot be written: {e}") from e
    finally:
        pyplot.close(figure)

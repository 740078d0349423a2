"""Two runs side by side: ratios with confidence intervals, and whether they may be compared at all."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from loadtest.options import OptionError
from loadtest.result import Plan, RunResult
from loadtest.statistics import Floats, bears, bootstrap_ratio, mean, percent_name, percentile_of

CONFIDENCE: Final = 0.95
PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0)
_CONDITIONS: Final = {
    "arrivals": "arrivals",
    "requests": "number of requests",
    "body": "body",
    "bodies": "number of bodies",
    "stream": "streaming",
    "sessions": "sessions",
    "think": "think time",
    "timeout": "timeout",
    "keep_alive": "keep-alive",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of both runs; ``low`` and ``high`` enclose the ratio with 95 % confidence, if known."""

    measure: str
    before: float
    after: float
    low: float | None
    high: float | None
    lower_is_better: bool | None = True

    @property
    def ratio(self) -> float:
        """After over before; NaN if the measure was 0."""
        return self.after / self.before if self.before else math.nan

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``no difference shown``; empty where one run can't tell."""
        if self.low is None or self.high is None or self.lower_is_better is None:
            return ""
        if self.low <= 1 <= self.high:
            return "no difference shown"
        return "better" if (self.high < 1) == self.lower_is_better else "worse"


def compare_runs(before: RunResult, after: RunResult) -> list[Comparison]:
    """Latency measures with intervals by the circular block bootstrap, then what a single run can't bound."""
    pair = [[one.latency for one in run.records if not one.failure] for run in (before, after)]
    if not all(pair):
        raise OptionError("One of the runs has no successful request: there is nothing to compare.")
    alike = max(
        (run.plan.concurrency or round(max(run.timeline.concurrency, default=1)) or 1)
        for run in (before, after)
    )

    def ratio(name: str, measure: Callable[[Floats], Floats]) -> Comparison:
        first, second = (float(measure(np.asarray(values))) for values in pair)
        low = high = None
        if min(map(len, pair)) >= 10:
            _, low, high = bootstrap_ratio(
                pair[1], pair[0], measure, concurrency=alike, confidence=CONFIDENCE
            )
        return Comparison(name, first, second, low, high)

    found = [ratio("average latency, s", mean)]
    for percent in PERCENTILES:
        if all(bears(percent, run.latency.count) for run in (before, after)):
            found.append(ratio(f"P{percent_name(percent)} latency, s", percentile_of(percent)))
    found.append(Comparison("slowest, s", before.latency.slowest, after.latency.slowest, None, None))
    found.append(Comparison("total, s", before.total, after.total, None, None))
    found.append(
        Comparison("successes/s", before.throughput, after.throughput, None, None, lower_is_better=False)
    )
    found.append(_rates("failures", before, after))
    found.append(Comparison("cold starts", before.cold_starts, after.cold_starts, None, None))
    found.append(Comparison("pods", len(before.pods), len(after.pods), None, None, lower_is_better=None))
    return found


def _rates(name: str, before: RunResult, after: RunResult) -> Comparison:
    """Failure rates and the interval of their ratio (log method, half a failure added: Agresti 3.1)."""
    rates = [run.failed / run.requests if run.requests else 0.0 for run in (before, after)]
    if not before.failed and not after.failed:
        return Comparison(name, rates[0], rates[1], None, None)
    (x, n), (y, m) = ((run.failed + 0.5, run.requests + 0.5) for run in (before, after))
    centre, spread = math.log(y / m) - math.log(x / n), math.sqrt(max(0.0, 1 / x - 1 / n + 1 / y - 1 / m))
    return Comparison(
        name, rates[0], rates[1], math.exp(centre - 1.96 * spread), math.exp(centre + 1.96 * spread)
    )


def differences(before: Plan, after: Plan) -> list[str]:
    """What was asked for differently, in words: each may explain a difference that is not the service's."""
    return [
        f"{name}: {getattr(before, field) or 'none'} and {getattr(after, field) or 'none'}"
        for field, name in _CONDITIONS.items()
        if getattr(before, field) != getattr(after, field)
    ]


def compare(
    a: Annotated[Path, typer.Argument(help="JSON of the first run (before).")],
    b: Annotated[Path, typer.Argument(help="JSON of the second run (after).")],
    fail_if_worse: Annotated[
        bool, typer.Option("--fail-if-worse", help="Exit with 1 if a measure got worse beyond its interval.")
    ] = False,
) -> None:
    """Set two runs side by side: ratios B/A with 95 % intervals.

    An interval that holds 1 shows no difference. Totals and counts have none: a run has only one
    of each.
    """
    try:
        before, after = RunResult.read(a), RunResult.read(b)
        rows = compare_runs(before, after)
    except OptionError as error:
        typer.secho(str(error), err=True, fg="red")
        raise typer.Exit(2) from None
    table = Table(title=f"A: {a.name} · B: {b.name}", title_justify="left")
    table.add_column("measure")
    for name in ("A", "B", "B/A", "95 % interval"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        between = f"{row.low:.3f} – {row.high:.3f}" if row.low is not None and row.high is not None else "–"
        style = {"better": "green", "worse": "red"}.get(row.verdict, "")
        ratio = "–" if math.isnan(row.ratio) else f"{row.ratio:.3f}"
        table.add_row(
            row.measure, f"{row.before:.4g}", f"{row.after:.4g}", ratio, between, row.verdict, style=style
        )
    console = Console(width=None if Console().is_terminal else 110)
    console.print(table)
    for text in differences(before.plan, after.plan):
        console.print(f"Not the same conditions: {text}.", style="yellow", highlight=False, markup=False)
    console.print(
        "Intervals: circular block bootstrap of the requests of each run, so that neighbours that waited in "
        "the same queue count as one. They say nothing of how a run on another day would differ: repeat runs "
        "for that.",
        highlight=False,
    )
    if fail_if_worse and any(row.verdict == "worse" for row in rows):
        raise typer.Exit(1)

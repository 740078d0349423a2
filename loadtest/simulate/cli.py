"""The command ``python -m loadtest simulate SCENARIO``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from loadtest.simulate.results import Results, percentile, rows, run
from loadtest.simulate.scenario import Scenario, ScenarioError, load_data, parse
from loadtest.simulate.sweep import sweep, write_plot


def _set(data: dict[str, Any], assignment: str) -> None:
    """Applies ``section.key=value`` to a scenario's data. Raises :class:`ScenarioError`."""
    key, found, text = assignment.partition("=")
    path = key.strip().split(".")
    if not found or not all(path):
        raise ScenarioError(f"--set {assignment!r}: write section.key=value, as in autoscaling.window=120s")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ScenarioError(f"--set {assignment!r}: the value is no YAML: {' '.join(str(e).split())}") from e
    section = data
    for step in path[:-1]:
        inner = section.setdefault(step, {})
        if not isinstance(inner, dict):
            raise ScenarioError(
                f"--set {assignment!r}: {step} is no section; use --set {step}=… for all of it"
            )
        section = inner
    section[path[-1]] = value


def _read(scenario: Path, settings: list[str]) -> tuple[dict[str, Any], Scenario]:
    data = load_data(scenario)
    for assignment in settings:
        _set(data, assignment)
    return data, parse(data, source=str(scenario))


def _show(console: Console, scenario: Scenario, results: Results) -> None:
    table = Table(title=f"{scenario.name} · seed {results.seed}", title_justify="left", show_header=False)
    for what, value in rows(results):
        table.add_row(what, value)
    console.print(table)


def _show_many(console: Console, scenario: Scenario, many: list[Results]) -> None:
    """Median and the middle eighty percent over several seeds."""
    table = Table(
        "", "median", "10 %", "90 %", title=f"{scenario.name} · {len(many)} seeds", title_justify="left"
    )
    figures: list[tuple[str, Callable[[Results], float]]] = [
        ("total, s", lambda r: r.total_seconds),
        ("average, s", lambda r: r.average),
        *((f"P{p}, s", lambda r, p=p: r.percentile(p)) for p in (50, 90, 95)),
        ("slowest, s", lambda r: r.slowest),
        ("not answered", lambda r: r.issued - r.answered),
        ("pod starts", lambda r: r.pod_starts),
        ("GPU-hours billed", lambda r: r.gpu_hours),
        (f"per 1,000 images, {scenario.cost.currency}", lambda r: r.cost_per_1000),
    ]
    for name, figure in figures:
        values = sorted(figure(r) for r in many)
        low, high = percentile(values, 10), percentile(values, 90)
        table.add_row(name, *(f"{v:.2f}" for v in (percentile(values, 50), low, high)))
    console.print(table)


def _show_sweep(console: Console, points: list[tuple[str, Results]]) -> None:
    table = Table(
        "settings", "P50 s", "P95 s", "GPU-h", "starts", "per 1,000", "failed", title_justify="left"
    )
    for label, r in points:
        failed = r.issued - r.answered
        table.add_row(
            label,
            f"{r.percentile(50):.1f}",
            f"{r.percentile(95):.1f}",
            f"{r.gpu_hours:.2f}",
            str(r.pod_starts),
            f"{r.cost_per_1000:.2f} {r.currency}",
            str(failed),
        )
    console.print(table)


def simulate(
    scenario: Annotated[
        Path,
        typer.Argument(help="Scenario file (YAML or JSON), or the name of a shipped one: seed, sizing …"),
    ],
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides the scenario's seed.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Overrides a key: autoscaling.window=120s. Repeatable."),
    ] = None,
    sweep_: Annotated[
        list[str] | None,
        typer.Option("--sweep", help="Tries values: autoscaling.window=30,60,120. Repeat to combine."),
    ] = None,
    runs: Annotated[
        int,
        typer.Option(min=1, max=10_000, help="Runs with this many seeds, from --seed on; shows the spread."),
    ] = 1,
    plot: Annotated[
        Path | None, typer.Option(help="With --sweep: draws cost against P95 (.png, .svg, .pdf).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON instead of tables.")] = False,
    output: Annotated[Path | None, typer.Option(help="Writes the JSON to a file as well.")] = None,
) -> None:
    """Predict latency, cold starts and cost of a scenario."""
    console = Console()
    try:
        data, parsed = _read(scenario, set_ or [])
        if plot is not None and not sweep_:
            raise ScenarioError("--plot draws a sweep: add --sweep section.key=value,value")
        if sweep_ and runs > 1:
            raise ScenarioError("--runs and --sweep exclude each other: choose one")
        if sweep_:
            points = sweep(data, sweep_, source=str(scenario), seed=seed, apply=_set)
            document: Any = [{"settings": label, **r.to_json()} for label, r in points]
            if not as_json:
                _show_sweep(console, points)
            if plot is not None:
                write_plot(points, plot, title=parsed.name)
        elif runs > 1:
            first = parsed.seed if seed is None else seed
            many = [run(parsed, seed=first + i) for i in range(runs)]
            document = [r.to_json() for r in many]
            if not as_json:
                _show_many(console, parsed, many)
        else:
            results = run(parsed, seed=seed)
            document = results.to_json()
            if not as_json:
                _show(console, parsed, results)
        text = json.dumps(document, indent=1)
        if output is not None:
            try:
                output.write_text(text + "\n", encoding="utf-8")
            except OSError as e:
                raise ScenarioError(f"--output {output} cannot be written: {e.strerror or e}") from e
        if as_json:
            typer.echo(text)
    except ScenarioError as e:
        typer.echo(str(e), err=True)
        raise typer.Exit(2) from e

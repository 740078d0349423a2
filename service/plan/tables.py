"""The plan as tables on a terminal."""

from rich.console import Console
from rich.table import Table

from service.plan.measures import NATURE, Measures, in_order
from service.plan.planner import Plan
from service.plan.platform import GIB
from service.plan.report import largest, line, manifest_values, savings


def _gib(amount: float) -> str:
    return f"{amount / GIB:.2f}"


def show(plan: Plan, allowed: Measures, console: Console) -> None:
    """Print weights, stages, measures and what to write into the manifests."""
    where = "GPU memory" if plan.platform.is_cuda else "main memory"
    console.print(f"\n[bold]{plan.architecture.title}[/bold], {plan.itemsize} bytes a number, {where} in GiB")
    weights = Table(title="Weights")
    for column in ("part", "tensors", "numbers (millions)", "GiB"):
        weights.add_column(column, justify="left" if column == "part" else "right")
    for name, part in plan.architecture.parts.items():
        weights.add_row(name, str(part.tensors), f"{part.numbers / 1e6:.0f}", _gib(part.size(plan.itemsize)))
    console.print(weights)

    stages = Table(title=f"Stages of {plan.work}")
    for column in ("stage", "weights there", "activations", "others", "sum"):
        stages.add_column(column, justify="left" if column == "stage" else "right")
    for stage in plan.stages:
        peak = "[bold]" if stage is plan.stage else ""
        stages.add_row(
            f"{peak}{stage.name}", _gib(stage.weights), _gib(stage.activations), _gib(stage.others),
            f"{peak}{_gib(stage.bytes)}",
        )  # fmt: skip
    fixed = plan.platform.base + plan.workspaces + plan.kept
    stages.add_row(
        "beside them: " + ("context, workspaces" if plan.platform.is_cuda else "process"),
        "",
        "",
        "",
        _gib(fixed),
    )
    console.print(stages)

    measures = Table(title="Measures, the cheapest first (each alone)")
    for column in ("measure", "peak", "time", "picture", ""):
        measures.add_column(column, justify="right" if column == "peak" else "left")
    for row in savings(plan):
        on = "[green]on" if row["measure"] in plan.measures else ""
        measures.add_row(row["measure"], f"{row['peak_gib']:.2f}", row["time"], row["picture"], on)
    console.print(measures)

    colour = "green" if plan.fits else "red"
    console.print(f"[{colour}]{line(plan)}[/{colour}]")
    for measure in in_order(plan.measures):
        console.print(f"  {measure}: costs {NATURE[measure].time}; the picture: {NATURE[measure].picture}")
    if plan.platform.limit:
        sizes = largest(plan, allowed)
        console.print(
            f"Largest that fits: {sizes['side']}×{sizes['side']} at batch {plan.work.batch}; "
            f"batch {sizes['batch']} at {plan.work.width}×{plan.work.height}."
        )
    console.print(
        "For knative/: " + ", ".join(f"{name} {value}" for name, value in manifest_values(plan).items())
    )
    if plan.platform.is_cuda:
        console.print(
            "The context, the libraries' workspaces and fragmentation are reserves, see docs/memory.md.",
            style="dim",
        )

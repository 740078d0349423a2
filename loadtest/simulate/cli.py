"""The command ``python -m loadtest simulate SCENARIO``."""

from pathlib import Path
from typing import Annotated

import typer


def simulate(scenario: Annotated[Path, typer.Argument(help="Scenario file, YAML or JSON.")]) -> None:
    """Predict latency, cold starts and cost of a scenario."""
    typer.echo(f"{scenario}: the simulator is not wired up yet", err=True)
    raise typer.Exit(2)

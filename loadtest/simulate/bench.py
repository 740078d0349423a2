"""How fast the simulator is: ``python -m loadtest.simulate.bench`` runs a day of a million images over 200
GPUs. The last line is one JSON object.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from loadtest.simulate.results import collect
from loadtest.simulate.scenario import load
from loadtest.simulate.simulation import Simulation

BUDGET_SECONDS = 60.0


def main(
    scenario: Annotated[Path, typer.Argument(help="A scenario file or the name of a shipped one.")] = Path(
        "day"
    ),
) -> None:
    """Time one run on one core; exit code 1 if it takes longer than a minute of that core."""
    simulation = Simulation(load(scenario))
    started = time.process_time()
    simulation.run()
    spent = time.process_time() - started
    results = collect(simulation)
    figures = {
        "images": results.answered,
        "gpus": results.peak_gpus,
        "simulated_seconds_per_core_second": results.simulated_seconds / spent,
        "images_per_core_second": results.answered / spent,
        "share_of_a_core_minute": spent / BUDGET_SECONDS,
    }
    typer.echo(
        f"{results.answered} images on up to {results.peak_gpus} GPUs: "
        f"{figures['simulated_seconds_per_core_second']:,.0f} times as fast as real time on one core, "
        f"{figures['images_per_core_second']:,.0f} images a second, "
        f"{figures['share_of_a_core_minute']:.2f} of a minute"
    )
    typer.echo(json.dumps({name: round(value, 4) for name, value in figures.items()}))
    raise typer.Exit(int(spent > BUDGET_SECONDS))


if __name__ == "__main__":
    typer.run(main)

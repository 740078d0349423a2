"""The command line: one typer app, one command a job."""

import typer

from loadtest.compare import compare
from loadtest.run_command import run
from loadtest.simulate.cli import simulate

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Load tests for image services on Knative: measure (run), compare, and predict (simulate).",
)

app.command()(run)
app.command()(compare)
app.command()(simulate)

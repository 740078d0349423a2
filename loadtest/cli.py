"""The command line: one typer app, one command a job."""

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Load tests for image services on Knative: measure (run), compare, and predict (simulate).",
)


@app.callback()
def _commands() -> None:
    """Keeps sub-commands named even while there is only one."""

"""``python -m loadtest``."""

import sys


def main() -> None:
    """Run the command line, or say which extra brings what it lacks."""
    try:
        from loadtest.cli import app
    except ModuleNotFoundError as error:
        sys.exit(f"python -m loadtest needs {error.name}: pip install 'knative-diffusion[loadtest]'")
    app(prog_name="python -m loadtest")


if __name__ == "__main__":
    main()

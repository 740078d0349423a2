"""``python -m service``: see :mod:`service.cli`."""

from service.cli import app


def main() -> None:
    """Run the command line."""
    app(prog_name="python -m service")


if __name__ == "__main__":
    main()

"""``python -m service``: see :mod:`service.cli`."""

import sys

from service import signals

if sys.argv[1:2] == ["serve"]:
    signals.leave_at_once()  # before anything else is imported
    if not sys.stderr.isatty():
        # structlog takes rich for tracebacks on a terminal; elsewhere that is a twentieth of a second for nothing.
        sys.modules["rich"] = None  # type: ignore[assignment]
        import structlog  # noqa: F401

        del sys.modules["rich"]

from service import threads
from service.cli import app


def main() -> None:
    """Run the command line."""
    threads.prepare()  # before numpy or torch is imported
    app(prog_name="python -m service")


if __name__ == "__main__":
    main()

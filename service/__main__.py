"""``python -m service``: see :mod:`service.cli`."""

import sys

from service import signals

if sys.argv[1:2] == ["serve"]:
    signals.leave_at_once()  # before anything else is imported

from service import threads
from service.cli import app


def main() -> None:
    """Run the command line."""
    threads.prepare()  # before numpy or torch is imported
    app(prog_name="python -m service")


if __name__ == "__main__":
    main()

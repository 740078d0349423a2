"""A pod as a process of its own, with a fake engine: ``python -m tests.front.pod PORT STEP_TIME``."""

import sys

from service import server
from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeEngine


def main(port: int, step_time: float) -> None:
    """Serve until a signal ends it."""
    settings = Settings.read(port=port, pod_name=f"pod-{port}", log_level="ERROR")
    server.run(create_app(settings, lambda: FakeEngine(step_time=step_time)), settings)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))

"""A pod whose pictures are noise, made at once: what travels and is encoded is as large as it gets.

``python -m bench.noise_pod --port 8000 --step-time 0.01``
"""

import argparse

import numpy as np

from service import server
from service.app import create_app
from service.core.generation import GenerationRequest
from service.core.pixels import Pixels
from service.settings import Settings
from tests.fakes import FakeEngine


class NoiseEngine(FakeEngine):
    """The fake engine of the tests, with pictures that do not compress."""

    def _image(self, request: GenerationRequest, index: int) -> Pixels:
        generator = np.random.default_rng(request.seed_of(index))
        return generator.integers(0, 256, (request.height, request.width, 3), np.uint8)


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--step-time", type=float, default=0.0)
    chosen = parser.parse_args()
    settings = Settings.read(port=chosen.port, pod_name=f"pod-{chosen.port}", log_level="ERROR")
    server.run(create_app(settings, lambda: NoiseEngine(step_time=chosen.step_time)), settings)


if __name__ == "__main__":
    main()

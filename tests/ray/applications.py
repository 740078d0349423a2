"""Applications for ``serve run`` whose images take a time that is known: for timing and scaling, not for pictures."""

from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from service.core.errors import DeviceLost
from service.core.generation import GenerationRequest
from service.ray.deployments import build
from service.settings import Settings
from tests.fakes import FakeEngine

POISON = 666
"""The seed that costs the first replica which makes it its CUDA context."""


class Arguments(BaseModel):
    """``step_time``: seconds of each sampler step. ``poisoned``: a file that is there once a device was lost."""

    step_time: float = 0.05
    poisoned: str = ""


def lost(poisoned: str, request: GenerationRequest) -> Exception | None:
    """The error of the first image with the seed :data:`POISON`."""
    if request.seed != POISON or not poisoned or Path(poisoned).exists():
        return None
    Path(poisoned).touch()
    return DeviceLost("CUDA error: an illegal memory access was encountered.")


def fixed_time(arguments: Arguments) -> Any:
    """The service with an engine that only waits."""
    engine = partial(FakeEngine, step_time=arguments.step_time, fail_with=partial(lost, arguments.poisoned))
    return build(Settings.read(device="cpu"), engine)

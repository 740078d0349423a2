"""Applications for ``serve run`` whose images take a time that is known: for timing and scaling, not for pictures."""

from functools import partial
from typing import Any

from pydantic import BaseModel

from service.ray.deployments import build
from service.settings import Settings
from tests.fakes import FakeEngine


class Arguments(BaseModel):
    """``step_time``: seconds of each sampler step."""

    step_time: float = 0.05


def fixed_time(arguments: Arguments) -> Any:
    """The service with an engine that only waits."""
    return build(Settings.read(device="cpu"), partial(FakeEngine, step_time=arguments.step_time))

"""Where these tests run: on a CUDA device, else they are skipped. ``SD_TEST_GPU=cpu`` lets a CPU stand in for it.

Standing in shows that the tests themselves work; what CUDA alone has is skipped then too.
"""

import os
from pathlib import Path

import pytest
import torch

from service.engine.engine import DiffusersEngine
from service.settings import Settings

STANDS_IN = os.environ.get("SD_TEST_GPU") == "cpu"
DEVICE = torch.device("cpu" if STANDS_IN else "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of them, or those that need CUDA itself."""
    here = Path(__file__).parent
    for item in items:
        if here not in item.path.parents:
            continue
        if not torch.cuda.is_available() and not STANDS_IN:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
        elif STANDS_IN and item.get_closest_marker("cuda") is not None:
            item.add_marker(pytest.mark.skip(reason="a CPU stands in, which has nothing of the kind"))


def load(**settings: object) -> DiffusersEngine:
    """An engine with the shipped model on the device."""
    values = {"device": DEVICE.type, "warmup_steps": 1, "warmup_size": 64, **settings}
    made = DiffusersEngine(Settings.read(**values))
    made.load(lambda sentence, part=None, seconds=0.0: None)
    return made


@pytest.fixture(scope="session")
def engine() -> DiffusersEngine:
    """The shipped model as the service has it on this device."""
    return load()


@pytest.fixture(scope="session")
def on_cpu() -> DiffusersEngine:
    """The shipped model on the CPU, in float32: what is right."""
    return load(device="cpu", dtype="float32")

"""What the tests of the shipped model share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.demo_model.thumbnails import Thumbnails


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tests run side by side, a core each; threads that wait for each other's cores take many times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def thumbnails() -> Thumbnails:
    """The ten of tests/demo_model/data."""
    return Thumbnails(Path(__file__).parent / "data" / "thumbnails")

"""How many threads torch takes in tests."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """One thread for torch, in the folders whose conftest imports this.

    Tests run side by side, a core each: threads that wait for each other's cores take many times as long, and most
    tensors are so tiny that a second one costs more than it brings.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

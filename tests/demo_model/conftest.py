"""What the tests of the shipped model share."""

from pathlib import Path

import pytest

from tests.demo_model.thumbnails import Thumbnails
from tests.threads import one_thread as one_thread


@pytest.fixture(scope="session")
def thumbnails() -> Thumbnails:
    """The ten of tests/demo_model/data."""
    return Thumbnails(Path(__file__).parent / "data" / "thumbnails")

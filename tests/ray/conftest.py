"""One cluster for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.ray.cluster import Cluster, cluster


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """A cluster; nothing is deployed on it yet."""
    pytest.importorskip("ray")
    with cluster() as made:
        yield made

"""Checkpoints to plan for."""

from pathlib import Path

import pytest

from service.plan.architecture import Architecture, read_architecture
from tests.plan.checkpoints import write


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of SD 1.5, SD 2.1 and SDXL at their real sizes, without weights."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: write(root / family, family) for family in ("sd1", "sd2", "sdxl")}


@pytest.fixture(scope="session")
def architectures(folders: dict[str, Path]) -> dict[str, Architecture]:
    """The same, read."""
    return {family: read_architecture(folder) for family, folder in folders.items()}

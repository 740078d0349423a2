"""The examples run as they are written."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.fakes import FakeEngine
from tests.live import LiveServer, serve_here

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with serve_here(FakeEngine()) as server:
        yield server


def size(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def run(*command: str | Path) -> str:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["openai_client.py", "progress.py"])
def test_clients_by_address(live: LiveServer, tmp_path: Path, name: str) -> None:
    file = tmp_path / "dog.png"
    assert "dog.png" in run(sys.executable, EXAMPLES / name, live.url, file)
    assert size(file) == (512, 512)


def test_webuiapi(live: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "dog.png"
    told = run(sys.executable, EXAMPLES / "a1111_client.py", "127.0.0.1", str(live.port), file)
    assert "Seed: 1" in told
    assert size(file) == (512, 512)


def test_curl(live: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "dog.png"
    run("bash", EXAMPLES / "curl.sh", live.url, file)
    assert size(file) == (512, 512)


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"({path.name})" in listed for path in EXAMPLES.iterdir() if path.name != "README.md")

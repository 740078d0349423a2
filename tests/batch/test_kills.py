"""``kill -9`` at random moments: what is resumed equals what was never disturbed, byte for byte.

Thirty kills of a batch whose pictures a service with the shipped model makes; and, since loading a model takes
seconds each time, a few of one that makes them itself. ``make kills`` has thirty of those.
"""

import os
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.batch.manifest import FORMAT
from tests.batch.conftest import (
    ROOT,
    SMALL,
    batch,
    command,
    contents,
    environment,
    lines_of,
    unmeasured,
    write_rows,
)
from tests.live import LiveServer, serve

ROWS = 20
LONG = int(os.environ.get("SD_TEST_KILLS", "2"))


def kill_until_done(arguments: tuple[object, ...], chance: random.Random, longest: float, most: int) -> int:
    """Start the command again and again and kill it, until it ends by itself or ``most`` were killed; the kills."""
    for kills in range(most):
        running = subprocess.Popen(
            command(*arguments),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            running.wait(chance.uniform(0, longest))
            assert running.returncode == 1, "one row is bad"
            return kills
        except subprocess.TimeoutExpired:
            pass
        finally:
            running.kill()
            running.wait()
    return most


def half_written(folder: Path, whole: dict[str, bytes]) -> list[str]:
    """Files of a killed run that are neither whole nor hidden."""
    images = folder / "images"
    if not images.is_dir():
        return []
    return [
        path.name
        for path in images.iterdir()
        if not path.name.startswith(".") and path.read_bytes() != whole.get(path.name)
    ]


def disturbed(
    arguments: tuple[object, ...], out: Path, undisturbed: Path, kills: int, seed: int, longest: float
) -> int:
    """Kill and resume batches until ``kills`` processes were killed, and compare each with the undisturbed one; how
    many batches that were."""
    chance, killed, batches = random.Random(seed), 0, 0
    whole = contents(undisturbed)
    while killed < kills:
        folder = out / str(batches)
        batches += 1
        killed += kill_until_done((*arguments, "--out", folder), chance, longest, kills - killed)
        assert half_written(folder, whole) == []
        assert batch(*arguments, "--out", folder).returncode == 1
        assert unmeasured(folder) == unmeasured(undisturbed)
        assert contents(folder) == whole
        began = [line["t"] for line in lines_of(folder)]
        assert began == sorted(began)
        assert not list(folder.rglob("*.part"))
    return batches


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows with one that cannot be made, and one of two pictures."""
    many = [{"prompt": f"{number} red apples", **SMALL} for number in range(ROWS)]
    many[4] |= {"sampler_name": "Nope"}
    many[9] |= {"n_iter": 2}
    return write_rows(tmp_path / "rows.jsonl", many)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A service with the shipped model."""
    with serve(warmup_size=64, warmup_steps=1, cpu_threads=1, log_level="ERROR") as live:
        yield live


@pytest.mark.timeout(900)
def test_thirty_kills_beside_a_service(rows: Path, tmp_path: Path, server: LiveServer) -> None:
    arguments = (rows, "--upstream", server.url)
    began = time.monotonic()
    assert batch(*arguments, "--out", tmp_path / "undisturbed").returncode == 1
    before = made(server)
    batches = disturbed(arguments, tmp_path, tmp_path / "undisturbed", 30, 18, time.monotonic() - began)
    # A kill loses the row in the making (one of them has two pictures), and no other is made again.
    pictures = len([line for line in lines_of(tmp_path / "undisturbed") if line["file"]])
    assert made(server) - before <= batches * pictures + 30 * 2


def made(server: LiveServer) -> float:
    """Pictures that the service has made."""
    with server.client() as client:
        (line,) = re.findall(r"^sd_images_total (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(line)


@pytest.mark.timeout(3600)
def test_kills_of_a_batch_with_an_engine_of_its_own(rows: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    assert batch(rows, "--out", tmp_path / "undisturbed").returncode == 1
    disturbed((rows,), tmp_path, tmp_path / "undisturbed", LONG, 19, time.monotonic() - began)


def test_a_torn_line_is_as_if_it_had_not_been(tmp_path: Path, server: LiveServer) -> None:
    """What a machine that lost its power may leave: the end of the manifest is missing, or a picture."""
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": str(n), **SMALL} for n in range(3)])
    arguments = (path, "--out", tmp_path / "out", "--upstream", server.url)
    assert batch(*arguments).returncode == 0
    before, files = unmeasured(tmp_path / "out"), contents(tmp_path / "out")
    for cut in (1, 40, 700):
        manifest = tmp_path / "out/manifest.jsonl"
        manifest.write_bytes(manifest.read_bytes()[:-cut])
        (tmp_path / "out/images/000001.png").unlink()
        assert batch(*arguments).returncode == 0
        assert unmeasured(tmp_path / "out") == before
        assert contents(tmp_path / "out") == files
    assert {line["format"] for line in lines_of(tmp_path / "out")} == {FORMAT}

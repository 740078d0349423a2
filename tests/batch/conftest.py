"""What the tests of the batch share: small rows, and the command as its own process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

SMALL = {"steps": 1, "width": 64, "height": 64}
"""A picture of the shipped model within some tens of milliseconds."""

MEASURED = ("t", "seconds")


def environment(**more: str) -> dict[str, str]:
    """The environment of a batch: nothing of W&B, of a Job, or of the tests' own settings."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "SD_", "JOB_"))
    }
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "WANDB_ERROR_REPORTING": "false",  # tests talk to nobody
        "SD_CPU_THREADS": "1",
        "SD_WARMUP_SIZE": "64",
        "SD_WARMUP_STEPS": "1",
        **more,
    }


def command(*arguments: object) -> list[str]:
    """The command line of a batch."""
    return [sys.executable, "-m", "service", "batch", *map(str, arguments)]


def batch(
    *arguments: object, timeout: float = 240, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(**(variables or {})),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines_of(folder: Path, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
    """The manifest's lines."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def unmeasured(folder: Path) -> list[dict[str, Any]]:
    """The manifest's lines without what a clock said."""
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines_of(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every picture and sheet by its name, and nothing that is being written."""
    files = [*(folder / "images").iterdir(), *folder.glob("sheet*")]
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Path]:
    """Write rows into an input file of this test."""

    def write(*rows: Mapping[str, Any], name: str = "rows.jsonl") -> Path:
        return write_rows(tmp_path / name, rows)

    return write

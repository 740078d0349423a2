"""What `make run` decides on a fresh machine: which Python, and which build of PyTorch."""

import http.server
import os
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from tools import torch_index

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools/python.sh"


def pythons(folder: Path, *, venv: bool = True, **versions: str) -> str:
    """A PATH on which the Pythons of that name say that they are of that version."""
    folder.mkdir()
    for name, version in versions.items():
        file = folder / name.replace("_", ".")
        # What the script asks with -c: is it in the range, and can it make environments?
        file.write_text(
            "#!/bin/bash\n"
            f'code="${{2//sys.version_info\\[:2\\]/({version})}}"\n'
            f"if [[ $code == *ensurepip* ]]; then exit {0 if venv else 1}; fi\n"
            f'exec {sys.executable} -c "$code"\n'
        )
        file.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def chosen(path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", SCRIPT], env={"PATH": path}, capture_output=True, text=True)


def test_a_python_in_the_range_is_found(tmp_path: Path) -> None:
    found = chosen(pythons(tmp_path / "a", python3_11="3, 9", python3_12="3, 12"))
    assert found.stdout.strip() == "python3.12"
    assert found.returncode == 0


def test_a_python_that_cannot_make_environments_is_named(tmp_path: Path) -> None:
    names = {f"python3_{minor}": f"3, {minor}" for minor in range(11, 15)}
    found = chosen(pythons(tmp_path / "a", venv=False, python3="3, 12", python="3, 12", **names))
    assert found.returncode == 1
    assert "apt-get install python3" in found.stderr
    assert "-venv" in found.stderr


def test_range_is_what_the_project_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"
    assert 'requires-python = ">=3' in SCRIPT.read_text()


@pytest.fixture
def index(tmp_path: Path) -> str:
    """An index that has a page for torch."""
    (tmp_path / "whl/torch").mkdir(parents=True)

    class Pages(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/whl"


def test_without_a_driver_the_cpu_build_is_taken_where_it_can_be_had(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("no_proxy", "*")
    root = tmp_path / "root"
    assert torch_index.option(root, {}, index) == f"--extra-index-url {index}"
    assert torch_index.option(root, {}, "http://127.0.0.1:9/whl") == "", "not reachable: what pip finds"
    own = {"PIP_OPTIONS": "--extra-index-url https://download.pytorch.org/whl/cu128"}
    assert torch_index.option(root, own, index) == ""
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text("NVRM version: 580\n")
    assert torch_index.option(root, {}, index) == ""


def test_scripts_are_valid_shell() -> None:
    for name in ("python.sh", "torch_ends.sh", "lock.sh"):
        subprocess.run(["bash", "-n", ROOT / "tools" / name], check=True, env=dict(os.environ))

"""The Dockerfile: what hadolint says, and what has to agree with the manifests and the project."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from service import __version__
from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
SCRIPT = ROOT / "knative" / "image" / "build-local.sh"


def text() -> str:
    return DOCKERFILE.read_text().replace("\\\n", " ")


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name}\s+(.*)$", text(), re.MULTILINE)


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    shown = subprocess.run(
        [hadolint, "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stdout
    assert shown.stdout == ""


def test_last_stage_is_what_the_manifests_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    service = yaml.safe_load((ROOT / "knative/base/service.yaml").read_text())
    (container,) = service["spec"]["template"]["spec"]["containers"]
    (entrypoint,), (front_command, _, command) = instructions("ENTRYPOINT"), instructions("CMD")
    assert yaml.safe_load(entrypoint) + yaml.safe_load(command) == container["command"]
    front = yaml.safe_load((ROOT / "knative/components/front/front.yaml").read_text())
    (behind,) = front["spec"]["template"]["spec"]["containers"]
    assert yaml.safe_load(entrypoint) + yaml.safe_load(front_command) == behind["command"]
    user = f"{container['securityContext']['runAsUser']}:{container['securityContext']['runAsGroup']}"
    assert instructions("USER") == [user] * 3
    assert instructions("EXPOSE") == [str(container["ports"][0]["containerPort"])]
    variables = dict(word.partition("=")[::2] for word in shlex.split(instructions("ENV")[-1]))
    for name, value in variables.items():
        if name.startswith(PREFIX):
            monkeypatch.setenv(name, value)
    settings = Settings.read()
    assert (settings.host, settings.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    writable = [mount["mountPath"] for mount in container["volumeMounts"]]
    for name in ("HOME", "HF_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert variables[name].startswith(tuple(writable))


def test_base_is_pinned_and_can_be_replaced() -> None:
    assert "ARG BASE=python:3.11-slim" in text()
    assert {line.split()[0] for line in instructions("FROM")} <= {
        "${BASE}",
        "venv",
        "dependencies",
        "front-dependencies",
        "runtime",
    }
    assert "latest" not in text()


def test_version_is_the_projects() -> None:
    assert set(re.findall(r"^ARG VERSION=(.+)$", text(), re.MULTILINE)) == {__version__}
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", text()))
    assert labels >= {"title", "description", "licenses", "version", "revision"}


def test_context_holds_what_is_copied_and_packaged() -> None:
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert all((ROOT / name).exists() for name in allowed)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert allowed >= {
        "pyproject.toml",
        "requirements.lock",
        "requirements-gpu.lock",
        "LICENSE",
        project["project"]["readme"],
        "service",
    }


def test_extra_of_the_cuda_variant_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (extra,) = re.findall(r"cuda\) extra=(\w+);", text())
    assert extra in extras


def pins(name: str) -> dict[str, str]:
    """The packages of a lock file and their versions."""
    lines = (line.partition(";")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return dict(line.partition("==")[::2] for line in lines if "==" in line)


def test_lock_of_the_cuda_variant_holds_what_works_together() -> None:
    locks = dict(re.findall(r"(cuda|cpu)\) extra=\w*\"?\"?; lock=(\S+);", text()))
    assert locks == {"cuda": "requirements-gpu.lock", "cpu": "requirements.lock"}
    assert all(
        f"COPY pyproject.toml {' '.join(locks[name] for name in ('cpu', 'cuda'))} ./" in text()
        for name in locks
    )
    gpu, cpu = pins(locks["cuda"]), pins(locks["cpu"])
    # xformers' extension was built with this one: `python -m xformers.info`, build.torch_version.
    assert (gpu["torch"], gpu["xformers"]) == ("2.10.0", "0.0.35")
    # All else is what the tests run with.
    ours = cpu.keys() - {"torch", "triton", "setuptools"}
    assert {name: gpu.get(name) for name in ours} == {name: cpu[name] for name in ours}
    assert any(name.startswith("nvidia-cudnn") for name in gpu)


def test_local_build_script_is_valid_shell() -> None:
    subprocess.run(["sh", "-n", SCRIPT], check=True)
    assert SCRIPT.stat().st_mode & 0o111

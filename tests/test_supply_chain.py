"""What is installed is what was locked: versions, hashes, the base image, and the bill of it all."""

import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import pin_base

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
PAIRS = {
    "cpu.txt": "requirements.lock",
    "dev.txt": "requirements-dev.lock",
    "gpu.txt": "requirements-gpu.lock",
}


def pins(path: Path) -> dict[str, str]:
    """Versions by name."""
    return {name.lower(): version.partition("+")[0] for name, version in PIN.findall(path.read_text())}


@pytest.mark.parametrize(("hashed", "lock"), PAIRS.items())
def test_hashes_are_of_the_versions_that_are_locked(hashed: str, lock: str) -> None:
    found, locked = pins(ROOT / "hashes" / hashed), pins(ROOT / lock)
    assert locked
    assert {name: found[name] for name in locked if name in found} == locked, "run `make lock`"
    assert set(found) - set(locked) <= {"setuptools", "pip"}


@pytest.mark.parametrize("hashed", PAIRS)
def test_every_package_has_hashes(hashed: str) -> None:
    blocks = re.split(r"\n(?=[A-Za-z0-9])", (ROOT / "hashes" / hashed).read_text().strip())
    for block in blocks:
        if not block.startswith("#"):
            assert "--hash=sha256:" in block, block[:80]


def test_the_dev_lock_holds_what_the_service_needs_in_the_same_versions() -> None:
    base, everything = pins(ROOT / "requirements.lock"), pins(ROOT / "requirements-dev.lock")
    assert {name: everything.get(name) for name in base} == base


def test_torch_has_the_hashes_of_pypi_and_of_the_cpu_builds() -> None:
    own = re.findall(r"^([0-9a-f]{64})", (ROOT / "hashes/torch-cpu.txt").read_text(), re.MULTILINE)
    for name in ("cpu.txt", "dev.txt"):
        block = re.search(
            r"^torch==[^\n]*(?:\n    --hash[^\n]*)*", (ROOT / "hashes" / name).read_text(), re.MULTILINE
        )
        assert block
        assert set(own) <= set(re.findall(r"[0-9a-f]{64}", block[0]))
        assert len(re.findall(r"[0-9a-f]{64}", block[0])) > len(own) + 3, "those of macOS, Windows, ARM"


def test_the_bill_of_materials_names_what_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "tools/sbom.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    bill = json.loads(done.stdout)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    named = {each["name"]: each for each in bill["components"]}
    assert {"torch", "diffusers", "fastapi"} <= named.keys()
    assert named["fastapi"]["purl"] == f"pkg:pypi/fastapi@{named['fastapi']['version']}"
    assert len({each["bom-ref"] for each in bill["components"]}) == len(bill["components"])


# --- the base image -------------------------------------------------------------------------------------

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def registry() -> Iterator[str]:
    """A registry that gives anybody a token and tells the digest of base/python:3.11."""

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps({"token": "t"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_HEAD(self) -> None:
            if self.headers.get("Authorization") != "Bearer t":
                self.send_response(401)
                realm = f"http://{self.headers['Host']}/token"
                self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="s"')
            else:
                known = self.path == "/v2/base/python/manifests/3.11"
                self.send_response(200 if known else 404)
                self.send_header("Docker-Content-Digest", DIGEST)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_base_image_is_pinned_to_what_its_registry_has(
    registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"# base\nARG BASE={registry}/base/python:3.11\nFROM ${{BASE}}\n")
    assert pin_base.main(["--check"], dockerfile) == 1
    assert pin_base.main([], dockerfile) == 0
    assert f"ARG BASE={registry}/base/python:3.11@{DIGEST}\n" in dockerfile.read_text()
    assert pin_base.main(["--check"], dockerfile) == 0
    dockerfile.write_text(f"ARG BASE={registry}/base/other:1\n")
    assert pin_base.main([], dockerfile) == 2
    assert "did not say its digest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("python:3.11-slim", ("https://registry-1.docker.io", "library/python", "3.11-slim")),
        ("bitnami/python", ("https://registry-1.docker.io", "bitnami/python", "latest")),
        ("ghcr.io/a/b/c:1", ("https://ghcr.io", "a/b/c", "1")),
        ("localhost:5000/x:2", ("http://localhost:5000", "x", "2")),
    ],
)
def test_where_an_image_is(image: str, expected: tuple[str, str, str]) -> None:
    assert pin_base.where(image) == expected


def test_the_dockerfile_has_a_base_that_can_be_pinned() -> None:
    assert pin_base.BASE.search((ROOT / "Dockerfile").read_text())

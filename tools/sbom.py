"""The packages of an environment as a CycloneDX 1.6 bill of materials, with the hashes that hashes/ has of each.

python tools/sbom.py > build/sbom.cdx.json
"""

import json
import re
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)((?: \\\n[^\n]*)*)", re.MULTILINE)


def name_of(name: str) -> str:
    """A project's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def known_hashes(root: Path = ROOT) -> dict[tuple[str, str], list[str]]:
    """SHA-256 of every file of a name and version, from all lists in ``hashes/``."""
    found: dict[tuple[str, str], set[str]] = {}
    for path in sorted((root / "hashes").glob("*.txt")):
        for name, version, lines in _BLOCK.findall(path.read_text()):
            found.setdefault((name_of(name), version), set()).update(
                re.findall(r"sha256:([0-9a-f]{64})", lines)
            )
    return {key: sorted(values) for key, values in found.items()}


def component(package: metadata.Distribution, hashes: dict[tuple[str, str], list[str]]) -> dict[str, Any]:
    """One installed package."""
    name, version = name_of(package.metadata["Name"]), package.version
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
    }
    said = package.metadata.get("License-Expression")
    if said:
        made["licenses"] = [{"expression": said}]
    elif (named := package.metadata.get("License")) and "\n" not in named and len(named) < 100:
        made["licenses"] = [{"license": {"name": named}}]
    public = version.partition("+")[0]
    if digests := hashes.get((name, version)) or hashes.get((name, public)):
        # Of the files that were published, one of which was installed: an installed package has no hash of its own.
        made["externalReferences"] = [
            {
                "type": "distribution",
                "url": f"https://pypi.org/project/{name}/{public}/",
                "hashes": [{"alg": "SHA-256", "content": digest} for digest in digests],
            }
        ]
    return made


def bill() -> dict[str, Any]:
    """The bill of the environment that runs this."""
    hashes = known_hashes()
    packages = {
        name_of(each.metadata["Name"]): each for each in metadata.distributions() if each.metadata["Name"]
    }
    about = re.search(r'__version__[^=]*= "([^"]+)"', (ROOT / "service/__init__.py").read_text())
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": {
                "type": "application",
                "bom-ref": "knative-diffusion",
                "name": "knative-diffusion",
                "version": about[1] if about else "0",
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
        },
        "components": [component(package, hashes) for _, package in sorted(packages.items())],
    }


if __name__ == "__main__":
    json.dump(bill(), sys.stdout, indent=1)
    print()

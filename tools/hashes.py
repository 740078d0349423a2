"""The locks with hashes: hashes/cpu.txt, gpu.txt and dev.txt, for `pip install --require-hashes`.

    python tools/hashes.py      # needs pip-tools

Each package of a lock gets the SHA-256 of every file that PyPI has of its version; nothing is resolved anew. PyTorch
for CPUs gets those of PyTorch's own index beside them, which PyPI does not know: hashes/torch-cpu.txt, kept by hand.
"""

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS = {
    "cpu.txt": "requirements.lock",
    "dev.txt": "requirements-dev.lock",
    "gpu.txt": "requirements-gpu.lock",
}
UNSAFE = ("setuptools", "84.2.1", "")
"""Left out of the locks, as pip-compile does; with hashes nothing may be missing."""

PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)( ; [^\\\n]+?)?$", re.MULTILINE)


def known(pins: set[tuple[str, str]]) -> dict[tuple[str, str], set[str]]:
    """Hashes by name and version."""
    for name in (
        "PIP_FIND_LINKS",
        "PIP_EXTRA_INDEX_URL",
    ):  # PyPI alone, whatever pip is configured to look at here
        os.environ.pop(name, None)
    os.environ["PIP_CONFIG_FILE"] = os.devnull
    from piptools.repositories import PyPIRepository

    repository = PyPIRepository([], cache_dir=str(ROOT / "build/pip-tools"))

    def of(pin: tuple[str, str]) -> set[str]:
        published = repository.find_all_candidates(pin[0])
        return {
            one.link.hash
            for one in published
            if str(one.version) == pin[1] and one.link.hash_name == "sha256"
        }

    ordered = sorted(pins)
    with repository.allow_all_wheels(), ThreadPoolExecutor(8) as pool:
        repository.find_all_candidates("pip")  # makes what the threads share
        found = dict(zip(ordered, pool.map(of, ordered), strict=True))
    for line in (ROOT / "hashes/torch-cpu.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            digest, name = line.split()
            found.setdefault(("torch", name.split("-")[1].partition("+")[0]), set()).add(digest)
    return found


def main() -> int:
    """Write the three files; returns the exit status."""
    locks = {lock: [*PIN.findall((ROOT / lock).read_text()), UNSAFE] for lock in LOCKS.values()}
    hashes = known({(name, version) for pins in locks.values() for name, version, _ in pins})
    if missing := sorted(f"{name}=={version}" for (name, version), found in hashes.items() if not found):
        print(f"PyPI has no hashes of {', '.join(missing)}.", file=sys.stderr)
        return 1
    for hashed, lock in LOCKS.items():
        blocks = []
        for name, version, marker in locks[lock]:
            lines = [f"    --hash=sha256:{each}" for each in sorted(hashes[name, version])]
            blocks.append(" \\\n".join([f"{name}=={version}{marker}", *lines]))
        (ROOT / "hashes" / hashed).write_text("\n".join(blocks) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

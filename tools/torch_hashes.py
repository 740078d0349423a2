"""Put all hashes of PyTorch's files into locks: those that PyPI has, and those of the CPU builds on PyTorch's index.

    python tools/torch_hashes.py PYPI CPU LOCK…

PYPI: a lock with the block of torch as pip-compile wrote it from PyPI alone. CPU: one "sha256  file name" a line, kept
by hand (`pip hash FILE`), since pip-compile does not ask that index. Each LOCK gets one block with both.
"""

import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^torch==[^\n]*(?:\\\n[^\n]*)*", re.MULTILINE)


def hashes_in(text: str) -> list[str]:
    """The hashes of the block of torch."""
    block = BLOCK.search(text)
    return re.findall(r"sha256:([0-9a-f]{64})", block[0]) if block else []


def merged(version: str, hashes: set[str]) -> str:
    """A block of torch with ``hashes``."""
    lines = [f"torch=={version}", *(f"    --hash=sha256:{each}" for each in sorted(hashes))]
    return " \\\n".join(lines)


def main(pypi: Path, cpu: Path, locks: list[Path]) -> None:
    """Rewrite ``locks``."""
    own = [line.split() for line in cpu.read_text().splitlines() if line and not line.startswith("#")]
    for lock in locks:
        text = lock.read_text()
        found = BLOCK.search(text)
        if found is None:
            raise SystemExit(f"{lock} has no torch.")
        version = found[0].split("==")[1].split()[0].split("+")[0]
        builds = {digest for digest, name in own if name.startswith(f"torch-{version}")}
        hashes = {*hashes_in(text), *hashes_in(pypi.read_text()), *builds}
        lock.write_text(
            BLOCK.sub(lambda _, version=version, hashes=hashes: merged(version, hashes), text, count=1)
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])

"""Where pip finds the PyTorch that suits this machine: prints an option for pip, or nothing.

PyPI's PyTorch for Linux is the CUDA build and brings several GB. A machine without an NVIDIA driver takes the CPU build
from PyTorch's own index, if that answers; else what pip finds. Nothing is printed either where PIP_OPTIONS or pip's
configuration name a source of their own for it.

    python tools/torch_index.py
"""

import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

INDEX = "https://download.pytorch.org/whl/cpu"
DRIVER = ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg", "dev/nvmap")
"""Files of the driver: Linux, its device, WSL, Jetson."""


def has_driver(root: Path = Path("/")) -> bool:
    """True if there is an NVIDIA driver on this machine."""
    return any((root / name).exists() for name in DRIVER) or shutil.which("nvidia-smi") is not None


def answers(url: str, timeout: float = 5.0) -> bool:
    """True if the index can be reached: pip would try for minutes."""
    try:
        with urllib.request.urlopen(f"{url}/torch/", timeout=timeout) as response:  # noqa: S310 - the URL is ours
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def option(root: Path = Path("/"), environ: Mapping[str, str] = os.environ, index: str = INDEX) -> str:
    """What to add to pip's command."""
    chosen = environ.get("PIP_OPTIONS", "") + environ.get("PIP_EXTRA_INDEX_URL", "")
    if sys.platform != "linux" or "pytorch" in chosen or has_driver(root) or not answers(index):
        return ""
    return f"--extra-index-url {index}"


if __name__ == "__main__":
    print(option())

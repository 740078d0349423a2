"""Is there room for a checkpoint? Asked before it is read: a process that the kernel kills can explain nothing."""

from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Final

import torch

from service import main_memory
from service.catalogue.weights import read_header
from service.core.errors import ModelLoadError
from service.engine.device import GIB, Device
from service.engine.weights.tensors import dtype_for

_SPARE: Final = 256 * 1024**2
"""Left for what is not weights: activations of the smallest image, buffers, the interpreter."""


def weight_bytes(
    files: Iterable[Path], dtype: torch.dtype, wanted: Callable[[str], bool] = lambda name: True
) -> int:
    """Bytes that the ``wanted`` tensors of ``files`` take up once they are read as ``dtype``."""
    total = 0
    for file in files:
        for name, entry in read_header(file)[0].items():
            if wanted(name):
                total += prod(entry.shape) * dtype_for(entry, dtype).itemsize
    return total


def free_bytes(device: Device) -> int | None:
    """Bytes that weights may still take up on ``device``; None where nobody can tell."""
    if not device.is_cuda:
        return free_main_memory()
    free, _ = torch.cuda.mem_get_info(device.torch_device)
    # What the allocator holds without using it is free for us, whatever the driver says.
    idle = torch.cuda.memory_reserved(device.torch_device) - torch.cuda.memory_allocated(device.torch_device)
    if not device.memory_limit:
        return free + idle
    return min(free + idle, device.memory_limit - torch.cuda.memory_allocated(device.torch_device))


def free_main_memory(root: Path = Path("/")) -> int | None:
    """Bytes of main memory that this process may still take: the machine's, and its control group's if that is less.

    ``root`` is where ``proc`` and ``sys`` are mounted.
    """
    found = [amount for amount in (_machine(root), _control_group(root)) if amount is not None]
    return min(found, default=None)


def _machine(root: Path) -> int | None:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _control_group(root: Path) -> int | None:
    """What is left of the tightest limit around this process (cgroup v2 or v1).

    Pages of files count as free, but for those that are mapped: the libraries' code is read again and again.
    """
    found: list[int] = []
    for folder, limit_name in main_memory.control_groups(root):
        old = limit_name == "memory.limit_in_bytes"
        usage_name, prefix = ("memory.usage_in_bytes", "total_") if old else ("memory.current", "")
        try:
            limit = int((folder / limit_name).read_text())
            usage = int((folder / usage_name).read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
            stat = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
        except (OSError, ValueError):  # no such group, or no limit ("max")
            continue
        mapped = stat.get("total_mapped_file" if old else "file_mapped", 0)
        files = stat.get(f"{prefix}inactive_file", 0) + max(0, stat.get(f"{prefix}active_file", 0) - mapped)
        found.append(max(0, limit - usage + files))
    return min(found, default=None)


def has_room(needed: int, device: Device) -> bool:
    """True if ``needed`` bytes of weights fit on ``device``, as far as anybody can tell."""
    free = free_bytes(device)
    return free is None or needed + _SPARE <= free


def require_room(needed: int, device: Device, title: str) -> None:
    """Raise :class:`ModelLoadError` with the numbers if ``needed`` bytes of weights do not fit on ``device``."""
    free = free_bytes(device)
    if free is None or needed + _SPARE <= free:
        return
    where = "GPU memory" if device.is_cuda else "memory"
    cure = (
        "give this pod a larger GPU or slice (SD_GPU_MEMORY_GIB says how much may be used)"
        if device.is_cuda
        else "raise the memory limit of this container"
    )
    half = "" if device.dtype.itemsize <= 2 else ", set SD_DTYPE=bfloat16"
    raise ModelLoadError(
        f"Checkpoint {title} needs {needed / GIB:.1f} GiB of {where} for its weights as {device.dtype_name}, but only "
        f"{free / GIB:.1f} GiB are free: {cure}{half}, or choose a smaller checkpoint."
    )

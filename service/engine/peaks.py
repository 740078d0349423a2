"""What was really taken, at most: on a GPU by the allocator's word, on a CPU by the kernel's."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from service.engine.device import Device


@dataclass(frozen=True, slots=True)
class Peaks:
    """Bytes at most for the latest request: planned, and measured; 0 where it could not be."""

    planned: int = 0
    measured: int = 0
    stage: str = ""


def reset(device: Device) -> None:
    """From now on :func:`highest` counts anew."""
    if device.is_cuda:
        torch.cuda.reset_peak_memory_stats(device.torch_device)
        return
    with suppress(OSError):  # not allowed everywhere
        Path("/proc/self/clear_refs").write_text("5")


def highest(device: Device, base: int) -> int:
    """Bytes that were taken at most since :func:`reset`; ``base`` of them beside the allocator. 0: nobody can tell."""
    if device.is_cuda:
        with suppress(RuntimeError):
            return base + torch.cuda.max_memory_reserved(device.torch_device)
        return 0
    status = _status()
    return max(0, status.get("VmHWM", 0) - status.get("RssFile", 0))


def process_memory() -> int:
    """Bytes of main memory that are this process' own: pages of files can be read again and do not count."""
    status = _status()
    return status.get("RssAnon", 0) + status.get("RssShmem", 0)


def _status() -> Mapping[str, int]:
    found: dict[str, int] = {}
    try:
        for row in Path("/proc/self/status").read_text().splitlines():
            name, _, value = row.partition(":")
            if value.endswith("kB"):
                found[name] = int(value.split()[0]) * 1024
    except (OSError, ValueError):
        pass
    return found

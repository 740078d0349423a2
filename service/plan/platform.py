"""What images are made on, as far as memory goes: how much there is, who says so, and what is gone before any weight.

The figures for CUDA (context, workspaces, fragmentation) are reserves from published reports, not measured by this
project; a running service replaces the context's by its own (see ``service.engine.headroom``).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from service import main_memory
from service.gpu_slice import read_gpu_slice
from service.plan.tape import CPU, CUDA, Kernels

MIB: Final = 1024**2
GIB: Final = 1024**3

CUDA_CONTEXT: Final = 500 * MIB
"""CUDA's context with the kernels of torch, cuBLAS and cuDNN."""

CUDA_WORKSPACES: Final = 48 * MIB
"""What cuBLAS and cuBLASLt keep for themselves (8 MiB and 1 MiB; 32 MiB each on Hopper), through torch's allocator."""

CUDA_SMALL_WORKSPACES: Final = 4 * MIB

CUDA_FRAGMENTATION: Final = 0.08
"""Part of weights and activations that the caching allocator holds in blocks too small to be used."""

CUDA_FRAGMENTATION_EXPANDABLE: Final = 0.02

CPU_PROCESS: Final = 320 * MIB
"""Python with torch, diffusers and the service, without weights (``/sdapi/v1/memory`` tells it)."""

CPU_FRAGMENTATION: Final = 0.03
"""oneDNN's scratch memory and what malloc keeps (``python -m bench.memory_limit``)."""

POD_PROCESS: Final = 2 * GIB
"""Main memory of a process with CUDA: its libraries' tables, pinned buffers, and images on their way out."""


@dataclass(frozen=True, slots=True)
class Platform:
    """A device to plan for. ``limit`` is what this process may use, in bytes (0: unknown), ``source`` who says so."""

    kind: str
    limit: int
    source: str
    base: int
    workspaces: int
    fragmentation: float
    kernels: Kernels
    isolated: bool = True
    """False where only the process itself keeps to its share (time slicing)."""

    @property
    def is_cuda(self) -> bool:
        """True for a GPU."""
        return self.kind == "cuda"

    def limited_to(self, limit: int, source: str = "asked for") -> "Platform":
        """The same with another limit."""
        return replace(self, limit=limit, source=source)


def cuda(
    limit: int, source: str = "asked for", *, channels_last: bool = True, isolated: bool = True
) -> Platform:
    """A GPU, or a slice of one, of ``limit`` bytes."""
    kernels = replace(CUDA, channels_last=channels_last)
    return Platform(
        "cuda", limit, source, CUDA_CONTEXT, CUDA_WORKSPACES, CUDA_FRAGMENTATION, kernels, isolated
    )


def cpu(limit: int, source: str = "asked for", *, channels_last: bool = True) -> Platform:
    """A CPU and ``limit`` bytes of main memory."""
    kernels = replace(CPU, channels_last=channels_last)
    return Platform("cpu", limit, source, CPU_PROCESS, 0, CPU_FRAGMENTATION, kernels)


def slice_of(environ: Mapping[str, str] = os.environ) -> tuple[float, str] | None:
    """GiB of a shared card that is ours, and who says so: cGPU's variables, or the limit of NVIDIA's MPS.

    MIG needs nothing of this: the driver shows the instance alone. Time slicing tells nobody anything: set
    ``SD_GPU_MEMORY_GIB``.
    """
    shared = read_gpu_slice(environ)
    if shared is not None:
        return shared.gib, "cGPU"
    # CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=5G,1=8192M": one entry for each device of the process.
    for entry in environ.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "").split(","):
        device, _, amount = entry.strip().partition("=")
        if device == "0" and amount[:-1].isdigit() and amount[-1:].upper() in ("G", "M"):
            return int(amount[:-1]) / (1 if amount[-1].upper() == "G" else 1024), "MPS"
    return None


def main_memory_limit(root: Path = Path("/")) -> tuple[int, str]:
    """Bytes of main memory that this process may use at all, and who says so: its control group or the machine."""
    limit = main_memory.limit(root)
    return limit, "control group" if limit < main_memory.machine(root) else "machine"

"""The device and its memory: what to run on, in which precision, how much there is, and what its failures mean."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import torch

from service import allocator
from service.core.errors import DeviceLost, ModelLoadError, OutOfMemory, ServiceError
from service.plan.measures import Measure, Measures
from service.plan.platform import CUDA_CONTEXT, slice_of
from service.settings import Settings

GIB: Final = 1024**3

_POISONED: Final = (
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "cublas_status_not_initialized",
    "cublas_status_alloc_failed",
    "cudnn_status_not_initialized",
    "cudnn_status_internal_error",
    "misaligned address",
    "hardware stack error",
    "illegal instruction",
    "device lost",
    "no cuda-capable device",
    "uncorrectable ecc error",
)
"""What CUDA's errors say when the context cannot be used again; only a new process helps."""

_NO_MEMORY: Final = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True, slots=True)
class Device:
    """What one engine runs on. ``memory_limit`` in bytes is the slice this process may use; 0: unknown."""

    torch_device: torch.device
    dtype: torch.dtype
    memory_limit: int
    channels_last: bool = False
    """True if the weights of convolutions are read into this layout, False for the contiguous one."""

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of tensors with four dimensions."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def is_cuda(self) -> bool:
        """True on an NVIDIA GPU."""
        return self.torch_device.type == "cuda"

    @property
    def dtype_name(self) -> str:
        """``float16`` and the like."""
        return str(self.dtype).removeprefix("torch.")

    def memory(self) -> dict[str, int]:
        """Bytes by kind: total and used of the card or slice, allocated and reserved by this process."""
        if not self.is_cuda:
            return {}
        try:
            free, total = torch.cuda.mem_get_info(self.torch_device)
            return {
                "total": min(total, self.memory_limit or total),
                "used": total - free,
                "allocated": torch.cuda.memory_allocated(self.torch_device),
                "reserved": torch.cuda.memory_reserved(self.torch_device),
            }
        except RuntimeError:  # a poisoned context answers nothing; a scrape must not fail for it
            return {}

    def free_memory(self) -> None:
        """Give cached blocks back, after something failed or was unloaded."""
        if self.is_cuda:
            torch.cuda.empty_cache()
        else:
            allocator.give_back()


MAIN_MEMORY: Final = Device(torch.device("cpu"), torch.float32, 0)
"""For tensors that are not computed with as they are: networks to add, embeddings."""


def choose(settings: Settings) -> Device:
    """The device that the settings and the machine allow. Raises :class:`ModelLoadError`."""
    kind = settings.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError(
            "SD_DEVICE is cuda, but PyTorch finds no usable GPU: check the driver, the container's GPU resource and "
            "that a CUDA build of PyTorch is installed; or set SD_DEVICE=cpu."
        )
    if settings.dtype != "auto":
        dtype = getattr(torch, settings.dtype)
    else:
        dtype = torch.float16 if kind == "cuda" else torch.float32
    if kind == "cpu" and dtype is torch.float16:
        raise ModelLoadError("SD_DTYPE=float16 is for GPUs: on a CPU use float32 or bfloat16.")
    if settings.cpu_threads:
        torch.set_num_threads(settings.cpu_threads)
    return Device(torch.device(kind), dtype, _limit(settings, kind), settings.channels_last)


def _limit(settings: Settings, kind: str) -> int:
    if kind != "cuda":
        return 0
    total = torch.cuda.mem_get_info()[1]
    if settings.gpu_memory_gib is not None:
        limit = int(settings.gpu_memory_gib * GIB)
    else:
        shared = slice_of()
        limit = int(shared[0] * GIB) if shared else total
    if limit < total:
        # Where the driver does not isolate slices, only the process itself can keep to its own. The context is beside
        # the allocator and inside the slice: without leaving it room, the libraries find none for their handles.
        torch.cuda.set_per_process_memory_fraction(max(limit - CUDA_CONTEXT, limit // 4) / total)
    return min(limit, total)


def settle(device: Device, measures: Measures) -> None:
    """Before any weight: the allocator's and the libraries' settings, and then the libraries' handles and workspaces.

    Made later, in a slice that images have filled, they fail with ``CUBLAS_STATUS_NOT_INITIALIZED``, after which the
    context cannot be used again.
    """
    if not device.is_cuda:
        return
    if Measure.SMALL_WORKSPACES in measures:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        os.environ.setdefault("CUBLASLT_WORKSPACE_SIZE", "1024")
    if Measure.EXPANDABLE_SEGMENTS in measures:
        with suppress(AttributeError, RuntimeError, ValueError):  # private, and not on every platform
            torch.cuda.memory._set_allocator_settings("expandable_segments:True")
    with torch.inference_mode():
        for dtype in {device.dtype, torch.float32}:
            square = torch.ones(64, 64, device=device.torch_device, dtype=dtype)
            torch.addmm(square[0], square, square)  # cuBLASLt
            torch.matmul(square, square)  # cuBLAS
            image = square.view(1, 1, 64, 64)
            torch.nn.functional.conv2d(image, image[:, :, :3, :3])  # cuDNN
        torch.cuda.synchronize(device.torch_device)


def explain(error: BaseException, device: Device | None, what: str) -> ServiceError | None:
    """The error of ours that ``error`` from torch means, or None. ``what`` names what was asked for."""
    if isinstance(error, ServiceError):
        return error
    text = str(error).lower()
    if any(sign in text for sign in _POISONED):
        return DeviceLost(
            f"The GPU cannot be used any more by this process ({_first_line(error)}); it will be restarted."
        )
    memory_error = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if memory_error or any(sign in text for sign in _NO_MEMORY):
        return OutOfMemory(f"{what} needs more memory than there is: {_numbers(error, device)}.")
    return None


def _numbers(error: BaseException, device: Device | None) -> str:
    """What was asked for and what there is, as far as the error and the device tell."""
    wanted = re.search(r"tried to allocate ([\d.]+ ?\w*)", str(error), re.IGNORECASE)
    parts = [f"{_readable(wanted[1])} more were needed"] if wanted else []
    memory = device.memory() if device else {}
    if memory:
        parts.append(f"this process holds {memory['reserved'] / GIB:.1f} of {memory['total'] / GIB:.1f} GiB")
    parts.append("lower the size, the batch_size or the hires scale")
    return ", ".join(parts)


def _readable(amount: str) -> str:
    """``2147483648`` (as the CPU allocator says it) or ``2.00 GiB`` (as CUDA does)."""
    digits = amount.strip().removesuffix("bytes").strip()
    return f"{int(digits) / GIB:.2f} GiB" if digits.isdigit() else amount.strip(" .")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

"""The slice of a shared GPU that this container was given, read from the variables of its device plugin.

Alibaba Cloud's shared-GPU device plugin (cGPU) gives a pod that asks for ``aliyun.com/gpu-mem`` these
variables:

* ``ALIYUN_COM_GPU_MEM_CONTAINER``: memory of this container's slice;
* ``ALIYUN_COM_GPU_MEM_DEV``: memory of the whole card;
* ``ALIYUN_COM_GPU_MEM_UNIT``: unit of both, in newer versions only;
* ``ALIYUN_COM_GPU_MEM_IDX``: index of the card, −1 when no card had room.

Where the isolation module is missing or switched off (node label ``ack.node.gpu.schedule=share``,
``CGPU_DISABLE=true``), CUDA reports the whole card and only the process itself can keep to its slice.
MIG needs none of this: CUDA itself reports the size of a MIG slice.
"""

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

from service.core.errors import ModelLoadError

_SLICE: Final = "ALIYUN_COM_GPU_MEM_CONTAINER"
_CARD: Final = "ALIYUN_COM_GPU_MEM_DEV"
_UNIT: Final = "ALIYUN_COM_GPU_MEM_UNIT"
_INDEX: Final = "ALIYUN_COM_GPU_MEM_IDX"

_UNITS: Final = {"GIB": 1.0, "GB": 1.0, "G": 1.0, "MIB": 1 / 1024, "MB": 1 / 1024, "M": 1 / 1024}
"""GiB in one unit. The plugin counts binary units under either name."""

_LEAST_MIB: Final = 1024
"""A card of 1024 units or more is counted in MiB: no card has 1 TiB, and none that serves has under 1 GiB."""


class GpuSlice(NamedTuple):
    """A share of one card's memory, in GiB."""

    gib: float
    card_gib: float | None
    """The whole card, where the plugin tells it."""


def read_gpu_slice(environ: Mapping[str, str] = os.environ) -> GpuSlice | None:
    """The slice that the device plugin gave this container; None where there is no such plugin.

    Raises :class:`~service.core.errors.ModelLoadError` when the plugin found no card with room for the slice, or
    when its variables cannot be understood.
    """
    if not environ.get(_SLICE):
        return None
    if environ.get(_INDEX) == "-1" or environ.get("NVIDIA_VISIBLE_DEVICES", "").startswith("no-gpu-has-"):
        raise ModelLoadError(
            f"The GPU device plugin found no card with room for this slice ({_SLICE}={environ[_SLICE]}): "
            "ask for less aliyun.com/gpu-mem, or add a GPU node."
        )
    size = _number(environ, _SLICE)
    card = _number(environ, _CARD) if environ.get(_CARD) else None
    unit = environ.get(_UNIT, "").upper()
    if unit and unit not in _UNITS:
        raise ModelLoadError(
            f"{_UNIT} is {environ[_UNIT]!r}, neither GiB nor MiB: set SD_GPU_MEMORY_GIB yourself."
        )
    largest = max(size, card or 0)
    gib_per_unit = _UNITS[unit] if unit else (_UNITS["MIB"] if largest >= _LEAST_MIB else 1.0)
    if card is not None and size > card:
        raise ModelLoadError(
            f"{_SLICE} ({size:g}) is larger than {_CARD} ({card:g}): the device plugin contradicts itself, "
            "set SD_GPU_MEMORY_GIB yourself."
        )
    return GpuSlice(size * gib_per_unit, None if card is None else card * gib_per_unit)


def _number(environ: Mapping[str, str], name: str) -> float:
    try:
        value = float(environ[name])
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ModelLoadError(
            f"{name} is {environ[name]!r}, not an amount of memory: set SD_GPU_MEMORY_GIB yourself."
        )
    return value

"""Tensors from ``.safetensors`` files, one at a time and already in the precision of the device.

Memory-mapping a checkpoint and converting it holds it twice while it loads. Reading tensor by tensor holds it once, and
each byte is touched once on its way from the page cache to its place, converted and laid out as it will be used.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from service.catalogue.weights import TensorEntry, read_header
from service.core.errors import ModelLoadError
from service.engine.device import Device

_DTYPES: Final = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


class Reader(Protocol):
    """Where the tensors of a file come from: :func:`read_tensors`, or what was read ahead."""

    def __call__(
        self, path: Path, device: Device, wanted: Callable[[str], bool] = ..., /
    ) -> Iterator[tuple[str, Tensor]]:
        """See :func:`read_tensors`."""


def read_tensors(
    path: Path, device: Device, wanted: Callable[[str], bool] = lambda name: True, /
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of ``path`` whose name is ``wanted``, in the order of the file, on ``device``.

    Floating ones come in the device's precision, those with four dimensions (the weights of convolutions) in its
    memory format. Raises :class:`ModelLoadError`.
    """
    entries, _ = read_header(path)
    chosen = sorted(((n, e) for n, e in entries.items() if wanted(n)), key=lambda item: item[1].start)
    try:
        with path.open("rb", buffering=0) as file:
            source = _Source(path, file)
            for name, entry in chosen:  # in file order: the disk reads ahead
                yield name, source.tensor(entry, device)
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}.") from None


_BUFFER: Final = 1024 * 1024
"""Bytes read at once where they have to be converted or laid out anew."""


def dtype_for(entry: TensorEntry, dtype: torch.dtype) -> torch.dtype:
    """``dtype`` for floating tensors; integer tensors keep their own."""
    own = _DTYPES.get(entry.dtype)
    if own is None:
        raise ModelLoadError(f"A tensor of the checkpoint has dtype {entry.dtype}, which is not supported.")
    return dtype if own.is_floating_point else own


class _Source:
    """An open file. Bytes go through one small buffer, which stays in the processor's cache, into their place."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file = file
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def tensor(self, entry: TensorEntry, device: Device) -> Tensor:
        """One tensor as ``device`` wants it."""
        kind = dtype_for(entry, device.dtype)
        layout = device.memory_format if len(entry.shape) == 4 else torch.contiguous_format
        self._file.seek(entry.start)
        if device.torch_device.type != "cpu":
            return self._rows(entry, entry.shape).to(
                device.torch_device, kind, memory_format=layout, copy=True
            )
        made = torch.empty(entry.shape, dtype=kind, memory_format=layout)
        if _DTYPES[entry.dtype] is kind and made.is_contiguous():
            if made.numel():
                self._fill(made.reshape(-1).view(torch.uint8))
            return made
        # Row by row (of the first dimension), as many at once as the buffer takes.
        rows = made if made.dim() else made.reshape(1)
        bytes_each = (entry.end - entry.start) // max(1, len(rows))
        step = max(1, _BUFFER // max(1, bytes_each))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            some.copy_(self._rows(entry, some.shape))
        return made

    def _rows(self, entry: TensorEntry, shape: Sequence[int]) -> Tensor:
        """The next bytes as a tensor of ``shape``, in the buffer: to be copied before more is read."""
        size = prod(shape) * _DTYPES[entry.dtype].itemsize
        if size > len(self._buffer):
            self._buffer = torch.empty(size, dtype=torch.uint8)
        flat = self._buffer[:size]
        self._fill(flat)
        return flat.view(_DTYPES[entry.dtype]).reshape(shape)

    def _fill(self, flat: Tensor) -> None:
        view = flat.numpy().data
        done = 0
        while done < len(view):
            count = self._file.readinto(view[done:])
            if not count:
                raise ModelLoadError(f"{self._path} ended while it was being read: fetch it again.")
            done += count


class _NoDraws(TorchFunctionMode):
    """Random numbers are not drawn for what has no memory: for that torch would import its compiler, for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        target = args[0] if args else named.get("tensor")
        if (
            getattr(func, "__name__", "").endswith(("normal_", "uniform_"))
            and isinstance(target, Tensor)
            and target.is_meta
        ):
            return target
        return func(*args, **named)


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules made while this lasts get parameters without memory, to be filled; their buffers are real."""
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign,assignment]
    try:
        with _NoDraws():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def fill(module: nn.Module, tensors: Iterator[tuple[str, Tensor]], part: str) -> None:
    """Give ``module`` (built without memory for its parameters) its parameters, whole.

    Raises :class:`ModelLoadError` when names or shapes are not those of the architecture.
    """
    expected = {name: parameter.shape for name, parameter in module.state_dict().items()}
    unexpected: list[str] = []
    for name, tensor in tensors:
        # transformers 5 dropped the wrapper that older files name.
        found = next(
            (n for n in (name, name.removeprefix("text_model."), f"text_model.{name}") if n in expected), None
        )
        if found is None:
            unexpected.append(name)
            continue
        if tensor.shape != expected[found]:
            raise ModelLoadError(
                f"The {part} does not fit its configuration: {name} has shape {tuple(tensor.shape)}, "
                f"{tuple(expected[found])} is expected. The checkpoint is of another architecture than it says."
            )
        del expected[found]
        owner_name, _, leaf = found.rpartition(".")
        owner = module.get_submodule(owner_name)
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
        else:
            owner._buffers[leaf] = tensor
    missing = [name for name in expected if not name.endswith("position_ids")]
    if missing:
        raise ModelLoadError(
            f"The {part} lacks {len(missing)} of its tensors (the first is {missing[0]!r}): the file is incomplete, or "
            "of another architecture than Stable Diffusion 1.x, 2.x or XL."
        )
    strangers = [name for name in unexpected if not name.endswith("position_ids")]
    if strangers:
        raise ModelLoadError(
            f"The {part} has {len(strangers)} tensors that its configuration does not know (the first is "
            f"{strangers[0]!r}): the checkpoint is of another architecture than it says."
        )

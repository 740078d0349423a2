"""Tensors from ``.safetensors`` files, one at a time and already in the precision of the device.

Memory-mapping a checkpoint and converting it holds it twice while it loads. Reading tensor by tensor holds it once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from service.catalogue.weights import TensorEntry, read_header
from service.core.errors import ModelLoadError

_DTYPES: Final = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def read_tensors(
    path: Path,
    dtype: torch.dtype,
    device: torch.device,
    wanted: Callable[[str], bool] = lambda name: True,
    *,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of ``path`` whose name is ``wanted``; floating ones as ``dtype``, all on ``device``.

    ``memory_format`` is that of tensors with four dimensions (the weights of convolutions).
    """
    entries, _ = read_header(path)
    chosen = sorted(((n, e) for n, e in entries.items() if wanted(n)), key=lambda item: item[1].start)
    # One buffer for all: fresh memory for each would cost more time than reading does.
    buffer = torch.empty(max((e.end - e.start for _, e in chosen), default=0), dtype=torch.uint8)
    try:
        with path.open("rb", buffering=0) as file:
            for name, entry in chosen:  # in file order: the disk reads ahead
                kind = dtype_for(entry, dtype)
                file.seek(entry.start)
                read = _read(file.readinto, entry, path, buffer)
                layout = memory_format if read.dim() == 4 else torch.contiguous_format
                yield name, read.to(device, kind, copy=True, memory_format=layout)
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}.") from None


def dtype_for(entry: TensorEntry, dtype: torch.dtype) -> torch.dtype:
    """``dtype`` for floating tensors; integer tensors keep their own."""
    own = _DTYPES.get(entry.dtype)
    if own is None:
        raise ModelLoadError(f"A tensor of the checkpoint has dtype {entry.dtype}, which is not supported.")
    return dtype if own.is_floating_point else own


def _read(
    readinto: Callable[[memoryview], int | None], entry: TensorEntry, path: Path, buffer: Tensor
) -> Tensor:
    """One tensor, in ``buffer``: to be copied before the next is read."""
    flat = buffer[: entry.end - entry.start]
    view = flat.numpy().data
    done = 0
    while done < len(view):
        count = readinto(view[done:])
        if not count:
            raise ModelLoadError(f"{path} ended while it was being read: fetch it again.")
        done += count
    return flat.view(_DTYPES[entry.dtype]).reshape(entry.shape)


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

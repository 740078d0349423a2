"""Checkpoint files on disk, without torch: what is in them, and whether they are whole.

A ``.safetensors`` file is eight bytes of header length (little-endian), a JSON header that names each tensor's dtype,
shape and byte range, and the bytes. (https://github.com/huggingface/safetensors, "Format".)
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import orjson

from service.core.errors import ModelLoadError

PICKLES: Final = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
SUFFIX: Final = ".safetensors"
INDEX: Final = "model_index.json"

_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
                 "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip
_HEADER_LIMIT: Final = 100_000_000
_MOST_DIMENSIONS: Final = 8
_MOST_ELEMENTS: Final = 2**48  # of a dtype whose size is not known here


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: its safetensors dtype name, shape, and where its bytes are (offsets in the file)."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def refuse_pickle(path: Path) -> None:
    """Raise :class:`ModelLoadError` if ``path`` is a pickle: opening one runs whatever code is in it."""
    if path.suffix.lower() in PICKLES:
        raise ModelLoadError(
            f"{path.name} is a pickle, which can run any code when it is opened, so it is refused. Convert it once, "
            'on a machine you can lose: python -c "import sys, torch, safetensors.torch as s; '
            "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = d.get('state_dict', d); "
            "s.save_file({k: v.contiguous() for k, v in d.items() if hasattr(v, 'shape')}, sys.argv[2])\" "
            f"{path.name} {path.stem}.safetensors"
        )


def read_header(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """The tensors of a ``.safetensors`` file and its metadata; raises :class:`ModelLoadError` if it is not whole.

    Whatever else is in the file, it raises nothing else: files come from anywhere.
    """
    refuse_pickle(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                raise _damaged(path, "its header is not one of a .safetensors file")
            # Strict, and bounded in depth: no NaN, no infinities, no text that cannot be written again.
            header: Any = orjson.loads(file.read(length))
    except OSError as error:
        raise ModelLoadError(
            f"{path} cannot be read: {error.strerror}. Check the path and its permissions."
        ) from None
    except ValueError:
        raise _damaged(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not an object")
    metadata = header.pop("__metadata__", {})
    entries = {name: _entry(path, name, entry, 8 + length, size) for name, entry in header.items()}
    texts = metadata if isinstance(metadata, dict) else {}
    return entries, {name: text for name, text in texts.items() if isinstance(text, str)}


def _entry(path: Path, name: str, entry: Any, begin: int, size: int) -> TensorEntry:
    """One tensor of a header whose data begin at byte ``begin``. Raises :class:`ModelLoadError`."""
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        understood = isinstance(dtype, str) and isinstance(shape, list) and len(shape) <= _MOST_DIMENSIONS
        understood = understood and all(
            type(number) is int and number >= 0 for number in (*shape, start, end)
        )
    except (KeyError, TypeError, ValueError):
        understood = False
    if not understood or start > end or prod(shape) > _MOST_ELEMENTS:
        raise _damaged(path, f"the entry of tensor {name[:100]!r} is not understood")
    if begin + end > size:
        raise ModelLoadError(
            f"{path} is truncated: tensor {name[:100]!r} ends at byte {begin + end}, the file has {size}. "
            "Fetch it again."
        )
    if dtype in _BYTES and end - start != prod(shape) * _BYTES[dtype]:
        raise _damaged(
            path, f"tensor {name[:100]!r} has {end - start} bytes, which is not what its shape needs"
        )
    return TensorEntry(dtype, tuple(shape), begin + start, begin + end)


def _damaged(path: Path, why: str) -> ModelLoadError:
    return ModelLoadError(f"{path} is damaged or no .safetensors file ({why}): fetch it again.")


def weight_files(checkpoint: Path) -> list[Path]:
    """The weight files of a checkpoint: itself, or those in the parts of a diffusers folder."""
    if checkpoint.is_file():
        return [checkpoint]
    return sorted(checkpoint.glob(f"*/*{SUFFIX}"))

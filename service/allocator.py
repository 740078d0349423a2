"""glibc's memory allocator, told to keep what it has: a picture on a CPU asks for the same blocks again and again.

By default glibc gives every block above some size back to the kernel when it is freed, and the kernel clears each page
that is taken again. PyTorch's CPU kernels allocate for every layer (oneDNN rearranges the weights of each convolution
at each call), so that one step of Stable Diffusion 1.5 at 512×512 asks for gigabytes of cleared pages. Kept memory is
used again as it is. ``python -m bench.allocator`` measures what that is worth.

What is kept counts as resident. :func:`give_back` returns it, when a checkpoint was unloaded and after a failure.
An operator's own choice (``MALLOC_ARENA_MAX`` and its like, ``GLIBC_TUNABLES``) stays as it is.
"""

import ctypes
import os
from collections.abc import Mapping
from typing import Any, Final

# Parameters of mallopt(3).
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_MAX: Final = -4
_ARENA_MAX: Final = -8

_PAD: Final = 64 * 1024 * 1024


def prepare(environ: Mapping[str, str] = os.environ) -> bool:
    """Have freed memory kept; to be called before there are threads, which would have arenas of their own.

    False where that cannot be: another C library (musl, macOS), or the operator has chosen.
    """
    libc = _glibc()
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environ)
    if libc is None or chosen:
        return False
    options = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD))
    taken = [libc.mallopt(name, value) == 1 for name, value in options]
    return all(taken)


def give_back() -> None:
    """Return to the system what nothing uses."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> Any:
    try:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
            return libc
    except OSError:
        pass
    return None

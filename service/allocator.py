"""glibc's malloc near the limit of a container: freed memory goes back at once.

By itself glibc keeps freed blocks of up to 32 MiB in its heap, where they leave gaps: up to a hundred MiB that nobody
uses, beside what a picture takes. Returning each block of 1 MiB and more costs time (its pages are cleared when they
are taken again: a sixth more processor time with the shipped model), so it is for where that memory is missed. Blocks
of 4 MiB and more are not enough: a heap that has served hundreds of sizes then holds 50 MiB more than is planned.
An operator's own choice (``MALLOC_ARENA_MAX`` and its like, ``GLIBC_TUNABLES``) stays as it is.
(https://man7.org/linux/man-pages/man3/mallopt.3.html)
"""

import ctypes
import os
from typing import Any, Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_MIB: Final = 1024 * 1024

_RETURNING: Final = ((_MMAP_THRESHOLD, _MIB), (_TRIM_THRESHOLD, 16 * _MIB))
_KEEPING: Final = ((_MMAP_THRESHOLD, 32 * _MIB), (_TRIM_THRESHOLD, 64 * _MIB))
"""What glibc's own rule ends with after the first large picture."""


def tighten() -> None:
    """From now on give large blocks back at once: what is resident is what is used."""
    _set(*_RETURNING)
    give_back()


def loosen() -> None:
    """Keep freed memory again, after :func:`tighten`."""
    _set(*_KEEPING)


def give_back() -> None:
    """Return to the system what nothing uses."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _set(*options: tuple[int, int]) -> None:
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if (libc := _glibc()) is not None and not chosen:
        for name, value in options:
            libc.mallopt(name, value)


def _glibc() -> Any:
    try:
        libc = ctypes.CDLL(None)
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None

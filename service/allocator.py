"""glibc's malloc as a process needs it that draws on a CPU: what is freed is kept where memory is plenty, else it goes.

By itself glibc maps every block of more than 32 MiB anew, and the kernel clears its pages each time. A convolution
takes such blocks for its weights in another order, at every call: a UNet of Stable Diffusion 1.5's size has 2 GB of
pages cleared at each step, and a decoder takes its activations so. Kept instead (:func:`keep`), pictures take a fifth
to a third less time. It is one heap for all threads then: in a thread's own heap no block above 64 MiB stays.

Near the limit of a container it is the other way round (:func:`tighten`): blocks that are kept leave gaps, up to a
hundred MiB that nobody uses, beside what a picture takes. Each block of 1 MiB and more goes back at once; blocks of
4 MiB and more are not enough, for a heap that has served hundreds of sizes then holds 50 MiB more than is planned.
The gaps of a heap that was kept are closed then: malloc would fill them first, half a picture's memory in pieces.

An operator's own choice (``MALLOC_ARENA_MAX`` and its like, ``GLIBC_TUNABLES``) stays as it is.
(https://man7.org/linux/man-pages/man3/mallopt.3.html)
"""

import ctypes
import os
from typing import Any, Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_MMAP_MAX: Final = -4
_ARENA_MAX: Final = -8
_MIB: Final = 1024 * 1024

_IS_MAPPED: Final = 2
"""In the word before a block, which holds its size: it was mapped, and is no part of the heap."""

_RETURNING: Final = ((_MMAP_MAX, 65_536), (_MMAP_THRESHOLD, _MIB), (_TRIM_THRESHOLD, 16 * _MIB))
_KEEPING: Final = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))


_keeps = False

_closed: list[int] = []
"""Addresses of blocks that nobody writes to: gaps of the heap, whose pages are the system's."""


def prepare() -> None:
    """One heap for all threads that begin from now on, and large blocks outside of it until there is a plan.

    Weights above all: freed, or moved as they are read, they would leave holes in the heap for good.
    """
    _set((_ARENA_MAX, 1), *_RETURNING)


def keep() -> None:
    """From now on keep what is freed, for whoever asks next; :func:`give_back` returns it."""
    global _keeps
    _keeps = True
    _set(*_KEEPING)
    libc = _glibc()
    while _closed:
        libc.free(_closed.pop())


def tighten() -> None:
    """From now on give large blocks back at once: what is resident is what is used."""
    global _keeps
    kept, _keeps = _keeps, False
    _set(*_RETURNING)
    give_back()
    if kept:  # else its gaps are small blocks', which want them again
        _close_gaps()


def tidy() -> None:
    """Return what a large request freed, unless freed memory is kept: while it is returned every thread waits."""
    if not _keeps:
        give_back()


def give_back() -> None:
    """Return to the system what nothing uses: a container's limit counts it."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _close_gaps() -> None:
    """Take every gap of 1 MiB and more, so that large blocks are mapped, and go when they are freed."""
    libc = _glibc()
    if libc is None or _is_chosen():
        return
    size = 1024 * _MIB
    while size >= _MIB:
        block = libc.malloc(size)
        if block and not _is_mapped(block):
            _closed.append(block)
        else:  # no gap is so large
            libc.free(block)
            size //= 2


def _is_mapped(block: int) -> bool:
    word = ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t))
    return bool(word.value & _IS_MAPPED)


def _is_chosen() -> bool:
    return any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)


def _set(*options: tuple[int, int]) -> None:
    if (libc := _glibc()) is not None and not _is_chosen():
        for name, value in options:
            libc.mallopt(name, value)


def _glibc() -> Any:
    """The C library; None if it is another one, which keeps less, or has no such calls."""
    try:
        libc = ctypes.CDLL(None)
    except OSError:
        return None
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        return None
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.restype, libc.free.argtypes = None, (ctypes.c_void_p,)
    return libc

"""Files that appear whole or not at all: written beside their place, synchronised, and moved into it."""

import errno
import os
from pathlib import Path
from typing import Final

from service.batch.errors import BatchError, BatchStopped

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY: Final = ".part"
"""Suffix of files that are being written; one that a killed run left means nothing."""


def write(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``. Raises :class:`BatchStopped` where the disk will not take it."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BatchStopped(why(path, error)) from None


def why(path: Path, error: OSError) -> str:
    """A sentence about ``error`` at ``path``, with the cure."""
    if error.errno in _FULL:
        return f"{path} can't be written: no room is left ({error.strerror}). Make room and start again."
    return f"{path} can't be written: {error.strerror}. Make it writable and start again."


def prepare(folder: Path) -> None:
    """Make ``folder`` and try to write into it. Raises :class:`BatchError`, with nothing left behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe{TEMPORARY}"
        try:
            # More than nothing: a full disk often has room for a few bytes.
            probe.write_bytes(bytes(1 << 14))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        reason = "no room is left" if error.errno in _FULL else error.strerror
        raise BatchError(
            f"--out {folder} can't be written to: {reason}. Choose another folder, or make it writable."
        ) from None

"""The kernel's cache of files: told early what will be read."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from service.catalogue.layouts import files_to_read
from service.core.errors import ModelLoadError

_CHUNK: Final = 16 * 1024 * 1024


def advise(checkpoint: Path) -> threading.Thread:
    """Ask the kernel to bring the weights of ``checkpoint`` into memory, in a thread that this returns.

    Nothing is copied, and what is there already costs nothing. A checkpoint that is not there is passed over.
    """

    def work() -> None:
        # Whoever loads the file will say what is wrong with it.
        with suppress(OSError, ModelLoadError):
            for path in files_to_read(checkpoint) if checkpoint.exists() else ():
                with path.open("rb", buffering=0) as file:
                    for start in range(0, path.stat().st_size, _CHUNK):
                        os.posix_fadvise(file.fileno(), start, _CHUNK, os.POSIX_FADV_WILLNEED)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    return thread

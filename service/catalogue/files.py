"""Files that a request may name beside a checkpoint: what is in a folder of ``SD_MODELS_DIR``, found by their names."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from service.catalogue.weights import PICKLES, SUFFIX, refuse_pickle
from service.core.errors import ServiceError

log = structlog.get_logger(__name__)

T = TypeVar("T")


def weight_files_in(folder: Path | None) -> Iterator[Path]:
    """The ``.safetensors`` files anywhere below ``folder``, by path. Pickles are never opened, but logged."""
    if folder is None or not folder.is_dir():
        return
    for path in sorted(folder.rglob("*")):
        if path.suffix == SUFFIX and path.is_file():
            yield path
        elif path.suffix in PICKLES:
            try:
                refuse_pickle(path)
            except ServiceError as error:
                log.warning("file left out", file=str(path), reason=error.detail)


def left_out(path: Path, reason: str) -> None:
    """Tell the operator why a file is not offered."""
    log.warning("file left out", file=str(path), reason=reason)


def identity(path: Path) -> str:
    """Changes when the file does: what has been read from it is then read again."""
    stat = path.stat()
    return hashlib.sha256(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:16]


class RecentlyUsed(Generic[T]):
    """Things kept by key up to ``capacity`` bytes; the least recently used leave first, the newest always stays."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._kept: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """The thing under ``key``, made where it is not there (any more)."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        made = make()
        self._kept[key] = (made, size(made))
        while len(self._kept) > 1 and sum(bytes_ for _, bytes_ in self._kept.values()) > self.capacity:
            self._kept.popitem(last=False)
        return made

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

"""Files that a request may name beside a checkpoint: what is in a folder of ``SD_MODELS_DIR``, found by their names."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from service.catalogue.weights import PICKLES, SUFFIX, refuse_pickle
from service.core.errors import ServiceError

log = structlog.get_logger(__name__)

T = TypeVar("T")


_LEFT_OUT: Final[dict[Path, str]] = {}


def weight_files_in(folder: Path | None) -> Iterator[Path]:
    """The ``.safetensors`` files anywhere below ``folder``, by path. Pickles are never opened, but logged."""
    if folder is None or not folder.is_dir():
        return
    for path in sorted(folder.rglob("*")):
        if path.suffix == SUFFIX and path.is_file():
            if is_tellable(path):
                yield path
        elif path.suffix in PICKLES:
            with leaving_out(path):
                refuse_pickle(path)


def is_tellable(path: Path) -> bool:
    """Whether the name of ``path`` can be told in an answer; one that is no UTF-8 is left out."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        left_out(path, "its name is no UTF-8: rename it")
        return False
    return True


@contextmanager
def leaving_out(path: Path) -> Iterator[None]:
    """Leave ``path`` out where reading it fails, for whatever reason: no file in a folder may end the process."""
    try:
        yield
    except ServiceError as error:
        left_out(path, error.detail)
    except Exception as error:
        left_out(path, f"it cannot be read ({type(error).__name__}: {str(error)[:200]})")


def left_out(path: Path, reason: str) -> None:
    """Tell the operator why a file is not offered."""
    _LEFT_OUT[path] = reason
    log.warning("file left out", file=str(path).encode(errors="replace").decode(), reason=reason)


def files_left_out() -> int:
    """How many files were left out since :func:`look_again`."""
    return len(_LEFT_OUT)


def look_again() -> None:
    """Forget what was left out: the folders are about to be read anew."""
    _LEFT_OUT.clear()


def identity(path: Path) -> str:
    """Changes when the file does: what has been read from it is then read again."""
    stat = path.stat()
    return hashlib.sha256(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:16]


class RecentlyUsed(Generic[T]):
    """Things kept by key up to ``capacity`` bytes; the least recently used leave first, the newest always stays.

    Not cachetools' ``LRUCache``: that refuses what is larger than its capacity, and here a network that is needed now
    is kept whatever its size.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._kept: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        return sum(size for _, size in self._kept.values())

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

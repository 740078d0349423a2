"""The manifest: a line a picture (or a failed row), which is also the memory of a batch that was interrupted.

While a batch runs, lines are appended as rows are done; at the end they stand in the rows' order. A shard writes
``manifest-I-of-N.jsonl``; whichever ends last puts all of them together as ``manifest.jsonl``.

Two runs of one batch have the same lines but for ``t`` (when the row began, in seconds of running time) and
``seconds``, which are measured.
"""

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from service.batch import files
from service.batch.errors import BatchError, BatchStopped
from service.batch.plan import Request, Shard
from service.batch.rows import OVERRIDES, canonical

FORMAT: Final = 1
WHOLE: Final = "manifest.jsonl"
PICTURES: Final = "images"
MEASURED: Final = ("t", "seconds")

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the lines of a row stand, and what must be known of them without reading them again."""

    path: Path
    start: int
    size: int
    failed: bool
    pictures: int
    begins: float
    ends: float
    """Seconds of running time at which the row began and was done."""


class Manifest:
    """The manifest of ``folder`` as one process (a shard, or the whole batch) sees and writes it."""

    def __init__(self, folder: Path, requests: Sequence[Request], shard: Shard) -> None:
        self.folder = folder
        self._requests = {request.number: request for request in requests}
        self._shard = shard
        self.path = folder / (WHOLE if shard.count == 1 else f"manifest-{shard.index}-of-{shard.count}.jsonl")
        self._done: dict[int, Entry] = {}
        self._models: set[str] = set()
        self._file: int | None = None
        self._guard: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def done(self) -> Mapping[int, Entry]:
        """Every row that is done, by any shard."""
        return self._done

    @property
    def models(self) -> set[str]:
        """The checkpoints of rows that named none."""
        return self._models

    @property
    def seconds(self) -> float:
        """Running time of this process' part so far."""
        return max((entry.ends for entry in self._done.values() if entry.path == self.path), default=0.0)

    # --- reading ---------------------------------------------------------------------------------

    def open(self, *, retry_failed: bool = False) -> None:
        """Read what there is, and begin to append. Raises :class:`BatchError` if it is of another batch, of another
        version, or in use."""
        self._lock()
        self._look(retry_failed=retry_failed)
        # Without torn lines, rows whose files are gone, and those to be tried again.
        own = [number for number, entry in self._done.items() if entry.path == self.path]
        self._write(self.path, sorted(own, key=lambda number: self._done[number].begins))
        self._done = {number: entry for number, entry in self._done.items() if entry.path != self.path}
        self._look(retry_failed=retry_failed)
        try:
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise BatchError(files.why(self.path, error)) from None

    def _lock(self) -> None:
        """Keep other processes away; the kernel lets go of the lock when this one ends, however it ends."""
        path = self.folder / f".{self.path.name}.lock"
        try:
            self._guard = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise BatchError(files.why(path, error)) from None
        try:
            fcntl.lockf(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Some network file systems have no locks: there it is on whoever starts two.
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise BatchError(
                    f"Another process is writing {self.path}: wait for it, or choose another --out."
                ) from None

    def _look(self, *, retry_failed: bool = False) -> None:
        """Note all rows that stand in any manifest of the folder; the shards' own come before the merged one."""
        for path in sorted(self.folder.glob("manifest*.jsonl")):
            for number, (start, size, lines) in self._read(path):
                failed = lines[0]["error"] is not None
                gone = any(not (self.folder / line["file"]).is_file() for line in lines if line["file"])
                if number in self._done or gone or (failed and retry_failed):
                    continue
                self._done[number] = _entry(path, start, size, lines)
                self._models |= {
                    line["model"] for line in lines if line["model"] and _by_default(line["request"])
                }

    def _read(self, path: Path) -> Iterator[tuple[int, tuple[int, int, list[Line]]]]:
        """Complete rows of one file: number, place, size and lines. Only the end may be torn."""
        start = size = 0
        lines: list[Line] = []
        for place, text in enumerate(_complete(path), 1):
            try:
                line = json.loads(text)
                version, number, index, count = line["format"], line["row"], line["index"], line["of"]
            except (ValueError, TypeError, KeyError):
                raise BatchError(
                    f"{path}, line {place} is no line of a manifest: choose another --out."
                ) from None
            if version != FORMAT:
                raise BatchError(
                    f"{path} is a manifest of version {version!r}, and this program writes version {FORMAT}: choose "
                    "another --out."
                )
            self._compare(path, line)
            lines.append(line)
            size += len(text)
            if index == count - 1:
                yield number, (start, size, lines)
                start, size, lines = start + size, 0, []

    def _compare(self, path: Path, line: Line) -> None:
        request = self._requests.get(line["row"])
        if request is None or canonical(line["request"]) != canonical(dict(request.body)):
            raise BatchError(
                f"{path} was made from another input: its row {line['row']} asked for something else. Choose another "
                "--out, or take the input and options that it was made with."
            )

    # --- writing ---------------------------------------------------------------------------------

    def append(self, number: int, lines: list[Line]) -> None:
        """Keep the lines of a row. Raises :class:`BatchStopped`, with the file as it was, where there is no room."""
        assert self._file is not None
        before = os.fstat(self._file).st_size
        encoded = _encoded(lines)
        data = memoryview(encoded)
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, before)  # cutting needs no room
            raise BatchStopped(files.why(self.path, error)) from None
        self._done[number] = _entry(self.path, before, len(encoded), lines)

    def finish(self) -> bool:
        """Put the lines into the rows' order; True if ``manifest.jsonl`` is now of the whole batch."""
        self._look()
        if self._shard.count > 1:
            self._write(self.path, sorted(n for n, entry in self._done.items() if entry.path == self.path))
            self._done = {n: entry for n, entry in self._done.items() if entry.path != self.path}
            self._look()
        complete = self._done.keys() >= self._requests.keys()
        if complete or self._shard.count == 1:
            self._write(self.folder / WHOLE, sorted(self._done))
        return complete

    def lines(self, path: Path | None = None) -> Iterator[Line]:
        """All lines of ``path``, by default of ``manifest.jsonl``, in order, after :meth:`finish`."""
        with (path or self.folder / WHOLE).open("rb") as file:
            for text in file:
                yield json.loads(text)

    def _write(self, path: Path, numbers: Sequence[int]) -> None:
        """Write the lines of these rows to ``path``, in this order."""
        entries = [self._done[number] for number in numbers]
        raw = {source: source.read_bytes() for source in {entry.path for entry in entries}}
        files.write(path, b"".join(raw[one.path][one.start : one.start + one.size] for one in entries))

    def close(self) -> None:
        """Let go of the file and its lock."""
        for descriptor in (self._file, self._guard):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._guard = None


def _complete(path: Path) -> Iterator[bytes]:
    """The lines of a file that end; a kill can leave one that does not."""
    with path.open("rb") as file:
        yield from (text for text in file if text.endswith(b"\n"))


def _entry(path: Path, start: int, size: int, lines: Sequence[Line]) -> Entry:
    first = lines[0]
    begins = float(first["t"])
    return Entry(
        path,
        start,
        size,
        first["error"] is not None,
        sum(line["file"] is not None and not line["grid"] for line in lines),
        begins,
        begins + float(first["seconds"].get("total", 0.0)),
    )


def _by_default(request: Mapping[str, Any]) -> bool:
    """True where the service's own checkpoint was to be used."""
    return not (request.get(OVERRIDES) or {}).get("sd_model_checkpoint") and not request.get("infotext")


def _encoded(lines: Iterable[Line]) -> bytes:
    return b"".join(
        json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for line in lines
    )

"""Weights read while the libraries that build networks of them are still being imported.

Importing torch, diffusers and transformers keeps one core busy for seconds. As soon as torch is there, threads read the
default checkpoint into its final place: precision and memory format are known from the settings, names and shapes from
the file. Converting and clearing memory take most of the time, on one core each: so there is a thread for each core.

On CPUs only: a GPU's context would be made in the thread, and nobody has seen that yet.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from service.catalogue.layouts import PREFIXES, files_to_read
from service.catalogue.weights import read_header
from service.core.errors import ModelLoadError
from service.engine import memory
from service.engine.device import Device
from service.engine.weights.tensors import read_tensors

_SMALL: Final = 64 * 1024 * 1024
"""Bytes that are read sooner than a thread is worth."""

_MOST: Final = 4
"""Readers at most: beyond that memory is the limit, not the processor."""


class ReadAhead:
    """The tensors of one checkpoint, read in threads and handed out once. A :class:`tensors.Reader`.

    What it is asked for that it does not have (another file, another precision, a tensor that was handed out) is read
    from the file. To be closed.
    """

    def __init__(self, checkpoint: Path, device: Device) -> None:
        self._device = device
        self._wanted: dict[Path, Callable[[str], bool]] = {}
        self._read: dict[tuple[Path, str], Tensor] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._threads = torch.get_num_threads()
        self._readers: list[threading.Thread] = []
        self._reading = 0
        if device.is_cuda:
            return
        try:
            files = files_to_read(checkpoint)
            wanted = _is_checkpoints if checkpoint.is_file() else _is_any
            needed = memory.weight_bytes(files, device.dtype, wanted)
            if needed < _SMALL or not memory.has_room(needed, device):
                return
            shares = _shares(files, wanted, min(self._threads, _MOST))
        except (ModelLoadError, OSError):  # whoever loads it will say what is wrong
            return
        self._wanted = dict.fromkeys(files, wanted)
        # Converting one tensor must not take every core. New threads take over the number.
        torch.set_num_threads(1)
        self._reading = len(shares)
        for share in shares:
            reader = threading.Thread(target=self._work, args=(share,), name="weights", daemon=True)
            self._readers.append(reader)
            reader.start()

    def close(self) -> None:
        """End the threads and let go of what nobody took."""
        self._stopped = True
        for reader in self._readers:
            reader.join()
        if self._readers:
            torch.set_num_threads(self._threads)
        self._read.clear()

    def _work(self, share: dict[Path, set[str]]) -> None:
        try:
            for path, names in share.items():
                for name, tensor in read_tensors(path, self._device, names.__contains__):
                    if self._stopped:
                        return
                    with self._changed:
                        self._read[path, name] = tensor
                        self._changed.notify()
        except Exception:  # noqa: S110 - who asks for what is missing reads it again and meets the error
            pass
        finally:
            with self._changed:
                self._reading -= 1
                self._changed.notify()

    def __call__(
        self, path: Path, device: Device, wanted: Callable[[str], bool] = lambda name: True, /
    ) -> Iterator[tuple[str, Tensor]]:
        """See :func:`tensors.read_tensors`."""
        is_read = self._wanted.get(path)
        if is_read is None or device != self._device:
            yield from read_tensors(path, device, wanted)
            return
        entries, _ = read_header(path)
        missing: set[str] = set()
        for name in sorted(filter(wanted, entries), key=lambda name: entries[name].start):
            tensor = self._take(path, name) if is_read(name) else None
            if tensor is None:
                missing.add(name)
            else:
                yield name, tensor
        if missing:
            yield from read_tensors(path, device, missing.__contains__)

    def _take(self, path: Path, name: str) -> Tensor | None:
        with self._changed:
            self._changed.wait_for(lambda: not self._reading or (path, name) in self._read)
            return self._read.pop((path, name), None)


def _shares(files: list[Path], wanted: Callable[[str], bool], count: int) -> list[dict[Path, set[str]]]:
    """The names to be read, by file, for each of ``count`` readers: as many bytes for each, all along the files."""
    shares: list[dict[Path, set[str]]] = [{} for _ in range(count)]
    given = [0] * count
    for path in files:
        entries = read_header(path)[0]
        for name in sorted(filter(wanted, entries), key=lambda name: entries[name].start):
            least = given.index(min(given))
            shares[least].setdefault(path, set()).add(name)
            given[least] += entries[name].end - entries[name].start
    return shares


def _is_checkpoints(name: str) -> bool:
    return name.startswith(PREFIXES)


def _is_any(name: str) -> bool:
    return True

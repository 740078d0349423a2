"""Weights read while the libraries that build networks of them are still being imported.

Importing torch, diffusers and transformers keeps one core busy for seconds. As soon as torch is there, a thread reads
the default checkpoint into its final place: precision and memory format are known from the settings, names and shapes
from the file. By the time the networks are built, most of it is done.

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


class ReadAhead:
    """The tensors of one checkpoint, read in a thread and handed out once. A :class:`tensors.Reader`.

    What it is asked for that it does not have (another file, another precision, a tensor that was handed out) is read
    from the file. To be closed.
    """

    def __init__(self, checkpoint: Path, device: Device) -> None:
        self._device = device
        self._wanted: dict[Path, Callable[[str], bool]] = {}
        self._read: dict[tuple[Path, str], Tensor] = {}
        self._changed = threading.Condition()
        self._ended = self._stopped = False
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, name="weights", daemon=True)
        if device.is_cuda:
            return
        try:
            files = files_to_read(checkpoint)
            wanted = _is_checkpoints if checkpoint.is_file() else _is_any
            needed = memory.weight_bytes(files, device.dtype, wanted)
        except (ModelLoadError, OSError):  # whoever loads it will say what is wrong
            return
        if needed < _SMALL or not memory.has_room(needed, device):
            return
        self._wanted = dict.fromkeys(files, wanted)
        # The other core imports: converting must not take both. New threads take over the number.
        torch.set_num_threads(1)
        self._thread.start()

    def close(self) -> None:
        """End the thread and let go of what nobody took."""
        self._stopped = True
        if self._wanted:
            self._thread.join()
            torch.set_num_threads(self._threads)
        self._read.clear()

    def _work(self) -> None:
        try:
            for path, wanted in self._wanted.items():
                for name, tensor in read_tensors(path, self._device, wanted):
                    if self._stopped:
                        return
                    with self._changed:
                        self._read[path, name] = tensor
                        self._changed.notify()
        except Exception:  # noqa: S110 - who asks for what is missing reads it again and meets the error
            pass
        finally:
            with self._changed:
                self._ended = True
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
            self._changed.wait_for(lambda: self._ended or (path, name) in self._read)
            return self._read.pop((path, name), None)


def _is_checkpoints(name: str) -> bool:
    return name.startswith(PREFIXES)


def _is_any(name: str) -> bool:
    return True

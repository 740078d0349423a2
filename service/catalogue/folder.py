"""The models folder as a catalogue, from the headers of its files alone: what a front that mounts it can list.

Whoever loads the files looks closer, and its word counts once it was heard.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from service.catalogue.catalogue import Catalogue
from service.catalogue.checkpoints import checkpoints_in
from service.catalogue.files import leaving_out, weight_files_in
from service.catalogue.upscalers import BUILT_IN
from service.catalogue.weights import TensorEntry, read_header
from service.core.records import EmbeddingInfo, LoraInfo, UpscalerInfo, VaeInfo

_LORA_KEYS: Final = ("lora_", ".lora", "lokr_", "hada_", ".oft_", "oft_blocks", ".diff", ".alpha")


def read_folder(root: Path | None) -> Catalogue | None:
    """What is in ``root``; None where there is no such folder, or no checkpoint in it."""
    if root is None or not root.is_dir():
        return None
    checkpoints = tuple(checkpoints_in(root / "checkpoints"))
    if not checkpoints:
        return None
    return Catalogue(
        checkpoints,
        tuple(VaeInfo(path.name, str(path)) for path in weight_files_in(root / "vae")),
        tuple(_loras(root / "loras")),
        tuple(_embeddings(root / "embeddings")),
        (
            *(UpscalerInfo(name) for name in BUILT_IN),
            *(
                UpscalerInfo(path.stem, 4.0, path.stem, str(path), "ESRGAN")
                for path in weight_files_in(root / "upscalers")
            ),
        ),
    )


def _headers(folder: Path) -> Iterator[tuple[Path, dict[str, TensorEntry], dict[str, str]]]:
    for path in weight_files_in(folder):
        with leaving_out(path):
            yield path, *read_header(path)


def _loras(folder: Path) -> Iterator[LoraInfo]:
    for path, entries, metadata in _headers(folder):
        if any(mark in name for name in entries for mark in _LORA_KEYS):
            alias = str(metadata.get("ss_output_name", ""))
            yield LoraInfo(path.stem, str(path), "" if alias == "None" else alias, metadata)


def _embeddings(folder: Path) -> Iterator[EmbeddingInfo]:
    for path, entries, _ in _headers(folder):
        shapes = [entry.shape for entry in entries.values() if len(entry.shape) == 2]
        if shapes:
            yield EmbeddingInfo(path.stem, str(path), shapes[0][0], sum(shape[1] for shape in shapes))

"""The textual inversions in ``SD_MODELS_DIR/embeddings``: vectors that the file's name stands for in prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from service.catalogue.checkpoints import sha256_of
from service.catalogue.files import identity, leaving_out, left_out, weight_files_in
from service.catalogue.weights import TensorEntry, read_header
from service.core.errors import ModelLoadError
from service.core.records import EmbeddingInfo
from service.engine.device import MAIN_MEMORY
from service.engine.families.model import Model
from service.engine.weights.tensors import read_tensors

_PICTURES: Final = (".png", ".webp", ".jxl", ".avif")
_MOST_BYTES: Final = 64 * 1024**2
_HASH_DIGITS: Final = 12

CLIP_L, CLIP_G = "clip_l", "clip_g"
"""The two encoders of SDXL as its embeddings name them."""


@dataclass(frozen=True, slots=True)
class EmbeddingFile:
    """One file: ``vectors`` (V, width) by encoder; the encoder is "" in files for SD 1.x and 2.x."""

    name: str
    path: Path
    vectors: Mapping[str, Tensor]

    @property
    def width(self) -> int:
        """Of all encoders together, as A1111 counts."""
        return sum(tensor.shape[-1] for tensor in self.vectors.values())

    @property
    def count(self) -> int:
        """How many tokens its name stands for."""
        return next(iter(self.vectors.values())).shape[0]

    def for_model(self, model: Model) -> tuple[Tensor, ...]:
        """One tensor for each encoder of ``model``; another number where they do not fit."""
        encoders = model.conditioner.encoders
        if "" in self.vectors:
            return (self.vectors[""],)
        if len(encoders) == 2:
            return self.vectors[CLIP_L], self.vectors[CLIP_G]
        # The refiner has the larger one of SDXL's two encoders.
        return (self.vectors[CLIP_G],) if encoders[0].pools else tuple(self.vectors.values())


class EmbeddingShelf:
    """Embeddings by file stem, handed to each model that is loaded."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._files: dict[str, EmbeddingFile] = {}
        self._unusable: dict[str, str] = {}
        self._key = ""
        self.refresh()

    def refresh(self) -> None:
        """Read the folder again; files that hold none are left out, and the log says why."""
        files: dict[str, EmbeddingFile] = {}
        keys: list[str] = []
        if self._folder is not None and self._folder.is_dir():
            for picture in sorted(p for p in self._folder.rglob("*") if p.suffix.lower() in _PICTURES):
                if not picture.stem.endswith(".preview"):
                    left_out(picture, "embeddings hidden in pictures are not read: save it as .safetensors")
        for path in weight_files_in(self._folder):
            with leaving_out(path):
                files[path.stem] = read_embedding(path)
                keys.append(identity(path))
        self._files, self._key = files, ",".join(keys)

    def put_on(self, model: Model, *, is_default: bool = False) -> None:
        """Give ``model`` the embeddings that fit it, in place of those that it had."""
        conditioner = model.conditioner
        skipped = conditioner.set_embeddings({n: file.for_model(model) for n, file in self._files.items()})
        conditioner.key = (model.info.title, self._key)
        if is_default:
            self._unusable = skipped

    def all(self) -> list[EmbeddingInfo]:
        """By name; those that do not fit the default checkpoint are marked."""
        return [
            EmbeddingInfo(
                name=name,
                filename=str(file.path),
                vectors=file.count,
                width=file.width,
                usable=name not in self._unusable,
            )
            for name, file in sorted(self._files.items())
        ]

    def hash_of(self, name: str) -> str:
        """Twelve digits of the file's SHA-256, as in A1111's infotexts."""
        return sha256_of(self._files[name].path)[:_HASH_DIGITS]


def read_embedding(path: Path) -> EmbeddingFile:
    """The embedding in a file, in any layout that is in use. Raises :class:`ModelLoadError`."""
    entries, _ = read_header(path)
    if sum(entry.end - entry.start for entry in entries.values()) > _MOST_BYTES:
        raise ModelLoadError(f"{path.name} is too large for a textual inversion.")
    wanted = _vectors_of(path, entries)
    tensors = dict(read_tensors(path, MAIN_MEMORY, lambda name: name in wanted))
    vectors: dict[str, Tensor] = {}
    for name, encoder in wanted.items():
        tensor = tensors[name]
        vectors[encoder] = tensor[None] if tensor.ndim == 1 else tensor
        if vectors[encoder].ndim != 2 or 0 in vectors[encoder].shape:
            raise ModelLoadError(f"{path.name} holds a tensor of shape {tuple(tensor.shape)}, not vectors.")
    if len({tensor.shape[0] for tensor in vectors.values()}) != 1:
        raise ModelLoadError(f"{path.name} has different numbers of vectors for SDXL's two encoders.")
    return EmbeddingFile(path.stem, path, vectors)


def _vectors_of(path: Path, entries: Mapping[str, TensorEntry]) -> dict[str, str]:
    """Which tensors of a file are vectors, and of which encoder: SDXL's pair, A1111's, or diffusers' single one."""
    if {CLIP_L, CLIP_G} <= entries.keys():
        return {CLIP_L: CLIP_L, CLIP_G: CLIP_G}
    if "emb_params" in entries:
        return {"emb_params": ""}
    named = [name for name in entries if name.startswith("string_to_param")] or list(entries)
    if len(named) == 1:
        return {named[0]: ""}
    raise ModelLoadError(f"{path.name} holds {len(entries)} tensors and is no textual inversion.")

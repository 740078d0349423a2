"""The LoRA networks in ``SD_MODELS_DIR/loras``, and those of a prompt put on a model for one generation."""

from collections.abc import Hashable
from pathlib import Path
from typing import Final

import torch

from service.catalogue.checkpoints import sha256_of
from service.catalogue.files import RecentlyUsed, identity, leaving_out, weight_files_in
from service.catalogue.weights import SUFFIX, read_header
from service.core.errors import ModelLoadError
from service.core.records import LoraInfo
from service.engine.device import MAIN_MEMORY
from service.engine.families.model import Model
from service.engine.weights.lora import Adapter, Scaled, WeightPatch
from service.engine.weights.tensors import dtype_for, read_tensors
from service.prompt import NetworkTag, lora_weights

_KEPT: Final = 1024**3
"""Bytes of networks that stay in main memory."""

_HASH_DIGITS: Final = 12


class LoraShelf:
    """Networks by file stem, or by the alias that the trainer wrote into the file (``ss_output_name``)."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._infos: list[LoraInfo] = []
        self._adapters: RecentlyUsed[Adapter] = RecentlyUsed(_KEPT)
        self.refresh()

    def refresh(self) -> None:
        """Look at the folder again. Files that hold no network are left out, and the log says why."""
        found: list[LoraInfo] = []
        for path in weight_files_in(self._folder):
            with leaving_out(path):
                found.append(_describe(path))
        self._infos = found

    def all(self) -> list[LoraInfo]:
        """By path."""
        return list(self._infos)

    def find(self, name: str) -> LoraInfo | None:
        """By name, then by alias, then by either in any case."""
        asked = name.strip().removesuffix(SUFFIX)
        for of in (lambda i: i.name, lambda i: i.alias):
            for info in self._infos:
                if asked and of(info) == asked:
                    return info
        return next(
            (i for i in self._infos if asked.lower() in (i.name.lower(), i.alias.lower() or None)), None
        )

    def adapter(self, info: LoraInfo) -> Adapter:
        """The network of ``info``, read where it is not in memory. Raises :class:`ModelLoadError`."""
        path = Path(info.filename)
        try:
            key = identity(path)
        except OSError:
            raise ModelLoadError(f"The LoRA file {path.name} is gone: refresh the LoRAs.") from None

        def read() -> Adapter:
            return Adapter.of(read_tensors(path, MAIN_MEMORY))

        return self._adapters.get(key, read, lambda adapter: adapter.size)

    def hash_of(self, info: LoraInfo) -> str:
        """Twelve digits, as A1111 and Civitai show them: SHA-256 of the tensors without the file's header."""
        stated = str(info.metadata.get("sshs_model_hash", ""))
        return (stated or sha256_of(Path(info.filename), skip_header=True))[:_HASH_DIGITS]


def _describe(path: Path) -> LoraInfo:
    """What the header of a network says. Raises :class:`ModelLoadError` for a file that holds none."""
    entries, metadata = read_header(path)
    # Names alone tell: an adapter of shapes only.
    shapes = Adapter.of(
        (name, torch.empty(entry.shape, dtype=dtype_for(entry, torch.float32), device="meta"))
        for name, entry in entries.items()
    )
    if not any(shapes.layers.values()):
        raise ModelLoadError("it holds no LoRA network")
    alias = metadata.get("ss_output_name", "")
    return LoraInfo(path.stem, str(path), "" if alias == "None" else alias, metadata)


class Networks:
    """The networks that ``tags`` ask for, on ``model`` from :meth:`put_on` to :meth:`take_off`.

    ``comments`` are for the client, ``hashes`` (by name) for the infotext. ``room``: free bytes on the model's device.
    """

    def __init__(self, shelf: LoraShelf, model: Model, tags: tuple[NetworkTag, ...], room: int = 0) -> None:
        self.tags = tags
        self.comments: list[str] = []
        self.hashes: dict[str, str] = {}
        self._model = model
        self._key: Hashable = model.conditioner.key
        self._names: list[str] = []
        scaled: list[Scaled] = []
        self._encoder_key: list[tuple[str, float, int | None]] = []
        missing: list[str] = []
        asked = [(tag, lora_weights(tag)) for tag in tags]
        # As in A1111 a network that is named twice acts twice, both times as strongly as the last tag says.
        last = {tag.name: wanted for tag, wanted in asked}
        for tag, _ in asked:
            wanted = last[tag.name]
            info = shelf.find(tag.name) if tag.kind in ("lora", "lyco") else None
            if info is None:
                missing.append(tag.name)
                continue
            scaled.append(Scaled(shelf.adapter(info), wanted.text_encoder, wanted.unet, wanted.dyn_dim))
            self._encoder_key.append((identity(Path(info.filename)), wanted.text_encoder, wanted.dyn_dim))
            self._names.append(info.name)
            self.hashes[info.name] = shelf.hash_of(info)
        if missing:
            self.comments.append(f"Networks not found: {', '.join(dict.fromkeys(missing))}")
        self._layers = [len(network.adapter.layers) for network in scaled]
        self._patch = WeightPatch(model, scaled, room)

    def put_on(self) -> None:
        """Change the weights; the prompts' cached encodings are told apart by the networks on the text encoders."""
        if not self._names:
            return
        self._patch.apply()
        self._model.conditioner.key = (self._key, tuple(self._encoder_key))
        for name, unmatched, layers in zip(self._names, self._patch.unmatched, self._layers, strict=True):
            if len(unmatched) == layers:
                self.comments.append(
                    f"LoRA {name} changes nothing: none of its layers fits this checkpoint, it was made for "
                    "another family."
                )

    def take_off(self) -> None:
        """Put the weights of before back. Harmless where they are."""
        self._model.conditioner.key = self._key
        self._patch.restore()

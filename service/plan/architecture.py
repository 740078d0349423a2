"""What a checkpoint is made of, from headers and configurations: no tensor is read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from service.catalogue import sidecar
from service.catalogue.layouts import PARTS, UNET, VAE, configuration, identify, read_json, weights_of
from service.catalogue.weights import INDEX, TensorEntry, read_header
from service.core.errors import ModelLoadError
from service.plan.networks.autoencoder import latent_factor

TEXT: Final = ("text_encoder", "text_encoder_2")

_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "unet": {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "vae": {"latent_channels": 4, "block_out_channels": [64]},
    "text_encoder": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12},
    "text_encoder_2": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12},
}
"""What diffusers and transformers take where a configuration is silent."""

_WHOLE: Final = ("I64", "I32", "I16", "I8", "U8", "BOOL")
_ITEMSIZE: Final = {"I64": 8, "I32": 4, "I16": 2}


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """One network: its configuration, and its numbers by what may become of them.

    ``numbers`` are floating, of which ``castable`` may be stored in 8 bits (weights and biases of convolutions and
    linear layers); ``other`` bytes are integers, which stay as they are. ``tensors`` counts all.
    """

    name: str
    config: Mapping[str, Any]
    numbers: int
    castable: int
    other: int = 0
    tensors: int = 0
    largest: int = 0
    """Numbers of the largest tensor."""

    def size(self, itemsize: int, *, fp8: bool = False) -> int:
        """Bytes of the weights at ``itemsize`` bytes a number."""
        small = self.castable if fp8 else 0
        return (self.numbers - small) * itemsize + small + self.other


@dataclass(frozen=True, eq=False, slots=True)
class Architecture:
    """A checkpoint's networks by diffusers' names, and what its family needs."""

    title: str
    parts: Mapping[str, Part]

    @property
    def is_sdxl(self) -> bool:
        """True for SDXL and its refiner."""
        return "text_encoder_2" in self.parts

    @property
    def vae_overflows(self) -> bool:
        """True if the VAE may overflow at half precision, so that it decodes in single: SDXL's, unless it says no."""
        vae = self.parts["vae"].config
        return (
            self.is_sdxl and bool(vae.get("force_upcast", True)) and "decoder_block_out_channels" not in vae
        )

    @property
    def native_size(self) -> int:
        """Side in pixels of the images that it was trained on."""
        size = self.parts["unet"].config.get("sample_size") or 64
        return int(size if isinstance(size, int) else max(size)) * latent_factor(self.parts["vae"].config)

    def size(self, names: Iterable[str], itemsize: int, *, fp8: bool = False) -> int:
        """Bytes of the weights of some parts; only the UNet's are ever stored in 8 bits."""
        return sum(
            self.parts[name].size(itemsize, fp8=fp8 and name == "unet")
            for name in names
            if name in self.parts
        )


def read_architecture(path: Path, title: str = "") -> Architecture:
    """The networks of the checkpoint at ``path``: a diffusers folder or one file. Raises :class:`ModelLoadError`."""
    parts = _folder(path) if path.is_dir() else _file(path)
    return Architecture(title or path.name, parts)


def _folder(folder: Path) -> dict[str, Part]:
    index = read_json(folder / INDEX)
    found: dict[str, Part] = {}
    for name in PARTS:
        value = index.get(name)
        if not isinstance(value, list) or len(value) != 2 or value[1] is None:
            continue
        entries: dict[str, TensorEntry] = {}
        for file in weights_of(folder / name):
            entries |= read_header(file)[0]
        found[name] = part_of(name, read_json(folder / name / "config.json"), entries)
    if "unet" not in found or "vae" not in found:
        raise ModelLoadError(f"{folder} has no UNet or no VAE: it is no checkpoint of Stable Diffusion.")
    return found


def _file(path: Path) -> dict[str, Part]:
    entries, _ = read_header(path)
    layout = identify(path, entries)
    configurations = configuration(layout.family)
    if (beside := sidecar.read(path)) is not None:
        sidecar.apply(beside, configurations, path.name)
    configurations["unet"]["in_channels"] = layout.in_channels
    prefixes = {"unet": UNET, "vae": VAE} | {name: prefix for name, (prefix, _) in layout.encoders.items()}
    return {
        name: part_of(
            name,
            configurations[name],
            {key: entry for key, entry in entries.items() if key.startswith(prefix)},
        )
        for name, prefix in prefixes.items()
    }


def part_of(name: str, config: Mapping[str, Any], entries: Mapping[str, TensorEntry]) -> Part:
    """The sums over a part's tensors."""
    floating = {key: prod(entry.shape) for key, entry in entries.items() if entry.dtype not in _WHOLE}
    other = sum(
        prod(entry.shape) * _ITEMSIZE.get(entry.dtype, 1)
        for entry in entries.values()
        if entry.dtype in _WHOLE
    )
    castable = sum(
        count
        for key, count in floating.items()
        if len(entries[key].shape) in (2, 4) and "embed" not in key and "norm" not in key
    )
    config = {**_DEFAULTS.get(name, {}), **config}
    return Part(
        name, config, sum(floating.values()), castable, other, len(entries), max(floating.values(), default=0)
    )

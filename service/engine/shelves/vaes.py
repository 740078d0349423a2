"""The VAEs in ``SD_MODELS_DIR/vae``: another decoder and encoder for a checkpoint, chosen by the request."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from service.catalogue.checkpoints import sha256_of
from service.catalogue.files import RecentlyUsed, identity, leaving_out, weight_files_in
from service.catalogue.layouts import VAE, configuration, read_json
from service.catalogue.weights import SUFFIX, TensorEntry, read_header
from service.core.errors import BadRequest, ModelLoadError, UnknownName
from service.core.records import VaeInfo
from service.engine.device import Device
from service.engine.families.model import Model
from service.engine.weights import ldm, loading
from service.engine.weights.tensors import fill, read_tensors

OWN: Final = ("", "none", "automatic", "auto", "default")
"""Values of the option ``sd_vae`` that mean the checkpoint's own VAE."""

_KEPT: Final = 1024**3
_CONFIG: Final = "config.json"


class VaeShelf:
    """VAEs by the name of their file or folder; single files in the layout of latent diffusion or of diffusers."""

    def __init__(self, folder: Path | None, *, channels_last: bool = False) -> None:
        self._folder = folder
        self._channels_last = channels_last
        self._infos: list[VaeInfo] = []
        self._modules: RecentlyUsed[nn.Module] = RecentlyUsed(_KEPT)
        self.refresh()

    def refresh(self) -> None:
        """Look at the folder again; files that hold no VAE are left out, and the log says why."""
        found: list[VaeInfo] = []
        root = self._folder
        if root is not None and root.is_dir():
            for config in sorted(root.rglob(_CONFIG)):
                with leaving_out(config):
                    text = config.read_text()
                    if "decoder_block_out_channels" in text or "AutoencoderKL" in text:
                        found.append(VaeInfo(str(config.parent.relative_to(root)), str(config.parent)))
        folders = [Path(info.filename) for info in found]
        for path in weight_files_in(root):
            if path.parent in folders:
                continue
            with leaving_out(path):
                if _decoder_input(read_header(path)[0]) is None:
                    raise ModelLoadError("it holds no VAE")
                found.append(VaeInfo(path.name, str(path)))
        self._infos = found

    def all(self) -> list[VaeInfo]:
        """Folders, then files, by path."""
        return list(self._infos)

    def find(self, name: str) -> VaeInfo:
        """By name, with or without the suffix. Raises :class:`UnknownName`."""
        asked = name.strip()
        for info in self._infos:
            if asked in (info.name, info.name.removesuffix(SUFFIX), info.filename):
                return info
        known = ", ".join(["Automatic", *(info.name for info in self._infos)])
        raise UnknownName(f"There is no VAE {name!r}. Use one of: {known}.")

    def put_in(self, model: Model, name: str | None, device: Device) -> Model:
        """``model`` with the VAE ``name`` in place of its own; ``model`` itself stays as it is.

        Raises :class:`UnknownName`, :class:`BadRequest` for one that does not fit, and :class:`ModelLoadError`.
        """
        if name is None or name.strip().lower() in OWN:
            return model
        info = self.find(name)
        path = Path(info.filename)
        scaling = float(model.vae.config.scaling_factor)
        try:
            key = f"{_identity(path)}:{scaling if path.is_file() else ''}"
        except OSError:
            raise ModelLoadError(f"The VAE {info.name} is gone: refresh the VAEs.") from None

        def load() -> nn.Module:
            made = _load_folder(path, device) if path.is_dir() else _load_file(path, scaling, device)
            made.requires_grad_(False).to(device.torch_device)
            if self._channels_last:
                made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            return made

        vae: Any = self._modules.get(key, load, _bytes_of)
        changed = replace(
            model,
            vae=vae,
            modules={**model.modules, "vae": vae},
            preview_map=None,
            vae_name=info.name,
            vae_hash=sha256_of(path)[:10] if path.is_file() else None,
        )
        if changed.latent_channels != model.latent_channels or changed.latent_factor != model.latent_factor:
            raise BadRequest(
                f"The VAE {info.name} makes latents of {changed.latent_channels} channels at 1/{changed.latent_factor} "
                f"of the size; the checkpoint {model.info.name} needs {model.latent_channels} at "
                f"1/{model.latent_factor}. Choose another VAE, or Automatic."
            )
        return changed

    @property
    def resident_bytes(self) -> int:
        """Bytes of those in memory."""
        return self._modules.size

    def clear(self) -> None:
        """Give back the memory of all VAEs."""
        self._modules.clear()


def _identity(path: Path) -> str:
    return identity(path / _CONFIG if path.is_dir() else path)


def _bytes_of(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def _load_folder(folder: Path, device: Device) -> nn.Module:
    config = read_json(folder / _CONFIG)
    vae = loading.build("vae", str(config.get("_class_name", "AutoencoderKL")), config)
    fill(vae, loading.tensors_of(folder, device), f"VAE in {folder.name}")
    return vae


def _load_file(path: Path, scaling: float, device: Device) -> nn.Module:
    """A VAE of Stable Diffusion's architecture. How its latents are scaled, only the checkpoint says."""
    entries, _ = read_header(path)
    config = configuration("sd1")["vae"] | {"scaling_factor": scaling}
    if shape := _decoder_input(entries):
        config["latent_channels"] = shape[1]
    vae = loading.build("vae", "AutoencoderKL", config)
    prefix = VAE if any(name.startswith(VAE) for name in entries) else ""

    def wanted(name: str) -> bool:
        # Training leaves a loss network and averages behind.
        return name.startswith(prefix) and not name.startswith((f"{prefix}loss.", f"{prefix}model_ema."))

    tensors: Iterator[tuple[str, Tensor]] = read_tensors(path, device, wanted)
    if f"{prefix}decoder.up_blocks.0.resnets.0.conv1.weight" not in entries:
        tensors = ldm.renamed(tensors, prefix, vae)
    fill(vae, tensors, f"VAE in {path.name}")
    return vae


def _decoder_input(entries: dict[str, TensorEntry]) -> tuple[int, ...] | None:
    """The shape of the decoder's first convolution, (…, latent channels, 3, 3), or None if there is no such decoder."""
    for prefix in ("", VAE):
        entry = entries.get(f"{prefix}decoder.conv_in.weight")
        if entry is not None and len(entry.shape) == 4:
            return entry.shape
    return None

"""The upscaling networks in ``SD_MODELS_DIR/upscalers``, and images enlarged by them."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from service.catalogue.files import RecentlyUsed, identity, leaving_out, weight_files_in
from service.catalogue.upscalers import BUILT_IN, LATENT_MODES, enlarged_size
from service.catalogue.weights import read_header
from service.core.errors import ModelLoadError, UnknownName
from service.core.jobs import Enlargement
from service.core.pixels import Pixels
from service.core.records import UpscalerInfo
from service.engine import esrgan
from service.engine.device import Device
from service.engine.generation.upscaling import brought_to, enlarge_image, factor_of

_KEPT: Final = 256 * 1024**2
_MOST_PASSES: Final = 3
"""A network enlarges again until the size is reached, at most so often; a filter does the rest."""


class UpscalerShelf:
    """Networks by file stem, beside the built-in filters."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._infos: list[UpscalerInfo] = []
        self._networks: RecentlyUsed[torch.nn.Module] = RecentlyUsed(_KEPT)
        self.refresh()

    def refresh(self) -> None:
        """Look at the folder again; files that hold no network of a known family are left out."""
        found: list[UpscalerInfo] = []
        for path in weight_files_in(self._folder):
            with leaving_out(path):
                plan = esrgan.plan(path, read_header(path)[0])
                found.append(UpscalerInfo(path.stem, plan.scale, path.stem, str(path), plan.kind))
        self._infos = found

    @property
    def resident_bytes(self) -> int:
        """Bytes of those in memory."""
        return self._networks.size

    def all(self) -> list[UpscalerInfo]:
        """The built-in filters, then networks by path."""
        return [*(UpscalerInfo(name) for name in BUILT_IN), *self._infos]

    def enlarge(
        self,
        image: Pixels,
        to: Enlargement,
        device: Device,
        check: Callable[[], None],
    ) -> Pixels:
        """``image`` at the size of ``to``; ``check`` is called between pieces and may raise.

        Raises :class:`UnknownName` and :class:`ModelLoadError`.
        """
        width, height, factor = to.width, to.height, to.factor
        lowered = to.upscaler.strip().lower()
        built_in = next((known for known in BUILT_IN if known.lower() == lowered), None)
        if built_in is not None:
            return enlarge_image(image, width, height, built_in, factor)
        info = next((info for info in self._infos if info.name.lower() == lowered), None)
        if info is None or info.filename is None:
            known = ", ".join((*LATENT_MODES, *(each.name for each in self.all())))
            raise UnknownName(f"There is no upscaler {to.upscaler!r}. Use one of: {known}.")
        path = Path(info.filename)
        asked = factor_of(image, width, height) if factor is None else factor
        ending = enlarged_size(image.shape[1], image.shape[0], asked) if asked > 1 else (width, height)
        if info.scale > 1:
            network = self._network(path, device)
            for _ in range(_MOST_PASSES):
                if image.shape[1] >= ending[0] and image.shape[0] >= ending[1]:
                    break
                image = esrgan.enlarge(network, image, check)
        else:
            image = esrgan.enlarge(self._network(path, device), image, check)
        return brought_to(brought_to(image, *ending), width, height)

    def _network(self, path: Path, device: Device) -> esrgan.RRDBNet | esrgan.SRVGGNet:
        try:
            key = identity(path)
        except OSError:
            raise ModelLoadError(f"The upscaler {path.name} is gone: refresh the upscalers.") from None

        def load() -> torch.nn.Module:
            return esrgan.load(path, device.torch_device, device.dtype)

        network = self._networks.get(
            key, load, lambda made: sum(p.numel() * p.element_size() for p in made.parameters())
        )
        assert isinstance(network, esrgan.RRDBNet | esrgan.SRVGGNet)
        return network

    def clear(self) -> None:
        """Give back the memory of all networks."""
        self._networks.clear()

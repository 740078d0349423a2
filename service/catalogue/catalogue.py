"""What can be named in a request, as one frozen answer: checkpoints and all that goes with them, and the device.

It is asked for at each request and answered at once, from what is known: never by waking a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from service.catalogue.upscalers import LATENT_MODES
from service.core.errors import UnknownName
from service.core.generation import GenerationRequest
from service.core.records import (
    CheckpointInfo,
    DeviceInfo,
    EmbeddingInfo,
    LoraInfo,
    UpscalerInfo,
    VaeInfo,
)

_UNKNOWN: Final = DeviceInfo("unknown", "unknown")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """``checkpoints``: the default one first. ``upscalers``: None, Lanczos, Nearest, then networks."""

    checkpoints: tuple[CheckpointInfo, ...]
    vaes: tuple[VaeInfo, ...] = ()
    loras: tuple[LoraInfo, ...] = ()
    embeddings: tuple[EmbeddingInfo, ...] = ()
    upscalers: tuple[UpscalerInfo, ...] = ()
    device: DeviceInfo = _UNKNOWN
    complete: bool = True
    """False where nothing was heard yet of whoever has the files: then any name may exist, and its owner will say."""

    @property
    def default(self) -> CheckpointInfo:
        """What a request without a name gets."""
        return self.checkpoints[0]

    def find(self, name: str) -> CheckpointInfo:
        """The checkpoint that a client means. Raises :class:`UnknownName`."""
        try:
            return find_checkpoint(self.checkpoints, name)
        except UnknownName:
            if self.complete:
                raise
            return CheckpointInfo(name, name, name)

    def find_loosely(self, name: str) -> CheckpointInfo:
        """The same, or one with ``name`` in its title: so A1111 takes refiners and second passes."""
        try:
            return self.find(name)
        except UnknownName:
            for info in self.checkpoints:
                if name.lower() in info.title.lower():
                    return info
            raise

    def title_of(self, name: str) -> str | None:
        """The title of a checkpoint by any of its names; None if there is none."""
        try:
            return self.find(name).title
        except UnknownName:
            return None

    def check_vae(self, name: str | None) -> None:
        """Raise :class:`UnknownName` unless ``name`` (None: the checkpoint's own) is a VAE."""
        names = [vae.name for vae in self.vaes]
        if self.complete and name is not None and name not in names:
            raise UnknownName(
                f"There is no VAE {name!r}. Use one of: {', '.join(['Automatic', 'None', *names])}."
            )

    def check_upscaler(self, name: str, also: Sequence[str] = ()) -> None:
        """Raise :class:`UnknownName` unless ``name`` is an upscaler, or among ``also``."""
        names = [*also, *(upscaler.name for upscaler in self.upscalers)]
        if self.complete and name not in names:
            raise UnknownName(f"There is no upscaler {name!r}. Use one of: {', '.join(names)}.")

    def named(self, request: GenerationRequest) -> GenerationRequest:
        """``request`` with titles for the checkpoints that it names. Raises :class:`UnknownName`."""
        hires = request.hires
        if hires is not None:
            self.check_upscaler(hires.upscaler, LATENT_MODES)
            if hires.checkpoint is not None:
                hires = replace(hires, checkpoint=self.find_loosely(hires.checkpoint).title)
        self.check_vae(request.vae)
        checkpoint, refiner = request.checkpoint, request.refiner_checkpoint
        return replace(
            request,
            checkpoint=None if checkpoint is None else self.find(checkpoint).title,
            refiner_checkpoint=None if refiner is None else self.find_loosely(refiner).title,
            hires=hires,
        )


def find_checkpoint(infos: Sequence[CheckpointInfo], name: str) -> CheckpointInfo:
    """By title, file name, model name, short or whole SHA-256, or "name [hash]". Raises :class:`UnknownName`."""
    asked = name.strip()
    for info in infos:
        path = Path(info.filename)
        plain = info.title.removesuffix(f" [{info.short_hash}]")
        names = {info.title, plain, info.name, path.name, path.stem, info.short_hash, info.sha256} - {None}
        if asked in names or asked.rsplit(" [", 1)[0] in {plain, info.name, path.name, path.stem}:
            return info
    known = ", ".join(info.title for info in infos)
    raise UnknownName(f"There is no checkpoint {name!r}. Use one of: {known}.")

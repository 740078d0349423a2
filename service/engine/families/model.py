"""The parts of a loaded checkpoint that every family has: networks on a device, an autoencoder, text encoders."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from service.catalogue.samplers import Sampler, Scheduler
from service.core.generation import SamplingShape
from service.core.pixels import Pixels
from service.core.records import CheckpointInfo
from service.engine.conditioning import Conditioner, Conditioning
from service.engine.families import autoencoder
from service.engine.families.protocol import TextOptions, Told
from service.engine.measures import VAE, Residence
from service.engine.samplers.schedules import Walk, walk

_LOOKED_AT: Final = 64
"""Numbers of a tensor, as they lie in memory."""


@dataclass(eq=False)
class Model(ABC):
    """A checkpoint on its device; what its network does is up to its family (see :class:`protocol.Family`).

    ``sigmas`` are the training noise levels in VE space (1000, ascending, float32, CPU).
    """

    info: CheckpointInfo
    vae: Any
    conditioner: Conditioner
    sigmas: Tensor
    modules: dict[str, nn.Module] = field(default_factory=dict)
    """All networks by their diffusers name, text encoders included."""
    preview_map: Tensor | None = None
    """Latent to RGB, (channels + 1, 3), float32, CPU; made when the first preview is asked for."""
    vae_name: str | None = None
    """Set where a request chose a VAE other than the checkpoint's own; ``vae_hash`` with it."""
    vae_hash: str | None = None
    residence: Residence | None = None
    """Which networks are on the device, where that may change."""

    @property
    @abstractmethod
    def network(self) -> Any:
        """The one that denoises."""

    @property
    @abstractmethod
    def native_size(self) -> int:
        """Side of the images that the checkpoint was trained on, in pixels."""

    @abstractmethod
    def predict(self, x: Tensor, sigma: float, told: Told) -> Tensor:
        """See :meth:`protocol.Family.predict`."""

    def broken_part(self) -> str | None:
        """A part that begins a tensor with what is no number (NaN, infinite); None where all look well.

        A look at the first numbers of each tensor: milliseconds, where running the network takes seconds.
        """
        for part, module in self.modules.items():
            for tensor in module.parameters():
                first = torch.as_strided(tensor, (min(_LOOKED_AT, tensor.numel()),), (1,))
                if not torch.isfinite(first.float()).all():
                    return part
        return None

    @property
    def is_inpainting(self) -> bool:
        """True if the network also takes the mask and the masked image."""
        return False

    @property
    def device(self) -> torch.device:
        """Where latents live."""
        if self.residence is not None:
            return self.residence.device
        return next(iter(self.vae.parameters())).device

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: 4 for Stable Diffusion."""
        return int(self.vae.config.latent_channels)

    @property
    def latent_factor(self) -> int:
        """Pixels per latent cell and side."""
        return autoencoder.factor(self.vae)

    @property
    def resident_bytes(self) -> int:
        """Bytes of all parameters and buffers."""
        return sum(
            tensor.numel() * tensor.element_size()
            for module in self.modules.values()
            for tensor in (*module.parameters(), *module.buffers())
        )

    def to(self, device: torch.device) -> None:
        """Move all networks."""
        for module in self.modules.values():
            module.to(device)

    def _use(self, names: Sequence[str]) -> None:
        if self.residence is not None:
            self.residence.use(names)

    def condition(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str],
        options: TextOptions,
        check: Callable[[], None],
    ) -> Conditioning:
        """See :meth:`protocol.Family.condition`."""
        return self.conditioner.encode(
            prompts,
            negatives,
            steps=options.steps,
            hires_steps=options.hires_steps,
            clip_skip=options.clip_skip,
            emphasis=options.emphasis,
            comma_backtrack=options.comma_backtrack,
            padding=options.padding,
            raise_if_cancelled=check,
        )

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """See :meth:`protocol.Family.latent_shape`."""
        columns, rows = (autoencoder.cells(side, self.latent_factor) for side in (width, height))
        return self.latent_channels, rows, columns

    def walk(
        self, sampler: Sampler, scheduler: Scheduler, steps: int, shape: SamplingShape, encoded: int | None
    ) -> Walk:
        """See :meth:`protocol.Family.walk`."""
        return walk(sampler, scheduler, steps, self.sigmas, shape, encoded=encoded)

    def encode(self, images: Tensor, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Latents (float32, of unit variance) of images (n, 3, height, width) in -1..1.

        ``noise`` draws for the autoencoder's distribution, image by image; without it its mean is taken.
        """
        self._use(VAE)
        return autoencoder.encode(self.vae, images, noise)

    def decode(self, latents: Tensor, width: int, height: int) -> list[Pixels]:
        """The pictures of latents (n, c, h, w), at width × height but for a remainder of a division by 8."""
        self._use(VAE)
        return autoencoder.decode(self.vae, latents, width, height)

    def preview(self, denoised: Tensor) -> Pixels:
        """A rough picture of the first latent, at least 128 pixels a side: one small matrix product."""
        if self.preview_map is None:
            self._use(VAE)
            self.preview_map = autoencoder.fit_preview(self.vae)
        return autoencoder.preview(denoised, self.preview_map)

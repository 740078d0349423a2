"""A loaded checkpoint: its networks, tokenizers and noise schedule, ready for the denoising loop."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from service.core.records import CheckpointInfo
from service.engine.conditioning import Conditioner

Prediction: TypeAlias = Literal["epsilon", "v_prediction", "sample"]


@dataclass(eq=False)
class Model:
    """The parts of one checkpoint on their device.

    ``sigmas`` are the training noise levels (1000, ascending, float32, CPU). ``latent_factor`` is the VAE's
    downscaling (8 for Stable Diffusion), ``native_size`` the side in pixels that the checkpoint was trained at.
    """

    info: CheckpointInfo
    unet: Any
    vae: Any
    conditioner: Conditioner
    sigmas: Tensor
    prediction: Prediction
    is_sdxl: bool = False
    takes_aesthetic_score: bool = False
    """The SDXL refiner is told an aesthetic score in place of the target size."""
    modules: dict[str, nn.Module] = field(default_factory=dict)
    """All networks by their diffusers name, text encoders included."""
    preview_map: Tensor | None = None
    """Latent to RGB, (channels + 1, 3), float32, CPU; made when the first preview is asked for."""
    vae_name: str | None = None
    """Set where a request chose a VAE other than the checkpoint's own; ``vae_hash`` with it."""
    vae_hash: str | None = None

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: 4 for Stable Diffusion."""
        return int(self.vae.config.latent_channels)

    @property
    def latent_factor(self) -> int:
        """Pixels per latent cell and side."""
        config: Any = self.vae.config
        blocks = getattr(config, "decoder_block_out_channels", None) or config.block_out_channels
        return int(2 ** (len(blocks) - 1))

    @property
    def native_size(self) -> int:
        """Side of the images that the checkpoint was trained on, in pixels."""
        size = self.unet.config.sample_size
        return int(size if isinstance(size, int) else max(size)) * self.latent_factor

    @property
    def is_inpainting(self) -> bool:
        """True if the UNet also takes the mask and the masked image."""
        return int(self.unet.config.in_channels) == 2 * self.latent_channels + 1

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

"""Stable Diffusion 1 and 2, XL and its refiner: a UNet that predicts noise or velocity in 1000 timesteps."""

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor

from service.catalogue.samplers import Sampler, Scheduler
from service.core.generation import SamplingShape
from service.engine.families.model import Model
from service.engine.families.protocol import Told
from service.engine.families.token_merging import merged_tokens
from service.engine.samplers.schedules import Walk, sigma_to_timestep, walk

Prediction: TypeAlias = Literal["epsilon", "v_prediction", "sample"]

AESTHETIC_SCORES: Final = (6.0, 2.5)
"""What the SDXL refiner is told of the picture: for the prompt, for the negative prompt."""


@dataclass(eq=False, kw_only=True)
class StableDiffusion(Model):
    """Stable Diffusion 1.x and 2.x, inpainting checkpoints among them."""

    unet: Any
    prediction: Prediction = "epsilon"

    @property
    def network(self) -> Any:
        """The UNet."""
        return self.unet

    @property
    def native_size(self) -> int:
        """Side of the images that the checkpoint was trained on, in pixels."""
        size = self.unet.config.sample_size
        return int(size if isinstance(size, int) else max(size)) * self.latent_factor

    @property
    def is_inpainting(self) -> bool:
        """True if the UNet takes nine channels: the latent, the mask and the masked image."""
        return int(self.unet.config.in_channels) == 2 * self.latent_channels + 1

    def predict(self, x: Tensor, sigma: float, told: Told) -> Tensor:
        """The clean latent of ``x`` at ``sigma``; the network runs in the precision of ``told.states``."""
        variance = sigma * sigma + 1.0
        timestep = told.timestep
        if timestep is None:
            timestep = float(sigma_to_timestep(torch.tensor(sigma), self.sigmas))
        scaled = x / variance**0.5
        if told.concat is not None:
            scaled = torch.cat([scaled, told.concat], dim=1)
        if told.states.dtype in (torch.float16, torch.bfloat16):
            scaled = scaled.to(told.states.dtype)
        with merged_tokens(self.unet, x.shape[2], x.shape[3], told.token_merging):
            out = self.unet(
                scaled,
                torch.tensor(timestep, device=x.device),
                encoder_hidden_states=told.states,
                added_cond_kwargs=self._added(told),
                return_dict=False,
            )[0].float()
        match self.prediction:
            case "epsilon":
                return x - sigma * out
            case "v_prediction":
                # v = alpha·eps − sigma·x0 in the variance-preserving scale (Salimans & Ho 2022, arXiv:2202.00512).
                return x / variance - out * (sigma / variance**0.5)
            case _:
                return torch.as_tensor(out)

    def _added(self, told: Told) -> dict[str, Any] | None:
        """What the UNet is told beside the text: nothing."""
        return None


@dataclass(eq=False, kw_only=True)
class StableDiffusionXL(StableDiffusion):
    """SDXL: two text encoders, and sizes that the UNet is told."""

    def walk(
        self, sampler: Sampler, scheduler: Scheduler, steps: int, shape: SamplingShape, encoded: int | None
    ) -> Walk:
        """Align Your Steps has a list of its own for SDXL."""
        return walk(sampler, scheduler, steps, self.sigmas, shape, encoded=encoded, sdxl=True)

    def _added(self, told: Told) -> dict[str, Any]:
        ids = self._sizes(told).to(device=told.states.device, dtype=told.states.dtype)
        return {"text_embeds": told.pooled, "time_ids": ids}

    def _sizes(self, told: Told) -> Tensor:
        """Original size, crop, target size, one row each."""
        width, height = told.size
        return torch.tensor([[height, width, 0, 0, height, width]]).repeat(len(told.states), 1)


@dataclass(eq=False, kw_only=True)
class Refiner(StableDiffusionXL):
    """SDXL's refiner: the larger text encoder alone, and an aesthetic score in place of the target size."""

    def _sizes(self, told: Told) -> Tensor:
        width, height = told.size
        ids = torch.tensor([[height, width, 0, 0, AESTHETIC_SCORES[0]]]).repeat(len(told.states), 1)
        if told.negative_rows:
            ids[-told.negative_rows :, -1] = AESTHETIC_SCORES[1]
        return ids

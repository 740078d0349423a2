"""The model with guidance, as samplers see it: latents and a noise level in, the predicted clean latent out."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.core.cancel import CancelToken
from service.engine.conditioning import Conditioning, StepConditioning
from service.engine.families.model import Model
from service.engine.samplers.schedules import sigma_to_timestep

AESTHETIC_SCORES = (6.0, 2.5)
"""What the SDXL refiner is told of the picture: for the prompt, for the negative prompt."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A model and its conditioning, in charge from sampler step ``from_step`` on (0-based)."""

    model: Model
    conditioning: Conditioning
    from_step: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """The part of the latent that inpainting keeps. ``mask`` (n or 1, 1, h, w) is 1 where it is repainted."""

    original: Tensor
    mask: Tensor


class GuidedDenoiser:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) around a UNet; one per pass.

    Called by the sampler with latents in VE space (n, c, h, w). Looks at ``token`` before each call of the
    UNet. ``concat`` (n, 5, h, w) is what an inpainting UNet takes beside the latent. ``size`` is the image's
    (width, height) in pixels, which SDXL is told.
    """

    def __init__(
        self,
        stages: list[Stage],
        guidance_scale: float,
        token: CancelToken,
        *,
        size: tuple[int, int],
        s_min_uncond: float = 0.0,
        kept: Kept | None = None,
        concat: Tensor | None = None,
    ) -> None:
        self._stages = stages
        self._scale = guidance_scale
        self._token = token
        self._size = size
        self._s_min_uncond = s_min_uncond
        self._kept = kept
        self._concat = concat
        self._calls = 0
        self._uncond: Tensor | None = None
        self.step = 0
        """Sampler steps done; kept up to date by the pass (a step may call the model more than once)."""

    @property
    def uncond_denoised(self) -> Tensor:
        """The unconditional half of the latest prediction (for CFG++)."""
        assert self._uncond is not None, "the denoiser has not been called"
        return self._uncond

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Predict the clean latent of ``x`` at noise level ``sigma`` (0-dim, > 0)."""
        self._token.raise_if_cancelled()
        stage = next(s for s in reversed(self._stages) if s.from_step <= self.step)
        now = stage.conditioning.step(self._calls)
        level = float(sigma)
        # Every other step may go without the negative prompt where the noise is already low.
        skip = self._scale == 1.0 or (self._calls % 2 == 1 and level < self._s_min_uncond)
        self._calls += 1
        if skip and not now.is_composed:
            denoised = self._predict(stage.model, x, level, now.cond, now.cond_pooled, now, 0)
            self._uncond = denoised
        else:
            rows = torch.cat([now.rows(x), x])
            both = self._predict(stage.model, rows, level, now.both, now.both_pooled, now, len(x))
            cond, uncond = both[: len(now.images)], both[len(now.images) :]
            denoised = now.guide(cond, uncond, self._scale)
            self._uncond = uncond
        if self._kept is not None:
            kept, mask = self._kept.original, self._kept.mask
            denoised = denoised * mask + kept * (1 - mask)
        return denoised

    def _predict(
        self,
        model: Model,
        x: Tensor,
        sigma: float,
        states: Tensor,
        pooled: Tensor | None,
        now: StepConditioning,
        negative_rows: int,
    ) -> Tensor:
        """The clean latent without guidance of rows ``x``; the last ``negative_rows`` are unconditional."""
        variance = sigma * sigma + 1.0
        timestep = float(sigma_to_timestep(torch.tensor(sigma), model.sigmas))
        scaled = x / variance**0.5
        if self._concat is not None:
            extra = self._concat
            if negative_rows or len(x) != len(extra):
                extra = torch.cat([now.rows(extra), extra]) if negative_rows else now.rows(extra)
            scaled = torch.cat([scaled, extra], dim=1)
        added: dict[str, Any] | None = None
        if model.is_sdxl or model.takes_aesthetic_score:
            added = {"text_embeds": pooled, "time_ids": self._time_ids(model, len(x), negative_rows, states)}
        dtype = states.dtype
        if dtype in (torch.float16, torch.bfloat16):
            scaled = scaled.to(dtype)
        out = model.unet(
            scaled,
            torch.tensor(timestep, device=x.device),
            encoder_hidden_states=states,
            added_cond_kwargs=added,
            return_dict=False,
        )[0].float()
        match model.prediction:
            case "epsilon":
                return x - sigma * out
            case "v_prediction":
                # v = alpha·eps − sigma·x0 in the variance-preserving scale (Salimans & Ho 2022, arXiv:2202.00512).
                return x / variance - out * (sigma / variance**0.5)
            case _:
                return out

    def _time_ids(self, model: Model, rows: int, negative_rows: int, like: Tensor) -> Tensor:
        """SDXL's micro-conditioning: original size, crop, target size (the refiner: an aesthetic score)."""
        width, height = self._size
        if not model.takes_aesthetic_score:
            ids = torch.tensor([[height, width, 0, 0, height, width]]).repeat(rows, 1)
        else:
            ids = torch.tensor([[height, width, 0, 0, AESTHETIC_SCORES[0]]]).repeat(rows, 1)
            if negative_rows:
                ids[-negative_rows:, -1] = AESTHETIC_SCORES[1]
        return ids.to(device=like.device, dtype=like.dtype)

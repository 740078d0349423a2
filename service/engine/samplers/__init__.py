"""Samplers: functions over sigmas that turn noise into a latent. :func:`sample` is the way in.

They know nothing of prompts, guidance or models: that is the :class:`Denoiser`'s part. Which names exist, and
which schedule each likes best, is in :mod:`service.samplers`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from service.engine.samplers.dpm_solver_pp import dpmpp_2m
from service.engine.samplers.euler import euler, euler_ancestral
from service.engine.samplers.protocol import (
    BrownianNoise,
    Denoiser,
    Noise,
    OnStep,
    SamplerFunction,
    SamplerOptions,
    UnconditionalDenoiser,
)
from service.errors import UnknownName

__all__ = [
    "SAMPLERS",
    "BrownianNoise",
    "Denoiser",
    "Noise",
    "OnStep",
    "SamplerFunction",
    "SamplerOptions",
    "UnconditionalDenoiser",
    "sample",
]

SAMPLERS: Final[Mapping[str, SamplerFunction]] = MappingProxyType(
    {
        "DPM++ 2M": dpmpp_2m,
        "Euler a": euler_ancestral,
        "Euler": euler,
    }
)
"""The function of each sampler, by the name that :mod:`service.samplers` gives it."""


@torch.no_grad()
def sample(
    sampler_name: str,
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: Noise,
    options: SamplerOptions,
    on_step: OnStep,
) -> Tensor:
    """Denoise ``x`` with the sampler of that canonical name ("DPM++ 2M") and return the final latent.

    ``x`` is a latent in VE space, shape (batch, channels, height, width), at noise level ``sigmas[0]``: for
    txt2img ``noise * sigmas[0]``, for img2img ``latent + noise * sigmas[0]``. ``sigmas`` descends, on the
    CPU, and comes from :func:`service.engine.schedules.sampler_sigmas` (or is a tail of it). ``on_step`` is
    called once per step, ``len(sigmas) - 1`` times, also by samplers that ask the model twice in a step; only
    "DPM fast" calls it less often, and "DPM adaptive" as often as it needs to. Whatever ``on_step`` or
    ``denoiser`` raise passes through.

    Raises :class:`UnknownName` if there is no such sampler.
    """
    function = SAMPLERS.get(sampler_name)
    if function is None:
        raise UnknownName(f"There is no sampler {sampler_name!r}. Use one of: {', '.join(SAMPLERS)}.")
    sigmas = sigmas.to(device="cpu", dtype=torch.float32)
    if len(sigmas) < 2:
        return x
    return function(denoiser, x, sigmas, noise, options, on_step)

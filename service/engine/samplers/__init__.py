"""Samplers: functions over sigmas that turn noise into a latent. :func:`sample` is the way in.

They know nothing of prompts, guidance or models: that is the :class:`Denoiser`'s part. Which names exist, and
which schedule each likes best, is in :mod:`service.catalogue.samplers`.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from service.catalogue.samplers import SAMPLERS as CATALOGUE
from service.core.errors import UnknownName
from service.engine.samplers.ddim import ddim, ddim_cfgpp
from service.engine.samplers.dpm_solver import dpm_adaptive, dpm_fast
from service.engine.samplers.dpm_solver_pp import (
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_2m_sde_heun,
    dpmpp_2s_ancestral,
    dpmpp_3m_sde,
    dpmpp_sde,
)
from service.engine.samplers.euler import euler, euler_ancestral
from service.engine.samplers.lcm import lcm
from service.engine.samplers.multistep import lms, plms
from service.engine.samplers.protocol import (
    BrownianNoise,
    Denoiser,
    Noise,
    OnStep,
    SamplerFunction,
    SamplerOptions,
    UnconditionalDenoiser,
)
from service.engine.samplers.restart import restart
from service.engine.samplers.second_order import dpm_2, dpm_2_ancestral, heun
from service.engine.samplers.steps import to_variance_preserving
from service.engine.samplers.unipc import unipc

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
        "DPM++ SDE": dpmpp_sde,
        "DPM++ 2M SDE": dpmpp_2m_sde,
        "DPM++ 2M SDE Heun": dpmpp_2m_sde_heun,
        "DPM++ 2S a": dpmpp_2s_ancestral,
        "DPM++ 3M SDE": dpmpp_3m_sde,
        "Euler a": euler_ancestral,
        "Euler": euler,
        "LMS": lms,
        "Heun": heun,
        "DPM2": dpm_2,
        "DPM2 a": dpm_2_ancestral,
        "DPM fast": dpm_fast,
        "DPM adaptive": dpm_adaptive,
        "Restart": restart,
        "DDIM": ddim,
        "DDIM CFG++": ddim_cfgpp,
        "PLMS": plms,
        "UniPC": unipc,
        "LCM": lcm,
    }
)
"""The function of each sampler, by the name that :mod:`service.catalogue.samplers` gives it."""


_SHORTEST_STEP: Final = 1e-5
"""Relative to sigma; float32 cannot tell much closer sigmas apart."""

_PARAMETERS: Final = {sampler.name: frozenset(sampler.parameters) for sampler in CATALOGUE}
_OWN_SCHEDULE: Final = {sampler.name for sampler in CATALOGUE if sampler.own_schedule}
_DEFAULTS: Final = {
    name: getattr(SamplerOptions(), name) for name in ("eta", "s_churn", "s_tmin", "s_tmax", "s_noise")
}


def _distinct(sigmas: Tensor) -> Tensor:
    """``sigmas`` without steps that lead nowhere.

    Schedules of very many steps, or with a large rho, repeat noise levels; multistep samplers would divide by
    the length of such a step.
    """
    falls = sigmas[1:] < sigmas[:-1] * (1 - _SHORTEST_STEP)
    return sigmas[torch.cat([torch.tensor([True]), falls])]


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
    CPU, and comes from :func:`service.engine.samplers.schedules.sampler_sigmas` (or is a tail of it). ``on_step`` is
    called once per step, ``len(sigmas) - 1`` times, also by samplers that ask the model twice in a step; only
    "DPM fast" calls it less often, and "DPM adaptive" as often as it needs to. Whatever ``on_step`` or
    ``denoiser`` raise passes through.

    Raises :class:`UnknownName` if there is no such sampler.
    """
    function = SAMPLERS.get(sampler_name)
    if function is None:
        raise UnknownName(f"There is no sampler {sampler_name!r}. Use one of: {', '.join(SAMPLERS)}.")
    sigmas = _distinct(sigmas.to(device="cpu", dtype=torch.float32))
    if len(sigmas) < 2:
        return to_variance_preserving(x, sigmas[-1]) if sampler_name in _OWN_SCHEDULE else x
    unused = {name: value for name, value in _DEFAULTS.items() if name not in _PARAMETERS[sampler_name]}
    return function(denoiser, x, sigmas, noise, replace(options, **unused), on_step)

"""The sampler of latent consistency models."""

import torch
from torch import Tensor

from service.engine.samplers.protocol import Denoiser, Noise, OnStep, SamplerOptions
from service.engine.samplers.schedules import lcm_timestep
from service.engine.samplers.steps import training_table

_SIGMA_DATA = 0.5
_TIMESTEP_SCALING = 10.0


def _boundary(sigma: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """``(c_skip, c_out)``: they make the consistency function the identity as the timestep goes to 0.

    The timestep is the nearest that the model was distilled on; the denoiser is asked at it, too.
    """
    scaled = torch.tensor(lcm_timestep(float(sigma), table) * _TIMESTEP_SCALING)
    norm = scaled**2 + _SIGMA_DATA**2
    return _SIGMA_DATA**2 / norm, scaled / norm.sqrt()


def lcm(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """Multistep consistency sampling (Luo et al. 2023, arXiv:2310.04378): predict x0, add fresh noise,
    repeat.

    Needs ``options.table``.
    """
    table = training_table(options)
    for i in range(len(sigmas) - 1):
        c_skip, c_out = _boundary(sigmas[i], table)
        denoised = c_out * denoiser(x, sigmas[i]) + c_skip * x
        x = denoised
        if sigmas[i + 1] > 0:
            x = x + sigmas[i + 1] * noise.ancestral(x)
        on_step(i, x, denoised)
    return x

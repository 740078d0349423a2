"""Samplers of first order: Euler and Euler ancestral."""

from torch import Tensor

from service.engine.samplers.protocol import Denoiser, Noise, OnStep, SamplerOptions
from service.engine.samplers.steps import ancestral_step, churn, eta_or, slope


def euler(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364) without its second-order correction."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x, sigma = churn(x, sigmas[i], steps, noise, options)
        denoised = denoiser(x, sigma)
        x = x + slope(x, sigma, denoised) * (sigmas[i + 1] - sigma)
        on_step(i, x, denoised)
    return x


def euler_ancestral(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """Euler steps of the ODE, each followed by fresh noise.

    At ``eta`` 1 it is the ancestral sampling of DDPM (Ho et al. 2020, arXiv:2006.11239), at 0 plain Euler.
    """
    eta = eta_or(options, 1.0)
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        denoised = denoiser(x, sigma)
        sigma_down, sigma_up = ancestral_step(sigma, sigma_next, eta)
        x = x + slope(x, sigma, denoised) * (sigma_down - sigma)
        if sigma_next > 0:
            x = x + noise.ancestral(x) * options.s_noise * sigma_up
        on_step(i, x, denoised)
    return x

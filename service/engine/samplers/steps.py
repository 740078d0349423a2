"""The arithmetic that samplers share: slopes, ancestral splits, churn."""

import math

import torch
from torch import Tensor

from service.engine.samplers.protocol import BrownianNoise, Noise, SamplerOptions


def slope(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """dx/dsigma of the probability flow ODE, eq. 3 of Karras et al. 2022: ``(x - denoised) / sigma``."""
    return (x - denoised) / sigma


def ancestral_step(sigma: Tensor, sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Split a step to ``sigma_next`` into a deterministic part and fresh noise.

    Returns ``(sigma_down, sigma_up)``: go down to ``sigma_down``, then add noise of deviation ``sigma_up``;
    together ``sigma_down² + sigma_up² = sigma_next²``. ``eta`` 0 adds none. It is eq. 16 of DDIM
    (Song et al. 2020, arXiv:2010.02502) written for VE latents.
    """
    if eta == 0:
        return sigma_next, torch.zeros_like(sigma_next)
    variance = sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2
    sigma_up = torch.minimum(sigma_next, eta * variance.clamp(min=0).sqrt())
    return (sigma_next**2 - sigma_up**2).clamp(min=0).sqrt(), sigma_up


def churn(
    x: Tensor, sigma: Tensor, steps: int, noise: Noise, options: SamplerOptions
) -> tuple[Tensor, Tensor]:
    """Raise the noise level before a step (lines 4-6 of algorithm 2 of Karras et al. 2022).

    Returns the noisier latent and its sigma, or both unchanged where there is no churn.
    """
    if options.s_churn <= 0:
        return x, sigma
    # Drawn at every step, so that s_tmin and s_tmax do not shift the noise of later ones.
    drawn = noise.ancestral(x)
    if not options.s_tmin <= float(sigma) <= options.s_tmax:
        return x, sigma
    sigma_hat = sigma * (1 + min(options.s_churn / steps, math.sqrt(2) - 1))
    return x + drawn * options.s_noise * (sigma_hat**2 - sigma**2).sqrt(), sigma_hat


def eta_or(options: SamplerOptions, default: float) -> float:
    """The eta of the request, or the sampler's own."""
    return default if options.eta is None else options.eta


def lowest_sigma(sigmas: Tensor) -> Tensor:
    """The lowest sigma of a schedule that is not zero."""
    return sigmas[sigmas > 0].min()


def brownian(x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions) -> BrownianNoise:
    """The Brownian path of a run over ``sigmas``."""
    low, high = options.brownian_range or (float(lowest_sigma(sigmas)), float(sigmas.max()))
    return noise.brownian(x, low, high)


def to_variance_preserving(x: Tensor, sigma: Tensor) -> Tensor:
    """The latent in the scale that the model was trained in, ``sqrt(a) * x0 + sqrt(1 - a) * noise``.

    DDIM, PLMS and UniPC stop at the lowest sigma of the table, not at 0, and hand over latents of this scale:
    by 0.04 % smaller for Stable Diffusion, and the same as other implementations give.
    """
    return x / (sigma**2 + 1).sqrt()


def training_table(options: SamplerOptions) -> Tensor:
    """The table of the model. Raises :class:`ValueError` if the options have none."""
    if options.table is None:
        raise ValueError("this sampler needs the model's sigmas in SamplerOptions.table")
    return options.table

"""DDIM, and DDIM with CFG++."""

from torch import Tensor

from service.engine.samplers.protocol import Denoiser, Noise, OnStep, SamplerOptions
from service.engine.samplers.steps import ancestral_step, eta_or, slope, to_variance_preserving


def _step(
    x0: Tensor, predicted: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Noise, eta: float
) -> Tensor:
    """Eq. 12 of Song et al. 2020 (arXiv:2010.02502) in VE latents: ``x0`` plus noise, some of it fresh."""
    sigma_down, sigma_up = ancestral_step(sigma, sigma_next, eta)
    x = x0 + sigma_down * predicted
    return x + sigma_up * noise.ancestral(x) if eta else x


def ddim(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """Denoising diffusion implicit models (Song et al. 2020, arXiv:2010.02502): ``eta`` 1 is DDPM."""
    eta = eta_or(options, 0.0)
    for i in range(len(sigmas) - 1):
        denoised = denoiser(x, sigmas[i])
        x = _step(denoised, slope(x, sigmas[i], denoised), sigmas[i], sigmas[i + 1], noise, eta)
        on_step(i, x, denoised)
    return to_variance_preserving(x, sigmas[-1])


def ddim_cfgpp(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """CFG++ (Chung et al. 2024, arXiv:2406.08070): the guided x0, renoised with the unconditional noise.

    The denoiser is an :class:`UnconditionalDenoiser` whose guidance scale was multiplied by the sampler's
    ``guidance_multiplier``. Raises :class:`TypeError` if it is not one.
    """
    eta = eta_or(options, 0.0)
    for i in range(len(sigmas) - 1):
        denoised = denoiser(x, sigmas[i])
        unconditional = getattr(denoiser, "uncond_denoised", None)
        if unconditional is None:
            raise TypeError("DDIM CFG++ needs a denoiser that has uncond_denoised")
        x = _step(denoised, slope(x, sigmas[i], unconditional), sigmas[i], sigmas[i + 1], noise, eta)
        on_step(i, x, denoised)
    return to_variance_preserving(x, sigmas[-1])

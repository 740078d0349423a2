"""Samplers that look ahead: Heun, DPM2 and DPM2 ancestral ask the model twice in a step."""

from torch import Tensor

from service.engine.samplers.protocol import Denoiser, Noise, OnStep, SamplerOptions
from service.engine.samplers.steps import ancestral_step, churn, eta_or, slope


def heun_step(denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
    """One step of algorithm 1 of Karras et al. 2022; Euler's if it ends at 0. Returns ``(x, denoised)``."""
    denoised = denoiser(x, sigma)
    first = slope(x, sigma, denoised)
    ahead = x + first * (sigma_next - sigma)
    if sigma_next == 0:
        return ahead, denoised
    second = slope(ahead, sigma_next, denoiser(ahead, sigma_next))
    return x + (first + second) / 2 * (sigma_next - sigma), denoised


def midpoint_step(denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
    """DPM-Solver-2 (Lu et al. 2022, arXiv:2206.00927) in the form of Karras' Euler steps.

    The slope is taken at the geometric mean of both sigmas, and used for the whole step; where the step ends
    at 0 it is Euler's. Returns ``(x, denoised)``.
    """
    denoised = denoiser(x, sigma)
    first = slope(x, sigma, denoised)
    if sigma_next == 0:
        return x + first * (sigma_next - sigma), denoised
    middle = (sigma * sigma_next).sqrt()
    half_way = x + first * (middle - sigma)
    second = slope(half_way, middle, denoiser(half_way, middle))
    return x + second * (sigma_next - sigma), denoised


def heun(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364)."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x, sigma = churn(x, sigmas[i], steps, noise, options)
        x, denoised = heun_step(denoiser, x, sigma, sigmas[i + 1])
        on_step(i, x, denoised)
    return x


def dpm_2(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """DPM-Solver-2 steps with the churn of algorithm 2 of Karras et al. 2022."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x, sigma = churn(x, sigmas[i], steps, noise, options)
        x, denoised = midpoint_step(denoiser, x, sigma, sigmas[i + 1])
        on_step(i, x, denoised)
    return x


def dpm_2_ancestral(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """DPM-Solver-2 steps, each followed by fresh noise as in "Euler a"."""
    eta = eta_or(options, 1.0)
    for i in range(len(sigmas) - 1):
        sigma_down, sigma_up = ancestral_step(sigmas[i], sigmas[i + 1], eta)
        x, denoised = midpoint_step(denoiser, x, sigmas[i], sigma_down)
        if sigma_down > 0:
            x = x + noise.ancestral(x) * options.s_noise * sigma_up
        on_step(i, x, denoised)
    return x

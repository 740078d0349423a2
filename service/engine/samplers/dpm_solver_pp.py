"""The DPM-Solver++ family (Lu et al. 2022, arXiv:2211.01095), in the time ``t = -log(sigma)``.

In VE latents the exponential integrator of the paper (alpha = 1) reads
``x_next = (sigma_next / sigma) * x + (1 - exp(-h)) * D`` with ``h = log(sigma / sigma_next)``, where D is the
denoised prediction, extrapolated from earlier ones by the multistep solvers.
"""

from torch import Tensor

from service.engine.samplers.protocol import Denoiser, Noise, OnStep, SamplerOptions


def dpmpp_2m(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """DPM-Solver++(2M), algorithm 2 of the paper: second order from the previous step's prediction."""
    previous: Tensor | None = None
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        denoised = denoiser(x, sigma)
        if sigma_next == 0:
            x = denoised
        else:
            h = (sigma / sigma_next).log()
            estimate = denoised
            if previous is not None:
                r = (sigmas[i - 1] / sigma).log() / h
                estimate = denoised + (denoised - previous) / (2 * r)
            x = (sigma_next / sigma) * x - (-h).expm1() * estimate
        previous = denoised
        on_step(i, x, denoised)
    return x

"""Restart: Heun steps that go back to more noise once or twice."""

from itertools import pairwise

import torch
from torch import Tensor

from service.engine.samplers.protocol import Denoiser, Noise, OnStep, SamplerOptions
from service.engine.samplers.schedules import karras
from service.engine.samplers.second_order import heun_step

_LOW, _HIGH = 0.1, 2.0
"""Noise levels between which the restarts happen: the paper's choice for Stable Diffusion."""


def _plan(sigmas: Tensor) -> list[Tensor]:
    """Runs of descending sigmas, each of which begins with added noise (but the first).

    There are as many steps as ``sigmas`` has, however many runs they are divided into. Below 20 steps there
    is one run; from 36 on there are two restarts. As in A1111 a schedule that restarts is Karras', between
    the ends of the one that was given.
    """
    steps = len(sigmas) - 1
    if steps < 20:
        return [sigmas]
    length, times = (steps // 4, 2) if steps >= 36 else (9, 1)
    main = karras(steps - length * times, float(sigmas[-2]), float(sigmas[0]))
    low = int((main - _LOW).abs().argmin())
    high = int((main - _HIGH).abs().argmin())
    if high >= low:
        return [main]
    again = karras(length + 1, float(main[low]), float(main[high]))[:-1]
    return [main[: low + 1], *[again] * (times - 1), torch.cat([again, main[low + 1 :]])]


def restart(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """Restart sampling (Xu et al. 2023, arXiv:2306.14878).

    Heun steps; at the lower end of an interval noise is added that leads back to its upper end, and removed
    again, which contracts the errors made so far.
    """
    step = 0
    level = sigmas[0]
    for run in _plan(sigmas):
        if run[0] > level:
            x = x + noise.ancestral(x) * options.s_noise * (run[0] ** 2 - level**2).sqrt()
        for sigma, sigma_next in pairwise(run):
            x, denoised = heun_step(denoiser, x, sigma, sigma_next)
            on_step(step, x, denoised)
            step += 1
        level = run[-1]
    return x
